//! What real servers never say: a scripted server (a mock, in this file) that lists hostile names, speaks other dialects,
//! names another's address, breaks off or never ends.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use portolan_model::{ErrorKind, Retry};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// How the server behaves.
#[derive(Clone, Default)]
struct Script {
    features: &'static str,
    listing: Vec<u8>,
    file: Vec<u8>,
    has_no_epsv: bool,
    /// The address that PASV names.
    named: Option<Ipv4Addr>,
    /// The reply after a file, in place of 226.
    after_file: Option<&'static str>,
    /// The first transfer of a file is cut behind so many bytes; the file is this one then.
    cut: Option<(usize, Vec<u8>)>,
    /// Bytes behind the answer to AUTH.
    after_auth: &'static str,
    greeting: Option<Vec<u8>>,
}

struct Server {
    port: u16,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = commands.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), log.clone()));
            }
        });
        Self { port, commands }
    }

    fn open(&self, keys: &str) -> Box<dyn portolan_model::source::Source> {
        open_at("127.0.0.1", self.port, keys, Arc::default())
    }

    fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, script: Script, log: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut data: Option<TcpListener> = None;
    let mut offset = 0;
    stream.write_all(script.greeting.as_deref().unwrap_or(b"220 scripted\r\n")).await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        log.lock().unwrap().push(line.clone());
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let reply = match verb {
            "USER" => "331 password".into(),
            "PASS" => "230 in".into(),
            "AUTH" => format!("234 go\r\n{}", script.after_auth),
            "FEAT" => format!("211-Features\r\n{}211 End", script.features),
            "CWD" | "NOOP" | "TYPE" | "OPTS" => "200 done".into(),
            "REST" => {
                offset = argument.parse().unwrap();
                "350 from there".into()
            }
            "EPSV" if script.has_no_epsv => "500 what".into(),
            "EPSV" | "PASV" => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let port = listener.local_addr().unwrap().port();
                data = Some(listener);
                let [a, b, c, d] = script.named.unwrap_or(Ipv4Addr::LOCALHOST).octets();
                let [high, low] = port.to_be_bytes();
                if verb == "EPSV" {
                    format!("229 here (|||{port}|)")
                } else {
                    format!("227 here ({a},{b},{c},{d},{high},{low})")
                }
            }
            "MLSD" | "LIST" | "RETR" => {
                let (mut socket, _) = data.take()?.accept().await.ok()?;
                stream.write_all(b"150 comes\r\n").await.ok()?;
                let is_file = verb == "RETR";
                let files = log.lock().unwrap().iter().filter(|line| line.starts_with("RETR")).count();
                let bytes = match &script.cut {
                    _ if !is_file => &script.listing,
                    Some((length, _)) if files == 1 => &script.file[..*length],
                    Some((_, file)) => &file[offset..],
                    None => &script.file[offset..],
                };
                let is_cut = is_file && files == 1 && script.cut.is_some();
                offset = 0;
                let is_sent = socket.write_all(bytes).await.is_ok();
                drop(socket);
                let closed_early = "426 cut\r\n226 closed";
                let done = if is_cut { "426 cut" } else { "226 done" };
                script.after_file.filter(|_| is_file).unwrap_or(if is_sent { done } else { closed_early }).into()
            }
            _ => "502 not here".into(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

const FILES: &str = "path = \"/out/*.csv\"";
const MLSD: &str = " MLST type*;size*;modify*;\r\n MLSD\r\n";

#[tokio::test]
async fn hostile_names_are_refused_once_and_the_others_read() {
    let listing = b"type=file;size=5;modify=20260101000000; a.csv\r\n\
        type=file;size=5; ../../etc/passwd.csv\r\n\
        type=file;size=5; /etc/x.csv\r\n\
        type=file;size=5; x\x1b[2J.csv\r\n\
        type=file;size=5; x\rDELE a.csv\r\n\
        type=file;size=5; \xff.csv\r\n\
        type=file;size=5; \r\n\
        no facts\r\n\
        type=dir; ..\r\n";
    let script = Script { features: MLSD, listing: listing.to_vec(), file: b"id\n1\n".to_vec(), ..Script::default() };
    let server = Server::start(script).await;
    let mut source = server.open(FILES);
    let mut position = None;
    let output = read_on(&mut source, &mut position).await;
    assert_eq!(output.texts("_file"), ["/out/a.csv"]);
    assert_eq!(output.reasons(), ["name_refused"; 7]);
    assert!(output.quarantine.iter().all(|item| item.content.is_ascii() && !item.content.contains('\x1b')));
    assert!(read_on(&mut source, &mut position).await.quarantine.is_empty());
    let asked: Vec<_> = server.commands().into_iter().filter(|line| line.starts_with("RETR")).collect();
    assert_eq!(asked, ["RETR /out/a.csv"]);
}

#[tokio::test]
async fn dos_listings_are_read_and_unknown_ones_named() {
    let listing = b"11-23-26  07:50AM       <DIR>          old\r\n11-23-26  07:50AM                    5 a b.csv\r\n";
    let script = Script { listing: listing.to_vec(), file: b"id\n1\n".to_vec(), ..Script::default() };
    let mut source = Server::start(script.clone()).await.open(FILES);
    assert_eq!(read(&mut source, None).await.unwrap().0.texts("_file"), ["/out/a b.csv"]);
    let listing = b"FOO.DAT;1  4  23-NOV-2026 07:50  [X,Y]  (RWED,RWED,RE,)\r\n".to_vec();
    let error = failure(&mut Server::start(Script { listing, ..script }).await.open(FILES)).await;
    assert!(error.kind() == ErrorKind::Protocol && error.message().contains("FOO.DAT"), "{error:?}");
}

#[tokio::test]
async fn listings_have_bounds() {
    let line = b"type=file;size=5; ";
    for listing in [[line.as_slice(), &[b'x'; 9_000], b"\r\n"].concat(), vec![b'x'; 1 << 20], b"x\r\n".repeat(200_000)]
    {
        let server = Server::start(Script { features: MLSD, listing, ..Script::default() }).await;
        let mut source = server.open(FILES);
        match read(&mut source, None).await {
            Ok((output, _)) => assert_eq!(output.reasons(), ["name_refused"]),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Limit | ErrorKind::Protocol), "{error:?}"),
        }
    }
    let many: String = (0..150).map(|number| format!("type=file;size=5; \u{1}{number}\r\n")).collect();
    let server = Server::start(Script { features: MLSD, listing: many.into_bytes(), ..Script::default() }).await;
    assert_eq!(failure(&mut server.open(FILES)).await.kind(), ErrorKind::Limit);
    let cut = b"type=file;size=5; a.csv\r\ntype=file;si".to_vec();
    let script = Script { features: MLSD, listing: cut, file: b"id\n1\n".to_vec(), ..Script::default() };
    let error = failure(&mut Server::start(script).await.open(FILES)).await;
    assert!(error.kind() == ErrorKind::Disconnected && error.message().contains("listing"), "{error:?}");
}

#[tokio::test]
async fn data_is_taken_from_the_server_itself_whatever_address_it_names() {
    // Nobody listens there; a client that followed it would hang or be refused.
    let script = Script {
        listing: b"-rw-r--r-- 1 0 0 5 Nov 23 08:00 a.csv\r\n".to_vec(),
        file: b"id\n1\n".to_vec(),
        has_no_epsv: true,
        named: Some(Ipv4Addr::new(192, 0, 2, 1)),
        ..Script::default()
    };
    let server = Server::start(script).await;
    let mut source = server.open(FILES);
    assert_eq!(read(&mut source, None).await.unwrap().0.rows().len(), 1);
    read(&mut source, None).await.unwrap();
    // EPSV is not tried again once it is known to be missing.
    assert_eq!(server.commands().iter().filter(|line| *line == "EPSV").count(), 1);
}

#[tokio::test]
async fn a_file_that_is_not_said_to_be_whole_is_not() {
    let script = Script {
        features: MLSD,
        listing: b"type=file;size=5;modify=20260101000000; a.csv\r\n".to_vec(),
        file: b"id\n1\n".to_vec(),
        ..Script::default()
    };
    for (after, kind, retry) in [
        ("426 cut", ErrorKind::Disconnected, Retry::Transient),
        ("451 disk", ErrorKind::Server, Retry::Transient),
        ("421 going down", ErrorKind::Busy, Retry::Transient),
        ("550 Permission denied", ErrorKind::Permission, Retry::Permanent),
    ] {
        let server = Server::start(Script { after_file: Some(after), ..script.clone() }).await;
        let error = failure(&mut server.open(FILES)).await;
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{after}: {error:?}");
    }
    let short = Script { file: b"id\n".to_vec(), ..script };
    let error = failure(&mut Server::start(short).await.open(FILES)).await;
    assert!(error.kind() == ErrorKind::Disconnected && error.message().contains("after 3 bytes"), "{error:?}");
}

#[tokio::test]
async fn a_growing_file_is_read_on_with_rest_and_without() {
    let mut text: String = (0..600_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    for features in [" MLSD\r\n REST STREAM\r\n", MLSD] {
        let script = |text: &str| Script {
            features,
            listing: format!("type=file;size={}; a.ndjson\r\n", text.len()).into_bytes(),
            file: text.as_bytes().to_vec(),
            ..Script::default()
        };
        let mut position = None;
        let files = "path = \"/out/a.ndjson\"";
        let mut source = Server::start(script(&text)).await.open(files);
        read_on(&mut source, &mut position).await;
        text.push_str("{\"id\":-1}\n");
        // Large enough for the server to notice that the data connection is closed; it then replies twice.
        let server = Server::start(script(&text)).await;
        let output = read_on(&mut server.open(files), &mut position).await;
        assert_eq!(
            (output.rows(), output.quarantine.len()),
            (vec![serde_json::json!({ "id": -1, "_file": "/out/a.ndjson" })], 0)
        );
        let has_rest = server.commands().iter().any(|command| command.starts_with("REST"));
        assert_eq!(has_rest, features.contains("REST"));
    }
}

#[tokio::test]
async fn nothing_said_before_tls_passes_for_protected() {
    let script = Script { after_auth: "230 you are in\r\n", ..Script::default() };
    let server = Server::start(script).await;
    let mut source = server.open(&format!("{FILES}\ntls = {{ server_name = \"localhost\" }}"));
    let error = failure(&mut source).await;
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert_eq!(server.commands(), ["AUTH TLS"], "nothing but the request for TLS leaves");
}

#[tokio::test]
async fn strangers_and_endless_replies_are_told() {
    for (greeting, kind, words) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), ErrorKind::Protocol, "SSH banner"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), ErrorKind::Protocol, "HTTP"),
        (vec![b'2'; 100_000], ErrorKind::Protocol, "too long"),
        ([b"220-x\r\n".to_vec(), b"220-y\r\n".repeat(50_000)].concat(), ErrorKind::Protocol, "too long"),
        (b"421 Too many connections\r\n".to_vec(), ErrorKind::Busy, "Too many"),
    ] {
        let server = Server::start(Script { greeting: Some(greeting), ..Script::default() }).await;
        let error = failure(&mut server.open(FILES)).await;
        assert!(error.kind() == kind && error.message().contains(words), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_replaced_while_its_transfer_was_broken_fails_a_read_of_all() {
    let lines =
        |from: i64| (from..from + 300_000).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>().into_bytes();
    let (file, other) = (lines(100_000), lines(500_000));
    for (keys, rows) in [("read = \"all\"", None), ("read = \"new\"", Some(300_000))] {
        let script = Script {
            features: " MLSD\r\n REST STREAM\r\n",
            listing: format!("type=file;size={};modify=20260101000000; a.ndjson\r\n", file.len()).into_bytes(),
            file: file.clone(),
            cut: Some((2 << 20, other.clone())),
            ..Script::default()
        };
        let mut source = Server::start(script).await.open(&format!("path = \"/out/a.ndjson\"\n{keys}"));
        match (read(&mut source, None).await, rows) {
            (Err(error), None) => {
                assert_eq!((error.kind(), error.retry()), (ErrorKind::Disconnected, Retry::Transient), "{error:?}");
                // The next round holds the one that is there.
                let (output, _) = read(&mut source, None).await.unwrap();
                assert!(output.payload == other && output.quarantine.is_empty());
            }
            (Ok((output, _)), Some(rows)) => {
                assert!(output.rows().len() > rows && output.payload.ends_with(&other));
                assert_eq!(output.reasons(), ["file_replaced"]);
            }
            (result, _) => panic!("{keys}: {:?}", result.map(|(output, _)| output.payload.len())),
        }
    }
}

#[tokio::test]
async fn a_listing_that_lags_behind_a_file_does_not_make_it_shorter() {
    let line = |id: usize| format!("{{\"id\":{id}}}\n");
    let mut text: String = (0..20_000).map(line).collect();
    let listed = text.len() - 50_000;
    let mut position = None;
    for rows in [20_000, 0, 10] {
        // As of a server that lists what was written when the file was last opened.
        let script = Script {
            features: " MLSD\r\n REST STREAM\r\n",
            listing: format!("type=file;size={listed};modify=20260101000000; a.ndjson\r\n").into_bytes(),
            file: text.clone().into_bytes(),
            ..Script::default()
        };
        let mut source = Server::start(script).await.open("path = \"/out/a.ndjson\"");
        let output = read_on(&mut source, &mut position).await;
        assert_eq!((output.rows().len(), output.quarantine.len()), (rows, 0));
        if rows == 0 {
            text.extend((20_000..20_010).map(line));
        }
    }
}
