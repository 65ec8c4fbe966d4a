//! What refusals, silence and strange answers become.

use std::time::Duration;

use portolan_model::error::{ErrorKind, Retry};
use portolan_model::source::Source;

use super::support::*;

async fn failure(mut source: Box<dyn Source>) -> portolan_model::Error {
    source.read(None, &mut Collected::default()).await.unwrap_err()
}

#[tokio::test]
async fn statuses_have_kinds() {
    let server = Server::start(|seen| {
        let status = seen.target.trim_start_matches('/').parse().unwrap();
        answer(status, &[("Retry-After", "7")], "{\"message\": \"because\"}")
    })
    .await;
    let cases = [
        (401, ErrorKind::Authentication, Retry::Permanent),
        (403, ErrorKind::Permission, Retry::Permanent),
        (404, ErrorKind::NotFound, Retry::Permanent),
        (410, ErrorKind::NotFound, Retry::Permanent),
        (408, ErrorKind::Busy, Retry::Transient),
        (429, ErrorKind::Busy, Retry::Transient),
        (503, ErrorKind::Busy, Retry::Transient),
        (500, ErrorKind::Server, Retry::Transient),
        (418, ErrorKind::Server, Retry::Permanent),
    ];
    for (status, kind, retry) in cases {
        let error = failure(open(server.port, &format!("path = \"/{status}\""))).await;
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{status}");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.to_string().contains("because") && error.to_string().contains(&status.to_string()), "{error}");
        assert!(error.source_name().is_some() && error.address().is_some());
    }
}

#[tokio::test]
async fn strangers_on_the_port_are_recognised() {
    let cases: [(&'static [u8], &str); 4] = [
        (b"J\0\0\0\n5.5.5-10.11.6-MariaDB\0", "MySQL greeting"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH banner"),
        (&[0x15, 3, 3, 0, 2, 2, 70], "TLS alert"),
        (b"-ERR unknown command 'GET'\r\n", "Redis error"),
    ];
    for (bytes, expected) in cases {
        let server = Server::start(move |_| Reply::Close(bytes.to_vec())).await;
        let error = failure(open(server.port, "")).await;
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
        assert!(error.message().contains(expected) && error.hint().is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn silence_is_a_timeout_and_half_an_answer_is_not_whole() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/hang" => Reply::Hang(Vec::new()),
        "/half" => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1,".to_vec()),
        "/cut" => Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1,2]".to_vec()),
        "/chunk" => Reply::Close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2]\r\n".to_vec()),
        _ => Reply::Close(Vec::new()),
    })
    .await;
    for (path, kind) in [
        ("/hang", ErrorKind::Timeout),
        ("/half", ErrorKind::Timeout),
        ("/cut", ErrorKind::Disconnected),
        ("/chunk", ErrorKind::Disconnected),
        ("/close", ErrorKind::Disconnected),
    ] {
        let error = failure(open(server.port, &format!("path = \"{path}\"\nidle_timeout = \"100ms\""))).await;
        assert_eq!((error.kind(), error.retry()), (kind, Retry::Transient), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn a_post_is_sent_once() {
    let server =
        Server::start(
            |seen| {
                if seen.headers.contains_key("x-close") { Reply::Close(Vec::new()) } else { json("{\"id\":1}") }
            },
        )
        .await;
    let keys = "method = \"POST\"\nbody = '{\"query\":1}'\nheaders = { X-Trace = \"7\" }";
    let mut output = Collected::default();
    open(server.port, keys).read(None, &mut output).await.unwrap();
    let seen = server.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.body.as_slice()), ("POST", b"{\"query\":1}".as_slice()));
    assert_eq!((seen.headers["content-type"].as_str(), seen.headers["x-trace"].as_str()), ("application/json", "7"));
    let mut source = open(server.port, "method = \"POST\"\nheaders = { X-Close = \"1\" }");
    source.prepare().await.unwrap();
    assert_eq!(failure(source).await.kind(), ErrorKind::Disconnected);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn redirects_stay_on_the_origin() {
    let server = Server::start(|seen| {
        let to = |status: u16, place: &str| answer(status, &[("Location", place)], "");
        match seen.target.as_str() {
            "/a?x=1" => to(301, "b"),
            "/b" => to(307, "/c?y=2"),
            "/c?y=2" => json("[1]"),
            "/loop" => to(302, "/loop"),
            "/away" => to(302, "https://example.invalid/"),
            _ => to(308, ""),
        }
    })
    .await;
    let mut output = Collected::default();
    open(server.port, "path = \"/a?x=1\"").read(None, &mut output).await.unwrap();
    assert_eq!(output.rows(), 1);
    let error = failure(open(server.port, "path = \"/loop\"")).await;
    assert!(error.message().contains("more than 5 redirects"), "{error}");
    let error = failure(open(server.port, "path = \"/away\"")).await;
    assert!(error.message().contains("another origin"), "{error}");
    let error = failure(open(server.port, "path = \"/a?x=1\"\nmethod = \"POST\"")).await;
    assert!(error.message().contains("GET"), "{error}");
}

#[tokio::test]
async fn what_is_not_rows_is_said() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/html" => answer(200, &[("Content-Type", "text/html")], "<html>login</html>"),
        "/broken" => json("[{\"id\":1},"),
        "/empty" => answer(204, &[], ""),
        _ => answer(200, &[("Content-Type", "application/json"), ("Content-Encoding", "br")], "x"),
    })
    .await;
    for path in ["/html", "/broken", "/br"] {
        let error = failure(open(server.port, &format!("path = \"{path}\""))).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{error:?}");
    }
    let mut output = Collected::default();
    open(server.port, "path = \"/empty\"").read(None, &mut output).await.unwrap();
    assert_eq!(output.rows(), 0);
}

#[tokio::test]
async fn a_dropped_read_leaves_a_source_that_works() {
    let server =
        Server::start(
            |seen| {
                if seen.connection == 1 { Reply::Hang(b"HTTP/1.1 200 OK\r\n".to_vec()) } else { json("[1]") }
            },
        )
        .await;
    let mut source = open(server.port, "");
    let mut output = Collected::default();
    let read = source.read(None, &mut output);
    assert!(tokio::time::timeout(Duration::from_millis(100), read).await.is_err());
    let mut output = Collected::default();
    source.read(None, &mut output).await.unwrap();
    assert_eq!(output.rows(), 1);
}

#[tokio::test]
async fn secrets_are_sent_and_never_shown() {
    use portolan_testkit::api::{Api, PASSWORD, TOKEN, USER};
    let api = Api::start().unwrap();
    api.append("items", [serde_json::json!({ "id": 1 })]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, secret: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, secret).unwrap();
        format!("{{ file = {:?} }}", path.display().to_string())
    };
    let (password, token, wrong) = (file("password", PASSWORD), file("token", TOKEN), file("wrong", "hunter2"));
    let cases = [
        format!("path = \"/basic/plain/items\"\nauth = {{ basic = {{ user = {USER:?}, password = {password} }} }}"),
        format!("path = \"/bearer/plain/items\"\nauth = {{ bearer = {token} }}"),
        format!("path = \"/header/plain/items\"\nauth = {{ header = {{ name = \"X-Api-Key\", value = {token} }} }}"),
    ];
    for keys in cases {
        let mut output = Collected::default();
        open(api.port(), &keys).read(None, &mut output).await.unwrap();
        assert_eq!(output.rows(), 1, "{keys}");
        let error = failure(open(api.port(), &keys.replace(&password, &wrong).replace(&token, &wrong))).await;
        assert_eq!(error.kind(), ErrorKind::Authentication);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_post_is_not_there_to_be_read_again() {
    let get = open(1, "path = \"/\"");
    assert!(get.capabilities().reread);
    let post = open(1, "method = \"POST\"");
    assert!(!post.capabilities().reread);
}

#[tokio::test]
async fn nothing_there_is_not_a_good_round_without_rows() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/empty" => json(""),
        "/lines" => answer(200, &[("Content-Type", "application/x-ndjson")], ""),
        "/none" => json("{\"data\":[]}"),
        _ => json("{\"data\":5,\"message\":\"maintenance\"}"),
    })
    .await;
    for keys in
        ["path = \"/empty\"", "rows = \"$.data[*]\"", "rows = \"$.rows[*].items[*]\"", "rows = \"$.rows[?@.on]\""]
    {
        let error = failure(open(server.port, keys)).await;
        assert_eq!(error.kind(), ErrorKind::Data, "{keys}: {error:?}");
    }
    for keys in ["path = \"/lines\"", "rows = \"$.data[*].items[*]\"", "rows = \"$.data[?@.on]\""] {
        let keys = if keys.contains("path") { keys.to_owned() } else { format!("path = \"/none\"\n{keys}") };
        let mut output = Collected::default();
        open(server.port, &keys).read(None, &mut output).await.unwrap_or_else(|error| panic!("{keys}: {error:?}"));
        assert_eq!(output.rows(), 0);
    }
}

#[tokio::test]
async fn a_query_is_in_no_message() {
    let server = Server::start(|seen| match seen.target.split('?').next() {
        Some("/loop") => answer(302, &[("Location", "/loop?key=hunter2")], ""),
        Some("/away") => answer(302, &[("Location", "https://example.invalid/?key=hunter2")], ""),
        Some("/nowhere") => answer(302, &[], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    for path in ["/loop", "/away", "/nowhere", "/missing"] {
        let keys = format!("path = \"{path}\"\nquery = {{ key = \"hunter2\" }}");
        let error = failure(open(server.port, &keys)).await;
        assert!(error.message().contains(path) || path == "/away", "{error}");
        assert!(!format!("{error:?} {}", error.chain()).contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_broken_http_2_connection_is_not_called_a_stranger() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Empty settings (RFC 9113, section 6.5), and the end once a request has come.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"\0\0\0\x04\0\0\0\0\0").await;
            let mut bytes = [0; 512];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
        }
    });
    let error = failure(open(port, "http2 = true")).await;
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error:?}");
}
