//! A small HTTP/1.1 server for the tests, and an output that keeps what it is given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::SystemClock;
use portolan_model::config::{ConnectorSet, SourceSpec};
use portolan_model::error::Result;
use portolan_model::source::{Environment, Output, Phase, QuarantineItem, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as the server saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Number of the connection it came on, from 1.
    pub(crate) connection: usize,
}

/// What the server does after an answer.
pub(crate) enum Reply {
    /// Sends the bytes and keeps the connection.
    Keep(Vec<u8>),
    /// Sends the bytes and closes the connection.
    Close(Vec<u8>),
    /// Sends the bytes, after 20 ms the others, and closes the connection.
    CloseLater(Vec<u8>, Vec<u8>),
    /// Says nothing more.
    Hang(Vec<u8>),
}

/// An answer with a body.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    Reply::Keep(bytes)
}

/// A JSON answer.
pub(crate) fn json(body: &str) -> Reply {
    answer(200, &[("Content-Type", "application/json")], body)
}

/// The server.
pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts a server that answers by `handler`.
    pub(crate) async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, handler) = (Arc::clone(&seen), Arc::new(handler));
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connection += 1;
                tokio::spawn(serve(stream, connection, Arc::clone(&log), Arc::clone(&handler)));
            }
        });
        Self { port, seen }
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    log: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<impl Fn(&Seen) -> Reply>,
) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let mut seen = Seen { connection, ..Seen::default() };
        seen.method = first.next().unwrap_or_default().to_owned();
        seen.target = first.next().unwrap_or_default().to_owned();
        seen.headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = seen.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while buffer.len() < head_end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        seen.body = buffer[head_end..head_end + length].to_vec();
        buffer.drain(..head_end + length);
        let reply = handler(&seen);
        log.lock().unwrap().push(seen);
        match reply {
            Reply::Keep(bytes) => stream.write_all(&bytes).await.unwrap(),
            Reply::Close(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Reply::CloseLater(bytes, others) => {
                let _ = stream.write_all(&bytes).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = stream.write_all(&others).await;
                let _ = stream.shutdown().await;
                return;
            }
            Reply::Hang(bytes) => {
                let _ = stream.write_all(&bytes).await;
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Keeps everything.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) quarantine: Vec<QuarantineItem>,
    pub(crate) payload: Vec<u8>,
    pub(crate) phases: Vec<Phase>,
    /// Asks the read to end.
    pub(crate) has_enough: bool,
    /// How long it takes a batch.
    pub(crate) batch_duration: Duration,
}

impl Collected {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The rows as a table of text.
    pub(crate) fn table(&self) -> String {
        arrow::util::pretty::pretty_format_batches(&self.batches).unwrap().to_string()
    }
}

#[async_trait]
impl Output for Collected {
    fn mark(&mut self, phase: Phase) {
        self.phases.push(phase);
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.payload.extend_from_slice(bytes);
    }

    fn count_bytes(&mut self, _: u64) {}

    fn is_enough(&self) -> bool {
        self.has_enough
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        tokio::time::sleep(self.batch_duration).await;
        self.batches.push(batch);
        Ok(())
    }

    async fn quarantine(&mut self, item: QuarantineItem) -> Result<()> {
        self.quarantine.push(item);
        Ok(())
    }
}

/// A source as the configuration describes it.
pub(crate) fn spec(port: u16, keys: &str) -> SourceSpec {
    let tls = if keys.contains("tls =") { "" } else { "tls = { allow_plaintext = \"loopback test\" }\n" };
    let text =
        format!("[[source]]\nname = \"test\"\nhost = \"127.0.0.1\"\nport = {port}\nprotocol = \"http\"\n{tls}{keys}\n");
    let configuration =
        portolan_model::config::read(&text, &Registry).unwrap_or_else(|problems| panic!("{problems:#?}"));
    configuration.sources[0].clone()
}

pub(crate) fn environment() -> Environment {
    Environment { clock: Arc::new(SystemClock::new()), secrets: Arc::new(SystemSecrets::new(".")), intake: None }
}

/// The source of [`spec`].
pub(crate) fn open(port: u16, keys: &str) -> Box<dyn Source> {
    let spec = spec(port, keys);
    Registry.get("http").unwrap().open(&spec, &environment()).unwrap()
}
