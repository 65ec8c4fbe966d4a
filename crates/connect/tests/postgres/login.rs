//! The login methods of PostgreSQL, the server's list of who may come, and its limits of time.

use portolan_model::{ErrorKind, Retry};
use portolan_testkit::servers::{Postgres, PostgresOptions};
use portolan_testkit::tls::TlsFiles;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::engine::with_settings;
use crate::harness::{failure, open, open_at, read, server};
use crate::relational::ONE;

/// A server with lines of `pg_hba.conf` of its own.
fn with_access(access: &[&str]) -> Postgres {
    let access = access.iter().map(ToString::to_string).collect();
    Postgres::start_with(PostgresOptions { access, ..PostgresOptions::default() }).unwrap()
}

#[tokio::test]
async fn a_login_over_tls_is_bound_to_it() {
    let server = server();
    let authority = server.tls().authority.display();
    let probe = open(&format!("tls = {{ ca = \"{authority}\" }}\n{ONE}")).probe().await.unwrap();
    let fact = |name: &str| probe.facts.iter().find(|fact| fact.0 == name).map(|fact| fact.1.as_str());
    assert_eq!((fact("login"), fact("server is")), (Some("SCRAM-SHA-256-PLUS"), Some("primary")), "{probe:?}");
    let probe = open(ONE).probe().await.unwrap();
    assert!(probe.facts.contains(&("login".into(), "SCRAM-SHA-256".into())), "{probe:?}");
    // How to look at its certificates: it has to be asked for TLS in its own words.
    let folder = tempfile::tempdir().unwrap();
    let other = TlsFiles::create(folder.path()).unwrap();
    for tls in [
        format!("tls = {{ ca = \"{authority}\", server_name = \"other.example\" }}"),
        format!("tls = {{ ca = \"{}\" }}", other.authority.display()),
    ] {
        let error = failure(&mut open(&format!("{tls}\n{ONE}"))).await;
        assert!(error.hint().is_some_and(|hint| !hint.contains("openssl") || hint.contains("-starttls postgres")));
    }
}

#[tokio::test]
async fn the_servers_list_of_who_may_come_is_explained() {
    let strict =
        with_access(&["hostssl all collector 127.0.0.1/32 scram-sha-256", "host all collector 127.0.0.1/32 reject"]);
    let error = failure(&mut open_at(strict.port(), ONE)).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(error.hint().unwrap().contains("pg_hba.conf"), "{error:?}");
    assert!(error.hint().unwrap().contains("without TLS"), "{error:?}");
    let tls = format!("tls = {{ ca = \"{}\" }}\n{ONE}", strict.tls().authority.display());
    assert_eq!(read(&mut open_at(strict.port(), &tls), None).await.unwrap().0.rows(), 1);
}

#[tokio::test]
async fn passwords_travel_in_the_clear_within_tls_alone_and_md5_is_not_spoken() {
    let own = with_access(&["host all collector 127.0.0.1/32 password", "host all old 127.0.0.1/32 md5"]);
    let error = failure(&mut open_at(own.port(), ONE)).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.message().contains("in the clear"), "{error:?}");
    let tls = format!("tls = {{ ca = \"{}\" }}\n{ONE}", own.tls().authority.display());
    assert_eq!(read(&mut open_at(own.port(), &tls), None).await.unwrap().0.rows(), 1);
    let wrong = format!("password = {{ literal = \"wrong\" }}\n{tls}");
    assert_eq!(failure(&mut open_at(own.port(), &wrong)).await.kind(), ErrorKind::Authentication);

    own.sql("SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'x'").unwrap();
    let error = failure(&mut open_at(own.port(), &format!("user = \"old\"\n{tls}"))).await;
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.hint().unwrap().contains("scram-sha-256"), "{error:?}");
    // Words that are to be prepared (RFC 4013): a no-break space is a space, and letters come composed.
    own.sql("CREATE ROLE prepared LOGIN PASSWORD E'a\\u00A0e\\u0301'").unwrap();
    let prepared = "user = \"prepared\"\npassword = { literal = \"a \u{e9}\" }";
    assert_eq!(read(&mut open_at(own.port(), &format!("{prepared}\n{ONE}")), None).await.unwrap().0.rows(), 1);
}

#[tokio::test]
async fn its_own_limits_of_time_are_told() {
    let own = with_settings(&["statement_timeout=200ms", "lock_timeout=100ms"]);
    let error = failure(&mut open_at(own.port(), "query = \"select 1 as one, pg_sleep(20)\"")).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Transient), "{error:?}");
    assert!(error.hint().unwrap().contains("statement_timeout"), "{error:?}");
    own.sql("CREATE TABLE t (id int)").unwrap();
    let mut writer = own.session().unwrap();
    writer.execute("SET statement_timeout = 0; BEGIN; LOCK TABLE t;").unwrap();
    let error = failure(&mut open_at(own.port(), "table = \"t\"")).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Transient), "{error:?}");
    assert!(error.hint().unwrap().contains("lock"), "{error:?}");
}

/// Plays a server; `said` is what it says after the client's first message.
async fn played(said: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            play(socket, &said).await;
        }
    });
    port
}

async fn play(mut socket: TcpStream, said: &[u8]) {
    let length = socket.read_i32().await.unwrap();
    let mut message = vec![0; length as usize - 4];
    socket.read_exact(&mut message).await.unwrap();
    socket.write_all(said).await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(std::time::Duration::from_millis(300), socket.read_to_end(&mut rest)).await;
    assert!(!rest.windows(5).any(|part| part == b"p@ss:"), "the password travels in the clear");
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], ((body.len() + 4) as i32).to_be_bytes().as_slice(), body].concat()
}

#[tokio::test]
async fn a_server_that_starts_or_plays_is_told_apart() {
    let starting = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Rx\0\0";
    let impostor_asks = [&10i32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    let admits = [message(b'R', &impostor_asks), message(b'R', &0i32.to_be_bytes())].concat();
    for (said, kind, part) in [
        (message(b'E', starting), ErrorKind::Busy, "57P03"),
        (message(b'R', &3i32.to_be_bytes()), ErrorKind::Authentication, "in the clear"),
        (message(b'R', &7i32.to_be_bytes()), ErrorKind::Authentication, "method 7"),
        // It is ready without having let us in, at once or in the middle of a login; it asks twice.
        ([message(b'N', b"\0"), message(b'Z', b"I")].concat(), ErrorKind::Protocol, "without having let us in"),
        (
            [message(b'R', &impostor_asks), message(b'Z', b"I")].concat(),
            ErrorKind::Protocol,
            "without having let us in",
        ),
        (message(b'R', &impostor_asks).repeat(2), ErrorKind::Protocol, "out of turn"),
        (message(b'R', &0i32.to_be_bytes()).repeat(2), ErrorKind::Protocol, "out of turn"),
        // It lets us in without having shown that it knows the password.
        (admits, ErrorKind::Authentication, "has not shown"),
        (
            message(b'R', &[&10i32.to_be_bytes()[..], b"OAUTHBEARER\0\0"].concat()),
            ErrorKind::Authentication,
            "OAUTHBEARER",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), ErrorKind::Protocol, "HTTP"),
        (b"R\x7f\xff\xff\xff".to_vec(), ErrorKind::Protocol, "no answer of PostgreSQL"),
        (message(b'R', b"\0"), ErrorKind::Protocol, "does not follow"),
    ] {
        let error = failure(&mut open_at(played(said).await, ONE)).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(format!("{error:?}").contains(part), "{error:?}");
    }
    // What stands behind the word for TLS is not taken for the server's.
    let tls = "tls = { server_name = \"localhost\" }\n".to_owned() + ONE;
    let injected = [b"S".to_vec(), message(b'R', &0i32.to_be_bytes())].concat();
    let error = failure(&mut open_at(played(injected).await, &tls)).await;
    assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Tls | ErrorKind::Disconnected), "{error:?}");
    let error = failure(&mut open_at(played(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()).await, ONE)).await;
    assert!(error.message().contains("SSH"), "{error:?}");
}
