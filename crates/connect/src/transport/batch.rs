//! Many sends in one call to the system: io_uring, where there is one.
//!
//! The only module of the product with `unsafe` code (`cargo xtask tidy` looks after that): two calls that hand pointers to
//! the kernel. What makes them sound is the promise below.
//!
//! Promise: when [`Ring::send_all`] returns, the kernel is done with every buffer and socket it was given, whatever went
//! wrong. Nothing waits for a peer: what a socket does not take at once is not taken. A ring serves one thread at a time and
//! is kept for that thread's next batch; where the system has none (an old kernel, a container that forbids it), `None` says
//! so, at once and for good.

#![allow(unsafe_code, reason = "pointers for the kernel, see above")]

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};

/// How many sends one call takes; of more, several calls are made.
const ENTRIES: u32 = 256;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::Untried) };
}

enum Kept {
    Untried,
    /// In use.
    Lent,
    Unavailable,
    Ring(IoUring),
}

/// One send of a batch.
pub(super) struct Send<'b> {
    /// Where to; a socket.
    pub(super) socket: BorrowedFd<'b>,
    pub(super) bytes: &'b [u8],
}

/// What takes many sends at once.
pub(super) struct Ring(Option<IoUring>);

impl Ring {
    /// This thread's ring. `None` if the system has none, or it is in use.
    pub(super) fn take() -> Option<Self> {
        KEPT.with_borrow_mut(|kept| match std::mem::replace(kept, Kept::Lent) {
            Kept::Ring(ring) => Some(Self(Some(ring))),
            Kept::Untried => match IoUring::new(ENTRIES) {
                Ok(ring) => Some(Self(Some(ring))),
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
    /// connection is broken, which its next ordinary write tells.
    pub(super) fn send_all(&mut self, sends: &[Send<'_>]) -> Vec<usize> {
        let mut taken = vec![0; sends.len()];
        for (sends, taken) in sends.chunks(ENTRIES as usize).zip(taken.chunks_mut(ENTRIES as usize)) {
            let Some(ring) = &mut self.0 else { break };
            if !send_chunk(ring, sends, taken) {
                // What it still holds must never go out.
                self.0 = None;
            }
        }
        taken
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let kept = self.0.take().map_or(Kept::Untried, Kept::Ring);
        // A thread that ends has nothing to keep it in.
        let _ = KEPT.try_with(|place| place.replace(kept));
    }
}

/// Whether the ring is empty again, and of use.
fn send_chunk(ring: &mut IoUring, sends: &[Send<'_>], taken: &mut [usize]) -> bool {
    for (send, index) in sends.iter().zip(0..) {
        let length = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
        // Not to wait keeps the kernel from going on with it behind our back.
        let entry = opcode::Send::new(types::Fd(send.socket.as_raw_fd()), send.bytes.as_ptr(), length)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build()
            .user_data(index);
        // SAFETY: the entry points to `send.bytes` and names `send.socket`, both borrowed until this function returns, which
        // it does only once the kernel has answered all entries that it took.
        if unsafe { ring.submission().push(&entry) }.is_err() {
            return false;
        }
    }
    let mut answered = 0;
    while answered < sends.len() {
        let submitted = ring.submit_and_wait(sends.len() - answered);
        for answer in ring.completion() {
            answered += 1;
            if let Some(taken) = taken.get_mut(answer.user_data() as usize) {
                *taken = usize::try_from(answer.result()).unwrap_or(0);
            }
        }
        let untaken = ring.submission().len();
        match submitted {
            Err(error) if error.kind() != ErrorKind::Interrupted && answered + untaken >= sends.len() => return false,
            // Interrupted, or some are with the kernel: it answers them.
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

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
        let mut pairs: Vec<_> = (0..ENTRIES as usize + 40).map(|_| pair()).collect();
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
        let taken = ring.send_all(&sends);
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
        assert_eq!(ring.send_all(&[Send { socket: near.as_fd(), bytes: b"x" }]), [1]);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 1);
    }
}
