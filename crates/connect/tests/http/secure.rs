//! TLS and HTTP/2 against a real nginx.

use portolan_model::error::ErrorKind;
use portolan_testkit::servers::{Nginx, NginxOptions};

use super::support::*;

fn tls(keys: &[(&str, &std::path::Path)], more: &str) -> String {
    let pairs: Vec<String> =
        keys.iter().map(|(key, path)| format!("{key} = {:?}", path.display().to_string())).collect();
    format!("path = \"/ok.json\"\ntls = {{ {}{more} }}", pairs.join(", "))
}

#[tokio::test]
async fn http_2_over_tls_1_3_with_an_authority_of_our_own() {
    let nginx = Nginx::start(NginxOptions::default()).unwrap();
    let mut source = open(nginx.https_port(), &tls(&[("ca", &nginx.tls().authority)], ""));
    for _ in 0..3 {
        source.prepare().await.unwrap();
        let mut output = Collected::default();
        source.read(None, &mut output).await.unwrap();
        assert_eq!(output.rows(), 1);
    }
    let probe = source.probe().await.unwrap();
    assert!(probe.tls.as_deref().unwrap().starts_with("TLSv1.3 TLS13_"), "{probe:?}");
    assert!(probe.facts.contains(&("http".into(), "2".into())), "{probe:?}");
    assert!(probe.server.as_deref().unwrap().starts_with("nginx"), "{probe:?}");
}

#[tokio::test]
async fn client_certificates() {
    let nginx = Nginx::start(NginxOptions::default()).unwrap();
    let files = nginx.tls();
    let keys =
        [("ca", files.authority.as_path()), ("certificate", &files.client_certificate), ("key", &files.client_key)];
    let mut output = Collected::default();
    open(nginx.certified_port(), &tls(&keys, "")).read(None, &mut output).await.unwrap();
    assert_eq!(output.rows(), 1);
    let error = open(nginx.certified_port(), &tls(&keys[..1], "")).read(None, &mut output).await.unwrap_err();
    // nginx answers 400 with words of its own in the place of a TLS alert
    assert!(error.message().contains("certificate"), "{error:?}");
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said() {
    let nginx = Nginx::start(NginxOptions::default()).unwrap();
    let ca = [("ca", nginx.tls().authority.as_path())];
    let cases = [
        (nginx.https_port(), tls(&[], "server_name = \"localhost\""), ErrorKind::Tls, "authority"),
        (nginx.https_port(), tls(&ca, ", server_name = \"other.example\""), ErrorKind::Tls, "other.example"),
        (nginx.http_port(), tls(&ca, ""), ErrorKind::Protocol, "not TLS"),
    ];
    for (port, keys, kind, words) in cases {
        let error = open(port, &keys).prepare().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message().contains(words) && error.hint().is_some(), "{error:?}");
    }
    let mut source = open(nginx.https_port(), "tls = { allow_plaintext = \"a mistake\" }");
    let error = source.read(None, &mut Collected::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.hint().unwrap().contains("TLS"), "{error:?}");
}

#[tokio::test]
async fn an_old_server_is_named_and_allowed_with_a_reason() {
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let nginx = Nginx::start(NginxOptions::default()).unwrap();
    let files = nginx.tls();
    let pem = |path: &std::path::Path| std::fs::read(path).unwrap();
    use rustls::pki_types::pem::PemObject;
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(&pem(&files.server_certificate)).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(&pem(&files.server_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 1_024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]").await;
            let _ = stream.flush().await;
        }
    });
    let ca = [("ca", files.authority.as_path())];
    let error = open(port, &tls(&ca, "")).prepare().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Tls && error.message().contains("TLS 1.3"), "{error:?}");
    assert!(error.hint().unwrap().contains("allow_tls12"), "{error:?}");
    let mut output = Collected::default();
    open(port, &tls(&ca, ", allow_tls12 = \"old appliance\"")).read(None, &mut output).await.unwrap();
    assert_eq!(output.rows(), 1);
}

#[tokio::test]
async fn http_2_by_prior_knowledge_on_a_plaintext_port() {
    use bytes::Bytes;
    use http_body_util::Full;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let body = format!("[{{\"authority\":{:?}}}]", request.uri().authority().unwrap().as_str());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(body))))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
        }
    });
    let mut source = open(port, "http2 = true\nformat = \"json\"");
    for _ in 0..3 {
        let mut output = Collected::default();
        source.prepare().await.unwrap();
        source.read(None, &mut output).await.unwrap();
        assert!(output.table().contains(&format!("127.0.0.1:{port}")), "{}", output.table());
        assert_eq!(output.phases[0], portolan_model::source::Phase::Released);
    }
}
