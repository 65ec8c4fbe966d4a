//! One connection, driven by the task that uses it.
//!
//! There is no background task: whoever waits for an answer polls the connection, HTTP/1.1 and HTTP/2 alike, so a
//! request costs no hop between threads and its phases are seen where they happen. Between reads nothing runs; that a
//! server has closed meanwhile is seen by [`Connection::is_alive`] or at the next request.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use portolan_model::error::{Error, ErrorKind, Result};
use tokio::time::{Instant, Sleep};

use crate::transport::{Observed, Stream};

type RequestBody = Full<Bytes>;
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The largest response head, in bytes. The most header fields are hyper's 100: asking for another number costs an
/// allocation for each answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How much HTTP/2 lets the server send ahead of what has been taken. Wide enough for a server that answers in many
/// tiny frames, as compressing ones do: h2 takes those for an attack when they crowd a small window.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// How long a polite close may take.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);

/// An open connection to a server.
pub(super) struct Connection {
    sender: Sender,
    driver: Driver,
    ended: bool,
    observed: Arc<Observed>,
    /// TLS version and cipher suite.
    pub(super) tls: Option<String>,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

enum Driver {
    Http1(Pin<Box<http1::Connection<TokioIo<Stream>, RequestBody>>>),
    Http2 {
        connection: Pin<Box<http2::Connection<TokioIo<Stream>, RequestBody, TaskQueue>>>,
        queue: TaskQueue,
        tasks: FuturesUnordered<Task>,
    },
}

impl Driver {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Http1(connection) => connection.as_mut().poll(context),
            Self::Http2 { connection, queue, tasks } => loop {
                let result = connection.as_mut().poll(context);
                tasks.extend(queue.take());
                while let Poll::Ready(Some(())) = tasks.poll_next_unpin(context) {}
                let fresh = queue.take();
                if fresh.is_empty() {
                    break result;
                }
                tasks.extend(fresh);
            },
        }
    }
}

/// Takes the tasks that hyper's HTTP/2 wants to run; the driver polls them.
#[derive(Clone, Default)]
struct TaskQueue(Arc<Mutex<Vec<Task>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for TaskQueue {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(future));
    }
}

impl TaskQueue {
    fn take(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connection {
    /// Readies HTTP on a connected stream.
    ///
    /// # Errors
    /// `Protocol` if HTTP/2 does not come about.
    pub(super) async fn start(stream: Stream, http2: bool, tls: Option<String>) -> Result<Self> {
        let observed = stream.observed();
        let io = TokioIo::new(stream);
        let (sender, driver) = if http2 {
            let queue = TaskQueue::default();
            let (sender, connection) = http2::Builder::new(queue.clone())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .handshake(io)
                .await
                .map_err(|error| {
                    Error::new(ErrorKind::Protocol, "start HTTP/2", "the server does not take HTTP/2").with_cause(error)
                })?;
            let driver = Driver::Http2 { connection: Box::pin(connection), queue, tasks: FuturesUnordered::new() };
            (Sender::Http2(sender), driver)
        } else {
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                // Requests are small: head and body in one piece cost less than two in one call.
                .writev(false)
                .handshake(io)
                .await
                .map_err(|error| Error::new(ErrorKind::Protocol, "start HTTP/1.1", "failed").with_cause(error))?;
            (Sender::Http1(sender), Driver::Http1(Box::pin(connection)))
        };
        let mut connection = Self { sender, driver, ended: false, observed, tls };
        // Sends what a connection begins with (HTTP/2: preface and settings), so that a read only adds its request.
        std::future::poll_fn(|context| {
            let _ = connection.poll_drive(context);
            Poll::Ready(())
        })
        .await;
        Ok(connection)
    }

    /// Takes leave of the server, as far as it listens.
    pub(super) async fn close(self) {
        let Self { sender, mut driver, ended, .. } = self;
        drop(sender);
        if !ended {
            let farewell = std::future::poll_fn(|context| driver.poll(context));
            let _ = tokio::time::timeout(CLOSE_PATIENCE, farewell).await;
        }
    }

    /// What has passed over the socket.
    pub(super) fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Whether another request can be sent: looks for a close that has arrived meanwhile. Costs no system call.
    pub(super) async fn is_alive(&mut self) -> bool {
        std::future::poll_fn(|context| Poll::Ready(self.poll_alive(context))).await
    }

    fn poll_alive(&mut self, context: &mut Context<'_>) -> bool {
        let _ = self.poll_drive(context);
        let ready = match &mut self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        };
        ready && !self.ended
    }

    /// Hands a request over; [`Self::poll_drive`] writes it.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        match &mut self.sender {
            Sender::Http1(sender) => futures_util::future::Either::Left(sender.send_request(request)),
            Sender::Http2(sender) => futures_util::future::Either::Right(sender.send_request(request)),
        }
    }

    /// Writes what waits to be written and reads what has come. Ready once the connection has ended.
    pub(super) fn poll_drive(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Error>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let result = self.driver.poll(context);
        match result {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.ended = true;
                Poll::Ready(result.err())
            }
        }
    }
}

/// The longest silence of a server. One timer serves all requests of a source: it is not set anew for each, but looks,
/// when it rings, whether anything has come meanwhile.
pub(super) struct Silence {
    allowed: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    since: Instant,
    activity: u64,
}

impl Silence {
    pub(super) fn new(allowed: Duration) -> Self {
        Self { allowed, timer: None, since: Instant::now(), activity: 0 }
    }

    /// A request goes out: silence counts from now.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Ready once nothing has happened for the time allowed. `activity` changes with whatever happens.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, activity: u64) -> Poll<()> {
        if activity != self.activity {
            self.activity = activity;
            self.since = Instant::now();
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.since + self.allowed)));
        while timer.as_mut().poll(context).is_ready() {
            let due = self.since + self.allowed;
            if due <= Instant::now() {
                timer.as_mut().reset(Instant::now() + self.allowed);
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}
