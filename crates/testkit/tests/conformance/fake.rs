//! A small source over the sample API's NDJSON, sound or broken in one way.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Result as TestResult;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use portolan_model::config::{Diagnostic, SourceSpec};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use portolan_model::source::{
    Capabilities, Connector, Environment, Held, Output, Phase, Probe, ReadEnd, ReleaseKind, Source,
};
use portolan_testkit::api::Api;
use portolan_testkit::conformance::source::{
    NOT_APPLICABLE_TO_CURSORS, NOT_APPLICABLE_TO_GROUPS, Shape, SourceFixture, spec,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Rows of one batch.
const BATCH_ROWS: usize = 100;
/// The largest item of `Shape::SmallItems`.
const ITEM_BYTES_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    OpenConnects,
    ClaimsMore,
    WrongType,
    FailsOnEmpty,
    NeedsPrepare,
    YieldsLastAgain,
    RemembersByItself,
    SkipsOne,
    AcknowledgesWhileReading,
    NeverHasEnough,
    StopsEarly,
    MarksReleaseLate,
    CountsNothing,
    ReadsAhead,
    ActsBeforeRelease,
    KeepsHalfReadConnection,
    TakesCutForEnd,
    NamesNoAddress,
    NoTimeout,
    PanicsOnNoise,
    KeepsDeadConnection,
    OversizedIsData,
    AcknowledgesOnce,
    EmptyProbe,
    StaysClosed,
}

pub(crate) struct FakeFixture {
    api: Api,
    connector: FakeConnector,
}

impl FakeFixture {
    pub(crate) fn start(defect: Defect) -> Self {
        Self { api: Api::start().unwrap(), connector: FakeConnector { defect, place: None } }
    }

    /// Its server keeps where a source stands, and moves it by acknowledgements alone.
    pub(crate) fn start_grouped(defect: Defect) -> Self {
        Self { api: Api::start().unwrap(), connector: FakeConnector { defect, place: Some(Arc::default()) } }
    }
}

impl SourceFixture for FakeFixture {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn capabilities(&self) -> Capabilities {
        self.connector.source_capabilities()
    }

    fn server_port(&self) -> u16 {
        self.api.port()
    }

    fn spec(&self, port: u16, shape: Shape) -> SourceSpec {
        let options = if shape == Shape::SmallItems { "small = true" } else { "" };
        spec("items", "fake", port, options)
    }

    fn write(&mut self, ids: Range<i64>, padding: usize) -> TestResult<()> {
        let padding = "p".repeat(padding);
        self.api.append("items", ids.map(|id| json!({ "id": id, "name": format!("item {id}"), "padding": padding })));
        Ok(())
    }

    fn clear(&mut self) -> TestResult<()> {
        self.api.replace("items", []);
        if let Some(place) = &self.connector.place {
            place.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    fn restart(&mut self) -> TestResult<()> {
        self.api.start_again()
    }

    fn kill(&mut self) -> TestResult<()> {
        self.api.kill();
        Ok(())
    }

    fn start_again(&mut self) -> TestResult<()> {
        self.api.start_again()
    }

    fn expected(&self, id: i64) -> Value {
        json!({ "id": id, "name": format!("item {id}") })
    }

    fn columns(&self) -> Vec<(&'static str, DataType)> {
        vec![("id", DataType::Int64), ("name", DataType::Utf8)]
    }

    fn item_bytes_max(&self) -> Option<usize> {
        Some(ITEM_BYTES_MAX)
    }

    fn not_applicable(&self) -> &'static [&'static str] {
        match self.connector.place {
            Some(_) => NOT_APPLICABLE_TO_GROUPS,
            None => NOT_APPLICABLE_TO_CURSORS,
        }
    }
}

struct FakeConnector {
    defect: Defect,
    /// Where sources stand, if the server keeps it.
    place: Option<Arc<AtomicI64>>,
}

impl FakeConnector {
    fn source_capabilities(&self) -> Capabilities {
        Capabilities { resume: self.place.is_none(), ..CAPABILITIES }
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    resume: true,
    acknowledge: true,
    reread: true,
    payload: true,
    push: false,
    listens: false,
    tls: false,
    release: ReleaseKind::Held,
};

impl Connector for FakeConnector {
    fn protocol(&self) -> &'static str {
        "fake"
    }

    fn summary(&self) -> &'static str {
        "reads the sample API"
    }

    fn default_port(&self) -> Option<u16> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn option_schema(&self) -> schemars::Schema {
        schemars::json_schema!({ "type": "object" })
    }

    fn check(&self, _: &SourceSpec) -> Vec<Diagnostic> {
        Vec::new()
    }

    fn open(&self, spec: &SourceSpec, _: &Environment) -> Result<Box<dyn Source>> {
        if self.defect == Defect::OpenConnects {
            drop(std::net::TcpStream::connect(spec.address()));
        }
        let small = spec.options.keys().any(|(key, _)| key == "small");
        Ok(Box::new(FakeSource {
            defect: self.defect,
            place: self.place.clone(),
            capabilities: self.source_capabilities(),
            address: spec.address(),
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
            item_bytes_max: if small { ITEM_BYTES_MAX } else { usize::MAX },
            connection: None,
            last: AtomicI64::new(0),
            acknowledged: 0,
            is_closed: false,
        }))
    }
}

struct FakeSource {
    defect: Defect,
    place: Option<Arc<AtomicI64>>,
    capabilities: Capabilities,
    address: String,
    connect_timeout: Duration,
    idle_timeout: Duration,
    item_bytes_max: usize,
    connection: Option<Arc<Mutex<TcpStream>>>,
    last: AtomicI64,
    acknowledged: u32,
    is_closed: bool,
}

impl FakeSource {
    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        let error = Error::new(kind, "read items", message).with_hint("look at the server");
        if self.defect == Defect::NamesNoAddress { error } else { error.with_address(&self.address) }
    }

    async fn receive(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize> {
        if self.defect == Defect::NoTimeout {
            return stream.read(buffer).await.map_err(|_| self.error(ErrorKind::Disconnected, "reset"));
        }
        match tokio::time::timeout(self.idle_timeout, stream.read(buffer)).await {
            Err(_) => Err(self.error(ErrorKind::Timeout, "no answer")),
            Ok(result) => result.map_err(|_| self.error(ErrorKind::Disconnected, "reset")),
        }
    }

    async fn yield_rows(&self, lines: &[Vec<u8>], output: &mut dyn Output) -> Result<i64> {
        let mut ids = Vec::new();
        let mut names = Vec::new();
        for line in lines {
            if line.len() > self.item_bytes_max {
                let kind = if self.defect == Defect::OversizedIsData { ErrorKind::Data } else { ErrorKind::Limit };
                return Err(self.error(kind, "item too long"));
            }
            let item: Value = serde_json::from_slice(line).map_err(|_| self.error(ErrorKind::Data, "not json"))?;
            let id = item["id"].as_i64().ok_or_else(|| self.error(ErrorKind::Data, "no id"))?;
            if self.defect == Defect::StopsEarly && id > 65_536 {
                break;
            }
            ids.push(id);
            names.push(item["name"].as_str().unwrap_or_default().to_owned());
        }
        let Some(last) = ids.last().copied() else { return Ok(0) };
        let id_column: ArrayRef = if self.defect == Defect::WrongType {
            Arc::new(StringArray::from_iter_values(ids.iter().map(i64::to_string)))
        } else {
            Arc::new(Int64Array::from(ids))
        };
        let columns = [("id", id_column), ("name", Arc::new(StringArray::from(names)) as ArrayRef)];
        let batch = RecordBatch::try_from_iter(columns).map_err(|_| self.error(ErrorKind::Internal, "no batch"))?;
        output.batch(batch).await?;
        Ok(last)
    }

    /// Returns the last item and whether it ended before the answer did.
    async fn exchange(&self, stream: &mut TcpStream, since: i64, output: &mut dyn Output) -> Result<(i64, bool)> {
        if self.defect != Defect::MarksReleaseLate && !output.is_held() {
            output.mark(Phase::Released);
        }
        let request = format!("GET /ndjson/items?since={since} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut request = request.as_bytes();
        if output.is_held() {
            let held = if self.defect == Defect::ActsBeforeRelease { 0 } else { 1 };
            let (now, later) = request.split_at(request.len() - held);
            let sent = stream.write_all(now).await;
            sent.map_err(|_| self.error(ErrorKind::Disconnected, "cannot send"))?;
            output.released(Some(Arc::new(Nothing))).await;
            request = later;
        }
        let sent = stream.write_all(request).await;
        sent.map_err(|_| self.error(ErrorKind::Disconnected, "cannot send"))?;
        let mut buffer = vec![0; 16 << 10];
        let mut pending = Vec::new();
        let mut body_left: Option<usize> = None;
        let mut lines = Vec::new();
        let mut last = 0;
        while body_left != Some(0) || !pending.is_empty() {
            if body_left != Some(0) {
                let count = self.receive(stream, &mut buffer).await?;
                output.mark(Phase::FirstByte);
                if self.defect == Defect::MarksReleaseLate {
                    output.mark(Phase::Released);
                }
                output.mark(Phase::LastByte);
                if count == 0 {
                    if self.defect == Defect::TakesCutForEnd && body_left.is_some() {
                        break;
                    }
                    return Err(self.error(ErrorKind::Disconnected, "the answer ends early"));
                }
                pending.extend_from_slice(&buffer[..count]);
                if let Some(left) = &mut body_left {
                    *left = left.saturating_sub(count);
                    if self.defect != Defect::CountsNothing {
                        output.payload(&buffer[..count]);
                    }
                }
            }
            if body_left.is_none() {
                let Some(end) = pending.windows(4).position(|window| window == b"\r\n\r\n") else {
                    if pending.len() > 16 << 10 || (pending.len() > 4 && !pending.starts_with(b"HTTP/")) {
                        assert!(self.defect != Defect::PanicsOnNoise, "this is not HTTP");
                        return Err(self.error(ErrorKind::Protocol, "not HTTP"));
                    }
                    continue;
                };
                let head = String::from_utf8_lossy(&pending[..end]).into_owned();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
                let length: usize = length.ok_or_else(|| self.error(ErrorKind::Protocol, "no length"))?;
                pending.drain(..end + 4);
                if self.defect != Defect::CountsNothing {
                    output.payload(&pending);
                }
                body_left = Some(length.saturating_sub(pending.len()));
            }
            if self.defect == Defect::ReadsAhead && body_left != Some(0) {
                continue;
            }
            let complete = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            if complete == 0 && body_left == Some(0) && !pending.is_empty() {
                return Err(self.error(ErrorKind::Protocol, "more than the answer has come"));
            }
            let text: Vec<u8> = pending.drain(..complete).collect();
            lines.extend(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
            while lines.len() >= BATCH_ROWS || (body_left == Some(0) && !lines.is_empty()) {
                let rest = lines.split_off(lines.len().min(BATCH_ROWS));
                last = last.max(self.yield_rows(&lines, output).await?);
                lines = rest;
                let is_last = lines.is_empty() && body_left == Some(0);
                if output.is_enough() && !is_last && self.defect != Defect::NeverHasEnough {
                    return Ok((last, true));
                }
            }
        }
        Ok((last, false))
    }
}

/// It writes the last byte itself, a moment after the release.
struct Nothing;

impl Held for Nothing {
    fn release(&self) {}
}

#[async_trait]
impl Source for FakeSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { tls: self.defect == Defect::ClaimsMore, ..self.capabilities }
    }

    async fn prepare(&mut self) -> Result<()> {
        if self.defect == Defect::StaysClosed && self.is_closed {
            return Err(self.error(ErrorKind::Disconnected, "closed"));
        }
        if self.connection.is_none() {
            let connect = tokio::time::timeout(self.connect_timeout, TcpStream::connect(&self.address));
            let connected = connect.await.map_err(|_| self.error(ErrorKind::Timeout, "no connection"))?;
            let stream = connected.map_err(|_| self.error(ErrorKind::Unreachable, "refused"))?;
            self.connection = Some(Arc::new(Mutex::new(stream)));
        }
        Ok(())
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        if self.connection.is_none() {
            if self.defect == Defect::NeedsPrepare {
                return Err(self.error(ErrorKind::Internal, "prepare first"));
            }
            self.prepare().await?;
        }
        let mut since = from.and_then(|position| position.value.as_i64()).unwrap_or(0);
        if self.defect == Defect::RemembersByItself {
            since = self.last.load(Ordering::SeqCst);
        }
        if let Some(place) = &self.place {
            since = place.load(Ordering::SeqCst);
        }
        let asked = if self.defect == Defect::YieldsLastAgain { (since - 1).max(0) } else { since };
        // Taken out while in use: a read that is dropped takes the connection with it.
        let connection = self.connection.take().ok_or_else(|| self.error(ErrorKind::Internal, "no connection"))?;
        if self.defect == Defect::KeepsHalfReadConnection {
            self.connection = Some(connection.clone());
        }
        let result = self.exchange(&mut *connection.lock().await, asked, output).await;
        let keep = matches!(result, Ok((_, false))) || self.defect == Defect::KeepsDeadConnection;
        self.connection = keep.then_some(connection);
        let (last, more) = result?;
        if last == 0 && self.defect == Defect::FailsOnEmpty {
            return Err(self.error(ErrorKind::Data, "no rows"));
        }
        let skip = i64::from(self.defect == Defect::SkipsOne && last > 0);
        let last = since.max(last + skip);
        self.last.store(last, Ordering::SeqCst);
        if let Some(place) = &self.place
            && self.defect == Defect::AcknowledgesWhileReading
        {
            place.fetch_max(last, Ordering::SeqCst);
        }
        Ok(ReadEnd { position: Some(Position::new(1, json!(last))), more, ..ReadEnd::default() })
    }

    async fn acknowledge(&mut self, position: &Position) -> Result<()> {
        if let Some(place) = &self.place {
            place.fetch_max(position.value.as_i64().unwrap_or_default(), Ordering::SeqCst);
        }
        self.acknowledged += 1;
        if self.defect == Defect::AcknowledgesOnce && self.acknowledged > 1 {
            return Err(self.error(ErrorKind::Server, "acknowledged before"));
        }
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.prepare().await?;
        let server = (self.defect != Defect::EmptyProbe).then(|| "sample API".to_owned());
        Ok(Probe { server, ..Probe::default() })
    }

    async fn close(&mut self) {
        self.connection = None;
        self.is_closed = true;
    }
}
