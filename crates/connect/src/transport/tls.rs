//! TLS by rustls: 1.3 unless an exception is written, certificates always checked.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::error::{Error, ErrorKind, Result, Retry};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::sniff;
use super::stream::ObservedSocket;

const OPERATION: &str = "TLS handshake";

/// What a source needs to speak TLS.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    server_name: ServerName<'static>,
    address: String,
    ca_given: bool,
    certificate_given: bool,
    /// How `openssl s_client` asks for TLS in a protocol that begins without.
    starttls: &'static str,
}

impl Tls {
    /// Reads certificates and keys. `alpn` are the application protocols offered, best first.
    ///
    /// # Errors
    /// `Configuration`, naming the file or name that cannot be used.
    pub fn new(spec: &SourceSpec, alpn: &[&[u8]]) -> Result<Self> {
        let name = spec.tls.server_name.as_deref().unwrap_or(&spec.host);
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|error| configuration(format!("{name:?} is not a name a certificate can carry: {error}")))?;
        let mut config = client_config(&spec.tls)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            server_name,
            address: spec.address(),
            ca_given: spec.tls.ca.is_some(),
            certificate_given: spec.tls.certificate.is_some(),
            starttls: "",
        })
    }

    /// TLS is asked for in `protocol`, as `openssl s_client -starttls` calls it: for the commands in hints.
    #[must_use]
    pub fn with_starttls(mut self, protocol: &'static str) -> Self {
        self.starttls = protocol;
        self
    }

    /// Shakes hands over a connected socket.
    ///
    /// # Errors
    /// `Tls`, `Disconnected` or `Protocol`, saying what is wrong with which certificate and how to look at it.
    pub async fn handshake(&self, socket: ObservedSocket) -> Result<TlsStream<ObservedSocket>> {
        let observed = socket.observed();
        let result = self.connector.connect(self.server_name.clone(), socket).await;
        result.map_err(|error| self.explain(error, observed.first()))
    }

    /// Turns an error of the handshake, or of the first read after it, into one that says what to do.
    pub fn explain(&self, error: io::Error, first: &[u8]) -> Error {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            let closed = matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
            let message = if closed {
                "the server closed the connection during the handshake".to_owned()
            } else {
                "the connection failed during the handshake".to_owned()
            };
            return Error::new(ErrorKind::Disconnected, OPERATION, message)
                .with_hint(format!(
                    "if the port speaks plain text, say so with its reason: tls = {{ allow_plaintext = \"…\" }}; {}",
                    self.look()
                ))
                .with_cause(error);
        };
        let (kind, message, hint) = self.describe(tls, first);
        Error::new(kind, OPERATION, message).with_retry(Retry::Permanent).with_hint(hint).with_cause(error)
    }

    fn describe(&self, error: &rustls::Error, first: &[u8]) -> (ErrorKind, String, String) {
        let look = self.look();
        let name = self.server_name.to_str();
        match error {
            rustls::Error::InvalidCertificate(problem) => {
                let (message, hint) = match problem {
                    CertificateError::UnknownIssuer if self.ca_given => (
                        "the server's certificate is not signed by the authority in tls.ca".to_owned(),
                        format!("see who signed it: {look} -showcerts"),
                    ),
                    CertificateError::UnknownIssuer => (
                        "the server's certificate is signed by an authority this system does not know".to_owned(),
                        format!(
                            "name the authority's PEM file: tls = {{ ca = \"…\" }}; see who signed it: {look} -showcerts"
                        ),
                    ),
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                        format!("the server's certificate has expired ({problem})"),
                        format!("renew it on the server; its dates: {look} </dev/null | openssl x509 -noout -dates"),
                    ),
                    CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                        format!("the server's certificate is not valid yet ({problem})"),
                        "compare the clocks of both machines: date -u".to_owned(),
                    ),
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                        format!("the server's certificate is not for {name:?} ({problem})"),
                        "set tls.server_name to a name in the certificate, or get a certificate for the host"
                            .to_owned(),
                    ),
                    other => (format!("the server's certificate is refused: {other}"), format!("look at it: {look}")),
                };
                (ErrorKind::Tls, message, hint)
            }
            rustls::Error::AlertReceived(alert) => self.describe_alert(*alert, &look),
            rustls::Error::PeerIncompatible(problem) => (
                ErrorKind::Tls,
                format!("the server does not speak TLS 1.3 ({problem:?})"),
                format!(
                    "upgrade the server, or accept TLS 1.2 with the reason: tls = {{ allow_tls12 = \"…\" }}; see what it speaks: {look}"
                ),
            ),
            rustls::Error::InvalidMessage(_) => {
                let what = sniff::describe(first).map(|what| format!(": this looks like {what}")).unwrap_or_default();
                (
                    ErrorKind::Protocol,
                    format!("what came is not TLS{what} ({:?})", sniff::shown(first)),
                    "is the port right? If it speaks plain text, say so with its reason: tls = { allow_plaintext = \"…\" }"
                        .to_owned(),
                )
            }
            other => (ErrorKind::Tls, other.to_string(), format!("look at the port: {look}")),
        }
    }

    fn describe_alert(&self, alert: AlertDescription, look: &str) -> (ErrorKind, String, String) {
        let client = "tls = { certificate = \"client.pem\", key = \"client.key\" }";
        let (message, hint) = match alert {
            AlertDescription::ProtocolVersion => (
                "the server does not speak TLS 1.3".to_owned(),
                format!("upgrade the server, or accept TLS 1.2 with the reason: tls = {{ allow_tls12 = \"…\" }}; see what it speaks: {look}"),
            ),
            AlertDescription::CertificateRequired => {
                ("the server asks for a client certificate".to_owned(), format!("configure one: {client}"))
            }
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied
                if self.certificate_given =>
            {
                (
                    format!("the server refuses our client certificate ({alert:?})"),
                    "is it signed by the authority the server trusts, and in date? openssl x509 -noout -issuer -dates -in client.pem".to_owned(),
                )
            }
            AlertDescription::HandshakeFailure if !self.certificate_given => (
                "the server refuses the handshake; it may want a client certificate or TLS 1.2".to_owned(),
                format!("look at the port: {look}"),
            ),
            AlertDescription::UnrecognisedName => (
                format!("the server does not know the name {:?}", self.server_name.to_str()),
                "set tls.server_name to the name the server expects".to_owned(),
            ),
            other => (format!("the server ended the handshake ({other:?})"), format!("look at the port: {look}")),
        };
        (ErrorKind::Tls, message, hint)
    }

    fn look(&self) -> String {
        let starttls = if self.starttls.is_empty() { String::new() } else { format!(" -starttls {}", self.starttls) };
        format!("openssl s_client{starttls} -connect {} -servername {}", self.address, self.server_name.to_str())
    }
}

/// The client side of `tls = { … }`.
///
/// # Errors
/// `Configuration`, naming the file that cannot be used.
pub fn client_config(tls: &TlsSpec) -> Result<ClientConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] = if tls.allow_tls12.is_some() {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    // The provider is named here, so that nothing depends on which one a process installed first.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| configuration("the TLS versions cannot be used").with_cause(error))?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, "client certificate")?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| configuration(format!("client key {} is not readable", key.display())).with_cause(error))?;
    builder.with_client_auth_cert(chain, private_key).map_err(|error| {
        let message = format!("client certificate {} does not fit its key {}", certificate.display(), key.display());
        configuration(message).with_cause(error)
    })
}

/// The server side of `tls = { … }`, for a port that waits for senders: `certificate` and `key` are its own, and with
/// `ca` a sender must show a certificate that it signed.
///
/// # Errors
/// `Configuration`, naming the file that cannot be used.
pub fn server_config(tls: &TlsSpec) -> Result<ServerConfig> {
    let versions: &[&rustls::SupportedProtocolVersion] = if tls.allow_tls12.is_some() {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Err(configuration("a port that waits for senders needs tls.certificate and tls.key"));
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| configuration("the TLS versions cannot be used").with_cause(error))?;
    let builder = match tls.ca.as_deref() {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(Some(ca))?, provider)
                .build()
                .map_err(|error| configuration("the authority in tls.ca cannot be used").with_cause(error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = certificates(certificate, "certificate")?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| configuration(format!("key {} is not readable", key.display())).with_cause(error))?;
    builder.with_single_cert(chain, private_key).map_err(|error| {
        let message = format!("certificate {} does not fit its key {}", certificate.display(), key.display());
        configuration(message).with_cause(error)
    })
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, "prepare TLS", message)
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        configuration(format!("{what} {} is not readable", path.display())).with_cause(error)
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| configuration(format!("{what} {} is not PEM", path.display())).with_cause(error))?;
    if found.is_empty() {
        return Err(configuration(format!("{what} {} holds no certificate", path.display())));
    }
    Ok(found)
}

fn roots(ca: Option<&Path>) -> Result<Arc<RootCertStore>> {
    /// Reading the system's store takes milliseconds, and a fleet of sources shares it.
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(path) = ca {
        let mut store = RootCertStore::empty();
        for certificate in certificates(path, "authority file tls.ca")? {
            store.add(certificate).map_err(|error| {
                configuration(format!("authority file {} holds a certificate that cannot be used", path.display()))
                    .with_cause(error)
            })?;
        }
        return Ok(Arc::new(store));
    }
    if let Some(store) = SYSTEM.get() {
        return Ok(Arc::clone(store));
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(configuration("this system has no certificate authorities")
            .with_hint("install them (Debian: apt install ca-certificates), or name one: tls = { ca = \"…\" }"));
    }
    Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(store))))
}
