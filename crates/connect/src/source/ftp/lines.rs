//! Where lines end, so that a file can be read in parts, and what is kept of the bytes before a part.
//!
//! Promise: pure functions of the bytes; a part ends where a record ends for the CSV reader, too: a line end within
//! quotes is none.

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of a file's start that its digest covers.
pub const HEAD_BYTES: usize = 64 << 10;
/// Bytes before the offset that its digest covers beside the start.
pub const TAIL_BYTES: usize = 64 << 10;
/// The byte order mark of UTF-8, which the CSV reader passes over at the start of a file.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Where in a CSV record the scanner stands (as the `csv` crate reads quotes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start of the file, behind so many bytes of a byte order mark.
    Mark(usize),
    FieldStart,
    Field,
    Quoted,
    QuoteInQuoted,
}

/// Finds the ends of records in bytes that come piece by piece.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// The byte between CSV fields; `None`: every line end counts.
    delimiter: Option<u8>,
    place: Place,
    scanned: usize,
    record_start: usize,
    /// The end of the last whole record, in bytes from the start of the buffer.
    pub end: usize,
    /// The end of the first record that is not an empty line, in bytes from the start of the buffer, 0 where it
    /// has been taken out; in CSV a CR alone ends it, too, so that it may lie behind `end`.
    pub first_end: Option<usize>,
    is_blank: bool,
    /// The longest record so far, the unfinished one included, in bytes.
    pub longest: usize,
}

impl Scanner {
    /// A scanner at the start of a record, `offset` bytes into a file whose fields are told apart by `delimiter`.
    pub fn new(delimiter: Option<u8>, offset: u64) -> Self {
        Self {
            delimiter,
            place: if offset == 0 && delimiter.is_some() { Place::Mark(0) } else { Place::FieldStart },
            scanned: 0,
            record_start: 0,
            end: 0,
            first_end: None,
            is_blank: true,
            longest: 0,
        }
    }

    /// Looks at what has been added to `buffer`.
    pub fn scan(&mut self, buffer: &[u8]) {
        // Up to the end of the first record each byte counts.
        let has_header = self.first_end.is_some_and(|end| end == 0 || end < self.scanned);
        match self.delimiter {
            None if has_header => self.scan_lines(buffer),
            Some(delimiter) if has_header => self.scan_records(buffer, delimiter),
            _ => self.scan_each(buffer),
        }
        self.scanned = buffer.len();
        self.longest = self.longest.max(self.scanned - self.record_start);
    }

    fn scan_lines(&mut self, buffer: &[u8]) {
        for index in memchr::memchr_iter(b'\n', &buffer[self.scanned..]) {
            self.record_ends(self.scanned + index + 1);
        }
    }

    /// Goes from one quote or line end to the next: a quote opens a field where one begins, and is a letter elsewhere.
    fn scan_records(&mut self, buffer: &[u8], delimiter: u8) {
        let ends_field = |byte: u8| matches!(byte, b'\n' | b'\r') || byte == delimiter;
        let mut at = self.scanned;
        while let [first, ..] = &buffer[at..] {
            let found = match self.place {
                Place::QuoteInQuoted if *first == b'"' => {
                    self.place = Place::Quoted;
                    at += 1;
                    continue;
                }
                Place::Quoted => memchr::memchr(b'"', &buffer[at..]),
                _ => memchr::memchr2(b'"', b'\n', &buffer[at..]),
            };
            let Some(found) = found else {
                if self.place != Place::Quoted {
                    let is_end = buffer.last().is_some_and(|last| ends_field(*last));
                    self.place = if is_end { Place::FieldStart } else { Place::Field };
                }
                return;
            };
            let index = at + found;
            self.place = match (self.place, buffer[index]) {
                (Place::Quoted, _) => Place::QuoteInQuoted,
                (_, b'\n') => {
                    self.record_ends(index + 1);
                    Place::FieldStart
                }
                (place, _) if found == 0 && place == Place::FieldStart => Place::Quoted,
                (_, _) if found > 0 && ends_field(buffer[index - 1]) => Place::Quoted,
                _ => Place::Field,
            };
            at = index + 1;
        }
    }

    fn record_ends(&mut self, end: usize) {
        self.longest = self.longest.max(end - self.record_start);
        self.end = end;
        self.record_start = end;
    }

    fn scan_each(&mut self, buffer: &[u8]) {
        for (index, byte) in buffer.iter().enumerate().skip(self.scanned) {
            let is_line_end = *byte == b'\n';
            if let Place::Mark(known) = self.place {
                if MARK[known] == *byte {
                    self.place = if known + 1 == MARK.len() { Place::FieldStart } else { Place::Mark(known + 1) };
                    continue;
                }
                self.place = if known == 0 { Place::FieldStart } else { Place::Field };
                self.is_blank = known == 0;
            }
            self.is_blank &= is_line_end || *byte == b'\r';
            if let Some(delimiter) = self.delimiter {
                self.place = match (self.place, *byte) {
                    (Place::FieldStart, b'"') => Place::Quoted,
                    (Place::Quoted, b'"') => Place::QuoteInQuoted,
                    (Place::Quoted, _) | (Place::QuoteInQuoted, b'"') => Place::Quoted,
                    (_, b'\n' | b'\r') => Place::FieldStart,
                    (_, byte) if byte == delimiter => Place::FieldStart,
                    _ => Place::Field,
                };
            }
            // What a CR ends is the header already: with the rows behind it up to an LF, these would be read again.
            let is_first = match self.first_end {
                None => !self.is_blank && matches!(*byte, b'\n' | b'\r') && (is_line_end || self.delimiter.is_some()),
                Some(end) => is_line_end && end > 0 && end == index && buffer[index - 1] == b'\r',
            };
            if is_first && self.place == Place::FieldStart {
                self.first_end = Some(index + 1);
            }
            if is_line_end && self.place == Place::FieldStart {
                self.record_ends(index + 1);
            }
        }
    }

    /// The bytes up to the last record's end have been taken out of the buffer.
    pub fn taken(&mut self) {
        self.scanned -= self.end;
        self.first_end = self.first_end.map(|first| first.saturating_sub(self.end));
        self.record_start = 0;
        self.end = 0;
        self.longest = self.scanned;
    }
}

/// What is kept of the bytes before an offset: enough to tell whether a file still begins as it did.
///
/// The digest is the first 128 bits of the SHA-256 of the first 64 KiB and the last 64 KiB before the offset: of all
/// the bytes where these are no more than 128 KiB.
#[derive(Clone, Debug, Default)]
pub struct Prefix {
    head: Vec<u8>,
    tail: Vec<u8>,
    length: u64,
}

impl Prefix {
    /// Bytes that follow.
    pub fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend_from_slice(rest);
    }

    /// Leaves out what stands between the start and the last bytes before `offset`, which come next.
    pub fn skip_to_tail_of(&mut self, offset: u64) {
        self.length = offset - TAIL_BYTES as u64;
        self.tail.clear();
    }

    /// Whether the bytes before `offset` have a middle that the digest leaves out.
    pub fn has_middle(offset: u64) -> bool {
        offset > (HEAD_BYTES + TAIL_BYTES) as u64
    }

    /// The first bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// How many bytes were pushed or skipped.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest, as it is stored.
    pub fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        context.update(&self.head);
        context.update(&self.tail);
        shown(context)
    }
}

/// The digest of a whole file, as it is stored.
pub fn digest(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    shown(context)
}

/// The digest of what `context` has seen, as it is stored.
pub(super) fn shown(context: Context) -> String {
    context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(bytes: &[u8], delimiter: Option<u8>, step: usize) -> (usize, Option<usize>, usize) {
        let mut scanner = Scanner::new(delimiter, 0);
        for end in (0..bytes.len()).step_by(step.max(1)).chain([bytes.len()]) {
            scanner.scan(&bytes[..end]);
        }
        (scanner.end, scanner.first_end, scanner.longest)
    }

    #[test]
    fn records_end_outside_of_quotes() {
        assert_eq!(ends(b"a,b\n1,\"x\ny\"\n2,\"u\nv", Some(b','), 1), (12, Some(4), 8));
        assert_eq!(ends(b"a\"b\n\"c\"\"\n\"\n", Some(b','), 3), (11, Some(4), 7));
        assert_eq!(ends(b"\r\n\na\n", Some(b','), 1), (5, Some(5), 2));
        assert_eq!(ends(b"{\"a\":\"\n{}", None, 2), (7, Some(7), 7));
        assert_eq!(ends(b"no end", None, 2), (0, None, 6));
        // A mark, whole, cut, and none at the start.
        assert_eq!(ends(b"\xef\xbb\xbf\"a\nb\"\n1\n", Some(b','), 2), (11, Some(9), 9));
        assert_eq!(ends(b"\xef\xbb\"a\nb\"\n1\n", Some(b','), 1), (10, Some(5), 5));
        assert_eq!(ends(b"\xef\xbb\xbf\n\xef\xbb\xbf\"a\nb\"\n", Some(b','), 1), (13, Some(10), 6));
        // A CR ends the header.
        assert_eq!(ends(b"a,b\r1,2\n3,4\n", Some(b','), 1), (12, Some(4), 8));
        assert_eq!(ends(b"\r\na\r\n1\r2\n", Some(b','), 1), (9, Some(5), 4));
        assert_eq!(ends(b"\na\r", Some(b','), 1), (1, Some(3), 2));
        assert_eq!(ends(b"{\r}\n", None, 1), (4, Some(4), 4));
    }

    proptest! {
        #[test]
        fn parts_hold_the_rows_of_the_whole(
            rows in prop::collection::vec(prop::collection::vec("[a-b\",\n\r ]{0,5}", 2), 1..20),
            header_end in prop::sample::select(vec!["\r", "\n", "\r\n", "\r\r\n"]),
            has_mark: bool,
            step in 1usize..9,
        ) {
            let mut body = if has_mark { MARK.to_vec() } else { Vec::new() };
            for (index, row) in rows.iter().enumerate() {
                let cells: Vec<_> = row.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
                let end = if index == 0 { header_end } else { "\n" };
                body.extend_from_slice(format!("{}{end}", cells.join(",")).as_bytes());
            }
            body.push(b'\n');
            let mut scanner = Scanner::new(Some(b','), 0);
            let (mut buffer, mut parts, mut header) = (Vec::new(), Vec::new(), None::<Vec<u8>>);
            for piece in body.chunks(step) {
                buffer.extend_from_slice(piece);
                scanner.scan(&buffer);
                if scanner.end > 0 {
                    let first_end = scanner.first_end.filter(|first| *first <= scanner.end);
                    let part = buffer.drain(..scanner.end).collect::<Vec<u8>>();
                    if let (None, Some(end)) = (&header, first_end) {
                        header = Some(part[..end].to_vec());
                        parts.push(part);
                    } else {
                        // The header is the first record, whole and alone.
                        parts.push([header.clone().unwrap_or_default(), part].concat());
                    }
                    scanner.taken();
                }
            }
            prop_assert!(buffer.is_empty());
            let mut seen = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(part.as_slice());
                for record in reader.records().skip(usize::from(index > 0)) {
                    seen.push(record.unwrap().iter().map(str::to_owned).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(seen, rows);
        }

        /// The quick way behind the header finds what looking at each byte does.
        #[test]
        fn records_end_where_they_end(
            text in "([ab,\r]{0,6}\n){0,6}([ab,\"\r\n]{0,8}(,\"([ab,\n]|\"\"){0,9}\"\r?\n){0,3}){0,4}",
            step in 1usize..30,
            is_csv: bool,
        ) {
            let delimiter = is_csv.then_some(b',');
            let (mut quick, mut slow) = (Scanner::new(delimiter, 0), Scanner::new(delimiter, 0));
            let mut buffer = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                buffer.extend_from_slice(piece);
                quick.scan(&buffer);
                slow.scan_each(&buffer);
                slow.scanned = buffer.len();
                slow.longest = slow.longest.max(slow.scanned - slow.record_start);
                let state = |scanner: &Scanner| (scanner.end, scanner.first_end, scanner.longest, scanner.place);
                prop_assert_eq!(state(&quick), state(&slow));
                if quick.end > 0 {
                    buffer.drain(..quick.end);
                    quick.taken();
                    slow.taken();
                }
            }
        }

        #[test]
        fn the_digest_depends_on_the_bytes_alone(length in 0usize..300_000, step in 1usize..100_000) {
            let bytes: Vec<u8> = (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let mut whole = Prefix::default();
            whole.push(&bytes);
            let mut pieces = Prefix::default();
            bytes.chunks(step).for_each(|piece| pieces.push(piece));
            prop_assert_eq!(whole.digest(), pieces.digest());
            if !Prefix::has_middle(length as u64) {
                prop_assert_eq!(whole.digest(), digest(&bytes));
                return Ok(());
            }
            let mut short = Prefix::default();
            short.push(&bytes[..HEAD_BYTES]);
            short.skip_to_tail_of(length as u64);
            short.push(&bytes[length - TAIL_BYTES..]);
            prop_assert_eq!(whole.digest(), short.digest());
            prop_assert_eq!(whole.length(), short.length());
        }
    }
}
