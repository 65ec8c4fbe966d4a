//! What arrives becomes rows: framings, formats, limits, TLS, acknowledgements, and what is no message.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portolan_connect::source::tcp::Tcp;
use portolan_model::Position;
use portolan_model::clock::SystemClock;
use portolan_model::config::{SourceSpec, TlsSpec};
use portolan_model::error::ErrorKind;
use portolan_model::source::{Connector, Environment, ReadEnd, Source};
use portolan_testkit::conformance::source::{Recorder, environment, spec};
use portolan_testkit::process::free_port;
use portolan_testkit::tls::TlsFiles;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A listening source of these options, its port, and the folder of its log.
struct World {
    port: u16,
    folder: tempfile::TempDir,
    options: String,
    tls: Option<TlsSpec>,
    key: Vec<String>,
}

impl World {
    fn new(options: &str) -> Self {
        let options = format!("listen = true\n{options}");
        Self { port: free_port().unwrap(), folder: tempfile::tempdir().unwrap(), options, tls: None, key: Vec::new() }
    }

    fn spec(&self) -> SourceSpec {
        let mut spec = spec("items", "tcp", self.port, &self.options);
        spec.key = self.key.clone();
        if let Some(tls) = &self.tls {
            spec.tls = tls.clone();
        }
        spec
    }

    async fn open(&self) -> Box<dyn Source> {
        let environment = Environment { intake: Some(self.folder.path().to_owned()), ..environment() };
        let mut source = Tcp.open(&self.spec(), &environment).unwrap();
        source.prepare().await.unwrap();
        source
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn send(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        // Closed by the other side once it has taken everything.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

/// Reads until so many rows and quarantined items have come.
async fn read(source: &mut dyn Source, from: Option<&Position>, count: usize) -> (Recorder, ReadEnd) {
    let mut output = Recorder::default();
    let mut position = from.cloned();
    let read = async {
        loop {
            let end = source.read(position.as_ref(), &mut output).await.unwrap();
            position = end.position.clone().or(position);
            if output.rows.len() + output.quarantined.len() >= count && !end.more {
                return ReadEnd { position: position.clone(), ..end };
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(20), read).await.expect("the rows have come");
    (output, end)
}

fn reasons(output: &Recorder) -> Vec<&'static str> {
    output.quarantined.iter().map(|item| item.reason).collect()
}

#[tokio::test]
async fn every_framing_and_format_gives_rows() {
    let object = json!({ "id": 1, "text": "a\nb" });
    let cases: [(&str, &[u8], Value); 8] = [
        ("", b"{\"id\":1,\"text\":\"a\\nb\"}\n{\"id\":2}\r\n", json!([object, { "id": 2 }])),
        ("framing = \"delimiter\"\ndelimiter = \"|\"", b"{\"id\":\n1}|[2]|", json!([{ "id": 1 }, { "value": [2] }])),
        ("framing = \"length\"", b"\0\0\0\x08{\"id\":1}\0\0\0\x08{\"id\":2}", json!([{ "id": 1 }, { "id": 2 }])),
        (
            "framing = \"length\"\nlength_bytes = 2\nlength_order = \"little\"\nformat = \"text\"",
            b"\x03\0one\x03\0t\no",
            json!([{ "value": "one" }, { "value": "t\no" }]),
        ),
        ("format = \"text\"", b"one\r\ntwo\n", json!([{ "value": "one" }, { "value": "two" }])),
        ("format = \"binary\"", b"\xff\x00\n", json!([{ "value": "ff00" }])),
        (
            "format = \"csv\"\nfields = [\"id\", \"name\"]\ninfer = true",
            b"1,\"a,b\"\n2,c\n",
            json!([{ "id": 1, "name": "a,b" }, { "id": 2, "name": "c" }]),
        ),
        (
            "format = \"csv\"\nfields = [\"id\", \"name\"]\nfield_delimiter = \";\"\nframing = \"length\"\nlength_bytes = 1",
            b"\x071;\"a\nb\"",
            json!([{ "id": "1", "name": "a\nb" }]),
        ),
    ];
    for (options, bytes, expected) in cases {
        let world = World::new(options);
        let mut source = world.open().await;
        world.send(bytes).await;
        let (output, _) = read(source.as_mut(), None, expected.as_array().unwrap().len()).await;
        assert_eq!(Value::from(output.rows), expected, "{options}");
        assert!(output.quarantined.is_empty(), "{options}: {:?}", output.quarantined);
        source.close().await;
    }
}

#[tokio::test]
async fn where_nothing_is_stored_nobody_is_told_that_something_is() {
    let world = World::new("acknowledge = true");
    let mut source = Tcp.open(&world.spec(), &environment()).unwrap();
    for attempt in ["prepare", "read"] {
        let error = match attempt {
            "prepare" => source.prepare().await.unwrap_err(),
            _ => source.read(None, &mut Recorder::default()).await.unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Configuration, "{attempt}: {error}");
        assert!(error.hint().unwrap().contains("--save"));
    }
    // A look at the port takes nothing, with or without acknowledgements.
    for options in ["acknowledge = true", ""] {
        let world = World::new(options);
        let mut source = Tcp.open(&world.spec(), &environment()).unwrap();
        let probe = source.probe().await.unwrap();
        assert_eq!(probe.facts, [("can be opened".to_owned(), format!("127.0.0.1:{}", world.port))]);
        assert!(TcpStream::connect(("127.0.0.1", world.port)).await.is_err(), "the port is closed again");
        let taken = std::net::TcpListener::bind(("127.0.0.1", world.port)).unwrap();
        assert_eq!(source.probe().await.unwrap_err().kind(), ErrorKind::Unreachable);
        drop(taken);
    }
}

#[tokio::test]
async fn what_is_no_message_goes_to_the_quarantine_and_the_others_stay() {
    let world = World::new("max_message = \"16B\"");
    let mut source = world.open().await;
    world.send(b"{\"id\":1}\nnot json\n{\"id\":\"much too long for this\"}\n{\"id\":2}\n{\"id\":3").await;
    let (output, _) = read(source.as_mut(), None, 5).await;
    assert_eq!(output.ids(), [1, 2]);
    let mut found = reasons(&output);
    found.sort_unstable();
    assert_eq!(found, ["message_cut", "message_too_large", "row_not_json"]);
    let cut = output.quarantined.iter().find(|item| item.reason == "message_cut").unwrap();
    assert_eq!(cut.content, "{\"id\":3");
    assert!(cut.detail.contains("127.0.0.1:"), "{}", cut.detail);

    let world = World::new("format = \"csv\"\nfields = [\"a\", \"b\"]");
    let mut source = world.open().await;
    world.send(b"1,2\n\"open,2\n3,4\n5\n").await;
    let (output, _) = read(source.as_mut(), None, 4).await;
    assert_eq!(Value::from(output.rows.clone()), json!([{ "a": "1", "b": "2" }, { "a": "3", "b": "4" }]));
    assert_eq!(reasons(&output), ["row_quote_open", "row_wrong_length"]);

    // A length that cannot be ends the connection: nobody knows where the next message begins.
    let world = World::new("framing = \"length\"\nformat = \"text\"");
    let mut source = world.open().await;
    world.send(b"\0\0\0\x02ok\xff\xff\xff\xffrest").await;
    let (output, _) = read(source.as_mut(), None, 2).await;
    assert_eq!(
        (Value::from(output.rows.clone()), reasons(&output)),
        (json!([{ "value": "ok" }]), vec!["message_too_large"])
    );
}

/// What the log holds is told apart as it came, whatever the settings are by the time it is read.
#[tokio::test]
async fn messages_that_came_under_another_format_are_read_all_the_same() {
    for (before, after, bytes, expected) in [
        (
            "",
            "format = \"text\"",
            &b"{\"id\":1}\n{\"id\":2}\n"[..],
            json!([{ "value": "{\"id\":1}" }, { "value": "{\"id\":2}" }]),
        ),
        ("format = \"text\"", "", b"{\"id\":1}\n{\"id\":2}\n", json!([{ "id": 1 }, { "id": 2 }])),
        (
            "",
            "format = \"csv\"\nfields = [\"a\", \"b\"]",
            b"1,2\n3,4\n",
            json!([{ "a": "1", "b": "2" }, { "a": "3", "b": "4" }]),
        ),
    ] {
        let mut world = World::new(before);
        let mut source = world.open().await;
        world.send(bytes).await;
        source.close().await;
        world.options = format!("listen = true\n{after}");
        let mut source = world.open().await;
        let (output, _) = read(source.as_mut(), None, 2).await;
        assert_eq!(Value::from(output.rows), expected, "{before} → {after}");
        assert!(output.quarantined.is_empty(), "{:?}", output.quarantined);
        source.close().await;
    }
}

/// One peer cannot stop the others: what no round could take at once comes in several.
#[tokio::test]
async fn any_number_of_bad_messages_is_taken_in_parts() {
    let world = World::new("");
    let mut source = world.open().await;
    world.send(&b"x\n".repeat(200_000)).await;
    world.send(b"{\"id\":1}\n").await;
    let (mut position, mut quarantined, mut rows, mut reads) = (None, 0, 0, 0);
    while rows == 0 {
        let mut output = Recorder::default();
        let end = source.read(position.as_ref(), &mut output).await.unwrap();
        assert!(output.quarantined.len() < 100_000, "{} in one read", output.quarantined.len());
        (quarantined, rows, reads) = (quarantined + output.quarantined.len(), rows + output.rows.len(), reads + 1);
        assert!(reads < 2_000, "{quarantined} items and no row");
        if !end.more {
            // It is still on its way through the log.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        position = end.position;
    }
    assert_eq!((quarantined, rows), (200_000, 1));
    assert!(reads > 1);
    source.close().await;
}

/// A source that is closed, to be opened anew by a changed configuration, takes what its senders had sent.
#[tokio::test]
async fn what_was_sent_before_the_source_closes_is_kept() {
    let world = World::new("");
    let mut source = world.open().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(world.connect().await);
    }
    let lines: String = (0..2_000).map(|id| format!("{{\"id\":{id},\"text\":\"{}\"}}\n", "x".repeat(100))).collect();
    for stream in &mut streams {
        stream.write_all(lines.as_bytes()).await.unwrap();
        stream.write_all(b"{\"half\"").await.unwrap();
    }
    source.close().await;
    let mut source = world.open().await;
    let (output, _) = read(source.as_mut(), None, 20 * 2_001).await;
    assert_eq!((output.rows.len(), reasons(&output)), (20 * 2_000, vec!["message_cut"; 20]));
    source.close().await;
}

#[tokio::test]
async fn the_origin_of_rows_is_told_where_asked_for() {
    let world = World::new("origin = true");
    let mut source = world.open().await;
    world.send(b"{\"id\":1}\n").await;
    world.send(b"{\"id\":2,\"peer\":\"its own\"}\n").await;
    let (output, _) = read(source.as_mut(), None, 2).await;
    assert!(output.rows[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(output.rows[0]["received_at"].as_str().unwrap().starts_with("20"));
    assert_eq!(output.rows[1]["peer"], "its own");
}

#[tokio::test]
async fn an_acknowledged_message_is_on_disk_and_comes_once() {
    let world = World::new("acknowledge = true\norigin = true");
    let mut source = world.open().await;
    let greet = async |name: &str| {
        let mut stream = BufReader::new(world.connect().await);
        stream.write_all(format!("HELLO {name}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        (stream, line)
    };
    let (mut first, line) = greet("pump-7").await;
    assert_eq!(line, "OK 0\n");
    first.write_all(b"1 {\"id\":1}\n2 {\"id\":2}\n3 oops\n").await.unwrap();
    let mut line = String::new();
    while line != "ACK 3\n" {
        line.clear();
        first.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("ACK "), "{line:?}");
    }
    // The log alone, as after a crash of everything else.
    source.close().await;
    drop(source);
    let mut source = world.open().await;
    let (mut second, line) = greet("pump-7").await;
    assert_eq!(line, "OK 3\n");
    // What comes again is left out; a gap is refused.
    second.write_all(b"2 {\"id\":2}\n3 oops\n4 {\"id\":4}\n6 {\"id\":6}\n").await.unwrap();
    let mut answers = String::new();
    second.read_to_string(&mut answers).await.unwrap();
    assert!(answers.contains("ERR expected 5\n"), "{answers:?}");
    let (output, _) = read(source.as_mut(), None, 4).await;
    assert_eq!((output.ids(), reasons(&output)), (vec![1, 2, 4], vec!["row_not_json"]));
    assert_eq!(output.rows[2]["sender"], "pump-7");
    // The later of two connections speaks for a sender.
    let (mut third, line) = greet("pump-7").await;
    assert_eq!(line, "OK 4\n");
    let (mut fourth, line) = greet("pump-7").await;
    assert_eq!(line, "OK 4\n");
    assert_eq!(third.read_line(&mut String::new()).await.unwrap(), 0, "the earlier one is closed");
    fourth.write_all(b"5 {\"id\":5}\n").await.unwrap();
    for bad in ["HELLO", "HELLO a b", "hello x", "GET / HTTP/1.1"] {
        let mut stream = world.connect().await;
        stream.write_all(format!("{bad}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("ERR "), "{bad}: {answer:?}");
    }
}

/// Nobody knows where the next message begins, but the sender need not send this one for ever.
#[tokio::test]
async fn an_acknowledged_message_of_a_length_that_is_too_large_is_kept_and_passed() {
    let world = World::new("acknowledge = true\nframing = \"length\"\nmax_message = \"1KiB\"");
    let mut source = world.open().await;
    let frame = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
    let too_large = format!("2 {{\"text\":\"{}\"}}", "x".repeat(5_000));
    let greet = async || {
        let mut stream = world.connect().await;
        stream.write_all(&frame("HELLO pump-7")).await.unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await.unwrap();
        (stream, String::from_utf8_lossy(&answer[4..]).into_owned())
    };
    let (mut stream, answer) = greet().await;
    assert_eq!(answer, "OK 0");
    stream.write_all(&[frame("1 {\"id\":1}"), frame(&too_large)].concat()).await.unwrap();
    // The connection is closed; whether with a last word depends on what was still under way.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let mut stream = loop {
        let (stream, answer) = greet().await;
        match answer.as_str() {
            "OK 2" => break stream,
            // Not on disk yet.
            answer => assert!(matches!(answer, "OK 0" | "OK 1"), "{answer}"),
        }
    };
    stream.write_all(&frame("3 {\"id\":3}")).await.unwrap();
    let (output, _) = read(source.as_mut(), None, 3).await;
    assert_eq!((output.ids(), reasons(&output)), (vec![1, 3], vec!["message_too_large"]));
    source.close().await;
}

#[tokio::test]
async fn connections_beyond_the_limits_are_refused_and_a_thousand_are_served() {
    let world = World::new("max_connections = 3\nmax_connections_per_peer = 2");
    let mut source = world.open().await;
    let (mut one, mut two) = (world.connect().await, world.connect().await);
    one.write_all(b"{\"id\":1}\n").await.unwrap();
    two.write_all(b"{\"id\":2}\n").await.unwrap();
    read(source.as_mut(), None, 2).await;
    let mut three = world.connect().await;
    assert_eq!(three.read(&mut [0; 8]).await.unwrap_or(0), 0, "the third of one address is closed");
    drop(one);
    // Its place is free once its end has been seen.
    let mut served = false;
    for _ in 0..200 {
        let mut again = world.connect().await;
        let _ = again.write_all(b"{\"id\":3}\n").await;
        if tokio::time::timeout(Duration::from_millis(50), again.read(&mut [0; 8])).await.is_err() {
            served = true;
            break;
        }
    }
    assert!(served);

    let world = World::new("");
    let mut source = world.open().await;
    let mut streams = Vec::new();
    for id in 0..1_000 {
        let mut stream = world.connect().await;
        stream.write_all(format!("{{\"id\":{id}}}\n{{\"id\":").as_bytes()).await.unwrap();
        streams.push(stream);
    }
    for (id, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("{}}}\n", 1_000 + id).as_bytes()).await.unwrap();
    }
    let (output, _) = read(source.as_mut(), None, 2_000).await;
    let mut ids = output.ids();
    ids.sort_unstable();
    assert_eq!(ids, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_port_of_ours_speaks_tls_and_asks_for_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles::create(folder.path()).unwrap();
    let mut world = World::new("");
    world.tls = Some(TlsSpec {
        ca: Some(files.authority.clone()),
        certificate: Some(files.server_certificate.clone()),
        key: Some(files.server_key.clone()),
        ..TlsSpec::default()
    });
    let mut source = world.open().await;
    let send = async |tls: TlsSpec| -> anyhow::Result<()> {
        let config = portolan_connect::transport::tls::client_config(&tls)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("localhost".try_into()?, world.connect().await).await?;
        stream.write_all(b"{\"id\":1}\n").await?;
        stream.shutdown().await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(())
    };
    let known = TlsSpec {
        ca: Some(files.authority.clone()),
        certificate: Some(files.client_certificate.clone()),
        key: Some(files.client_key.clone()),
        ..TlsSpec::default()
    };
    send(known).await.unwrap();
    let unknown = TlsSpec { ca: Some(files.authority.clone()), ..TlsSpec::default() };
    assert!(send(unknown).await.is_err(), "a sender without a certificate is refused");
    world.send(b"{\"id\":2}\n").await;
    assert_eq!(read(source.as_mut(), None, 1).await.0.ids(), [1], "plain text is none");
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_told_and_a_lost_log_too() {
    let world = World::new("");
    let other = tokio::net::TcpListener::bind(("127.0.0.1", world.port)).await.unwrap();
    let environment = Environment {
        clock: Arc::new(SystemClock::new()),
        intake: Some(world.folder.path().to_owned()),
        ..environment()
    };
    let mut source = Tcp.open(&world.spec(), &environment).unwrap();
    let error = source.prepare().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.hint().unwrap().contains(&world.port.to_string()), "{error:?}");
    drop(other);
    source.prepare().await.unwrap();
    world.send(b"{\"id\":1}\n").await;
    let (_, end) = read(source.as_mut(), None, 1).await;
    source.close().await;
    std::fs::remove_dir_all(world.folder.path().join("items")).unwrap();
    let mut source = world.open().await;
    world.send(b"{\"id\":2}\n").await;
    let (output, _) = read(source.as_mut(), end.position.as_ref(), 2).await;
    assert_eq!((output.ids(), reasons(&output)), (vec![2], vec!["intake_lost"]));
    source.close().await;
}

#[tokio::test]
async fn without_a_lake_the_log_goes_with_the_source() {
    let count = || {
        let prefix = format!("portolan-intake-{}-", std::process::id());
        let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)).count()
    };
    let world = World::new("");
    let mut source = Tcp.open(&world.spec(), &environment()).unwrap();
    source.prepare().await.unwrap();
    world.send(b"{\"id\":1}\n").await;
    assert_eq!(read(source.as_mut(), None, 1).await.0.ids(), [1]);
    assert!(count() >= 1);
    source.close().await;
    drop(source);
    assert_eq!(count(), 0, "{}", Path::new(&std::env::temp_dir()).display());
}
