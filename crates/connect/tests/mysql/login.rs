//! The login methods of MySQL, against a server that a test plays.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::Ed25519KeyPair;
use portolan_model::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{failure, open_at};
use crate::relational::ONE;

struct Scripted {
    socket: TcpStream,
}

impl Scripted {
    async fn send(&mut self, sequence: u8, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        frame.push(sequence);
        frame.extend_from_slice(payload);
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 4];
        self.socket.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.socket.read_exact(&mut payload).await.unwrap();
        (head[3], payload)
    }
}

const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";

fn greeting(plugin: &str) -> Vec<u8> {
    let mut packet = b"\x0a8.0.36\0\x07\0\0\0".to_vec();
    packet.extend_from_slice(&NONCE[..8]);
    packet.extend_from_slice(&[0, 0xFF, 0xF7, 45, 2, 0, 0xFF, 0xDF, 21]);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(&NONCE[8..]);
    packet.push(0);
    packet.extend_from_slice(plugin.as_bytes());
    packet.push(0);
    packet
}

/// No MySQL server is at hand: this plays the server's side of `caching_sha2_password` when it does not know the hash
/// yet, and checks that the password arrives, encrypted to its key.
#[tokio::test]
async fn caching_sha2_sends_the_password_encrypted_to_the_servers_key() {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let der: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
    let pem = pem("PUBLIC KEY", der.as_ref());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let played = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut server = Scripted { socket };
        server.send(0, &greeting("mysql_native_password")).await;
        let (_, response) = server.receive().await;
        assert!(!response.windows(7).any(|part| part == b"p@ss:w'"), "the password travels in the clear");
        server.send(2, &[b"\xfecaching_sha2_password\0", &NONCE[..], b"\0"].concat()).await;
        assert_eq!(server.receive().await.1.len(), 32);
        server.send(4, &[1, 4]).await;
        assert_eq!(server.receive().await.1, [2]);
        server.send(6, &[&[1], pem.as_bytes()].concat()).await;
        let (_, encrypted) = server.receive().await;
        let key = OaepPrivateDecryptingKey::new(private).unwrap();
        let mut out = vec![0; key.min_output_size()];
        let masked = key.decrypt(&OAEP_SHA1_MGF1SHA1, &encrypted, &mut out, None).unwrap();
        let password: Vec<u8> = masked.iter().zip(NONCE.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        server.send(8, b"\0\0\0\x02\0\0\0").await;
        let (_, statement) = server.receive().await;
        assert!(statement.starts_with(b"\x03SET NAMES utf8mb4"));
        server.send(1, b"\xff\x10\x04#08004Too many connections").await;
        password
    });
    let error = failure(&mut open_at(port, ONE)).await;
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert_eq!(played.await.unwrap(), [portolan_testkit::servers::COLLECTOR_PASSWORD.as_bytes(), b"\0"].concat());
}

/// One random challenge of 32 bytes in 256 ends in 0. A password of 32 bytes is a seed as RFC 8032 has it, so the
/// standard verification can judge the answer.
#[tokio::test]
async fn ed25519_signs_every_byte_of_its_challenge() {
    const PASSWORD: &str = "0123456789abcdef0123456789abcdef";
    let mut challenge = [7; 32];
    challenge[31] = 0;
    let greeting_of_32 = || {
        let mut packet = b"\x0a5.5.5-10.11.19-MariaDB\0\x07\0\0\0".to_vec();
        packet.extend_from_slice(&challenge[..8]);
        packet.extend_from_slice(&[0, 0xFF, 0xF7, 45, 2, 0, 0xFF, 0xDF, 32]);
        packet.extend_from_slice(&[0; 10]);
        packet.extend_from_slice(&challenge[8..]);
        packet.extend_from_slice(b"client_ed25519\0");
        packet
    };
    for is_switched in [true, false] {
        let greeting = if is_switched { greeting("mysql_native_password") } else { greeting_of_32() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let played = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut server = Scripted { socket };
            server.send(0, &greeting).await;
            let (_, mut answer) = server.receive().await;
            if is_switched {
                server.send(2, &[&b"\xfeclient_ed25519\0"[..], &challenge].concat()).await;
                answer = server.receive().await.1;
            }
            server.send(if is_switched { 4 } else { 2 }, b"\xff\x10\x04#08004Too many connections").await;
            answer
        });
        let error = failure(&mut open_at(port, &format!("password = {{ literal = \"{PASSWORD}\" }}\n{ONE}"))).await;
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        let pair = Ed25519KeyPair::from_seed_unchecked(PASSWORD.as_bytes()).unwrap();
        let signature = pair.sign(&challenge);
        let answer = played.await.unwrap();
        let holds_it = answer.windows(64).any(|part| part == signature.as_ref());
        assert!(holds_it, "switched: {is_switched}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_the_password_in_the_clear_is_refused() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut server = Scripted { socket };
        server.send(0, &greeting("mysql_clear_password")).await;
        let (_, response) = server.receive().await;
        assert!(!response.windows(7).any(|part| part == b"p@ss:w'"));
        server.send(2, b"\xfemysql_clear_password\0").await;
        let mut rest = Vec::new();
        server.socket.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    });
    let error = failure(&mut open_at(port, ONE)).await;
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
}

fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let is_padding = place > chunk.len();
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if is_padding { '=' } else { digit.into() });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
