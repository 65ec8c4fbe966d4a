//! Reads one source of a configuration through its connector and counts: rows/s, bytes/s, peak memory.
//!
//! ```text
//! cargo run --release -p portolan-connect --example mysql_read -- portolan.toml [SOURCE] [TIMES]
//! ```

use std::path::Path;
use std::time::Instant;

use async_trait::async_trait;
use portolan_connect::Registry;
use portolan_connect::transport::SystemSecrets;
use portolan_model::Result;
use portolan_model::clock::SystemClock;
use portolan_model::config::{self, ConnectorSet};
use portolan_model::source::{Environment, Output, Phase, QuarantineItem};

#[derive(Default)]
struct Counter {
    rows: u64,
    batches: u64,
    bytes: u64,
    quarantined: u64,
    released: Option<Instant>,
    first_byte: Option<Instant>,
}

#[async_trait]
impl Output for Counter {
    fn mark(&mut self, phase: Phase) {
        match phase {
            Phase::Released => self.released = Some(Instant::now()),
            Phase::FirstByte => self.first_byte = Some(Instant::now()),
            Phase::LastByte => {}
        }
    }

    fn payload(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    async fn batch(&mut self, batch: arrow::record_batch::RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        Ok(())
    }

    async fn quarantine(&mut self, _item: QuarantineItem) -> Result<()> {
        self.quarantined += 1;
        Ok(())
    }
}

fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: mysql_read CONFIGURATION [SOURCE] [TIMES]")?;
    let text = std::fs::read_to_string(&path)?;
    let configuration = config::read(&text, &Registry).map_err(|problems| format!("{problems:#?}"))?;
    let name = arguments.next();
    let times: u32 = arguments.next().map_or(Ok(1), |times| times.parse())?;
    let mut sources = configuration.sources.iter();
    let spec =
        sources.find(|spec| name.as_deref().is_none_or(|name| spec.name.as_str() == name)).ok_or("no such source")?;
    let connector = Registry.get(&spec.protocol).ok_or("no such protocol")?;
    let folder = Path::new(&path).parent().unwrap_or(Path::new("."));
    let environment = Environment {
        clock: std::sync::Arc::new(SystemClock::new()),
        secrets: std::sync::Arc::new(SystemSecrets::new(folder)),
        intake: None,
    };
    let mut source = connector.open(spec, &environment)?;
    for _ in 0..times {
        source.prepare().await?;
        let mut counter = Counter::default();
        let start = Instant::now();
        let end = source.read(None, &mut counter).await?;
        let seconds = start.elapsed().as_secs_f64();
        let first_ms = match (counter.released, counter.first_byte) {
            (Some(released), Some(first)) => (first - released).as_secs_f64() * 1_000.0,
            _ => f64::NAN,
        };
        println!(
            "{} rows, {} batches, {} quarantined, {:.1} MB in {seconds:.3} s: {:.0} rows/s, {:.0} MB/s; first byte after {first_ms:.1} ms; peak {} KiB; position {}",
            counter.rows,
            counter.batches,
            counter.quarantined,
            counter.bytes as f64 / 1e6,
            counter.rows as f64 / seconds,
            counter.bytes as f64 / 1e6 / seconds,
            peak_memory_kib().unwrap_or(0),
            end.position.map_or("none".into(), |position| position.to_text()),
        );
    }
    source.close().await;
    Ok(())
}
