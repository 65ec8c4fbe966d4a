//! One request and its whole answer over one connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use portolan_model::source::{Output, Phase};

use super::connection::{Connection, Silence};
use crate::transport::HoldKind;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// As it came, before content decoding.
    pub(super) body: Bytes,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection failed. `answered`: a byte of the answer had come.
    Broken { error: Option<hyper::Error>, answered: bool },
    /// Nothing came for too long.
    Silent { answered: bool },
    /// The body is larger than allowed.
    TooLarge,
}

/// Notes the phases of one exchange as the counters of its connection move.
struct Watch<'o> {
    output: &'o mut dyn Output,
    silence: &'o mut Silence,
    written: u64,
    read: u64,
    /// Its request is held back until the round is released.
    is_holding: bool,
    released: bool,
    answered: bool,
}

impl Watch<'_> {
    fn look(&mut self, connection: &Connection) {
        if !self.released && !self.is_holding && connection.observed().written() > self.written {
            self.released = true;
            self.output.mark(Phase::Released);
        }
        // What comes before the request is out answers nothing: a kept connection on which the server took leave. On
        // HTTP/2 such bytes come at any time; there the head marks the first byte.
        if self.released && !connection.is_http2() && connection.observed().read() > self.read {
            self.begin_answer();
        }
    }

    fn begin_answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.output.mark(Phase::FirstByte);
        }
    }

    /// Drives the connection one step. Ready if the exchange cannot go on by itself.
    fn drive(&mut self, connection: &mut Connection, context: &mut Context<'_>) -> Option<Option<hyper::Error>> {
        let driven = connection.poll_drive(context);
        self.look(connection);
        match driven {
            Poll::Ready(error) => Some(error),
            Poll::Pending => None,
        }
    }

    /// Writes the request up to what makes the server act, and waits for the release. A connection that ends meanwhile, or
    /// on which something comes, is of no use.
    async fn hold<F>(&mut self, connection: &mut Connection, mut response: Pin<&mut F>) -> Result<(), Failure>
    where
        F: Future<Output = hyper::Result<Response<Incoming>>>,
    {
        let mut ends_early = move |connection: &mut Connection, context: &mut Context<'_>| {
            let ended = match connection.poll_drive(context) {
                Poll::Ready(error) => Some(error),
                Poll::Pending => None,
            };
            match (response.as_mut().poll(context), ended) {
                (Poll::Ready(result), _) => Some(Failure::Broken { error: result.err(), answered: false }),
                (Poll::Pending, Some(error)) => Some(Failure::Broken { error, answered: false }),
                (Poll::Pending, None) => None,
            }
        };
        // hyper writes a request as soon as it is driven; what is held takes all of it, without waiting.
        let early = std::future::poll_fn(|context| Poll::Ready(ends_early(connection, context))).await;
        let held = match early {
            Some(failure) => return Err(failure),
            None => connection.observed().hold_point().seal(HoldKind::LastByte),
        };
        let Ok(held) = held else { return Err(Failure::Broken { error: None, answered: false }) };
        let mut released = pin!(self.output.released(held));
        std::future::poll_fn(|context| {
            if released.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            match ends_early(connection, context) {
                Some(failure) => Poll::Ready(Err(failure)),
                None => Poll::Pending,
            }
        })
        .await?;
        self.is_holding = false;
        self.released = true;
        self.silence.restart();
        Ok(())
    }

    fn is_silent(&mut self, connection: &Connection, context: &mut Context<'_>) -> bool {
        let activity = connection.observed().read().wrapping_add(connection.observed().written());
        self.silence.poll(context, activity).is_ready()
    }
}

/// Sends `request` and collects the answer, up to `body_max` bytes.
pub(super) async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    body_max: u64,
    silence: &mut Silence,
    output: &mut dyn Output,
) -> Result<Answer, Failure> {
    let (written, read) = (connection.observed().written(), connection.observed().read());
    silence.restart();
    let is_holding = output.is_held();
    let mut watch = Watch { output, silence, written, read, is_holding, released: false, answered: false };
    if is_holding {
        connection.observed().hold_point().hold();
    }
    let mut response = pin!(connection.send(request));
    if is_holding {
        watch.hold(connection, response.as_mut()).await?;
    }
    let response = std::future::poll_fn(|context| {
        let ended = watch.drive(connection, context);
        if let Poll::Ready(result) = response.as_mut().poll(context) {
            let broken = |error| Failure::Broken { error: Some(error), answered: watch.answered };
            return Poll::Ready(result.map_err(broken));
        }
        if let Some(error) = ended {
            return Poll::Ready(Err(Failure::Broken { error, answered: watch.answered }));
        }
        if watch.is_silent(connection, context) {
            return Poll::Ready(Err(Failure::Silent { answered: watch.answered }));
        }
        Poll::Pending
    })
    .await?;
    watch.begin_answer();
    let (head, mut incoming) = response.into_parts();
    // What refuses or leads elsewhere is no part of what was read.
    let shown = head.status.is_success();
    let declared = incoming.size_hint().lower();
    if declared > body_max {
        return Err(Failure::TooLarge);
    }
    let mut body = Collected::default();
    if incoming.is_end_stream() {
        watch.output.mark(Phase::LastByte);
    } else {
        let mut collection = Collection { incoming: &mut incoming, body: &mut body, declared, body_max, shown };
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = collection.poll(&mut watch, context) {
                return Poll::Ready(result);
            }
            // Frames come out of the connection: drive it, then look once more before waiting.
            let ended = watch.drive(connection, context);
            if let Poll::Ready(result) = collection.poll(&mut watch, context) {
                return Poll::Ready(result);
            }
            if let Some(error) = ended {
                return Poll::Ready(Err(Failure::Broken { error, answered: true }));
            }
            if watch.is_silent(connection, context) {
                return Poll::Ready(Err(Failure::Silent { answered: true }));
            }
            Poll::Pending
        })
        .await?;
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.finish() })
}

/// A body as it comes: one piece stays as it is, several are joined.
#[derive(Default)]
struct Collected {
    single: Bytes,
    joined: BytesMut,
}

impl Collected {
    fn push(&mut self, piece: Bytes, declared: u64) {
        if self.joined.is_empty() && self.single.is_empty() {
            self.single = piece;
            return;
        }
        if self.joined.is_empty() {
            let single = std::mem::take(&mut self.single);
            self.joined.reserve((declared as usize).max(single.len() + piece.len()));
            self.joined.extend_from_slice(&single);
        }
        self.joined.extend_from_slice(&piece);
    }

    fn len(&self) -> u64 {
        self.single.len().max(self.joined.len()) as u64
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.single } else { self.joined.freeze() }
    }
}

/// A body under way.
struct Collection<'c> {
    incoming: &'c mut Incoming,
    body: &'c mut Collected,
    declared: u64,
    body_max: u64,
    shown: bool,
}

impl Collection<'_> {
    /// Takes the frames that are there. Ready at the end of the body.
    fn poll(&mut self, watch: &mut Watch<'_>, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            match Pin::new(&mut *self.incoming).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    watch.output.mark(Phase::LastByte);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Failure::Broken { error: Some(error), answered: true }));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    watch.output.mark(Phase::LastByte);
                    if self.shown {
                        watch.output.payload(&piece);
                    }
                    if self.body.len() + piece.len() as u64 > self.body_max {
                        return Poll::Ready(Err(Failure::TooLarge));
                    }
                    self.body.push(piece, self.declared);
                    if self.incoming.is_end_stream() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}
