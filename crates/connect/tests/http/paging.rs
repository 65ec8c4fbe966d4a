//! Pages, cursors and ETags against an API whose content grows.

use portolan_model::Position;
use portolan_model::error::ErrorKind;
use portolan_model::source::{ReadEnd, Source};
use portolan_testkit::api::{Api, Fault};
use serde_json::json;

use super::support::*;

fn api(items: std::ops::Range<i64>) -> Api {
    let api = Api::start().unwrap();
    api.append("items", items.map(|id| json!({ "id": id, "name": format!("item {id}") })));
    api
}

#[tokio::test]
async fn every_way_of_paging_gives_every_row_once() {
    let api = api(1..24);
    let cases = [
        "path = \"/plain/items\"",
        "path = \"/enveloped/items\"\nrows = \"$.data.items[*]\"",
        "path = \"/ndjson/items\"",
        "path = \"/csv/items\"\ncolumns = { id = \"bigint\" }",
        "path = \"/link/items?limit=5\"\npagination = { by = \"link\" }",
        "path = \"/cursor/items\"\nquery = { limit = \"5\" }\nrows = \"$.items\"\npagination = { by = \"cursor\", value = \"$.meta.next_cursor\" }",
        "path = \"/page/items\"\nrows = \"$.items[*]\"\npagination = { by = \"page\", size_parameter = \"per_page\", size = 5 }",
        "path = \"/page/items?per_page=5\"\nrows = \"$.items[*]\"\npagination = { by = \"page\" }",
        "path = \"/offset/items\"\npagination = { by = \"offset\", size_parameter = \"limit\", size = 5 }",
        "path = \"/gzip/plain/items\"",
        "path = \"/zstd/plain/items\"",
        "path = \"/redirect/plain/items\"",
    ];
    for keys in cases {
        let mut output = Collected::default();
        open(api.port(), keys).read(None, &mut output).await.unwrap_or_else(|error| panic!("{keys}: {error:?}"));
        let ids: Vec<i64> = output
            .batches
            .iter()
            .flat_map(|batch| {
                let ids = batch.column_by_name("id").unwrap();
                ids.as_any().downcast_ref::<arrow::array::Int64Array>().unwrap().values().to_vec()
            })
            .collect();
        assert_eq!(ids, (1..24).collect::<Vec<_>>(), "{keys}");
        assert!(output.quarantine.is_empty());
    }
}

#[tokio::test]
async fn an_incremental_read_that_ends_between_pages_goes_on_there() {
    let api = api(1..24);
    let keys = "path = \"/cursor/items?limit=5\"\nrows = \"$.items\"\n\
                pagination = { by = \"cursor\", value = \"$.meta.next_cursor\", max_pages = 2 }\n\
                cursor = { parameter = \"since\", column = \"id\" }";
    let mut source = open(api.port(), keys);
    let (mut position, mut rows, mut reads) = (None::<Position>, 0, 0);
    loop {
        let mut output = Collected::default();
        let end = source.read(position.as_ref(), &mut output).await.unwrap();
        rows += output.rows();
        reads += 1;
        position = end.position;
        if !end.more {
            break;
        }
    }
    assert_eq!((rows, reads), (23, 3));
    assert_eq!(position.as_ref().unwrap().value["cursor"], json!(23));
    api.append("items", [json!({ "id": 24, "name": "late" })]);
    let mut output = Collected::default();
    let end = source.read(position.as_ref(), &mut output).await.unwrap();
    assert_eq!((output.rows(), &end.position.unwrap().value["cursor"]), (1, &json!(24)));
}

/// One read that is asked to end at once.
async fn read_part(source: &mut dyn Source, from: Option<&Position>) -> (portolan_model::Result<ReadEnd>, Collected) {
    let mut output = Collected { has_enough: true, ..Collected::default() };
    let end = source.read(from, &mut output).await;
    (end, output)
}

#[tokio::test]
async fn a_page_that_the_server_does_not_know_any_more_is_read_again_from_the_cursor() {
    let api = api(1..24);
    let options = "path = \"/link/items?limit=5\"\npagination = { by = \"link\" }\n\
                   cursor = { parameter = \"since\", column = \"id\" }";
    for (key, status) in [("key = [\"id\"]\n", 410), ("key = [\"id\"]\n", 400), ("", 410)] {
        let mut source = open(api.port(), &format!("{key}{options}"));
        let (end, output) = read_part(source.as_mut(), None).await;
        let end = end.unwrap();
        assert_eq!((output.rows(), end.more), (5, true));
        api.fail("/link/items?from=5", Some(1), Fault::Status(status, None));
        let mut output = Collected::default();
        let read = source.read(end.position.as_ref(), &mut output).await;
        if key.is_empty() {
            let error = read.unwrap_err();
            assert!(error.hint().unwrap().contains("`key`"), "{error:?}");
            // The server's fault, not the position's: it goes on once the page is there again.
            assert!(source.read(end.position.as_ref(), &mut Collected::default()).await.is_ok());
        } else {
            assert_eq!(output.rows(), 23, "from the beginning; the lake leaves known keys out");
            assert_eq!(read.unwrap().position.unwrap().value["cursor"], json!(23));
        }
    }
    // A server that refuses the first page, too, is not asked again and again.
    let mut source = open(api.port(), &format!("key = [\"id\"]\n{options}"));
    let end = read_part(source.as_mut(), None).await.0.unwrap();
    api.take_requests();
    api.fail("/link/items", None, Fault::Status(410, None));
    assert!(source.read(end.position.as_ref(), &mut Collected::default()).await.is_err());
    assert_eq!(api.take_requests().len(), 2);
}

#[tokio::test]
async fn a_read_that_is_asked_to_end_goes_on_at_the_next_page() {
    let api = api(1..24);
    let options = "path = \"/link/items?limit=5\"\npagination = { by = \"link\" }";
    let cursor = "cursor = { parameter = \"since\", column = \"id\" }";
    let mut source = open(api.port(), &format!("{options}\n{cursor}"));
    let (mut position, mut rows) = (None, Vec::new());
    loop {
        let (end, output) = read_part(source.as_mut(), position.as_ref()).await;
        let end = end.unwrap();
        rows.push(output.rows());
        position = end.position;
        if !end.more {
            break;
        }
    }
    assert_eq!(rows, [5, 5, 5, 5, 3]);
    // Without a cursor there is nowhere to go on from: it is read whole.
    let (end, output) = read_part(open(api.port(), options).as_mut(), None).await;
    assert_eq!((output.rows(), end.unwrap().more), (23, false));
}

#[tokio::test]
async fn a_cursor_that_only_the_last_page_carries_is_asked_for_at_the_end() {
    let last = std::sync::Arc::new(std::sync::Mutex::new(",\"sync\":\"s1\""));
    let sync = last.clone();
    let server = Server::start(move |seen| {
        let next = |token: &str| json(&format!("{{\"rows\":[{{\"id\":1}}],\"next\":\"{token}\"}}"));
        match seen.target.split("cursor=").nth(1) {
            None => next("b"),
            Some("b") => next("c"),
            Some(_) => json(&format!("{{\"rows\":[]{}}}", sync.lock().unwrap())),
        }
    })
    .await;
    // Whether half of the deadline or `max_pages` ends the rounds.
    for max_pages in [1, 1_000] {
        let keys = format!(
            "rows = \"$.rows\"\npagination = {{ by = \"cursor\", value = \"$.next\", max_pages = {max_pages} }}\n\
             cursor = {{ parameter = \"since\", value = \"$.sync\" }}"
        );
        let mut source = open(server.port, &keys);
        let (mut position, mut rows) = (None, 0);
        for _ in 0..2 {
            let (end, output) = read_part(source.as_mut(), position.as_ref()).await;
            let end = end.unwrap();
            assert!(end.more);
            (position, rows) = (end.position, rows + output.rows());
        }
        let (end, _) = read_part(source.as_mut(), position.as_ref()).await;
        let end = end.unwrap();
        assert_eq!((rows, end.more), (2, false));
        assert_eq!(end.position.unwrap().value["cursor"], json!("s1"));
        // Without it the rows of the whole walk would be read again: also where the last page itself has none.
        let found = std::mem::take(&mut *last.lock().unwrap());
        let error = read_part(source.as_mut(), position.as_ref()).await.0.unwrap_err();
        assert!(error.message().contains("2 rows came"), "{error:?}");
        *last.lock().unwrap() = found;
    }
}

#[tokio::test]
async fn a_walk_that_ends_without_a_cursor_forgets_its_page() {
    let server = Server::start(|seen| {
        json(if seen.target.contains("cursor=b") { "{\"rows\":[]}" } else { "{\"rows\":[],\"next\":\"b\"}" })
    })
    .await;
    let keys = "rows = \"$.rows\"\npagination = { by = \"cursor\", value = \"$.next\" }\n\
                cursor = { parameter = \"since\", column = \"id\" }";
    let mut source = open(server.port, keys);
    let mut position = None;
    for _ in 0..4 {
        // As in a round: a read that gives no position leaves the stored one.
        position = read_part(source.as_mut(), position.as_ref()).await.0.unwrap().position.or(position);
    }
    let targets: Vec<String> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/", "/?cursor=b", "/", "/?cursor=b"], "each walk begins at the first page");
}

/// Reads parts until nothing more is to come; the rows of each, and the error that ended it.
async fn read_parts(source: &mut dyn Source) -> (Vec<usize>, portolan_model::Result<Option<Position>>) {
    let (mut position, mut rows) = (None, Vec::new());
    for _ in 0..100 {
        let (end, output) = read_part(source, position.as_ref()).await;
        let end = match end {
            Ok(end) => end,
            Err(error) => return (rows, Err(error)),
        };
        rows.push(output.rows());
        assert!(!end.more || end.position != position, "it says `more` and has not moved");
        position = end.position.or(position);
        if !end.more {
            return (rows, Ok(position));
        }
    }
    panic!("no end after a hundred reads: {rows:?}");
}

#[tokio::test]
async fn a_walk_that_begins_anew_ends_between_pages_like_any_other() {
    let api = api(1..24);
    let keys = "key = [\"id\"]\npath = \"/link/items?limit=5\"\npagination = { by = \"link\" }\n\
                cursor = { parameter = \"since\", column = \"id\" }";
    api.fail("/link/items?from=10", Some(1), Fault::Status(410, None));
    let (rows, end) = read_parts(open(api.port(), keys).as_mut()).await;
    assert_eq!(rows, [5, 5, 5, 5, 5, 5, 3], "refused after two pages, it begins anew and takes no more at a time");
    assert_eq!(end.unwrap().unwrap().value["cursor"], json!(23));
}

#[tokio::test]
async fn a_server_whose_tokens_do_not_outlive_a_round_is_read_to_the_end_in_one() {
    let api = api(1..24);
    let keys = "key = [\"id\"]\npath = \"/link/items?limit=5\"\npagination = { by = \"link\" }\n\
                cursor = { parameter = \"since\", column = \"id\" }";
    api.fail("/link/items?from=5", Some(4), Fault::Status(410, None));
    let (rows, end) = read_parts(open(api.port(), keys).as_mut()).await;
    assert_eq!(rows, [5, 5, 5, 5, 23]);
    assert_eq!(end.unwrap().unwrap().value["cursor"], json!(23));
}

#[tokio::test]
async fn a_server_that_refuses_the_page_after_the_last_allowed_one_is_an_error_and_no_endless_loop() {
    let server = Server::start(|seen| match seen.target.contains("page=3") {
        true => answer(404, &[], "Invalid page."),
        false => {
            json(if seen.target.contains("page=2") { "[{\"id\":3},{\"id\":4}]" } else { "[{\"id\":1},{\"id\":2}]" })
        }
    })
    .await;
    let keys = "key = [\"id\"]\npagination = { by = \"page\", size = 2, max_pages = 2 }\n\
                cursor = { parameter = \"since\", column = \"id\" }";
    let mut source = open(server.port, keys);
    let (mut position, mut reads) = (None, 0);
    let error = loop {
        match source.read(position.as_ref(), &mut Collected::default()).await {
            Ok(end) => position = end.position,
            Err(error) => break error,
        }
        reads += 1;
        assert!(reads < 10);
    };
    assert_eq!((error.kind(), reads), (ErrorKind::Limit, 4));
    assert!(error.hint().unwrap().contains("max_pages"));
}

#[tokio::test]
async fn more_pages_than_allowed_is_an_error_where_nothing_can_go_on() {
    let api = api(1..24);
    let keys = "path = \"/link/items?limit=5\"\npagination = { by = \"link\", max_pages = 2 }";
    let error = open(api.port(), keys).read(None, &mut Collected::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[tokio::test]
async fn a_late_window_asks_for_more_than_is_new() {
    let server = Server::start(|_| json("[{\"id\":7,\"at\":\"2026-01-01T00:10:00Z\"}]")).await;
    let number =
        "key = [\"id\"]\ncursor = { parameter = \"since\", column = \"id\", late_window = 5, initial = \"0\" }";
    let mut source = open(server.port, number);
    let end = source.read(None, &mut Collected::default()).await.unwrap();
    let end = source.read(end.position.as_ref(), &mut Collected::default()).await.unwrap();
    assert_eq!(end.position.unwrap().value["cursor"], json!(7));
    let instant = "key = [\"id\"]\ncursor = { parameter = \"from\", column = \"$.at\", late_window = \"5min\" }";
    let mut source = open(server.port, instant);
    let end = source.read(None, &mut Collected::default()).await.unwrap();
    source.read(end.position.as_ref(), &mut Collected::default()).await.unwrap();
    let targets: Vec<String> = server.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/?since=0", "/?since=2", "/", "/?from=2026-01-01T00%3A05%3A00Z"]);
}

#[tokio::test]
async fn the_servers_own_token_is_kept_as_it_is() {
    let server = Server::start(|seen| {
        let next = if seen.target.contains("since=b") { "a" } else { "b" };
        json(&format!("{{\"rows\":[{{\"id\":1}}],\"token\":\"{next}\"}}"))
    })
    .await;
    let keys = "rows = \"$.rows\"\ncursor = { parameter = \"since\", value = \"$.token\" }";
    let mut source = open(server.port, keys);
    let first = source.read(None, &mut Collected::default()).await.unwrap().position.unwrap();
    let second = source.read(Some(&first), &mut Collected::default()).await.unwrap().position.unwrap();
    assert_eq!((&first.value["cursor"], &second.value["cursor"]), (&json!("b"), &json!("a")));
}

#[tokio::test]
async fn a_strong_etag_proves_that_nothing_changed_and_a_weak_one_does_not() {
    let api = api(1..4);
    let mut source = open(api.port(), "path = \"/plain/items\"");
    let first = source.read(None, &mut Collected::default()).await.unwrap();
    assert!(first.validator.as_deref().unwrap().starts_with('"'));
    let mut output = Collected::default();
    let second = source.read(first.position.as_ref(), &mut output).await.unwrap();
    assert!(second.unchanged && output.rows() == 0);
    assert_eq!((&second.position, &second.validator), (&first.position, &first.validator));
    api.append("items", [json!({ "id": 4 })]);
    let mut output = Collected::default();
    let third = source.read(second.position.as_ref(), &mut output).await.unwrap();
    assert!(!third.unchanged && output.rows() == 4);
    // without a position nothing is known to be committed, so everything comes
    let mut output = Collected::default();
    assert!(!source.read(None, &mut output).await.unwrap().unchanged && output.rows() == 4);

    let mut source = open(api.port(), "path = \"/weak/items\"");
    let first = source.read(None, &mut Collected::default()).await.unwrap();
    assert_eq!((&first.position, &first.validator), (&None, &None));
}

#[tokio::test]
async fn a_server_that_goes_in_circles_is_an_error() {
    let circle = Server::start(|_| {
        answer(200, &[("Content-Type", "application/json"), ("Link", "</?p=2>; rel=next")], "[{\"id\":1}]")
    })
    .await;
    let error =
        open(circle.port, "pagination = { by = \"link\" }").read(None, &mut Collected::default()).await.unwrap_err();
    assert!(error.message().contains("already read"), "{error}");
    let deaf = Server::start(|_| json("[{\"id\":1}]")).await;
    let error =
        open(deaf.port, "pagination = { by = \"page\" }").read(None, &mut Collected::default()).await.unwrap_err();
    assert!(error.message().contains("ignore"), "{error}");
    let elsewhere = Server::start(|_| answer(200, &[("Link", "<http://127.0.0.2/x>; rel=next")], "[1]")).await;
    let error =
        open(elsewhere.port, "pagination = { by = \"link\" }").read(None, &mut Collected::default()).await.unwrap_err();
    assert!(error.message().contains("another origin"), "{error}");
}

#[tokio::test]
async fn a_large_body_is_converted_beside_the_others() {
    let api = Api::start().unwrap();
    let mut source = open(api.port(), "path = \"/big/6000000\"");
    let mut output = Collected::default();
    source.read(None, &mut output).await.unwrap();
    assert!(output.batches.len() > 1 && output.rows() > 16_384, "{} rows", output.rows());
    let mut source = open(api.port(), "path = \"/big/6000000\"\nmax_body = \"1MiB\"");
    let error = source.read(None, &mut Collected::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[tokio::test]
async fn rows_without_a_cursor_are_an_error_and_not_read_again_for_ever() {
    let server = Server::start(|seen| match seen.target.split('?').next() {
        Some("/csv") => answer(200, &[("Content-Type", "text/csv")], "id,name\n1,a\n"),
        Some("/none") => json("[]"),
        Some("/some") => json("[{\"id\":null},{\"id\":7}]"),
        _ => json("{\"rows\":[{\"id\":1},{\"id\":2}]}"),
    })
    .await;
    let column = "cursor = { parameter = \"since\", column = \"ident\" }";
    let value = "cursor = { parameter = \"since\", value = \"$.token\" }";
    let paging = "pagination = { by = \"cursor\", value = \"$.next\" }";
    for (keys, named) in [
        (format!("path = \"/csv\"\n{column}"), "`ident`"),
        (format!("rows = \"$.rows\"\n{column}"), "`ident`"),
        (format!("rows = \"$.rows\"\n{column}\n{paging}"), "`ident`"),
        (format!("rows = \"$.rows\"\n{value}"), "`$.token`"),
    ] {
        let error = open(server.port, &keys).read(None, &mut Collected::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{keys}");
        assert!(error.message().contains(named), "{error}");
    }
    let end = open(server.port, &format!("path = \"/none\"\n{column}")).read(None, &mut Collected::default()).await;
    assert_eq!(end.unwrap().position, None);
    let some = "path = \"/some\"\ncursor = { parameter = \"since\", column = \"id\" }";
    assert!(open(server.port, some).read(None, &mut Collected::default()).await.unwrap().position.is_some());
}

#[tokio::test]
async fn an_unreadable_link_header_is_not_the_last_page() {
    let link = |field: &'static [u8]| async move {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\nLink: ".to_vec();
        bytes.extend_from_slice(field);
        bytes.extend_from_slice(b"\r\n\r\n[{\"id\":1}]");
        let last = json("[{\"id\":2}]");
        let Reply::Keep(last) = last else { unreachable!() };
        let server =
            Server::start(move |seen| Reply::Keep(if seen.target == "/?p=2" { last.clone() } else { bytes.clone() }))
                .await;
        let mut output = Collected::default();
        let end = open(server.port, "pagination = { by = \"link\" }").read(None, &mut output).await;
        end.map(|_| output.rows())
    };
    assert_eq!(link(b"</?p=2>; title=\"n\xe4chste\"; rel=next").await.unwrap(), 2);
    assert_eq!(link(b"</?p=0>; rel=prev").await.unwrap(), 1);
    for field in [&b"</?p=\xe4>; rel=next"[..], b"/?p=2; rel=next", b"</?p=2"] {
        let error = link(field).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(error.message().contains("Link header"), "{error}");
    }
}

#[tokio::test]
async fn a_position_of_other_options_is_refused_and_such_an_etag_dropped() {
    let api = api(1..24);
    let read = async |keys: &str, from: Option<Position>| {
        let mut output = Collected::default();
        let end = open(api.port(), keys).read(from.as_ref(), &mut output).await;
        end.map(|end| (end.position, output.rows()))
    };
    let cursor = "cursor = { parameter = \"since\", column = \"id\" }";
    let (position, rows) = read(&format!("path = \"/plain/items\"\n{cursor}"), None).await.unwrap();
    assert_eq!(rows, 23);
    for (keys, named) in [
        (format!("path = \"/link/items\"\n{cursor}"), "`path`"),
        (format!("path = \"/plain/items?x=1\"\n{cursor}"), "`query`"),
        ("path = \"/plain/items\"\ncursor = { parameter = \"since\", column = \"name\" }".into(), "`cursor`"),
    ] {
        let error = read(&keys, position.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.message().contains(named) && error.hint().is_some(), "{error}");
    }
    let same = format!("path = \"/plain/items\"\ncolumns = {{ name = \"json\" }}\n{cursor}");
    assert_eq!(read(&same, position.clone()).await.unwrap().1, 0);
    assert_eq!(read("path = \"/link/items\"", position).await.unwrap().1, 23);

    let pages = |by: &str| format!("path = \"/link/items?limit=5\"\npagination = {{ {by} }}\n{cursor}");
    let (between, _) = read(&pages("by = \"link\", max_pages = 2"), None).await.unwrap();
    let error = read(&pages("by = \"page\""), between.clone()).await.unwrap_err();
    assert!(error.message().contains("`pagination`"), "{error}");
    assert_eq!(read(&pages("by = \"link\", max_pages = 9"), between).await.unwrap().1, 13);

    let (etag, _) = read("path = \"/plain/items\"", None).await.unwrap();
    assert_eq!(read("path = \"/plain/items\"", etag.clone()).await.unwrap().1, 0);
    let typed = "path = \"/plain/items\"\ncolumns = { name = \"json\" }";
    assert_eq!(read(typed, etag).await.unwrap().1, 23);
}
