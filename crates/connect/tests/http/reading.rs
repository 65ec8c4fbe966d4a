//! One answer to rows: phases, payload, connection reuse.

use portolan_model::source::Phase;

use super::support::*;

#[tokio::test]
async fn get_json_gives_rows_phases_and_payload() {
    let body = r#"[{"id":1,"name":"a","at":{"x":1.5}},{"id":2,"name":null,"tags":["p","q"]}]"#;
    let server = Server::start(move |_| json(body)).await;
    let mut source = open(server.port, "path = \"/items\"");
    let mut output = Collected::default();
    source.prepare().await.unwrap();
    assert!(server.seen().is_empty());
    let end = source.read(None, &mut output).await.unwrap();
    assert_eq!(end.position, None);
    assert_eq!(output.payload, body.as_bytes());
    assert_eq!(output.phases[0], Phase::Released);
    assert_eq!(output.phases[1], Phase::FirstByte);
    assert!(output.phases[2..].iter().all(|phase| *phase == Phase::LastByte));
    let expected = "\
+----+------+----------+--------+
| id | name | at       | tags   |
+----+------+----------+--------+
| 1  | a    | {x: 1.5} |        |
| 2  |      |          | [p, q] |
+----+------+----------+--------+";
    assert_eq!(output.table(), expected);
    let seen = server.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/items"));
    assert_eq!(seen[0].headers["host"], format!("127.0.0.1:{}", server.port));
    assert!(seen[0].headers["accept"].contains("application/json"));
}

#[tokio::test]
async fn the_connection_is_kept_and_replaced_when_closed() {
    let server = Server::start(|seen| {
        let body = "[{\"id\":1}]";
        // The second answer closes its connection without saying so: the third read must notice.
        if seen.target.ends_with('2') {
            Reply::Close(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
        } else {
            json(body)
        }
    })
    .await;
    let mut source = open(server.port, "cursor = { parameter = \"since\", column = \"id\" }");
    for round in 0..4 {
        let position = portolan_model::Position::new(1, serde_json::json!({ "cursor": round }));
        source.prepare().await.unwrap();
        let mut output = Collected::default();
        let from = (round > 0).then_some(&position);
        source.read(from, &mut output).await.unwrap();
        assert_eq!(output.rows(), 1);
    }
    let connections: Vec<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [1, 1, 1, 2]);
}

#[tokio::test]
async fn a_server_that_takes_leave_between_two_pages_is_asked_again() {
    // With an end alone, and with words that answer nothing, as servers send them to idle connections: at once, and while
    // the rows of the first page are taken.
    let words = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (farewell, is_late) in [("", false), ("", true), (words, false), (words, true)] {
        let server = Server::start(move |seen| {
            let is_last = seen.target.ends_with("page=2");
            let (page, link) = if is_last { (2, "") } else { (1, "Link: </?page=2>; rel=next\r\n") };
            let body = format!("[{{\"id\":{page}}}]");
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{link}Content-Length: {length}");
            let answer = format!("{head}\r\n\r\n{body}").into_bytes();
            match (is_last, is_late) {
                (true, _) => Reply::Close(answer),
                (false, false) => Reply::Close([&answer, farewell.as_bytes()].concat()),
                (false, true) => Reply::CloseLater(answer, farewell.into()),
            }
        })
        .await;
        let mut output = Collected { batch_duration: std::time::Duration::from_millis(60), ..Collected::default() };
        let mut source = open(server.port, "pagination = { by = \"link\" }");
        source.read(None, &mut output).await.unwrap_or_else(|error| panic!("{farewell:?} {is_late}: {error}"));
        assert_eq!(output.rows(), 2, "{farewell:?} {is_late}");
        let connections: Vec<usize> = server.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections, [1, 2], "{farewell:?} {is_late}");
    }
}

#[tokio::test]
async fn sequences_and_tabs_are_read_by_their_media_type() {
    let server = Server::start(|seen| match seen.target.as_str() {
        "/seq" => answer(200, &[("Content-Type", "application/json-seq")], "\x1e{\"a\":1}\n\x1e{\"a\":2}\n"),
        _ => answer(200, &[("Content-Type", "text/tab-separated-values; charset=utf-8")], "a\tb\n1,5\tx\n2\ty\n"),
    })
    .await;
    for (path, columns) in [("/seq", 1), ("/tabs", 2)] {
        let mut output = Collected::default();
        open(server.port, &format!("path = \"{path}\"")).read(None, &mut output).await.unwrap();
        assert_eq!(
            (output.rows(), output.batches[0].num_columns(), output.quarantine.len()),
            (2, columns, 0),
            "{path}"
        );
    }
}
