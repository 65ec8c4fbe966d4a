//! A source's connection to its server: opened when needed, kept between reads, replaced when it turns out to be
//! closed (once, after the release of a round); redirects within the same origin followed.

use std::borrow::Cow;
use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderValue, Uri};
use portolan_model::config::SourceSpec;
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::{Environment, Output};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::connection::{Connection, Silence};
use super::exchange::{Answer, Failure, exchange};
use super::options::HttpOptions;
use super::request::Template;
use super::status;
use crate::transport::tls::Tls;
use crate::transport::{Dialer, ObservedSocket, Stream};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 5;
/// The most often that a request which waits for its release is written anew, because its server no longer waits for it.
const HELD_RENEWALS_MAX: u32 = 16;

/// Sends requests to one server and reads whole answers.
pub(super) struct Client {
    dialer: Dialer,
    tls: Option<Tls>,
    template: Template,
    origin: Url,
    http2: bool,
    body_max: u64,
    connect_timeout: Duration,
    idle_timeout: Duration,
    silence: Silence,
    connection: Option<Connection>,
    /// The last target asked for, parsed: it is mostly the next one too.
    last_target: (String, Uri),
}

impl Client {
    pub(super) fn new(spec: &SourceSpec, options: &HttpOptions, environment: &Environment) -> Result<Self> {
        let template = Template::new(spec, options, environment.secrets.as_ref())?;
        let origin = Url::parse(&template.origin()).map_err(|error| {
            Error::new(ErrorKind::Configuration, "open source", format!("{:?} is not a host", spec.host))
                .with_cause(error)
        })?;
        let alpn: &[&[u8]] = if options.http2 { &[b"h2"] } else { &[b"h2", b"http/1.1"] };
        let tls = if spec.tls.is_enabled() { Some(Tls::new(spec, alpn)?) } else { None };
        Ok(Self {
            dialer: Dialer::new(&spec.host, spec.port),
            tls,
            template,
            origin,
            http2: options.http2,
            body_max: options.max_body.0,
            connect_timeout: spec.connect_timeout,
            idle_timeout: spec.idle_timeout,
            silence: Silence::new(spec.idle_timeout),
            connection: None,
            last_target: Default::default(),
        })
    }

    /// Resolved, connected, TLS done. Returns whether a kept connection serves.
    pub(super) async fn prepare(&mut self) -> Result<bool> {
        if let Some(connection) = &mut self.connection {
            if connection.is_alive().await {
                return Ok(true);
            }
            self.connection = None;
        }
        // Seldom needed, and large: kept apart, so that the future of a read on a kept connection is small.
        self.connection = Some(Box::pin(self.connect()).await?);
        Ok(false)
    }

    /// The connection that is open now.
    pub(super) fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// Gives the connection up.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    async fn connect(&mut self) -> Result<Connection> {
        let deadline = Instant::now() + self.connect_timeout;
        let socket = ObservedSocket::new(self.dialer.connect(deadline, self.connect_timeout).await?);
        let Some(tls) = &self.tls else {
            return Connection::start(Stream::plain(socket), self.http2, None).await;
        };
        let stream = timeout_at(deadline, tls.handshake(socket)).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                "TLS handshake",
                format!("not finished within {:?}: the port accepts connections and does not answer", self.connect_timeout),
            )
            .with_hint("does the port speak TLS? If it speaks plain text, say so with its reason: tls = { allow_plaintext = \"…\" }")
        })??;
        let session = &stream.get_ref().1;
        let http2 = self.http2 || session.alpn_protocol() == Some(b"h2".as_slice());
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("?");
        let description = format!("{} {suite}", version.replace("TLSv1_", "TLSv1."));
        Connection::start(Stream::tls(stream), http2, Some(description)).await
    }

    /// Sends the request for `target` (path and query) and reads the whole answer; follows redirects. Returns the
    /// path and query that answered, too, which is mostly `target`.
    pub(super) async fn fetch<'t>(
        &mut self,
        target: &'t str,
        etag: Option<&HeaderValue>,
        output: &mut dyn Output,
    ) -> Result<(Answer, Cow<'t, str>)> {
        let mut target = Cow::Borrowed(target);
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.fetch_once(&target, etag, output).await?;
            if !status::is_redirect(answer.status) {
                return Ok((answer, target));
            }
            target = Cow::Owned(self.redirect(&answer, &target)?);
        }
        Err(Error::new(
            ErrorKind::Server,
            "follow redirect",
            format!("more than {REDIRECTS_MAX} redirects, the last to {}", status::without_query(&target)),
        ))
    }

    /// The path and query on our own origin that `location`, seen on the answer to `target`, stands for.
    pub(super) fn resolve(&self, target: &str, location: &str) -> Result<String, String> {
        let base = self.origin.join(target).map_err(|error| format!("{:?}: {error}", status::without_query(target)))?;
        let url = base
            .join(location)
            .map_err(|error| format!("{:?} is not a URL: {error}", status::without_query(location)))?;
        if url.origin() != self.origin.origin() {
            return Err(format!("it leads to another origin, {}", url.origin().ascii_serialization()));
        }
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(format!("{}{query}", url.path()))
    }

    fn redirect(&self, answer: &Answer, target: &str) -> Result<String> {
        let refuse = |message: String| Error::new(ErrorKind::Server, "follow redirect", message);
        let code = answer.status;
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let shown = status::without_query(target);
        let location = location.ok_or_else(|| refuse(format!("{code} for {shown} without a usable Location")))?;
        if !self.template.is_idempotent() && !matches!(code.as_u16(), 307 | 308) {
            let location = status::without_query(location);
            return Err(refuse(format!("{code} for a POST to {shown} would turn it into a GET of {location:?}"))
                .with_hint("set `path` to where the request is meant to go"));
        }
        self.resolve(target, location).map_err(|problem| {
            refuse(format!("{code} for {shown}: {problem}")).with_hint(
                "only redirects to the same scheme, host and port are followed; configure the other server as a source",
            )
        })
    }

    async fn fetch_once(
        &mut self,
        target: &str,
        etag: Option<&HeaderValue>,
        output: &mut dyn Output,
    ) -> Result<Answer> {
        let uri = self.uri(target)?;
        let mut kept = self.connection.is_some();
        if kept && !self.template.is_idempotent() {
            // A POST is not repeated: let the runtime look at the socket first, in case the server has closed it.
            tokio::task::yield_now().await;
            kept = self.prepare().await?;
        }
        let mut renewals = 0;
        loop {
            // A kept connection that turns out to be closed costs a second try: no look at it beforehand.
            if self.connection.is_none() {
                self.prepare().await?;
            }
            let Some(mut connection) = self.connection.take() else {
                return Err(Error::new(ErrorKind::Internal, "read", "no connection after prepare"));
            };
            let request = self.template.request(&uri, etag, connection.is_http2())?;
            // The connection is out of its place while it is used: a read that is dropped midway drops it, too.
            let failure = match exchange(&mut connection, request, self.body_max, &mut self.silence, output).await {
                Ok(answer) => {
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            // What is held back until a release has asked for nothing: the server that no longer waits for the rest is given
            // the request anew.
            if output.is_held() && matches!(failure, Failure::Broken { .. }) && renewals < HELD_RENEWALS_MAX {
                renewals += 1;
                kept = false;
                continue;
            }
            // A kept connection that the server has closed meanwhile: once more on a fresh one, which is not kept.
            let stale = kept && matches!(failure, Failure::Broken { answered: false, .. });
            if !(stale && self.template.is_idempotent()) {
                return Err(self.explain(failure, &connection));
            }
            kept = false;
        }
    }

    fn uri(&mut self, target: &str) -> Result<Uri> {
        if self.last_target.0 != target {
            let uri = target.parse().map_err(|error: http::uri::InvalidUri| {
                let message = format!("{:?} cannot be requested", status::without_query(target));
                Error::new(ErrorKind::Data, "assemble request", message).with_cause(error)
            })?;
            self.last_target = (target.to_owned(), uri);
        }
        Ok(self.last_target.1.clone())
    }

    fn explain(&self, failure: Failure, connection: &Connection) -> Error {
        if let (Some(tls), Failure::Broken { error: Some(error), .. }) = (&self.tls, &failure)
            && let Some(inner) = tls_error(error)
        {
            return tls
                .explain(std::io::Error::new(std::io::ErrorKind::InvalidData, inner), connection.observed().first());
        }
        status::failure(
            failure,
            connection.observed(),
            self.idle_timeout,
            self.tls.is_some(),
            connection.is_http2(),
            self.body_max,
        )
    }
}

/// In TLS 1.3 a server refuses a client certificate after the handshake, as an error of the first read.
fn tls_error(error: &hyper::Error) -> Option<rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls.clone());
        }
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return Some(tls.clone());
        }
        cause = inner.source();
    }
    None
}
