//! Who may come in, over what, and what is said to those who may not.

use portolan_model::ErrorKind;
use portolan_testkit::servers::{Redis, RedisOptions};

use crate::harness::{failure, fresh, open, open_at, read, server};
use crate::support::send;

const ANY: &str = "keys = \"nothing:*\"";

#[tokio::test]
async fn refusals_say_what_to_do() {
    let user = fresh("user");
    send(
        &server(),
        &[
            &format!("ACL SETUSER {user} on >right ~{user}:* +@read -hscan"),
            &format!("HSET {user}:h a 1"),
            &format!("SET {user}:s 1"),
            &format!("SET other:{user} 1"),
            &format!("XADD {user}:stream 1-1 a 1"),
            &format!("XGROUP CREATE {user}:stream g 0"),
        ],
    );
    let limited = format!("user = \"{user}\"\npassword = {{ literal = \"right\" }}");
    let stream = format!("stream = \"{user}:stream\"");
    for (options, kind, hint) in [
        (
            format!("user = \"{user}\"\npassword = {{ literal = \"wrong\" }}\n{ANY}"),
            ErrorKind::Authentication,
            "password".to_owned(),
        ),
        (
            format!("user = \"nobody\"\npassword = {{ literal = \"wrong\" }}\n{ANY}"),
            ErrorKind::Authentication,
            "user".into(),
        ),
        (format!("{limited}\nkeys = \"{user}:h\""), ErrorKind::Permission, format!("ACL SETUSER {user} +hscan")),
        (
            format!("{limited}\nkeys = \"other:{user}\""),
            ErrorKind::Permission,
            format!("ACL SETUSER {user} '~other:{user}'"),
        ),
        (
            format!("{limited}\n{stream}\ngroup = \"g\""),
            ErrorKind::Permission,
            format!("ACL SETUSER {user} +xreadgroup"),
        ),
        (
            format!("{limited}\n{stream}\ngroup = \"h\"\ncreate_group = true"),
            ErrorKind::Permission,
            "+xgroup|create".into(),
        ),
    ] {
        let error = failure(&mut open(&options)).await;
        assert_eq!(error.kind(), kind, "{options}: {error:?}");
        assert!(error.hint().unwrap_or_default().contains(&hint), "{options}: {error:?}");
        assert!(!format!("{error:?}").contains("wrong"));
    }
    assert_eq!(read(&mut open(&format!("{limited}\nkeys = \"{user}:s\"")), None).await.unwrap().0.rows(), 1);
    assert_eq!(read(&mut open(&format!("{limited}\n{stream}")), None).await.unwrap().0.rows(), 1);
}

#[tokio::test]
async fn a_password_alone_and_a_server_that_wants_one() {
    let own = Redis::start_with(RedisOptions { arguments: vec!["--maxclients".into(), "4".into()] }).unwrap();
    send(&own, &["SET a 1"]);
    // The ways of before ACLs: one password for everybody.
    own.command("ACL SETUSER default resetpass >secret").unwrap();
    let error = failure(&mut open_at(own.port(), ANY)).await;
    assert_eq!(error.kind(), ErrorKind::Authentication, "{error:?}");
    let mut source = open_at(own.port(), "password = { literal = \"secret\" }\nkeys = \"a\"");
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 1);
    let mut others: Vec<_> =
        (0..4).map(|_| open_at(own.port(), "password = { literal = \"secret\" }\nkeys = \"a\"")).collect();
    let mut refused = None;
    for other in &mut others {
        refused = other.prepare().await.err().or(refused);
    }
    let refused = refused.unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
}

#[tokio::test]
async fn tls_checks_names_authorities_and_clients() {
    let server = server();
    let (tls, port) = (server.tls(), server.tls_port());
    let authority = tls.authority.display();
    let mut source = open_at(port, &format!("tls = {{ ca = \"{authority}\" }}\n{ANY}"));
    read(&mut source, None).await.unwrap();
    let probe = source.probe().await.unwrap();
    assert!(probe.tls.as_deref().is_some_and(|tls| tls.starts_with("TLSv1_3")), "{probe:?}");
    assert!(probe.server.as_deref().is_some_and(|server| server.starts_with("redis 7")), "{probe:?}");

    let folder = tempfile::tempdir().unwrap();
    let other = portolan_testkit::tls::TlsFiles::create(folder.path()).unwrap();
    for tls in [
        format!("tls = {{ ca = \"{authority}\", server_name = \"other.example\" }}"),
        format!("tls = {{ ca = \"{}\" }}", other.authority.display()),
    ] {
        let error = failure(&mut open_at(port, &format!("{tls}\n{ANY}"))).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{tls}: {error:?}");
        assert!(error.hint().is_some());
    }

    let own = Redis::start_with(RedisOptions { arguments: vec!["--tls-auth-clients".into(), "yes".into()] }).unwrap();
    let tls = own.tls();
    let (authority, port) = (tls.authority.display(), own.tls_port());
    let (certificate, key) = (tls.client_certificate.display(), tls.client_key.display());
    let certified =
        format!("tls = {{ ca = \"{authority}\", certificate = \"{certificate}\", key = \"{key}\" }}\n{ANY}");
    read(&mut open_at(port, &certified), None).await.unwrap();
    let error = failure(&mut open_at(port, &format!("tls = {{ ca = \"{authority}\" }}\n{ANY}"))).await;
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    // Each way round, the wrong one is named. A server without TLS waits for the end of a command.
    let kinds = [ErrorKind::Protocol, ErrorKind::Disconnected, ErrorKind::Timeout];
    for (port, options) in [(own.port(), certified.as_str()), (port, ANY)] {
        let error = failure(&mut open_at(port, &format!("connect_timeout = \"1s\"\n{options}"))).await;
        assert!(kinds.contains(&error.kind()), "{error:?}");
        let is_named = error.hint().is_some_and(|hint| hint.contains("allow_plaintext"));
        assert!(is_named || error.kind() == ErrorKind::Disconnected, "{error:?}");
    }
}
