//! An `http` source: pages in, rows and a position out.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, LINK, SERVER};
use http::{HeaderValue, StatusCode};
use portolan_model::clock::Clock;
use portolan_model::config::SourceSpec;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::name::SourceName;
use portolan_model::position::Position;
use portolan_model::source::{Capabilities, Environment, Output, Phase, Probe, QuarantineItem, ReadEnd, Source};

use super::client::Client;
use super::convert::{Conversion, Converted};
use super::exchange::Answer;
use super::link::find_link;
use super::options::{FormatOption, HttpOptions, Method};
use super::paging::{Advance, PageSeen, Pager};
use super::plan::Plan;
use super::position::HttpPosition;
use super::status;
use crate::format::Format;

/// One `http` source.
pub(super) struct HttpSource {
    name: SourceName,
    address: String,
    plan: Arc<Plan>,
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
        Ok(Self { name: spec.name.clone(), address: spec.address(), plan: Arc::new(plan), client, clock })
    }

    fn place(&self, error: Error) -> Error {
        error.with_source(&self.name).with_address(self.address.as_str())
    }

    async fn read_pages(&mut self, from: Option<&Position>, output: &mut dyn Output) -> Result<ReadEnd> {
        let before = HttpPosition::read(from, &self.plan.fingerprint, self.plan.is_incremental())?;
        let plan = Arc::clone(&self.plan);
        let base = plan.first_target(before.cursor.as_ref())?;
        let Some(paging) = &plan.paging else {
            return self.read_single(&base, from.is_some(), before, output).await;
        };
        let mut highest = before.highest.clone();
        let mut rows = before.rows;
        let mut pager = match before.page.clone() {
            Some(page) => Pager::resume(paging, page, before.trail),
            None => Pager::new(paging),
        };
        loop {
            let target = pager.target(&base);
            let (answer, target) = self.client.fetch(&target, None, output).await?;
            if pager.is_resuming() && is_refused_page(answer.status) {
                if !self.plan.has_key {
                    let refusal = status::refusal(&answer, &target, self.clock.wall());
                    return Err(refusal.with_hint(
                        "the last round ended between two pages, and the server does not take the next page's token any \
                         more; give the source a new name and a `key`: it then reads such pages again and leaves known rows out",
                    ));
                }
                pager.restart();
                continue;
            }
            let (page, link) = self.page(&answer, &target, output).await?;
            highest = self.plan.later(highest, page.cursor)?;
            rows += page.given;
            let seen = PageSeen { rows: page.rows, link, token: page.token, body: &answer.body };
            let advance =
                pager.advance(seen).map_err(|problem| Error::new(ErrorKind::Server, "follow pages", problem))?;
            let is_incremental = self.plan.is_incremental();
            match advance {
                Advance::Done => {
                    self.plan.require_cursor(rows, highest.as_ref())?;
                    return self.plan.end(before, highest);
                }
                Advance::More if !is_incremental || pager.must_end() || !output.is_enough() => {}
                Advance::Limit if pager.is_stuck() => {
                    let message = "the server refuses the page after the last one of a round, again and again";
                    return Err(Error::new(ErrorKind::Limit, "follow pages", message).with_hint(
                        "no read comes farther than `max_pages`: raise pagination.max_pages so that one round reaches the last page",
                    ));
                }
                // The cursor may be on a later page: it is asked for at the end.
                Advance::More | Advance::Limit if is_incremental => {
                    let (page, trail) = pager.place();
                    let position = HttpPosition { highest, rows, page, trail, ..before };
                    return Ok(ReadEnd {
                        position: Some(position.to_position(&self.plan.fingerprint)),
                        more: true,
                        ..ReadEnd::default()
                    });
                }
                Advance::More | Advance::Limit => {
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
            let position = Some(before.to_position(&self.plan.fingerprint));
            return Ok(ReadEnd { position, unchanged: true, validator: before.etag, ..ReadEnd::default() });
        }
        let (page, _) = self.page(&answer, &target, output).await?;
        let validator = strong_etag(&answer);
        if self.plan.is_incremental() {
            self.plan.require_cursor(page.given, page.cursor.as_ref())?;
            return Ok(ReadEnd { validator, ..self.plan.end(before, page.cursor)? });
        }
        // Once a position was stored, one without an ETag replaces it: the old one must not be asked for again.
        let position = HttpPosition { etag: validator.clone(), ..HttpPosition::default() };
        let keep = self.plan.etag && (validator.is_some() || resumed);
        Ok(ReadEnd {
            position: keep.then(|| position.to_position(&self.plan.fingerprint)),
            validator,
            ..ReadEnd::default()
        })
    }

    /// Turns one answer into rows. Returns the link to the next page, too.
    async fn page(
        &mut self,
        answer: &Answer,
        target: &str,
        output: &mut dyn Output,
    ) -> Result<(Converted, Option<String>)> {
        if !answer.status.is_success() {
            return Err(status::refusal(answer, target, self.clock.wall()));
        }
        let link = match &self.plan.paging {
            Some(paging) if paging.by_link() => self.link(answer, target)?,
            _ => None,
        };
        let conversion = Conversion {
            status: answer.status,
            body: answer.body.clone(),
            encoding: answer.headers.get(CONTENT_ENCODING).cloned(),
            content_type: answer.headers.get(CONTENT_TYPE).cloned(),
        };
        Ok((conversion.run(&self.plan, output).await?, link))
    }

    fn link(&self, answer: &Answer, target: &str) -> Result<Option<String>> {
        for field in answer.headers.get_all(LINK) {
            // Bytes beyond ASCII (a title, mostly) do not matter where they are no part of the target.
            let field = String::from_utf8_lossy(field.as_bytes());
            let found = find_link(&field, "next").and_then(|link| match link {
                Some(link) if link.contains(char::REPLACEMENT_CHARACTER) => Err("the target is not UTF-8".to_owned()),
                link => Ok(link),
            });
            // Taken for a last page, an unreadable field would end the read early and without a word.
            let link = found.map_err(|problem| {
                Error::new(ErrorKind::Data, "follow pages", format!("the Link header cannot be read: {problem}"))
                    .with_hint("look at it with curl -i; it is to be as in RFC 8288: <target>; rel=\"next\"")
            })?;
            if let Some(link) = link {
                return self.client.resolve(target, link).map(Some).map_err(|problem| {
                    Error::new(ErrorKind::Server, "follow pages", format!("the link to the next page: {problem}"))
                        .with_hint("only pages of the same scheme, host and port are read")
                });
            }
        }
        Ok(None)
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
        // A POST may take what it gives: what a read of it gave is not there to be read again.
        let reread = self.plan.method == Method::Get;
        Capabilities { resume: self.plan.is_incremental(), reread, ..super::CAPABILITIES }
    }

    async fn prepare(&mut self) -> Result<()> {
        self.client.prepare().await.map(drop).map_err(|error| self.place(error))
    }

    fn without_validator(&self, position: Position) -> Position {
        HttpPosition::without_etag(position)
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
        self.client.close().await;
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

/// Whether a server that gave a token for a page refuses it with this status: tokens expire.
fn is_refused_page(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 409 | 410 | 416 | 422)
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
