//! Answers to the server's login challenges.
//!
//! A password is sent readably only inside TLS (or encrypted to the server's own key where the configuration allows a
//! plain connection); a server that asks for it otherwise is refused.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use curve25519_dalek::{EdwardsPoint, Scalar, scalar::clamp_integer};
use portolan_model::{Error, ErrorKind, Result};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

pub(crate) const NATIVE: &str = "mysql_native_password";
pub(crate) const CACHING_SHA2: &str = "caching_sha2_password";
const ED25519: &str = "client_ed25519";
const CLEAR: [&str; 2] = ["mysql_clear_password", "dialog"];

/// The first answer to `plugin`'s challenge.
pub(crate) fn answer(plugin: &str, nonce: &[u8], password: &[u8], is_encrypted: bool) -> Result<Vec<u8>> {
    match plugin {
        NATIVE if password.is_empty() => Ok(Vec::new()),
        NATIVE => Ok(native(nonce, password)),
        CACHING_SHA2 if password.is_empty() => Ok(Vec::new()),
        CACHING_SHA2 => Ok(caching_sha2(nonce, password)),
        ED25519 => Ok(ed25519(nonce, password)),
        _ if CLEAR.contains(&plugin) && is_encrypted => Ok(readable(password)),
        _ if CLEAR.contains(&plugin) => {
            Err(refused(format!("the server asks for the password in the clear (`{plugin}`) without TLS"))
                .with_hint("use TLS for this source"))
        }
        "" => Err(refused("the server names no login method".into())),
        _ => Err(refused(format!("the account's login method `{plugin}` is not spoken"))
            .with_hint("give the account one of caching_sha2_password, ed25519, mysql_native_password")),
    }
}

/// The password with the NUL that ends it, for an encrypted connection.
pub(crate) fn readable(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}

/// The password encrypted to the server's RSA key (PEM), for a plain connection.
pub(crate) fn encrypted(key_pem: &[u8], nonce: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let unusable = || refused("the server's public key is not usable".into());
    let key = SubjectPublicKeyInfoDer::from_pem_slice(key_pem).map_err(|_| unusable())?;
    let key = PublicEncryptingKey::from_der(&key).map_err(|_| unusable())?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| unusable())?;
    let mut masked = readable(password);
    if nonce.is_empty() {
        return Err(refused("the server's challenge is empty".into()));
    }
    masked.iter_mut().zip(nonce.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    let mut out = vec![0; key.ciphertext_size()];
    let written = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &masked, &mut out, None)
        .map_err(|_| refused("the password does not fit the server's public key".into()))?
        .len();
    out.truncate(written);
    Ok(out)
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Authentication, "log in", message)
}

fn hash(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(algorithm);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().to_vec()
}

fn xor(mut left: Vec<u8>, right: &[u8]) -> Vec<u8> {
    left.iter_mut().zip(right).for_each(|(l, r)| *l ^= r);
    left
}

/// SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password)))
fn native(nonce: &[u8], password: &[u8]) -> Vec<u8> {
    let once = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password]);
    let twice = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]);
    xor(once, &hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &twice]))
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce)
fn caching_sha2(nonce: &[u8], password: &[u8]) -> Vec<u8> {
    let once = hash(&SHA256, &[password]);
    let twice = hash(&SHA256, &[&once]);
    xor(once, &hash(&SHA256, &[&twice, nonce]))
}

/// MariaDB's ed25519: RFC 8032, but the password itself, of any length, stands where the 32-byte seed would.
fn ed25519(nonce: &[u8], password: &[u8]) -> Vec<u8> {
    let expanded = hash(&SHA512, &[password]);
    let (mut low, mut wide) = ([0; 32], [0; 64]);
    low.copy_from_slice(&expanded[..32]);
    let mut reduced = |parts: &[&[u8]]| {
        wide.copy_from_slice(&hash(&SHA512, parts));
        Scalar::from_bytes_mod_order_wide(&wide)
    };
    let secret = Scalar::from_bytes_mod_order(clamp_integer(low));
    let public = EdwardsPoint::mul_base(&secret).compress();
    let one_time = reduced(&[&expanded[32..], nonce]);
    let commitment = EdwardsPoint::mul_base(&one_time).compress();
    let challenge = reduced(&[commitment.as_bytes(), public.as_bytes(), nonce]);
    [*commitment.as_bytes(), (one_time + challenge * secret).to_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519 as VERIFIER, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

    use super::*;

    #[test]
    fn ed25519_is_the_standard_one_for_a_password_of_32_bytes() {
        let (nonce, password) = ([7u8; 32], [b'p'; 32]);
        let pair = Ed25519KeyPair::from_seed_unchecked(&password).unwrap();
        let signature = ed25519(&nonce, &password);
        assert_eq!(signature, pair.sign(&nonce).as_ref());
        assert!(UnparsedPublicKey::new(&VERIFIER, pair.public_key().as_ref()).verify(&nonce, &signature).is_ok());
    }

    #[test]
    fn a_password_never_travels_in_the_clear() {
        for plugin in ["mysql_clear_password", "dialog", "mysql_old_password", "sha256_password", ""] {
            let error = answer(plugin, &[1; 20], b"hunter2", false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Authentication, "{plugin}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert_eq!(answer("mysql_clear_password", &[], b"x", true).unwrap(), b"x\0");
    }

    #[test]
    fn scrambles_undo_as_the_server_does_it() {
        // The server knows SHA1(SHA1(password)) and checks SHA1(answer XOR SHA1(nonce, that)) against it.
        let (nonce, password) = (b"01234567890123456789", b"p@ss");
        let stored = hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&hash(&SHA1_FOR_LEGACY_USE_ONLY, &[password])]);
        let once = xor(native(nonce, password), &hash(&SHA1_FOR_LEGACY_USE_ONLY, &[nonce, &stored]));
        assert_eq!(hash(&SHA1_FOR_LEGACY_USE_ONLY, &[&once]), stored);
        let stored = hash(&SHA256, &[&hash(&SHA256, &[password])]);
        let once = xor(caching_sha2(nonce, password), &hash(&SHA256, &[&stored, nonce]));
        assert_eq!(hash(&SHA256, &[&once]), stored);
    }
}
