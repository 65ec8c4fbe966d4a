//! An `http` source: pages in, rows and a position out.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, LINK, SERVER};
use http::{HeaderValue, StatusCode};
use portolan_model::clock::Clock;
use portolan_model::config::SourceSpec;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::name::SourceName;
use portolan_model::position::Position;
use portolan_model::source::{Capabilities, Environment, Output, Phase, Probe, QuarantineItem, ReadEnd, Source};

use super::client::Client;
use super::exchange::Answer;
use super::link::find_link;
use super::options::{FormatOption, HttpOptions, Method};
use super::paging::{Advance, PageSeen, Pager, PagingPlan};
use super::plan::Plan;
use super::position::HttpPosition;
use super::status;
use crate::format::{self, Cursor, Format, Item, Summary};

/// Bodies above this many bytes are converted on a thread of their own, so that other sources stay on time.
const INLINE_BODY_BYTES: usize = 256 << 10;
/// Batches that wait between the converting thread and the output.
const BATCHES_WAITING: usize = 2;

pub(super) struct HttpSource {
    name: SourceName,
    address: String,
    plan: Plan,
    client: Client,
    clock: Arc<dyn Clock>,
}

impl HttpSource {
    pub(super) fn open(spec: &SourceSpec, options: &HttpOptions, environment: &Environment) -> Result<Self> {
        let plan = Plan::new(spec, options).map_err(|problem| {
            Error::new(ErrorKind::Configuration, "open source", problem.message).with_source(&spec.name)
        })?;
        let client = Client::new(spec, options, environment).map_err(|error| error.with_source(&spec.name))?;
        let clock = Arc::clone(&environment.clock);
        Ok(Self { name: spec.name.clone(), address: spec.address(), plan, client, clock })
    }

    fn place(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.as_str())
    }

    async fn read_pages(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let before = HttpPosition::read(from)?;
        let base = self.plan.first_target(before.cursor.as_ref())?;
        let Some(paging) = self.plan.paging.clone() else {
            return self.read_single(&base, from.is_some(), before, output).await;
        };
        let mut highest = before.highest.clone();
        let mut pager = Pager::new(&paging, before.page.clone());
        loop {
            let (answer, target) = self.client.fetch(&pager.target(&base), None, output).await?;
            let page = self.page(&answer, &target, Some(&paging), output).await?;
            highest = later(highest, page.cursor)?;
            let seen = PageSeen { rows: page.rows, link: page.link, token: page.token, body: &answer.body };
            let advance =
                pager.advance(seen).map_err(|problem| Error::new(ErrorKind::Server, "follow pages", problem))?;
            match advance {
                Advance::More => {}
                Advance::Done => return self.plan.end(before, highest),
                Advance::Limit if self.plan.is_incremental() => {
                    let position = HttpPosition { highest, page: pager.next_page().cloned(), ..before };
                    return Ok(ReadEnd { position: Some(position.to_position()), more: true, ..ReadEnd::default() });
                }
                Advance::Limit => {
                    return Err(Error::new(ErrorKind::Limit, "follow pages", "more pages than `max_pages` allows")
                        .with_hint(
                            "raise pagination.max_pages, make pages larger, or read only what is new with `cursor`",
                        ));
                }
            }
        }
    }

    async fn read_single(
        &mut self,
        target: &str,
        resumed: bool,
        before: HttpPosition,
        output: &mut dyn Output,
    ) -> Result<ReadEnd> {
        let etag = before.etag.as_deref().filter(|_| self.plan.etag).and_then(|etag| HeaderValue::from_str(etag).ok());
        let (answer, target) = self.client.fetch(target, etag.as_ref(), output).await?;
        if answer.status == StatusCode::NOT_MODIFIED && etag.is_some() {
            let position = Some(before.to_position());
            return Ok(ReadEnd { position, unchanged: true, validator: before.etag, more: false });
        }
        let page = self.page(&answer, &target, None, output).await?;
        let validator = strong_etag(&answer);
        if self.plan.is_incremental() {
            return Ok(ReadEnd { validator, ..self.plan.end(before, page.cursor)? });
        }
        // Once a position was stored, one without an ETag replaces it: the old one must not be asked for again.
        let position = HttpPosition { etag: validator.clone(), ..HttpPosition::default() };
        let keep = self.plan.etag && (validator.is_some() || resumed);
        Ok(ReadEnd { position: keep.then(|| position.to_position()), validator, ..ReadEnd::default() })
    }

    /// Turns one answer into rows.
    async fn page(
        &mut self,
        answer: &Answer,
        target: &str,
        paging: Option<&PagingPlan>,
        output: &mut dyn Output,
    ) -> Result<Page> {
        if !answer.status.is_success() {
            return Err(status::refusal(answer, target, self.clock.wall()));
        }
        let link = match paging {
            Some(paging) if paging.by_link() => self.link(answer, target)?,
            _ => None,
        };
        let body = format::encoding::decode(header(answer, CONTENT_ENCODING), &answer.body, self.plan.body_max)?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Page { link, ..Page::default() });
        }
        let format = self.plan.format(header(answer, CONTENT_TYPE), &body)?;
        let token = match paging.and_then(|paging| paging.token.as_ref()) {
            Some(path) => format::json::find(&body, path)?.and_then(|node| text_of(&node)),
            None => None,
        };
        let server_cursor = match &self.plan.cursor_value {
            Some(path) => match format::json::find(&body, path)? {
                Some(node) => {
                    Cursor::from_node(&node).map_err(|problem| Error::new(ErrorKind::Data, "read cursor", problem))?
                }
                None => None,
            },
            None => None,
        };
        let (summary, quarantined) = self.convert(format, body, output).await?;
        Ok(Page { rows: summary.rows + quarantined, cursor: server_cursor.or(summary.cursor), link, token })
    }

    fn link(&self, answer: &Answer, target: &str) -> Result<Option<String>> {
        let fields = answer.headers.get_all(LINK).iter().filter_map(|field| field.to_str().ok());
        let Some(link) = fields.into_iter().find_map(|field| find_link(field, "next")) else { return Ok(None) };
        self.client.resolve(target, link).map(Some).map_err(|problem| {
            Error::new(ErrorKind::Server, "follow pages", format!("the link to the next page: {problem}"))
                .with_hint("only pages of the same scheme, host and port are read")
        })
    }

    /// Converts a body and gives the rows on. Returns also how many rows went to the quarantine whole.
    async fn convert(&mut self, format: Format, body: Bytes, output: &mut dyn Output) -> Result<(Summary, u64)> {
        let mut quarantined = 0;
        if body.len() <= INLINE_BODY_BYTES {
            let mut items = Vec::with_capacity(1);
            let summary = format::decode(format, &body, &self.plan.settings, &mut |item| {
                items.push(item);
                Ok(())
            })?;
            for item in items {
                quarantined += give(item, output).await?;
            }
            return Ok((summary, quarantined));
        }
        let (sender, mut receiver) = tokio::sync::mpsc::channel(BATCHES_WAITING);
        let settings = Arc::clone(&self.plan.settings);
        let task = tokio::task::spawn_blocking(move || {
            format::decode(format, &body, &settings, &mut |item| {
                // The receiver is gone when the read was dropped: nobody waits for the rest.
                sender
                    .blocking_send(item)
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "decode body", "the read was given up"))
            })
        });
        while let Some(item) = receiver.recv().await {
            quarantined += give(item, output).await?;
        }
        let summary = task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "decode body", "the conversion ended early").with_cause(error)
        })??;
        Ok((summary, quarantined))
    }
}

/// What a page gave beside its rows.
#[derive(Debug, Default)]
struct Page {
    rows: u64,
    cursor: Option<Cursor>,
    link: Option<String>,
    token: Option<String>,
}

async fn give(item: Item, output: &mut dyn Output) -> Result<u64> {
    match item {
        Item::Batch(batch) => output.batch(batch).await.map(|()| 0),
        Item::Quarantine(item) => {
            let whole_row = u64::from(item.column.is_none());
            output.quarantine(item).await.map(|()| whole_row)
        }
    }
}

fn later(a: Option<Cursor>, b: Option<Cursor>) -> Result<Option<Cursor>> {
    match (a, b) {
        (Some(a), Some(b)) => {
            a.later(b).map(Some).map_err(|problem| Error::new(ErrorKind::Data, "read cursor", problem))
        }
        (a, b) => Ok(a.or(b)),
    }
}

fn text_of(node: &format::json::node::Node<'_>) -> Option<String> {
    use format::json::node::Node;
    match node {
        Node::Number(text) | Node::Text(text) => Some(text.clone().into_owned()),
        _ => None,
    }
}

fn header(answer: &Answer, name: http::HeaderName) -> Option<&str> {
    answer.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The answer's ETag if it is a strong one (RFC 9110, section 8.8.1): a weak one says "about the same".
fn strong_etag(answer: &Answer) -> Option<String> {
    let text = header(answer, ETAG)?.trim();
    (text.len() >= 2 && text.len() <= 1_024 && text.starts_with('"') && text.ends_with('"')).then(|| text.to_owned())
}

#[async_trait]
impl Source for HttpSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { resume: self.plan.is_incremental(), ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        self.client.prepare().await.map(drop).map_err(|error| self.place(error))
    }

    async fn read(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        self.read_pages(from, output).await.map_err(|error| self.place(error))
    }

    async fn acknowledge(&mut self, _: &Position) -> Result<()> {
        Ok(())
    }

    async fn probe(&mut self) -> Result<Probe> {
        self.probe_server().await.map_err(|error| self.place(error))
    }

    async fn close(&mut self) {
        self.client.close();
    }
}

impl HttpSource {
    async fn probe_server(&mut self) -> Result<Probe> {
        self.client.prepare().await?;
        let mut probe = Probe::default();
        if let Some(connection) = self.client.connection() {
            probe.tls = connection.tls.clone();
            probe.facts.push(("http".into(), if connection.is_http2() { "2" } else { "1.1" }.into()));
        }
        // A POST may change something: looking must not.
        if self.plan.method == Method::Get {
            let target = self.plan.first_target(None)?;
            let (answer, target) = self.client.fetch(&target, None, &mut Discard).await?;
            if !answer.status.is_success() {
                return Err(status::refusal(&answer, &target, self.clock.wall()));
            }
            probe.server = header(&answer, SERVER).map(str::to_owned);
            probe.facts.push(("status".into(), answer.status.as_u16().to_string()));
            for name in [CONTENT_TYPE, CONTENT_ENCODING, ETAG] {
                if let Some(text) = header(&answer, name.clone()) {
                    probe.facts.push((name.to_string(), text.to_owned()));
                }
            }
            probe.facts.push(("body_bytes".into(), answer.body.len().to_string()));
        }
        Ok(probe)
    }
}

/// An output for probes: nothing is kept.
struct Discard;

#[async_trait]
impl Output for Discard {
    fn mark(&mut self, _: Phase) {}

    fn payload(&mut self, _: &[u8]) {}

    fn count_bytes(&mut self, _: u64) {}

    async fn batch(&mut self, _: arrow::record_batch::RecordBatch) -> Result<()> {
        Ok(())
    }

    async fn quarantine(&mut self, _: QuarantineItem) -> Result<()> {
        Ok(())
    }
}

impl FormatOption {
    /// The format itself, unless it is to be found out.
    pub(super) fn fixed(self) -> Option<Format> {
        match self {
            Self::Auto => None,
            Self::Json => Some(Format::Json),
            Self::Ndjson => Some(Format::Ndjson),
            Self::Csv => Some(Format::Csv),
        }
    }
}
