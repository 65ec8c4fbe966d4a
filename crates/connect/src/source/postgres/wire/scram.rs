//! SCRAM-SHA-256 (RFC 5802, RFC 7677), with channel binding to the server's certificate (RFC 5929) over TLS.
//!
//! Promise: the password never leaves, a server that does not know it is found out, and one that asks for endless work is
//! refused.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The mechanism without channel binding.
pub(crate) const PLAIN: &str = "SCRAM-SHA-256";
/// The mechanism with it.
pub(crate) const BOUND: &str = "SCRAM-SHA-256-PLUS";
/// More rounds of hashing than any server is set up with: about half a second.
const ITERATIONS_MAX: u32 = 1_000_000;
const NONCE_BYTES: usize = 18;

/// A login under way.
pub(crate) struct Scram {
    password: Vec<u8>,
    /// What the login is bound to, with what stands before it.
    binding: Vec<u8>,
    nonce: String,
    server_signature: Option<hmac::Tag>,
}

impl Scram {
    /// Begins a login. `certificate_hash` is what the channel is bound to, if it is.
    pub(crate) fn new(password: &str, certificate_hash: Option<&[u8]>) -> Result<Self, &'static str> {
        let mut random = [0; NONCE_BYTES];
        rand::fill(&mut random).map_err(|_| "the system gives no random numbers")?;
        Ok(Self::with_nonce(password, certificate_hash, STANDARD.encode(random)))
    }

    fn with_nonce(password: &str, certificate_hash: Option<&[u8]>, nonce: String) -> Self {
        // As the server does it: what cannot be prepared is taken as it is.
        let prepared = stringprep::saslprep(password).map_or(password.into(), |prepared| prepared);
        let binding = match certificate_hash {
            Some(hash) => [b"p=tls-server-end-point,,", hash].concat(),
            None => b"n,,".to_vec(),
        };
        Self { password: prepared.as_bytes().to_vec(), binding, nonce, server_signature: None }
    }

    /// The mechanism's name.
    pub(crate) fn mechanism(&self) -> &'static str {
        if self.binding.starts_with(b"p=") { BOUND } else { PLAIN }
    }

    /// The first message: the mechanism and what follows it. The user's name is that of the session.
    pub(crate) fn first(&self) -> Vec<u8> {
        let header = if self.mechanism() == BOUND { "p=tls-server-end-point,," } else { "n,," };
        let message = format!("{header}{}", self.first_bare());
        let mut first = self.mechanism().as_bytes().to_vec();
        first.push(0);
        first.extend_from_slice(&(message.len() as i32).to_be_bytes());
        first.extend_from_slice(message.as_bytes());
        first
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// The answer to the server's challenge, of which there is one.
    pub(crate) fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, &'static str> {
        if self.server_signature.is_some() {
            return Err("a second challenge");
        }
        let challenge = std::str::from_utf8(challenge).map_err(|_| "its challenge is not text")?;
        let mut parts = challenge.split(',');
        let mut part =
            |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or("its challenge lacks a part");
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("its challenge does not belong to this login");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "its salt is not base64")?;
        let iterations = iterations.parse::<u32>().ok().filter(|count| *count <= ITERATIONS_MAX);
        let iterations = iterations.and_then(NonZeroU32::new).ok_or("it asks for an absurd number of iterations")?;
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, &self.password, &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(&self.binding));
        let signed = format!("{},{challenge},{without_proof}", self.first_bare());
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref()), signed.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, mask)| key ^ mask).collect();
        let server_key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&salted, b"Server Key").as_ref());
        self.server_signature = Some(hmac::sign(&server_key, signed.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }

    /// Whether the server's last message proves that it knows the password.
    pub(crate) fn is_proven(&self, last: &[u8]) -> bool {
        let claimed = last.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
        match (&self.server_signature, claimed) {
            (Some(expected), Some(claimed)) => {
                aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), &claimed).is_ok()
            }
            _ => false,
        }
    }
}

/// The hash of a certificate that a channel is bound to (RFC 5929, tls-server-end-point): by the hash of its signature,
/// SHA-256 in place of weaker ones. `None` for signatures without one (Ed25519, RSA-PSS), of which it is not defined.
pub(crate) fn certificate_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match signature_algorithm(certificate)? {
        // sha256WithRSAEncryption, ecdsa-with-SHA256; sha1 and md5 with RSA, ecdsa-with-SHA1.
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11 | 5 | 4] | [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2] => {
            &digest::SHA256
        }
        [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1] => &digest::SHA256,
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12] | [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3] => &digest::SHA384,
        [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13] | [0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4] => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The object identifier of `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID … }, … }`.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (sequence, _) = element(certificate, 0x30)?;
    let (_, after) = element(sequence, 0x30)?;
    let (algorithm, _) = element(after, 0x30)?;
    element(algorithm, 0x06).map(|(identifier, _)| identifier)
}

/// The content of the DER element that `bytes` begin with, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7F => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7F))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3, but for the user's name, which PostgreSQL has from elsewhere: the numbers
    /// are those that an independent implementation (Python's hashlib and hmac) gives.
    #[test]
    fn an_exchange_is_as_the_standard_has_it() {
        let mut scram = Scram::with_nonce("pencil", None, "rOprNGfwEbeRWgbNEkqO".into());
        assert!(
            scram.first().starts_with(b"SCRAM-SHA-256\0\0\0\0\x1cn,,n=,r=rOprNGfwEbeRWgbNEkqO"),
            "{:?}",
            scram.first()
        );
        let challenge =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".as_slice();
        let answer = String::from_utf8(scram.answer(challenge).unwrap()).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k="
        );
        assert!(scram.answer(challenge).is_err(), "endless work");
        assert!(scram.is_proven(b"v=3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg="));
        assert!(!scram.is_proven(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G0="));
        assert!(!scram.is_proven(b"e=other-error"));
    }

    #[test]
    fn a_server_that_cheats_is_found_out() {
        for challenge in [
            "r=abc,s=AAAA,i=4096",
            "r=nonceX,s=AAAA,i=4294967295",
            "r=nonceX,s=AAAA,i=0",
            "r=nonceX,s=?,i=1",
            "r=nonce,s=AAAA,i=4096",
            "r=nonceX",
            "",
        ] {
            assert!(Scram::with_nonce("x", None, "nonce".into()).answer(challenge.as_bytes()).is_err(), "{challenge}");
        }
        assert!(!Scram::with_nonce("x", None, "nonce".into()).is_proven(b"v="));
    }

    #[test]
    fn a_certificate_is_hashed_by_its_signatures_hash() {
        let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let der = certificate.cert.der();
        assert_eq!(certificate_hash(der).unwrap(), digest::digest(&digest::SHA256, der).as_ref());
        for bad in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", &der[..40]] {
            assert_eq!(certificate_hash(bad), None);
        }
    }
}
