//! Who may come in, over what, and what is said to those who may not.

use portolan_model::{ErrorKind, Retry};
use portolan_testkit::tls::TlsFiles;

use super::{Dialect, Limit, ONE, Refusals, account};
use crate::engine::Engine;
use crate::harness::{failure, fresh, open, open_at, read, server};

#[tokio::test]
async fn refusals_say_what_to_do() {
    let name = fresh("secret");
    let Refusals { setup, options } = Engine::refusals(&name);
    server().sql(&setup).unwrap();
    let limited = account(&name);
    let every_engine = [
        (format!("password = {{ literal = \"wrong\" }}\n{ONE}"), ErrorKind::Authentication, "password"),
        (format!("user = \"nobody\"\n{ONE}"), ErrorKind::Authentication, "user"),
        (format!("{limited}\ntable = \"{name}\""), ErrorKind::Permission, "GRANT SELECT"),
    ];
    for (options, kind, hint) in options.into_iter().chain(every_engine) {
        let error = failure(&mut open(&options)).await;
        assert_eq!(error.kind(), kind, "{options}: {error:?}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{options}: {error:?}");
        assert!(!format!("{error:?}").contains("wrong"));
    }
    assert!(read(&mut open(&format!("{limited}\ntable = \"{name}_open\"")), None).await.is_ok());
}

#[tokio::test]
async fn tls_checks_names_authorities_and_versions() {
    let server = server();
    let tls = server.tls();
    let authority = tls.authority.display();
    let good = format!("tls = {{ ca = \"{authority}\" }}\n{ONE}");
    let mut source = open(&good);
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 1);
    let probe = source.probe().await.unwrap();
    assert!(probe.tls.as_deref().is_some_and(|tls| tls.starts_with(Engine::TLS_VERSIONS[1])), "{probe:?}");
    assert!(probe.server.as_deref().is_some_and(|server| server.contains(Engine::SERVER_NAME)), "{probe:?}");

    let folder = tempfile::tempdir().unwrap();
    let other = TlsFiles::create(folder.path()).unwrap();
    for tls in [
        format!("tls = {{ ca = \"{authority}\", server_name = \"other.example\" }}"),
        format!("tls = {{ ca = \"{}\" }}", other.authority.display()),
    ] {
        let error = failure(&mut open(&format!("{tls}\n{ONE}"))).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{tls}: {error:?}");
        assert!(error.hint().is_some());
    }

    let (options, kind, part) = Engine::CERTIFIED;
    let (certificate, key) = (tls.client_certificate.display(), tls.client_key.display());
    let shown = format!("tls = {{ ca = \"{authority}\", certificate = \"{certificate}\", key = \"{key}\" }}");
    assert_eq!(read(&mut open(&format!("{options}\n{shown}\n{ONE}")), None).await.unwrap().0.rows(), 1);
    let error = failure(&mut open(&format!("{options}\n{good}"))).await;
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.message().contains(part), "{error:?}");
}

#[tokio::test]
async fn tls_1_2_needs_its_reason_and_a_server_without_tls_is_named() {
    let old = Engine::limited(Limit::Tls12);
    let authority = old.tls().authority.display().to_string();
    let error = failure(&mut open_at(old.port(), &format!("tls = {{ ca = \"{authority}\" }}\n{ONE}"))).await;
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(error.hint().unwrap_or_default().contains("allow_tls12"), "{error:?}");
    let allowed = format!("tls = {{ ca = \"{authority}\", allow_tls12 = \"old server\" }}\n{ONE}");
    let mut source = open_at(old.port(), &allowed);
    assert_eq!(read(&mut source, None).await.unwrap().0.rows(), 1);
    assert!(source.probe().await.unwrap().tls.is_some_and(|tls| tls.starts_with(Engine::TLS_VERSIONS[0])));

    let bare = Engine::limited(Limit::NoTls);
    let error = failure(&mut open_at(bare.port(), &format!("tls = {{ ca = \"{authority}\" }}\n{ONE}"))).await;
    assert_eq!(error.kind(), ErrorKind::Tls);
    assert!(error.message().contains("does not offer TLS"), "{error:?}");
    assert!(error.hint().unwrap().contains("allow_plaintext"), "{error:?}");
}

#[tokio::test]
async fn too_many_connections_is_busy() {
    const SESSIONS: usize = 10;
    let own = Engine::limited(Limit::Sessions(SESSIONS));
    let mut sources: Vec<_> = (0..SESSIONS).map(|_| open_at(own.port(), ONE)).collect();
    for source in &mut sources {
        source.prepare().await.unwrap();
    }
    let error = failure(&mut open_at(own.port(), ONE)).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Busy, Retry::Transient), "{error:?}");
}
