//! Reads one file: in parts that end with lines, from where the last read ended if the file still begins as it did; or
//! whole, in memory or on disk.
//!
//! Promise: rows are given of whole lines that the server has sent whole; a file that ends before its listed size is an
//! error; memory is bounded: two parts, of which one is on its way into rows, each no longer than a part's bytes and the
//! longest line together; or the largest file that is read whole.

use std::path::Path;
use std::sync::Arc;

use portolan_model::source::{Output, Phase};
use portolan_model::{Error, ErrorKind, Result, Retry};

use super::control::{Control, Transfer};
use super::convert::{Body, Conversion};
use super::lines::{HEAD_BYTES, Prefix, Scanner, TAIL_BYTES, digest};
use super::options::{FileFormat, Plan};
use super::position::FileState;
use super::spool::{Spool, Spooled};
use super::walk::RemoteFile;
use crate::format::Format;

const OPERATION: &str = "read file";
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes after which a part of a file is converted and given on.
const PART_BYTES: usize = 1 << 20;
/// The same where the read has been asked to end: it must come on, but not far.
const LAST_PART_BYTES: usize = 256 << 10;

/// Reads one file over a control connection.
pub(super) struct FileReader<'r> {
    pub(super) control: &'r mut Control,
    pub(super) plan: &'r Arc<Plan>,
    pub(super) file: &'r RemoteFile,
    pub(super) format: FileFormat,
    pub(super) spool: &'r Path,
    /// Seconds since 1970.
    pub(super) now: i64,
    /// How far rows have been given, should the transfer break off.
    pub(super) progress: Option<FileState>,
}

/// What a read of lines came to.
#[derive(Debug)]
pub(super) enum Lines {
    /// How far it came.
    Read(FileState),
    /// The file does not begin with what was read before.
    Differs,
    /// The file is shorter than that.
    Shrunk,
}

impl FileReader<'_> {
    /// Reads lines from `from` on, or from the start.
    ///
    /// # Errors
    /// What the server refuses; `Disconnected` if the file ends early; `Limit` for a line that is too long.
    pub(super) async fn lines(&mut self, from: Option<&FileState>, output: &mut dyn Output) -> Result<Lines> {
        let offset = from.map_or(0, |state| state.offset);
        let mut prefix = Prefix::default();
        let mut start = 0;
        // Without REST a file is read from its start, and verified whole.
        if Prefix::has_middle(offset) && self.control.features.rest_stream {
            if !self.read_head(&mut prefix, output).await? {
                return Ok(Lines::Shrunk);
            }
            prefix.skip_to_tail_of(offset);
            start = offset - TAIL_BYTES as u64;
        }
        let mut transfer = match self.open(start).await {
            // There is no such place, if the listing is right; if not, a read from the start is refused, too.
            Err(error) if start > 0 && self.file.size < offset && error.retry() == Retry::Permanent => {
                return Ok(Lines::Shrunk);
            }
            opened => opened?,
        };
        let mut parts = Parts::new(self.format, offset);
        let mut is_verified = offset == 0;
        let mut total = start;
        let mut chunk = vec![0; READ_BYTES];
        // One part is converted while the next one is received.
        let mut started = None;
        loop {
            let count = match receive(&mut transfer, &mut chunk, output).await {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    self.finish(started.take(), output).await?;
                    return Err(error);
                }
            };
            total += count as u64;
            let mut bytes = &chunk[..count];
            if !is_verified {
                let missing = usize::try_from(offset - prefix.length()).unwrap_or(usize::MAX);
                let (old, new) = bytes.split_at(missing.min(count));
                prefix.push(old);
                bytes = new;
                if prefix.length() < offset {
                    continue;
                }
                if from.is_some_and(|state| state.digest != prefix.digest()) {
                    self.control.give_up(transfer).await?;
                    return Ok(Lines::Differs);
                }
                is_verified = true;
                parts.header_of(prefix.head(), offset).map_err(|error| self.name(error))?;
            }
            parts.push(bytes, self.plan.body_max).map_err(|error| self.name(error))?;
            if parts.scanner.end >= if self.is_enough(output) { LAST_PART_BYTES } else { PART_BYTES } {
                let mut given = self.finish(started.take(), output).await?;
                if given.is_none() || !self.is_enough(output) {
                    started = self.start(&mut parts, &mut prefix, total)?;
                    given = if self.is_enough(output) { self.finish(started.take(), output).await? } else { None };
                }
                if let Some(state) = given {
                    // What has been given stays given: a connection that is lost with it is not used again.
                    let _ = self.control.give_up(transfer).await;
                    return Ok(Lines::Read(state));
                }
            }
        }
        self.finish(started.take(), output).await?;
        self.end(transfer, total).await?;
        if !is_verified {
            return Ok(Lines::Shrunk);
        }
        if let Some(body) = self.take(&mut parts, &mut prefix, !self.plan.is_growing)? {
            body.convert(self.plan, output).await?;
        }
        let mut state = self.state(&parts, &prefix, total);
        if let Some(before) = from.filter(|before| before.size == state.size && state.held_since.is_some()) {
            state.held_since = before.held_since.or(state.held_since);
            state.is_reported = before.is_reported;
        }
        Ok(Lines::Read(state))
    }

    /// Reads the whole file; gives its rows unless it is what `before` was.
    ///
    /// # Errors
    /// What the server refuses; `Disconnected` if the file ends early; `Limit` if it is too large.
    pub(super) async fn whole(
        &mut self,
        before: Option<&FileState>,
        output: &mut dyn Output,
    ) -> Result<Whole<Vec<u8>>> {
        let mut bytes = Vec::new();
        let size = self.receive_whole(&mut Target::Memory(&mut bytes), output).await?;
        let state = self.whole_state(size, digest(&bytes));
        let is_new = before.is_none_or(|before| before.digest != state.digest);
        Ok(Whole { state, content: is_new.then_some(bytes) })
    }

    /// The same with the file on disk.
    ///
    /// # Errors
    /// As of [`Self::whole`]; `StorageFull`, `Storage`.
    pub(super) async fn spooled(
        &mut self,
        before: Option<&FileState>,
        output: &mut dyn Output,
    ) -> Result<Whole<Spooled>> {
        let mut spool = Spool::new(self.spool).map_err(|error| self.name(error))?;
        let size = self.receive_whole(&mut Target::Disk(&mut spool), output).await?;
        let spooled = spool.finish().await.map_err(|error| self.name(error))?;
        let state = self.whole_state(size, spooled.digest.clone());
        let is_new = before.is_none_or(|before| before.digest != state.digest);
        Ok(Whole { state, content: is_new.then_some(spooled) })
    }

    fn whole_state(&self, size: u64, digest: String) -> FileState {
        FileState { size, offset: size, modify: self.file.modify.clone(), digest, ..FileState::default() }
    }

    /// Receives a file to its end; its size.
    async fn receive_whole(&mut self, target: &mut Target<'_>, output: &mut dyn Output) -> Result<u64> {
        let (option, limit) = match target {
            Target::Memory(_) => ("max_body", self.plan.body_max),
            Target::Disk(_) => ("max_file", self.plan.file_max),
        };
        if self.file.size > limit {
            return Err(self.too_large(&format!("{} bytes are more", self.file.size), option, limit));
        }
        let mut transfer = self.open(0).await?;
        let mut size = 0;
        let mut chunk = vec![0; READ_BYTES];
        loop {
            let count = receive(&mut transfer, &mut chunk, output).await?;
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > limit {
                return Err(self.too_large("it has more bytes", option, limit));
            }
            match target {
                Target::Memory(bytes) => bytes.extend_from_slice(&chunk[..count]),
                Target::Disk(spool) => spool.write(&chunk[..count]).await.map_err(|error| self.name(error))?,
            }
        }
        self.end(transfer, size).await?;
        Ok(size)
    }

    fn too_large(&self, what: &str, option: &str, limit: u64) -> Error {
        let message = format!("{what} than {option} allows ({limit})");
        let hint = format!("raise {option}, or narrow `path`");
        self.name(Error::new(ErrorKind::Limit, OPERATION, message).with_hint(hint))
    }

    /// Gives the rows of a file on disk.
    pub(super) async fn give_spooled(&mut self, file: Spooled, output: &mut dyn Output) -> Result<()> {
        // An empty file is one that somebody has begun to write.
        if file.bytes == 0 {
            return Ok(());
        }
        file.convert(&self.file.path, self.plan, output).await
    }

    /// Gives the rows of a file read whole.
    pub(super) async fn give_whole(&mut self, bytes: Vec<u8>, output: &mut dyn Output) -> Result<()> {
        // An empty file is one that somebody has begun to write: no JSON, and no rows yet.
        if bytes.is_empty() && self.format != FileFormat::Raw {
            return Ok(());
        }
        self.body(0, Vec::new(), bytes).convert(self.plan, output).await
    }

    fn body(&self, offset: u64, header: Vec<u8>, bytes: Vec<u8>) -> Body {
        Body { path: self.file.path.clone(), format: self.format, offset, header, bytes: Arc::new(bytes) }
    }

    async fn open(&mut self, offset: u64) -> Result<Transfer> {
        let path = &self.file.path;
        self.control.transfer(OPERATION, &format!("RETR {path}"), path, offset, || ()).await
    }

    /// Reads the first bytes; false if there are not as many.
    async fn read_head(&mut self, prefix: &mut Prefix, output: &mut dyn Output) -> Result<bool> {
        let mut transfer = self.open(0).await?;
        let mut chunk = vec![0; HEAD_BYTES];
        while prefix.length() < HEAD_BYTES as u64 {
            let missing = HEAD_BYTES - prefix.head().len();
            let count = receive(&mut transfer, &mut chunk[..missing], output).await?;
            if count == 0 {
                self.end(transfer, prefix.length()).await?;
                return Ok(false);
            }
            prefix.push(&chunk[..count]);
        }
        self.control.give_up(transfer).await?;
        Ok(true)
    }

    /// Ends a transfer at its end: a connection that was cut looks like the end of a file, so the size tells.
    async fn end(&mut self, transfer: Transfer, total: u64) -> Result<()> {
        let is_unclean = transfer.is_unclean;
        self.control.finish(OPERATION, transfer).await?;
        let is_followed = self.format.is_lines() && self.plan.is_growing;
        if is_whole(total, self.file.size, is_unclean, is_followed) {
            return Ok(());
        }
        let message = format!("it ended after {total} bytes and was listed with {}", self.file.size);
        Err(self.name(
            Error::new(ErrorKind::Disconnected, OPERATION, message)
                .with_hint("the data connection was cut, or the file became another while it was read"),
        ))
    }

    /// Takes the whole lines of `parts`, or everything.
    fn take(&self, parts: &mut Parts, prefix: &mut Prefix, with_rest: bool) -> Result<Option<Body>> {
        let offset = parts.offset;
        let Some((header, bytes)) = parts.take(with_rest).map_err(|error| self.name(error))? else { return Ok(None) };
        prefix.push(&bytes);
        Ok(Some(self.body(offset, header, bytes)))
    }

    /// Whether the read has been asked to end, and can.
    fn is_enough(&self, output: &dyn Output) -> bool {
        self.plan.is_incremental && output.is_enough()
    }

    /// Starts to convert the whole lines of `parts`; with how far they go.
    fn start(&self, parts: &mut Parts, prefix: &mut Prefix, total: u64) -> Result<Option<Started>> {
        let Some(body) = self.take(parts, prefix, false)? else { return Ok(None) };
        let state = self.state(parts, prefix, total);
        Ok(Some((body.start(self.plan), FileState { is_partial: true, held_since: None, ..state })))
    }

    /// Gives the rows of a part, and tells how far they go.
    async fn finish(&mut self, started: Option<Started>, output: &mut dyn Output) -> Result<Option<FileState>> {
        let Some((conversion, state)) = started else { return Ok(None) };
        conversion.finish(output).await?;
        self.progress = Some(state.clone());
        Ok(Some(state))
    }

    fn state(&self, parts: &Parts, prefix: &Prefix, total: u64) -> FileState {
        FileState {
            size: total,
            offset: parts.offset,
            modify: self.file.modify.clone(),
            digest: prefix.digest(),
            held_since: (!parts.buffer.is_empty()).then_some(self.now),
            ..FileState::default()
        }
    }

    fn name(&self, error: Error) -> Error {
        let named = Error::new(error.kind(), OPERATION, format!("{}: {}", self.file.path, error.message()));
        match error.hint() {
            Some(hint) => named.with_hint(hint),
            None => named,
        }
    }
}

/// Whether `total` bytes are a file that was listed with `listed`. More may be what has been added since, unless the
/// stream was cut: then nothing tells, and only one whose rest is read later, `is_followed`, may end anywhere behind.
fn is_whole(total: u64, listed: u64, is_unclean: bool, is_followed: bool) -> bool {
    if is_unclean && !is_followed { total == listed } else { total >= listed }
}

/// A part that is being converted, and how far it goes.
type Started = (Conversion, FileState);

/// Where a file that is read whole goes.
enum Target<'t> {
    Memory(&'t mut Vec<u8>),
    Disk(&'t mut Spool),
}

/// What a file read whole is.
#[derive(Debug)]
pub(super) struct Whole<C> {
    pub(super) state: FileState,
    /// Its bytes, if it is not what it was before.
    pub(super) content: Option<C>,
}

async fn receive(transfer: &mut Transfer, chunk: &mut [u8], output: &mut dyn Output) -> Result<usize> {
    let count = transfer.read(chunk).await?;
    if count > 0 {
        output.mark(Phase::LastByte);
    }
    Ok(count)
}

/// Bytes that wait until they are a part.
struct Parts {
    buffer: Vec<u8>,
    scanner: Scanner,
    /// Where in the file the buffer begins.
    offset: u64,
    /// Of CSV: the first line, with empty ones before it.
    header: Option<Vec<u8>>,
    /// Of CSV: what stands between fields.
    delimiter: Option<u8>,
}

impl Parts {
    fn new(format: FileFormat, offset: u64) -> Self {
        let delimiter = match format {
            FileFormat::Rows(Format::Csv, delimiter) => Some(delimiter),
            _ => None,
        };
        let scanner = Scanner::new(delimiter, offset);
        Self { buffer: Vec::new(), scanner, offset, header: None, delimiter }
    }

    /// Finds the header in the bytes before `offset`.
    fn header_of(&mut self, head: &[u8], offset: u64) -> Result<()> {
        if self.delimiter.is_none() {
            return Ok(());
        }
        let mut scanner = Scanner::new(self.delimiter, 0);
        scanner.scan(head);
        match scanner.first_end {
            Some(end) => self.header = Some(head[..end].to_vec()),
            None if offset > HEAD_BYTES as u64 => return Err(long_header()),
            None => {}
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8], line_max: u64) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.scanner.scan(&self.buffer);
        if self.scanner.longest as u64 > line_max {
            let message = format!("a line after byte {} is longer than max_body allows ({line_max})", self.offset);
            return Err(Error::new(ErrorKind::Limit, OPERATION, message)
                .with_hint("raise max_body; in CSV, look for a quote that is never closed"));
        }
        Ok(())
    }

    /// Takes the whole lines, or everything; the header, where they need it.
    fn take(&mut self, with_rest: bool) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let end = if with_rest { self.buffer.len() } else { self.scanner.end };
        if end == 0 {
            return Ok(None);
        }
        let mut rest = Vec::with_capacity(self.buffer.capacity());
        rest.extend_from_slice(&self.buffer[end..]);
        self.buffer.truncate(end);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        let mut header = Vec::new();
        if self.delimiter.is_some() {
            // Behind empty lines that are taken the header may have ended with a CR, and its rows have not.
            match (&self.header, self.scanner.first_end.filter(|first| *first <= end)) {
                (Some(known), _) => header.clone_from(known),
                (None, Some(first)) if first > HEAD_BYTES => return Err(long_header()),
                (None, first) => {
                    self.header = first.map(|first| bytes[..first].to_vec());
                    // Behind empty lines, a byte order mark is none.
                    header.extend((self.offset > 0).then_some(b'\n'));
                }
            }
        }
        if !with_rest {
            self.scanner.taken();
        }
        self.offset += bytes.len() as u64;
        Ok(Some((header, bytes)))
    }
}

fn long_header() -> Error {
    Error::new(ErrorKind::Limit, OPERATION, format!("the header is longer than {HEAD_BYTES} bytes"))
        .with_hint("is it CSV? Set `format` and `delimiter` to what it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_cut_is_whole_by_its_size_alone() {
        for (total, is_unclean, is_followed, expected) in [
            (10, false, false, true),
            (12, false, false, true),
            (9, false, true, false),
            (10, true, false, true),
            // It has grown since it was listed: where it ends is not known.
            (12, true, false, false),
            (12, true, true, true),
            (9, true, true, false),
        ] {
            assert_eq!(is_whole(total, 10, is_unclean, is_followed), expected, "{total} {is_unclean} {is_followed}");
        }
    }
}
