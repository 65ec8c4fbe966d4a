//! One connection: bytes in, blocks out, acknowledgements back.
//!
//! # Acknowledged messages
//!
//! With `acknowledge = true` both sides speak in frames of the configured framing; all of it is text but the message:
//!
//! ```text
//! sender    HELLO pump-7              its name: 1 to 64 of A-Z a-z 0-9 . _ : -
//! portolan  OK 41                     the number of its last message that is safe on disk; 0 for a new sender
//! sender    42 {"level": 3}           the number, a space, the message; numbers rise by one
//! portolan  ACK 42                    all up to this number are safe on disk; sent when it changes
//! portolan  ERR expected 43           the number is none that can come here; the connection is closed
//! ```
//!
//! After a lost connection the sender begins with what follows the `OK`. What comes twice is left out and acknowledged:
//! each message is kept once, whatever is cut or killed on either side. Two connections of one name: the later one wins.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portolan_model::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};

use super::decode::{push_counted, push_line};
use super::framing::{Frame, Framer, Framing, NUMBER_BYTES, Rejected};
use super::options::Plan;
use crate::intake::{Appender, Block, Closed, Kind, Layout, Progress};

/// Bytes read at once: at first, so that idle connections cost little, and at most.
const READ_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=128 << 10;
/// Messages of one block, in bytes, roughly.
const BLOCK_BYTES: usize = 128 << 10;
/// The most senders that a log remembers.
const SENDERS_MAX: usize = 65_536;
/// The longest a peer may leave an answer of ours unread.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// How long a connection is silent until all that its sender had sent is taken, once the source ends, and how long that may
/// take.
const CLOSE_SILENCE: Duration = Duration::from_millis(50);
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// The longest a sender may take to name itself.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// The longest a peer may take to hear that its connection ends.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
/// The time from one call to leave to the next.
const REPLACE_PAUSE: Duration = Duration::from_millis(20);

/// What all connections of a source share.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) appender: Appender,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) senders: Senders,
    /// True once the source ends.
    pub(super) is_closing: watch::Receiver<bool>,
}

/// The senders that have named themselves.
#[derive(Default)]
pub(super) struct Senders(Mutex<HashMap<Bytes, Arc<Sender>>>);

struct Sender {
    progress: Arc<Progress>,
    /// The number of the last message that was appended. Held by the connection that speaks for the sender.
    received: Arc<tokio::sync::Mutex<u64>>,
    /// Told when another connection wants to speak for the sender.
    replaced: Notify,
}

impl Senders {
    /// Those that a log knows, each with its last durable number.
    pub(super) fn new(marks: &std::collections::BTreeMap<Bytes, u64>) -> Self {
        let senders = marks.iter().map(|(name, mark)| (name.clone(), Arc::new(Sender::new(*mark)))).collect();
        Self(Mutex::new(senders))
    }

    fn get(&self, name: &Bytes) -> Option<Arc<Sender>> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = senders.get(name) {
            return Some(Arc::clone(sender));
        }
        if senders.len() >= SENDERS_MAX {
            return None;
        }
        let sender = Arc::new(Sender::new(0));
        senders.insert(name.clone(), Arc::clone(&sender));
        Some(sender)
    }
}

impl Senders {
    /// Forgets a sender that has never sent anything and that no other connection speaks for: names alone take no place.
    fn forget_if_silent(&self, name: &Bytes, sender: Arc<Sender>) {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_silent = sender.received.try_lock().is_ok_and(|received| *received == 0);
        // One is in the map, one is ours.
        if is_silent && Arc::strong_count(&sender) == 2 {
            senders.remove(name);
        }
    }
}

impl Sender {
    fn new(mark: u64) -> Self {
        let received = Arc::new(tokio::sync::Mutex::new(mark));
        Self { progress: Arc::new(Progress::new(mark)), received, replaced: Notify::new() }
    }
}

/// Takes what a connection brings until it ends.
///
/// # Errors
/// The connection failed, or the log was closed. What had come whole before is in the log.
pub(super) async fn serve<S>(stream: S, peer: &str, shared: &Shared) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        stream,
        framer: Framer::new(shared.plan.framing.clone(), shared.plan.message_max),
        buffer: BytesMut::new(),
        read_bytes: *READ_BYTES.start(),
        peer: Bytes::copy_from_slice(peer.as_bytes()),
        shared,
    };
    let mut is_closing = shared.is_closing.clone();
    let ended = match shared.plan.acknowledge {
        false => connection.plain().await,
        true => tokio::select! {
            ended = connection.acknowledged() => ended,
            _ = is_closing.wait_for(|is_closing| *is_closing) => Ok(()),
        },
    };
    // Over TLS the sender is told that nothing was cut off; whether it listens does not matter.
    let _ = tokio::time::timeout(GOODBYE_PATIENCE, connection.stream.shutdown()).await;
    ended
}

struct Connection<'a, S> {
    stream: S,
    framer: Framer,
    buffer: BytesMut,
    read_bytes: usize,
    peer: Bytes,
    shared: &'a Shared,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Reads more; `false` at the end of the connection. Dropped while it waits, it has taken nothing.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(self.read_bytes);
        let before = self.buffer.len();
        let room = self.buffer.capacity() - before;
        let count = self.stream.read_buf(&mut self.buffer).await?;
        if count == room {
            self.read_bytes = (self.read_bytes * 4).min(*READ_BYTES.end());
        }
        Ok(count > 0)
    }

    async fn plain(&mut self) -> io::Result<()> {
        let mut is_closing = self.shared.is_closing.clone();
        let mut ends_at: Option<tokio::time::Instant> = None;
        loop {
            // Who is not acknowledged does not send again: what is under way is taken before the connection ends.
            let filled = match ends_at {
                None => tokio::select! {
                    filled = self.fill() => filled,
                    _ = is_closing.wait_for(|is_closing| *is_closing) => Ok(true),
                },
                Some(at) if at <= tokio::time::Instant::now() => Ok(false),
                Some(at) => {
                    let at = at.min(tokio::time::Instant::now() + CLOSE_SILENCE);
                    tokio::time::timeout_at(at, self.fill()).await.unwrap_or(Ok(false))
                }
            };
            if ends_at.is_none() && *is_closing.borrow() {
                ends_at = Some(tokio::time::Instant::now() + CLOSE_PATIENCE);
            }
            let is_open = matches!(filled, Ok(true));
            if self.shared.plan.layout() == Layout::Lines
                && let Some(lines) = self.framer.lines(&mut self.buffer)
            {
                self.append(Bytes::new(), 0, lines, None).await?;
            }
            let mut payload = BytesMut::new();
            while let Some(frame) = self.framer.next(&mut self.buffer) {
                match frame {
                    Frame::Message(message) => self.push(&message, &mut payload),
                    Frame::Rejected(rejected) => self.reject(&rejected).await?,
                    Frame::Lost(rejected) => {
                        self.append(Bytes::new(), 0, payload.split().freeze(), None).await?;
                        self.reject(&rejected).await?;
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
                    }
                }
                if payload.len() >= BLOCK_BYTES {
                    self.append(Bytes::new(), 0, payload.split().freeze(), None).await?;
                }
            }
            self.append(Bytes::new(), 0, payload.freeze(), None).await?;
            if !is_open {
                if let Some(rest) = self.framer.rest(&mut self.buffer) {
                    self.reject(&rest).await?;
                }
                return filled.map(drop);
            }
        }
    }

    async fn acknowledged(&mut self) -> io::Result<()> {
        let Ok(greeting) = tokio::time::timeout(GREETING_PATIENCE, self.greeting()).await else {
            return self.refuse("expected HELLO").await;
        };
        let Some(greeting) = greeting? else { return Ok(()) };
        let name = greeting.strip_prefix(b"HELLO ").filter(|name| is_name(name)).map(Bytes::copy_from_slice);
        let Some(name) = name else {
            return self.refuse("expected HELLO and a name of 1 to 64 of A-Z a-z 0-9 . _ : -").await;
        };
        let Some(sender) = self.shared.senders.get(&name) else {
            return self.refuse("too many senders").await;
        };
        // Whoever speaks for the sender now is told to leave, again should it not have listened.
        let received = loop {
            match tokio::time::timeout(REPLACE_PAUSE, Arc::clone(&sender.received).lock_owned()).await {
                Ok(received) => break received,
                Err(_) => sender.replaced.notify_waiters(),
            }
        };
        let durable = sender.progress.durable();
        self.answer(&format!("OK {durable}")).await?;
        let ended = tokio::select! {
            ended = self.messages(&name, &sender, received, durable) => ended,
            () = sender.replaced.notified() => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "another connection speaks for the sender"))
            }
        };
        self.shared.senders.forget_if_silent(&name, sender);
        ended
    }

    async fn greeting(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.framer.next(&mut self.buffer) {
                Some(Frame::Message(message)) => return Ok(Some(trimmed(&message))),
                Some(Frame::Rejected(_) | Frame::Lost(_)) => return Ok(Some(Bytes::new())),
                None if !self.fill().await? => return Ok(None),
                None => {}
            }
        }
    }

    async fn messages(
        &mut self,
        name: &Bytes,
        sender: &Sender,
        mut received: tokio::sync::OwnedMutexGuard<u64>,
        mut told: u64,
    ) -> io::Result<()> {
        loop {
            let mut payload = BytesMut::new();
            let mut last = *received;
            let mut problem = None;
            while payload.len() < BLOCK_BYTES
                && let Some(frame) = self.framer.next(&mut self.buffer)
            {
                let numbered = match &frame {
                    Frame::Message(message) => numbered(message),
                    Frame::Rejected(rejected) => numbered(&rejected.content),
                    Frame::Lost(lost) => numbered(&lost.content.slice(self.width().min(lost.content.len())..)),
                };
                match numbered {
                    Some((sequence, _)) if sequence <= last => {}
                    Some((sequence, message)) if sequence == last + 1 => {
                        last = sequence;
                        match &frame {
                            Frame::Message(_) => self.push(&message, &mut payload),
                            // Too large: it is kept as far as it goes, and the sender need not send it for ever.
                            Frame::Rejected(rejected) | Frame::Lost(rejected) => {
                                let rejected = Rejected { content: message, ..rejected.clone() };
                                let taken = payload.split().freeze();
                                self.append(name.clone(), last - 1, taken, Some(&sender.progress)).await?;
                                *received = last - 1;
                                let block = self.rejected(&rejected);
                                let block = Block { sender: name.clone(), sequence: last, ..block };
                                self.give(block, Some(&sender.progress)).await?;
                                *received = last;
                            }
                        }
                        if matches!(frame, Frame::Lost(_)) {
                            problem = Some(format!("message {last} is too large: what follows cannot be told apart"));
                            break;
                        }
                    }
                    _ => {
                        problem = Some(format!("expected {}", last + 1));
                        break;
                    }
                }
            }
            let is_busy = payload.len() >= BLOCK_BYTES;
            // Nothing waits between appending and noting it, here and above: a message that was appended counts as received.
            self.append(name.clone(), last, payload.freeze(), Some(&sender.progress)).await?;
            *received = last;
            if let Some(problem) = problem {
                return self.refuse(&problem).await;
            }
            if is_busy {
                continue;
            }
            // Waits for more, or for something to acknowledge.
            let more = loop {
                let changed = sender.progress.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let durable = sender.progress.durable();
                if durable > told {
                    self.answer(&format!("ACK {durable}")).await?;
                    told = durable;
                }
                tokio::select! {
                    filled = self.fill() => break filled?,
                    () = changed => {}
                }
            };
            if !more {
                return Ok(());
            }
        }
    }

    /// Bytes in front of a message that are its length.
    fn width(&self) -> usize {
        match &self.shared.plan.framing {
            Framing::Length(length) => usize::from(length.bytes),
            Framing::Lines | Framing::Delimiter(_) => 0,
        }
    }

    fn push(&self, message: &Bytes, payload: &mut BytesMut) {
        match self.shared.plan.layout() {
            Layout::Lines => push_line(message, payload),
            Layout::Counted | Layout::Unsaid => push_counted(message, payload),
        }
    }

    async fn append(
        &self,
        sender: Bytes,
        sequence: u64,
        payload: Bytes,
        progress: Option<&Arc<Progress>>,
    ) -> io::Result<()> {
        if payload.is_empty() {
            return Ok(());
        }
        let received_us = self.shared.clock.wall().as_microsecond();
        let layout = self.shared.plan.layout();
        let block = Block { kind: Kind::Data, layout, sender, peer: self.peer.clone(), received_us, sequence, payload };
        self.give(block, progress).await
    }

    async fn reject(&self, rejected: &Rejected) -> io::Result<()> {
        self.give(self.rejected(rejected), None).await
    }

    fn rejected(&self, rejected: &Rejected) -> Block {
        let mut payload = format!("{} {} bytes came\n", rejected.reason, rejected.bytes).into_bytes();
        payload.extend_from_slice(&rejected.content);
        let received_us = self.shared.clock.wall().as_microsecond();
        Block {
            kind: Kind::Rejected,
            layout: Layout::Unsaid,
            sender: Bytes::new(),
            peer: self.peer.clone(),
            received_us,
            sequence: 0,
            payload: payload.into(),
        }
    }

    async fn give(&self, block: Block, progress: Option<&Arc<Progress>>) -> io::Result<()> {
        let closed = |Closed| io::Error::new(io::ErrorKind::BrokenPipe, "the intake log is closed");
        self.shared.appender.append(block, progress.cloned()).await.map_err(closed)
    }

    async fn refuse(&mut self, problem: &str) -> io::Result<()> {
        self.answer(&format!("ERR {problem}")).await?;
        Err(io::Error::new(io::ErrorKind::InvalidData, problem.to_owned()))
    }

    async fn answer(&mut self, text: &str) -> io::Result<()> {
        let mut frame = BytesMut::new();
        match &self.shared.plan.framing {
            Framing::Lines => frame.extend_from_slice(text.as_bytes()),
            Framing::Delimiter(_) => frame.extend_from_slice(text.as_bytes()),
            Framing::Length(length) => {
                let size = (text.len() as u64).to_be_bytes();
                let mut head = size[8 - usize::from(length.bytes)..].to_vec();
                if length.is_little_endian {
                    head.reverse();
                }
                frame.extend_from_slice(&head);
                frame.extend_from_slice(text.as_bytes());
            }
        }
        match &self.shared.plan.framing {
            Framing::Lines => frame.extend_from_slice(b"\n"),
            Framing::Delimiter(end) => frame.extend_from_slice(end),
            Framing::Length(_) => {}
        }
        let write = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(ANSWER_PATIENCE, write).await {
            Ok(written) => written,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the sender does not read its answers")),
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=64).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

fn trimmed(message: &Bytes) -> Bytes {
    message.strip_suffix(b"\r").map_or_else(|| message.clone(), |text| message.slice_ref(text))
}

/// A message's number, and the message behind it.
fn numbered(message: &Bytes) -> Option<(u64, Bytes)> {
    let space = memchr::memchr(b' ', &message[..message.len().min(NUMBER_BYTES)])?;
    let digits = std::str::from_utf8(&message[..space]).ok().filter(|text| !text.starts_with('+'))?;
    Some((digits.parse().ok().filter(|number| *number > 0)?, message.slice(space + 1..)))
}
