//! A connection, plain or TLS, that notes what passes over the socket.
//!
//! What is written is noted beneath TLS: [`Observed::written`] moves when encrypted bytes have been handed to the
//! operating system, which is when a request is released. What is read is noted above TLS: [`Observed::read`] moves
//! with the answer's own bytes, not with TLS's alerts and tickets. At its [`HoldPoint`], beneath TLS, what makes the server
//! act can be held back.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::hold::HoldPoint;

/// How many of a connection's first bytes are kept, to say what they look like.
const FIRST_BYTES: usize = 64;

/// What has passed over a socket.
#[derive(Debug, Default)]
pub struct Observed {
    read: AtomicU64,
    written: AtomicU64,
    first: OnceLock<Box<[u8]>>,
    hold_point: Arc<HoldPoint>,
}

impl Observed {
    /// Bytes read so far, decrypted.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes handed to the operating system so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed) + self.hold_point.sent()
    }

    /// Where what is written can be held back.
    pub fn hold_point(&self) -> &Arc<HoldPoint> {
        &self.hold_point
    }

    /// The first bytes that came over the socket, before TLS.
    pub fn first(&self) -> &[u8] {
        self.first.get().map(AsRef::as_ref).unwrap_or_default()
    }
}

/// A TCP socket that notes what passes.
#[derive(Debug)]
pub struct ObservedSocket {
    socket: TcpStream,
    observed: Arc<Observed>,
}

impl ObservedSocket {
    /// Wraps a connected socket.
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, observed: Arc::default() }
    }

    /// The notes.
    pub fn observed(&self) -> Arc<Observed> {
        Arc::clone(&self.observed)
    }

    /// Takes bytes at the hold point instead of writing them, if anything is held.
    fn take(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let hold_point = &self.observed.hold_point;
        if !hold_point.is_active() || bytes.is_empty() {
            return None;
        }
        hold_point.take(bytes, || Ok(std::net::TcpStream::from(self.socket.as_fd().try_clone_to_owned()?)))
    }

    /// Writes what a release could not hand over at once. Ready once nothing of it is left.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, observed } = self;
        while observed.hold_point.is_active() {
            let drained = observed.hold_point.drain(|bytes| match Pin::new(&mut *socket).poll_write(context, bytes) {
                Poll::Ready(Ok(count)) => (count, Poll::Ready(Ok(()))),
                Poll::Ready(Err(error)) => (0, Poll::Ready(Err(error))),
                Poll::Pending => (0, Poll::Pending),
            });
            match drained {
                Some(written) => ready!(written)?,
                // Not released yet: nobody waits for it here.
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ObservedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let came = &buffer.filled()[before..];
        if !came.is_empty() && self.observed.first.get().is_none() {
            // A second writer is impossible: a connection is read by one task.
            let _ = self.observed.first.set(came[..came.len().min(FIRST_BYTES)].into());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ObservedSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.take(bytes) {
            return Poll::Ready(taken);
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
        self.observed.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(taken) = slices.iter().find(|slice| !slice.is_empty()).and_then(|first| self.take(first)) {
            return Poll::Ready(taken);
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, slices))?;
        self.observed.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A connection, without or with TLS.
#[derive(Debug)]
pub struct Stream {
    layer: Layer,
    observed: Arc<Observed>,
}

#[derive(Debug)]
enum Layer {
    Plain(ObservedSocket),
    Tls(Box<TlsStream<ObservedSocket>>),
}

impl Stream {
    /// A connection without TLS.
    pub fn plain(socket: ObservedSocket) -> Self {
        Self { observed: socket.observed(), layer: Layer::Plain(socket) }
    }

    /// A connection with TLS, after its handshake.
    pub fn tls(stream: TlsStream<ObservedSocket>) -> Self {
        Self { observed: stream.get_ref().0.observed(), layer: Layer::Tls(Box::new(stream)) }
    }

    /// The notes.
    pub fn observed(&self) -> Arc<Observed> {
        Arc::clone(&self.observed)
    }

    /// Negotiated TLS version and cipher suite, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`; `None` without TLS.
    pub fn tls_description(&self) -> Option<String> {
        let Layer::Tls(stream) = &self.layer else { return None };
        let session = stream.get_ref().1;
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("?");
        Some(format!("{} {suite}", version.replace("TLSv1_", "TLSv1.")))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(match &mut this.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Layer::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        })?;
        this.observed.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Layer::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(stream) => stream.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_flush(context),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
