//! One file of the log: a head, blocks, and an end.
//!
//! ```text
//! magic    8 bytes   "PTLNTAK1"
//! log      i64       the log that it belongs to
//! number   u64       its number
//! reserved 8 bytes   0
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::block::{Block, Decoded, Kind, PREFIX_BYTES, decode};

const MAGIC: &[u8; 8] = b"PTLNTAK1";
/// Where the first block begins.
pub(super) const HEAD_BYTES: u64 = 32;
/// Bytes read at once at most, unless a block is larger.
const READ_BYTES_MAX: u64 = 4 << 20;

/// The file of a segment.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.log"))
}

/// Makes a folder of the log, with its name durable in the one above it, and that one's above it.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // Also where an earlier process made them and was cut off before it could say so to the disk.
    for above in folder.ancestors().skip(1).take(2).filter(|above| !above.as_os_str().is_empty()) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// The numbers of the segments in a folder, rising.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() == 20);
        numbers.extend(number.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Creates a segment: its head is durable when this returns, and its name in the folder.
pub(super) fn create(folder: &Path, log: i64, number: u64) -> io::Result<File> {
    let mut file = File::options().read(true).write(true).create_new(true).open(path(folder, number))?;
    let mut head = Vec::with_capacity(HEAD_BYTES as usize);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&log.to_le_bytes());
    head.extend_from_slice(&number.to_le_bytes());
    head.resize(HEAD_BYTES as usize, 0);
    file.write_all(&head)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The log that a segment belongs to; `None` if it has no head of ours.
pub(super) fn log_of(file: &File, number: u64) -> io::Result<Option<i64>> {
    let mut head = [0; HEAD_BYTES as usize];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let eight = |at: usize| -> [u8; 8] { std::array::from_fn(|index| head[at + index]) };
    let is_ours = head.starts_with(MAGIC) && u64::from_le_bytes(eight(16)) == number;
    Ok(is_ours.then(|| i64::from_le_bytes(eight(8))))
}

/// How a walk over a segment's blocks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkEnd {
    /// The taker had enough, or `until` was reached; the next block begins here.
    Stopped(u64),
    /// The segment's own end, behind its last block.
    Sealed(u64),
    /// What follows is no block; `0` bytes of it: the file ends here without an end.
    Torn {
        /// Where it begins.
        at: u64,
        /// Bytes to the end of the file.
        bytes: u64,
    },
}

/// Hands the blocks of a segment from `offset` up to `until` to `take`, until it says no, which is after about
/// `bytes_wanted` of them.
pub(super) fn walk(
    file: &File,
    number: u64,
    offset: u64,
    until: u64,
    bytes_wanted: u64,
    take: &mut dyn FnMut(Block) -> bool,
) -> io::Result<WalkEnd> {
    let length = file.metadata()?.len();
    let mut at = offset;
    let mut bytes = Bytes::new();
    loop {
        if at >= until {
            return Ok(WalkEnd::Stopped(at));
        }
        match decode((number, at), &bytes) {
            Decoded::Block(block, size) => {
                if block.kind == Kind::End {
                    return Ok(WalkEnd::Sealed(at));
                }
                bytes = bytes.slice(size..);
                at += size as u64;
                if !take(block) {
                    return Ok(WalkEnd::Stopped(at));
                }
            }
            Decoded::Short(needed) if (needed as u64) <= length.saturating_sub(at) => {
                // No further ahead than is wanted: the next walk begins there and would read it once more.
                let ahead = offset.saturating_add(bytes_wanted).min(until).saturating_sub(at).min(READ_BYTES_MAX);
                let size = ahead.max(needed as u64).min(length - at) as usize;
                let mut buffer = vec![0; size];
                file.read_exact_at(&mut buffer, at)?;
                bytes = Bytes::from(buffer);
            }
            Decoded::Short(_) | Decoded::Damaged => {
                return Ok(WalkEnd::Torn { at, bytes: length.saturating_sub(at) });
            }
        }
    }
}

/// Ends a segment at `at`: what stands behind it is cut off.
pub(super) fn seal(file: &File, number: u64, at: u64, received_us: i64) -> io::Result<()> {
    let mut end = Vec::with_capacity(PREFIX_BYTES + 32);
    Block::bare(Kind::End, received_us, Bytes::new()).encode((number, at), &mut end);
    file.set_len(at)?;
    file.write_all_at(&end, at)?;
    file.sync_data()
}
