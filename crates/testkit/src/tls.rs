//! An authority of our own, with a server certificate for the loopback addresses and a client certificate, as PEM
//! files in one folder.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// The files of one authority and what it signed.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority's certificate: what a client trusts.
    pub authority: PathBuf,
    /// The server's certificate, for `localhost`, `127.0.0.1` and `::1`.
    pub server_certificate: PathBuf,
    /// The server's private key.
    pub server_key: PathBuf,
    /// A client's certificate, for the name `collector`.
    pub client_certificate: PathBuf,
    /// The client's private key.
    pub client_key: PathBuf,
}

impl TlsFiles {
    /// Makes a fresh authority and its certificates in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = |name: &str| folder.join(name);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Portolan test authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let files = Self {
            authority: file("authority.pem"),
            server_certificate: file("server.pem"),
            server_key: file("server.key"),
            client_certificate: file("client.pem"),
            client_key: file("client.key"),
        };
        std::fs::write(&files.authority, params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let names = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        sign(&issuer, "localhost", names, server, &files.server_certificate, &files.server_key)?;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        sign(&issuer, "collector", Vec::new(), client, &files.client_certificate, &files.client_key)?;
        Ok(files)
    }
}

fn sign(
    issuer: &Issuer<'_, KeyPair>,
    common_name: &str,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
    certificate: &Path,
    key: &Path,
) -> Result<()> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let pair = KeyPair::generate()?;
    std::fs::write(certificate, params.signed_by(&pair, issuer)?.pem())?;
    std::fs::write(key, pair.serialize_pem())?;
    Ok(())
}
