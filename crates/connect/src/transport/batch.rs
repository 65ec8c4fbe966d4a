//! Many sends in one call to the system: io_uring, where there is one.
//!
//! The only module of the product with `unsafe` code (`cargo xtask tidy` looks after that): calls that hand pointers to the
//! kernel. What makes them sound is the promise below.
//!
//! When the call returns is not when its last send was made: a kernel that has let nobody else run meanwhile does so then, and
//! the thread comes back later. So before and behind the sends goes a datagram to ourselves, and the kernel's timestamps of the
//! two are the begin and the end.
//!
//! Promise: when [`Ring::send_all`] returns, the kernel is done with every buffer and socket it was given, whatever went
//! wrong. Nothing waits for a peer: what a socket does not take at once is not taken. A ring serves one thread at a time and
//! is kept for that thread's next batch; where the system has none (an old kernel, a container that forbids it), `None` says
//! so, at once and for good.

#![allow(unsafe_code, reason = "pointers for the kernel, see above")]

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use jiff::Timestamp;

/// How many entries a ring has.
const ENTRIES: u32 = 512;
/// How many sends one call takes, besides the datagrams; of more, several calls are made.
const SENDS: usize = ENTRIES as usize - 2;

/// What tells the answers to marks from those to sends.
const MARK: u64 = u64::MAX;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::Untried) };
}

enum Kept {
    Untried,
    /// In use.
    Lent,
    Unavailable,
    Ring(Box<Parts>),
}

struct Parts {
    ring: IoUring,
    /// The datagrams that mark begin and end of a call: from here…
    marks: UnixDatagram,
    /// … to here, with the kernel's timestamp.
    stamps: UnixDatagram,
}

/// One send of a batch.
pub(super) struct Send<'b> {
    /// Where to; a socket.
    pub(super) socket: BorrowedFd<'b>,
    pub(super) bytes: &'b [u8],
}

/// What takes many sends at once.
pub(super) struct Ring(Option<Box<Parts>>);

impl Ring {
    /// This thread's ring. `None` if the system has none, or it is in use.
    pub(super) fn take() -> Option<Self> {
        KEPT.with_borrow_mut(|kept| match std::mem::replace(kept, Kept::Lent) {
            Kept::Ring(parts) => Some(Self(Some(parts))),
            Kept::Untried => match Parts::new() {
                Ok(parts) => Some(Self(Some(Box::new(parts)))),
                Err(_) => {
                    *kept = Kept::Unavailable;
                    None
                }
            },
            other => {
                *kept = other;
                None
            }
        })
    }

    /// Hands all of them to the operating system, in order. Returns how many bytes of each it took: none also where a
    /// connection is broken, which its next ordinary write tells; and how long that has taken, where the kernel says it.
    pub(super) fn send_all(&mut self, sends: &[Send<'_>]) -> (Vec<usize>, Option<Duration>) {
        let mut taken = vec![0; sends.len()];
        let mut stamps = None;
        for (sends, taken) in sends.chunks(SENDS).zip(taken.chunks_mut(SENDS)) {
            let Some(parts) = &mut self.0 else { break };
            if !parts.send_chunk(sends, taken) {
                // What it still holds must never go out.
                self.0 = None;
                stamps = None;
                break;
            }
            let (begin, end) = (parts.stamp(), parts.stamp());
            stamps = Some((stamps.map_or(begin, |(first, _)| first), end));
        }
        let took = stamps.and_then(|(begin, end)| Duration::try_from(end?.duration_since(begin?)).ok());
        (taken, took)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let kept = self.0.take().map_or(Kept::Untried, Kept::Ring);
        // A thread that ends has nothing to keep it in.
        let _ = KEPT.try_with(|place| place.replace(kept));
    }
}

impl Parts {
    fn new() -> io::Result<Self> {
        let (marks, stamps) = UnixDatagram::pair()?;
        let on: libc::c_int = 1;
        let (value, length) = (std::ptr::from_ref(&on).cast(), size_of_val(&on) as libc::socklen_t);
        // SAFETY: the value is an integer of the length that is said, read before the call returns.
        if unsafe { libc::setsockopt(stamps.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, value, length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { ring: IoUring::new(ENTRIES)?, marks, stamps })
    }

    /// Whether the ring is empty again, and of use.
    fn send_chunk(&mut self, sends: &[Send<'_>], taken: &mut [usize]) -> bool {
        let Self { ring, marks, .. } = self;
        let mark = Send { socket: marks.as_fd(), bytes: b"." };
        let indexes = std::iter::once(MARK).chain(0..sends.len() as u64).chain([MARK]);
        for (send, index) in [&mark].into_iter().chain(sends).chain([&mark]).zip(indexes) {
            let length = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
            // Not to wait keeps the kernel from going on with it behind our back.
            let entry = opcode::Send::new(types::Fd(send.socket.as_raw_fd()), send.bytes.as_ptr(), length)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(index);
            // SAFETY: the entry points to `send.bytes` and names `send.socket`, both borrowed until this function returns,
            // which it does only once the kernel has answered all entries that it took.
            if unsafe { ring.submission().push(&entry) }.is_err() {
                return false;
            }
        }
        let (all, mut answered) = (sends.len() + 2, 0);
        while answered < all {
            let submitted = ring.submit_and_wait(all - answered);
            for answer in ring.completion() {
                answered += 1;
                if let Some(taken) = taken.get_mut(answer.user_data() as usize) {
                    *taken = usize::try_from(answer.result()).unwrap_or(0);
                }
            }
            let untaken = ring.submission().len();
            match submitted {
                Err(error) if error.kind() != ErrorKind::Interrupted && answered + untaken >= all => return false,
                // Interrupted, or some are with the kernel: it answers them.
                _ => {}
            }
        }
        true
    }

    /// When the next mark was made.
    fn stamp(&self) -> Option<Timestamp> {
        let mut byte = [0_u8; 1];
        // One item; of words, which makes it aligned.
        let mut control = [0_u64; 8];
        let mut slice = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        // SAFETY: a message of nothing but zeros is a valid one without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message points to a byte, one slice and the control words, with their lengths, all of which outlive the
        // call.
        if unsafe { libc::recvmsg(self.stamps.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) } <= 0 {
            return None;
        }
        // SAFETY: the kernel has filled the message; the item is null or lies within the control words.
        let item = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() }?;
        if (item.cmsg_level, item.cmsg_type) != (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) {
            return None;
        }
        // SAFETY: an item of this type carries a `timespec`, which may lie anywhere.
        let time = unsafe { libc::CMSG_DATA(item).cast::<libc::timespec>().read_unaligned() };
        Timestamp::new(time.tv_sec, i32::try_from(time.tv_nsec).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (near, far)
    }

    #[test]
    fn more_than_one_call_takes_arrive_and_broken_ones_do_not() {
        let mut pairs: Vec<_> = (0..SENDS + 40).map(|_| pair()).collect();
        // One whose peer is gone, and one that takes no more.
        pairs[3].0.shutdown(std::net::Shutdown::Write).unwrap();
        while std::io::Write::write(&mut pairs[5].0, &[0; 65_536]).is_ok() {}
        let text: Vec<String> = (0..pairs.len()).map(|index| format!("request {index}")).collect();
        let mut ring = Ring::take().expect("the tests need io_uring");
        assert!(Ring::take().is_none(), "it is in use");
        let sends: Vec<Send<'_>> = pairs
            .iter()
            .zip(&text)
            .map(|((near, _), text)| Send { socket: near.as_fd(), bytes: text.as_bytes() })
            .collect();
        let start = std::time::Instant::now();
        let (taken, took) = ring.send_all(&sends);
        let took = took.expect("the kernel stamps datagrams");
        assert!(!took.is_zero() && took < start.elapsed(), "the stamps lie within the call: {took:?}");
        for (index, ((_, far), text)) in pairs.iter_mut().zip(&text).enumerate() {
            if index == 3 || index == 5 {
                assert_eq!(taken[index], 0);
                continue;
            }
            assert_eq!(taken[index], text.len());
            let mut came = vec![0; text.len()];
            far.read_exact(&mut came).unwrap();
            assert_eq!(came, text.as_bytes());
        }
        drop(ring);
        let mut ring = Ring::take().expect("it is kept for the next batch");
        let (near, mut far) = pair();
        assert_eq!(ring.send_all(&[Send { socket: near.as_fd(), bytes: b"x" }]).0, [1]);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 1);
    }
}
