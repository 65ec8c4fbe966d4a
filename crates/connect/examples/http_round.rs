//! Rounds over N ports of one server, for comparison with other clients: `http_round BASE_PORT N [threads]` opens one
//! `http` source a port, reads lines `go` on its standard input, and for each runs one round over all of them and
//! prints `wall_us cpu_us ok_count`. With `threads`, tokio's multi-threaded runtime is used in the place of the
//! single-threaded one.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::clock::{Clock, Moment, SystemClock};
use portolan_model::config::{self, ConnectorSet};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Environment, Output, Phase, QuarantineItem, Source};

/// Keeps what a receipt keeps.
struct Receipt {
    clock: Arc<SystemClock>,
    released: Option<Moment>,
    first_byte: Option<Moment>,
    last_byte: Option<Moment>,
    bytes: u64,
    batches: Vec<RecordBatch>,
}

#[async_trait]
impl Output for Receipt {
    fn mark(&mut self, phase: Phase) {
        let now = Some(self.clock.moment());
        match phase {
            Phase::Released => self.released = self.released.or(now),
            Phase::FirstByte => self.first_byte = self.first_byte.or(now),
            Phase::LastByte => self.last_byte = now,
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    async fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.batches.push(batch);
        Ok(())
    }

    async fn quarantine(&mut self, _: QuarantineItem) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let usage = || Error::new(ErrorKind::Configuration, "read arguments", "usage: http_round BASE_PORT N [threads]");
    let mut arguments = std::env::args().skip(1);
    let base: u16 = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let count: u16 = arguments.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let threads = arguments.next().as_deref() == Some("threads");
    let mut builder = if threads {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "start runtime", "failed").with_cause(error))?;
    let mut sources = open(base, count)?;
    let clock = Arc::new(SystemClock::new());
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        let (start, cpu) = (Instant::now(), cpu_us());
        let complete = runtime.block_on(round(&mut sources, &clock));
        println!("{:.1} {} {complete}", start.elapsed().as_secs_f64() * 1e6, cpu_us() - cpu);
    }
    Ok(())
}

fn open(base: u16, count: u16) -> Result<Vec<Box<dyn Source>>> {
    let mut text = String::from("[server]\nhost = \"127.0.0.1\"\n");
    for index in 0..count {
        text.push_str(&format!(
            "[[source]]\nname = \"port{index}\"\nport = {}\nprotocol = \"http\"\ntls = {{ allow_plaintext = \"loopback\" }}\n",
            base + index
        ));
    }
    let configuration = config::read(&text, &Registry)
        .map_err(|problems| Error::new(ErrorKind::Configuration, "read configuration", format!("{problems:?}")))?;
    let secrets = Arc::new(SystemSecrets::new("."));
    let environment = Environment { clock: Arc::new(SystemClock::new()), secrets, intake: None };
    let connectors = Registry;
    let connector =
        connectors.get("http").ok_or_else(|| Error::new(ErrorKind::Internal, "open sources", "no http connector"))?;
    configuration.sources.iter().map(|spec| connector.open(spec, &environment)).collect()
}

async fn round(sources: &mut [Box<dyn Source>], clock: &Arc<SystemClock>) -> usize {
    let mut reads: FuturesUnordered<_> = sources
        .iter_mut()
        .map(|source| async {
            let clock = Arc::clone(clock);
            let mut receipt =
                Receipt { clock, released: None, first_byte: None, last_byte: None, bytes: 0, batches: Vec::new() };
            source.prepare().await?;
            source.read(None, &mut receipt).await?;
            Ok::<_, Error>(receipt)
        })
        .collect();
    let mut complete = 0;
    while let Some(result) = reads.next().await {
        match result {
            Ok(receipt) => {
                let rows: usize = receipt.batches.iter().map(RecordBatch::num_rows).sum();
                let marked = receipt.released.is_some() && receipt.first_byte.is_some() && receipt.last_byte.is_some();
                complete += usize::from(rows == 1 && receipt.bytes > 0 && marked);
            }
            Err(error) => eprintln!("{error:?}"),
        }
    }
    complete
}

/// Processor time of this process, user and system, in microseconds: `utime` and `stime` of `/proc/self/stat` count in
/// hundredths of a second, so the finer sum over the threads' `schedstat` is taken.
fn cpu_us() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum::<u64>()
        / 1_000
}
