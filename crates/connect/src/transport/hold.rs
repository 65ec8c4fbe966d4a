//! What makes a server act, held back beneath TLS.
//!
//! A request is written as to any socket and collected here. [`HoldPoint::seal`] sends all but its last byte, or nothing
//! of it, whatever the protocol above: a request that lacks a byte is none, and a TLS record that lacks one cannot even be
//! decrypted. [`Held::release`] hands the rest to the operating system in one call, from whichever thread;
//! [`Held::together`] the rest of many connections.
//!
//! Promise: bytes keep their order; what is written behind a seal (HTTP/2 answers pings by itself) waits, too; memory is
//! bounded.

use std::any::Any;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_model::clock::Clock;
use portolan_model::source::{Held, HeldTogether};

use super::batch::{Ring, Send};

/// The most bytes held: a request as long as a configuration may be, and what a protocol adds by itself.
const HELD_BYTES_MAX: usize = 8 << 20;

/// How many packets what goes before the release leaves in, where it is short. A server acts when the latest packet of a
/// request has come: where packets are delayed each by itself, the latest of several scatters less than one. With the release
/// they are eight, fewer than the ten that a connection may have on its way after a pause (RFC 6928), so that none waits for
/// an acknowledgement unless packets were lost before.
const PARTS: usize = 7;

/// How much of a request is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldKind {
    /// Its last byte: the server has nearly all of the request and cannot act on it.
    LastByte,
    /// All of it, where a server acts on a part (several messages in one request).
    Whole,
}

/// The place in a connection, beneath TLS, where bytes can be held back.
#[derive(Debug, Default)]
pub struct HoldPoint {
    /// Whether bytes are to be held, or are; looked at by each write.
    is_active: AtomicBool,
    /// Bytes handed to the operating system from here.
    sent: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_released: bool,
    /// Bytes not handed over yet, in order.
    held: Vec<u8>,
    /// A second handle of the socket, made once.
    socket: Option<TcpStream>,
}

impl HoldPoint {
    /// Holds back what is written from now on.
    pub fn hold(&self) {
        self.state().is_released = false;
        self.is_active.store(true, Ordering::Release);
    }

    /// The request has been written: sends what `kind` lets out, and holds the rest until its release. `None` if nothing
    /// was written.
    ///
    /// # Errors
    /// What the system says of the connection.
    pub fn seal(self: &Arc<Self>, kind: HoldKind) -> io::Result<Option<Arc<dyn Held>>> {
        let mut state = self.state();
        let Some(last) = state.held.len().checked_sub(1) else { return Ok(None) };
        if kind == HoldKind::LastByte {
            for count in parts(last) {
                self.send(&mut state, count)?;
            }
        }
        Ok(Some(Arc::clone(self) as Arc<dyn Held>))
    }

    /// Bytes handed to the operating system from here.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether writes come here instead of to the socket.
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    /// Takes bytes instead of the socket, of which `socket` makes a second handle. `None` where the socket is to take them:
    /// nothing is held any more.
    pub(super) fn take(
        &self,
        bytes: &[u8],
        socket: impl FnOnce() -> io::Result<TcpStream>,
    ) -> Option<io::Result<usize>> {
        let mut state = self.state();
        if state.is_released && state.held.is_empty() {
            return None;
        }
        if state.socket.is_none() {
            match socket() {
                Ok(socket) => state.socket = Some(socket),
                Err(error) => return Some(Err(error)),
            }
        }
        if state.held.len() + bytes.len() > HELD_BYTES_MAX {
            let message = format!("a request of more than {} MiB cannot be held back", HELD_BYTES_MAX >> 20);
            return Some(Err(io::Error::new(io::ErrorKind::QuotaExceeded, message)));
        }
        state.held.extend_from_slice(bytes);
        Some(Ok(bytes.len()))
    }

    /// What the release could not hand over, for `write`, which says how much of it went.
    pub(super) fn drain<T>(&self, write: impl FnOnce(&[u8]) -> (usize, T)) -> Option<T> {
        let mut state = self.state();
        if !state.is_released || state.held.is_empty() {
            return None;
        }
        let (count, result) = write(&state.held);
        state.held.drain(..count);
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        if state.held.is_empty() {
            self.is_active.store(false, Ordering::Release);
        }
        Some(result)
    }

    fn send(&self, state: &mut State, count: usize) -> io::Result<()> {
        let State { held, socket, .. } = state;
        let Some(socket) = socket else { return Ok(()) };
        let mut done = 0;
        while done < count {
            match socket.write(&held[done..count]) {
                Ok(0) => break,
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        held.drain(..done);
        self.sent.fetch_add(done as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Hands over all that is held, of which the system has taken `taken` bytes already.
    fn let_go(&self, state: &mut State, taken: usize) {
        state.is_released = true;
        state.held.drain(..taken);
        self.sent.fetch_add(taken as u64, Ordering::Relaxed);
        let count = state.held.len();
        // A broken connection is told to the source's next read or write.
        if self.send(state, count).is_err() {
            state.held.clear();
        }
        if state.held.is_empty() {
            self.is_active.store(false, Ordering::Release);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lengths of the parts that `length` bytes are sent in, as equal as can be, none empty.
fn parts(length: usize) -> impl Iterator<Item = usize> {
    let count = PARTS.min(length);
    (0..count).map(move |part| length * (part + 1) / count - length * part / count)
}

/// Where a drill stops the process (`FAILPOINTS`, as in the lake): before what is held of one source is handed over.
#[cfg(feature = "failpoints")]
fn pass_handover() {
    fail::fail_point!("release::before_handover", |_| std::process::abort());
}

#[cfg(not(feature = "failpoints"))]
fn pass_handover() {}

#[cfg(feature = "failpoints")]
fn is_handover_stopped() -> bool {
    fail::list().iter().any(|(name, _)| name == "release::before_handover")
}

#[cfg(not(feature = "failpoints"))]
fn is_handover_stopped() -> bool {
    false
}

impl Held for HoldPoint {
    fn release(&self) {
        pass_handover();
        self.let_go(&mut self.state(), 0);
    }

    fn together<'h>(&self, all: &'h [Arc<dyn Held>]) -> Option<Box<dyn HeldTogether + 'h>> {
        // A drill stops between two handovers; one call for all has no between.
        if is_handover_stopped() {
            return None;
        }
        let ring = Ring::take()?;
        let points = all.iter().map(|held| {
            let point = (&**held as &dyn Any).downcast_ref::<Self>()?;
            // Nobody else has it but a source that has given up waiting.
            let state = point.state.try_lock().ok()?;
            state.socket.is_some().then_some((point, state))
        });
        Some(Box::new(Together { points: points.collect::<Option<_>>()?, ring }))
    }
}

/// Several hold points, locked.
struct Together<'h> {
    points: Vec<(&'h HoldPoint, MutexGuard<'h, State>)>,
    ring: Ring,
}

impl HeldTogether for Together<'_> {
    fn release(mut self: Box<Self>, clock: &dyn Clock) -> Duration {
        let start = clock.monotonic();
        let sends: Vec<Send<'_>> = self
            .points
            .iter()
            .filter_map(|(_, state)| Some(Send { socket: state.socket.as_ref()?.as_fd(), bytes: &state.held }))
            .collect();
        let (taken, took) = self.ring.send_all(&sends);
        for ((point, state), taken) in self.points.iter_mut().zip(taken) {
            point.let_go(state, taken);
        }
        // The wall clock, which the kernel stamps with, may have been set meanwhile.
        let elapsed = clock.monotonic().saturating_sub(start);
        took.map_or(elapsed, |took| took.min(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;

    use portolan_model::clock::SystemClock;

    use super::*;

    struct Pair {
        point: Arc<HoldPoint>,
        near: TcpStream,
        far: TcpStream,
    }

    impl Pair {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            near.set_nonblocking(true).unwrap();
            let (far, _) = listener.accept().unwrap();
            far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let point = Arc::new(HoldPoint::default());
            point.hold();
            Self { point, near, far }
        }

        fn take(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
            self.point.take(bytes, || self.near.try_clone())
        }

        fn arrived(&mut self) -> Vec<u8> {
            let mut bytes = [0; 64];
            self.far.read(&mut bytes).map(|count| bytes[..count].to_vec()).unwrap_or_default()
        }
    }

    #[test]
    fn the_last_byte_waits_and_what_follows_it_too() {
        let mut pair = Pair::new();
        assert!(pair.point.seal(HoldKind::LastByte).unwrap().is_none());
        assert_eq!(pair.take(b"GET /").unwrap().unwrap(), 5);
        assert_eq!(pair.take(b" ok\n").unwrap().unwrap(), 4);
        let held = pair.point.seal(HoldKind::LastByte).unwrap().unwrap();
        assert_eq!(pair.arrived(), b"GET / ok");
        assert_eq!(pair.take(b"pong").unwrap().unwrap(), 4);
        assert_eq!(pair.arrived(), b"");
        held.release();
        assert_eq!(pair.arrived(), b"\npong");
        assert!(!pair.point.is_active());
        assert!(pair.take(b"x").is_none());
        assert_eq!(pair.point.sent(), 13);
        // And once more over the same connection.
        pair.point.hold();
        assert_eq!(pair.take(b"ab").unwrap().unwrap(), 2);
        pair.point.seal(HoldKind::LastByte).unwrap().unwrap().release();
        assert_eq!(pair.arrived(), b"ab");
    }

    #[test]
    fn what_goes_before_the_release_goes_in_parts() {
        // A socket that keeps apart what was written apart, as packets are.
        let kind = socket2::Type::SEQPACKET;
        let (near, far) = socket2::Socket::pair(socket2::Domain::UNIX, kind, None).unwrap();
        far.set_nonblocking(true).unwrap();
        let (near, mut far) = (TcpStream::from(near), TcpStream::from(far));
        let mut arrived = || {
            let mut bytes = [0; 64];
            std::iter::from_fn(|| far.read(&mut bytes).ok().map(|count| bytes[..count].to_vec())).collect::<Vec<_>>()
        };
        let cases: [(&[u8], &[&[u8]]); 5] = [
            (b"0123456789abcdef", &[b"01", b"23", b"45", b"67", b"89", b"ab", b"cde"]),
            (b"01234567", &[b"0", b"1", b"2", b"3", b"4", b"5", b"6"]),
            (b"012", &[b"0", b"1"]),
            (b"01", &[b"0"]),
            (b"0", &[]),
        ];
        for (request, expected) in cases {
            let point = Arc::new(HoldPoint::default());
            point.hold();
            point.take(request, || near.try_clone()).unwrap().unwrap();
            let held = point.seal(HoldKind::LastByte).unwrap().unwrap();
            assert_eq!(arrived(), expected, "of {request:?}");
            held.release();
            assert_eq!(arrived(), [&request[request.len() - 1..]], "of {request:?}");
        }
    }

    #[test]
    fn a_whole_request_waits() {
        let mut pair = Pair::new();
        pair.take(b"ES").unwrap().unwrap();
        let held = pair.point.seal(HoldKind::Whole).unwrap().unwrap();
        assert_eq!(pair.arrived(), b"");
        held.release();
        assert_eq!(pair.arrived(), b"ES");
    }

    #[test]
    fn what_the_system_does_not_take_at_once_follows_in_order() {
        let Pair { point, near, mut far } = Pair::new();
        let request: Vec<u8> = (0..HELD_BYTES_MAX - 1).map(|index| (index % 251) as u8).collect();
        let expected = [&request[..], b"!"].concat();
        point.take(&request, || near.try_clone()).unwrap().unwrap();
        point.seal(HoldKind::Whole).unwrap().unwrap().release();
        assert!(point.is_active(), "no socket takes so much at once");
        point.take(b"!", || near.try_clone()).unwrap().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; HELD_BYTES_MAX];
            far.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            far.read_exact(&mut all).unwrap();
            all
        });
        near.set_nonblocking(false).unwrap();
        while point.drain(|bytes| ((&near).write(bytes).unwrap(), ())).is_some() {}
        assert!(reader.join().unwrap() == expected);
        assert!(!point.is_active());
    }

    #[test]
    fn many_are_released_together_and_each_goes_on_by_itself() {
        let mut pairs: Vec<Pair> = (0..4).map(|_| Pair::new()).collect();
        let long = vec![7; HELD_BYTES_MAX - 1];
        for (index, pair) in pairs.iter().enumerate() {
            pair.take(if index == 2 { &long } else { b"ask" }).unwrap().unwrap();
        }
        // One that is broken, which the others do not notice.
        pairs[1].near.shutdown(std::net::Shutdown::Write).unwrap();
        let all: Vec<Arc<dyn Held>> =
            pairs.iter().map(|pair| pair.point.seal(HoldKind::Whole).unwrap().unwrap()).collect();
        let twice = [Arc::clone(&all[0]), Arc::clone(&all[0])];
        assert!(all[0].together(&twice).is_none(), "nothing is taken twice");
        drop(all[0].together(&all).expect("the tests need io_uring"));
        assert_eq!(pairs[0].arrived(), b"", "readied is not released");
        let together = all[0].together(&all).expect("what was not used has been put back");
        assert!(!together.release(&SystemClock::new()).is_zero());
        assert_eq!([pairs[0].arrived(), pairs[3].arrived()], [b"ask", b"ask"]);
        let active: Vec<bool> = pairs.iter().map(|pair| pair.point.is_active()).collect();
        assert_eq!(active, [false, false, true, false], "only the long one has a rest to write");
        assert_eq!((pairs[0].point.sent(), pairs[1].point.sent()), (3, 0));
    }

    #[test]
    fn what_others_hold_is_not_released_together() {
        struct Other;
        impl Held for Other {
            fn release(&self) {}
        }
        let mut pair = Pair::new();
        pair.take(b"ask").unwrap().unwrap();
        let all = [pair.point.seal(HoldKind::Whole).unwrap().unwrap(), Arc::new(Other)];
        assert!(all[0].together(&all).is_none());
        assert_eq!(pair.arrived(), b"");
    }

    #[test]
    fn memory_is_bounded() {
        let pair = Pair::new();
        pair.take(&vec![0; HELD_BYTES_MAX]).unwrap().unwrap();
        assert_eq!(pair.take(b"x").unwrap().unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    }
}
