//! RESP2 and RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), parsed as it arrives.
//!
//! A reply becomes a flat list of [`Node`]s that point into the receive buffer; what has been parsed is not looked at
//! again when more bytes come. Promise: no bytes panic; memory grows with what has arrived, never with what a header
//! claims; nesting, values, replies and the number of their parts are bounded.

use std::ops::Range;

use super::reply::{Reply, double, integer};

/// Aggregates inside each other. The deepest reply asked for (`XREADGROUP`) has five.
const DEPTH_MAX: usize = 16;
/// Values of one reply. One node takes 16 bytes.
const NODES_MAX: usize = 4 << 20;
/// The longest line: a header, a status or an error.
const LINE_BYTES_MAX: usize = 64 << 10;
const BUFFER_BYTES: usize = 256 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// What a server sent that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not RESP.
    Malformed(&'static str),
    /// It is larger than allowed.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is, or claims to be.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// One value of a reply, in reading order; an aggregate is followed by its elements. Ranges are bytes of the reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// A bulk, simple or verbatim string, or a big number.
    Text(u32, u32),
    /// An error.
    Error(u32, u32),
    /// An integer.
    Integer(i64),
    /// A double (RESP3).
    Double(f64),
    /// A truth value (RESP3).
    Boolean(bool),
    /// Nothing.
    Null,
    /// An array or set of so many elements, or a map of half as many pairs.
    Array(u32),
}

/// Turns bytes into replies.
#[derive(Debug)]
pub struct Parser {
    buffer: Vec<u8>,
    /// The reply begins here.
    start: usize,
    /// What has been received ends here.
    end: usize,
    /// Parsed so far, from `start`.
    parsed: usize,
    /// Looked at for the end of a line, from `start`.
    scanned: usize,
    /// The length of a string whose header has been parsed and whose bytes have not all come.
    string: Option<Pending>,
    /// Whether strings that are too large are passed over, as if they were nothing, instead of being refused.
    passes_large: bool,
    /// Bytes of such a string that have not come yet, its end included.
    passing: usize,
    /// Elements still to come, of each aggregate that is open.
    open: Vec<u32>,
    nodes: Vec<Node>,
    /// The value under way is out of band: a push message or an attribute.
    is_aside: bool,
    value_bytes_max: usize,
    reply_bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pending {
    length: usize,
    kind: u8,
}

impl Parser {
    /// A parser that accepts strings up to `value_bytes_max` and replies up to `reply_bytes_max` bytes.
    pub fn new(value_bytes_max: usize, reply_bytes_max: usize) -> Self {
        let mut parser = Self {
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            parsed: 0,
            scanned: 0,
            string: None,
            passes_large: false,
            passing: 0,
            open: Vec::new(),
            nodes: Vec::new(),
            is_aside: false,
            value_bytes_max: 0,
            reply_bytes_max: 0,
        };
        parser.set_limits(value_bytes_max, reply_bytes_max);
        parser
    }

    /// Accepts strings and replies up to so many bytes from now on.
    pub fn set_limits(&mut self, value_bytes_max: usize, reply_bytes_max: usize) {
        // Places in a reply are counted with 32 bits.
        self.reply_bytes_max = reply_bytes_max.min(u32::MAX as usize / 2);
        self.value_bytes_max = value_bytes_max.min(self.reply_bytes_max);
    }

    /// Whether, from now on, strings that are too large become nothing instead of a fault: where only what stands beside
    /// them is wanted. Their bytes are not kept.
    pub fn pass_large(&mut self, passes_large: bool) {
        self.passes_large = passes_large;
    }

    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > BUFFER_BYTES_KEPT {
                self.buffer = vec![0; BUFFER_BYTES];
            }
        } else if self.end == self.buffer.len() {
            if self.start >= self.buffer.len() / 2 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                // Twice as much as has really come.
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes have been put into [`Self::space`]; returns them.
    pub fn filled(&mut self, count: usize) -> &[u8] {
        let before = self.end;
        self.end = (self.end + count).min(self.buffer.len());
        &self.buffer[before..self.end]
    }

    /// What has come and belongs to no reply yet: what a peer of another protocol said.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Parses what has come. True once a whole reply is there, which [`Self::consume`] then takes away.
    ///
    /// # Errors
    /// What came is not RESP or too large; nothing can be parsed after that.
    pub fn advance(&mut self) -> Result<bool, Fault> {
        loop {
            let Some(is_open) = self.value()? else {
                let size = (self.end - self.start) as u64;
                if size > self.reply_bytes_max as u64 {
                    return Err(Fault::TooLarge { what: "a reply", size, limit: self.reply_bytes_max as u64 });
                }
                return Ok(false);
            };
            if is_open || self.close() {
                continue;
            }
            if self.parsed > self.reply_bytes_max {
                let (size, limit) = (self.parsed as u64, self.reply_bytes_max as u64);
                return Err(Fault::TooLarge { what: "a reply", size, limit });
            }
            if !self.is_aside {
                return Ok(true);
            }
            self.consume();
        }
    }

    /// A value has ended, and with it the aggregates it is the last element of. Whether more belongs to the reply.
    fn close(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return true;
            }
            self.open.pop();
        }
        false
    }

    /// The whole reply.
    pub fn reply(&self) -> Reply<'_> {
        let bytes = &self.buffer[self.start..self.start + self.parsed];
        Reply { bytes, nodes: &self.nodes, next: 0 }
    }

    /// Bytes of the reply.
    pub fn reply_bytes(&self) -> usize {
        self.parsed
    }

    /// Goes on to the next reply.
    pub fn consume(&mut self) {
        self.start += self.parsed;
        (self.parsed, self.scanned) = (0, 0);
        self.nodes.clear();
        if self.nodes.capacity() > NODES_MAX / 16 {
            self.nodes = Vec::new();
        }
        self.open.clear();
        self.is_aside = false;
    }

    /// Parses one value or the head of an aggregate; `None` if more bytes are needed, true if elements follow.
    fn value(&mut self) -> Result<Option<bool>, Fault> {
        if let Some(pending) = self.string {
            return self.string(pending);
        }
        if self.passing > 0 {
            return self.pass();
        }
        let Some((kind, line)) = self.line()? else { return Ok(None) };
        let text = &self.buffer[self.start + line.start..self.start + line.end];
        let range = (line.start as u32, line.end as u32);
        let node = match kind {
            b'+' | b'(' => Node::Text(range.0, range.1),
            b'-' => Node::Error(range.0, range.1),
            b':' => Node::Integer(integer(text)?),
            b'_' if text.is_empty() => Node::Null,
            b'#' if text == b"t" => Node::Boolean(true),
            b'#' if text == b"f" => Node::Boolean(false),
            b',' => Node::Double(double(text).ok_or(Fault::Malformed("a double that is none"))?),
            b'$' | b'=' | b'!' => {
                let length = integer(text)?;
                if length == -1 {
                    Node::Null
                } else {
                    let length = usize::try_from(length).map_err(|_| Fault::Malformed("a negative length"))?;
                    if length > self.value_bytes_max && self.passes_large {
                        self.passing = length.saturating_add(2);
                        return self.pass();
                    }
                    if length > self.value_bytes_max {
                        let (size, limit) = (length as u64, self.value_bytes_max as u64);
                        return Err(Fault::TooLarge { what: "a value", size, limit });
                    }
                    let pending = Pending { length, kind };
                    self.string = Some(pending);
                    return self.string(pending);
                }
            }
            b'*' | b'~' | b'%' | b'>' | b'|' => return self.aggregate(kind, range).map(Some),
            _ => return Err(Fault::Malformed("a type that RESP does not have")),
        };
        self.push(node)?;
        Ok(Some(false))
    }

    fn aggregate(&mut self, kind: u8, line: (u32, u32)) -> Result<bool, Fault> {
        let count = integer(&self.buffer[self.start + line.0 as usize..self.start + line.1 as usize])?;
        if kind == b'>' || kind == b'|' {
            if !self.open.is_empty() {
                return Err(Fault::Malformed("a push message or attribute inside a reply"));
            }
            self.is_aside = true;
        }
        if count == -1 && kind == b'*' {
            self.push(Node::Null)?;
            return Ok(false);
        }
        let count = u64::try_from(count).map_err(|_| Fault::Malformed("a negative count"))?;
        let count = count.saturating_mul(if matches!(kind, b'%' | b'|') { 2 } else { 1 });
        if count > NODES_MAX as u64 {
            return Err(Fault::TooLarge { what: "the elements of a reply", size: count, limit: NODES_MAX as u64 });
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Fault::TooLarge {
                what: "the nesting of a reply",
                size: self.open.len() as u64 + 1,
                limit: DEPTH_MAX as u64,
            });
        }
        self.push(Node::Array(count as u32))?;
        if count > 0 {
            self.open.push(count as u32);
        }
        Ok(count > 0)
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        if self.nodes.len() >= NODES_MAX {
            let size = self.nodes.len() as u64 + 1;
            return Err(Fault::TooLarge { what: "the elements of a reply", size, limit: NODES_MAX as u64 });
        }
        self.nodes.push(node);
        Ok(())
    }

    /// Takes what has come of a string that is passed over out of the buffer.
    fn pass(&mut self) -> Result<Option<bool>, Fault> {
        let from = self.start + self.parsed;
        let count = self.passing.min(self.end - from);
        self.buffer.copy_within(from + count..self.end, from);
        self.end -= count;
        self.passing -= count;
        self.scanned = self.parsed;
        if self.passing > 0 {
            return Ok(None);
        }
        self.push(Node::Null)?;
        Ok(Some(false))
    }

    /// The rest of a string whose header has been parsed.
    fn string(&mut self, Pending { length, kind }: Pending) -> Result<Option<bool>, Fault> {
        let from = self.start + self.parsed;
        let Some(rest) = self.buffer[..self.end].get(from + length..from + length + 2) else { return Ok(None) };
        if rest != b"\r\n" {
            return Err(Fault::Malformed("a string without its end"));
        }
        let (start, end) = (self.parsed as u32, (self.parsed + length) as u32);
        self.string = None;
        self.parsed += length + 2;
        self.scanned = self.parsed;
        let node = match kind {
            b'!' => Node::Error(start, end),
            // A verbatim string begins with its format, three letters and a colon.
            b'=' if length >= 4 => Node::Text(start + 4, end),
            b'=' => return Err(Fault::Malformed("a verbatim string without its format")),
            _ => Node::Text(start, end),
        };
        self.push(node)?;
        Ok(Some(false))
    }

    /// The next line: its first byte, and where the others are in the reply.
    fn line(&mut self) -> Result<Option<(u8, Range<usize>)>, Fault> {
        let unseen = &self.buffer[self.start + self.scanned..self.end];
        let Some(feed) = unseen.iter().position(|byte| *byte == b'\n') else {
            self.scanned += unseen.len();
            if self.scanned - self.parsed > LINE_BYTES_MAX {
                return Err(Fault::Malformed("a line without an end"));
            }
            // Noise is told by its first byte, before an end of line comes.
            return match self.buffer[..self.end].get(self.start + self.parsed) {
                Some(kind) if !b"+-:_#,$=!*~%>|(".contains(kind) => {
                    Err(Fault::Malformed("a type that RESP does not have"))
                }
                _ => Ok(None),
            };
        };
        let end = self.scanned + feed;
        let line = &self.buffer[self.start + self.parsed..self.start + end];
        let Some((&kind, text)) = line.strip_suffix(b"\r").and_then(<[u8]>::split_first) else {
            return Err(Fault::Malformed("a line that RESP does not have"));
        };
        if text.len() > LINE_BYTES_MAX {
            return Err(Fault::Malformed("a line that is too long"));
        }
        let from = self.parsed + 1;
        let range = from..from + text.len();
        self.parsed = end + 1;
        self.scanned = self.parsed;
        Ok(Some((kind, range)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::redis::command::write_command;

    fn feed(parser: &mut Parser, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = parser.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            parser.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// Every reply as nodes, fed in pieces of `piece` bytes.
    fn replies(bytes: &[u8], piece: usize) -> Result<Vec<Vec<String>>, Fault> {
        let mut parser = Parser::new(1 << 20, 4 << 20);
        let mut replies = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            feed(&mut parser, piece);
            while parser.advance()? {
                replies.push(parser.reply().map(|value| format!("{value:?}")).collect());
                parser.consume();
            }
        }
        Ok(replies)
    }

    #[test]
    fn every_type_is_read() {
        let bytes = b"+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n,inf\r\n(12345678901234567890\r\n\
            =7\r\ntxt:abc\r\n!5\r\nERR x\r\n>2\r\n+message\r\n+x\r\n*2\r\n*0\r\n~1\r\n:1\r\n%1\r\n+a\r\n:1\r\n";
        for piece in [1, 2, 7, bytes.len()] {
            let replies = replies(bytes, piece).unwrap();
            let shown: Vec<String> = replies.iter().map(|nodes| nodes.join(" ")).collect();
            assert_eq!(shown.len(), 15, "{shown:?}");
            assert_eq!(shown[3], "Text([97, 13, 10])");
            assert_eq!(shown[11], "Text([97, 98, 99])");
            assert_eq!(shown[13], "Array(2) Array(0) Array(1) Integer(1)");
            assert_eq!(shown[14], "Array(2) Text([97]) Integer(1)");
        }
    }

    #[test]
    fn what_is_too_large_is_passed_over_where_that_is_asked_for() {
        let large = "x".repeat(3 << 20);
        let bytes = format!("*3\r\n+a\r\n${}\r\n{large}\r\n:7\r\n+next\r\n", large.len());
        for piece in [1_000, 65_537, bytes.len()] {
            let mut parser = Parser::new(1 << 20, 1 << 20);
            parser.pass_large(true);
            let mut found = Vec::new();
            for piece in bytes.as_bytes().chunks(piece) {
                feed(&mut parser, piece);
                while parser.advance().unwrap() {
                    found.push(parser.reply().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" "));
                    parser.consume();
                }
            }
            assert_eq!(found, ["Array(3) Text([97]) Null Integer(7)", "Text([110, 101, 120, 116])"]);
        }
    }

    #[test]
    fn claims_do_not_allocate_and_nesting_ends() {
        let mut parser = Parser::new(1 << 30, 1 << 30);
        for claim in ["*4000000\r\n", "$1000000000\r\n"] {
            feed(&mut parser, claim.as_bytes());
        }
        assert_eq!(parser.advance(), Ok(false));
        assert!(parser.buffer.len() <= BUFFER_BYTES && parser.nodes.capacity() < 64);
        let too_large = |bytes: &[u8]| matches!(replies(bytes, bytes.len()), Err(Fault::TooLarge { .. }));
        assert!(too_large(b"*1000000000\r\n"));
        assert!(too_large(b"$9999999999\r\n"));
        assert!(too_large(b"%9223372036854775807\r\n"));
        assert!(too_large("*1\r\n".repeat(1_000_000).as_bytes()));
        for noise in
            ["HTTP/1.1 400\r\n", "\r\n", "$-2\r\n", ":x\r\n", "$1\r\nabc\r\n", "*1\r\n>1\r\n:1\r\n", "\x15\x03\x03"]
        {
            assert!(matches!(replies(noise.as_bytes(), 3), Err(Fault::Malformed(_))), "{noise:?}");
        }
        assert!(replies(&vec![b'+'; LINE_BYTES_MAX + 2], 1000).is_err());
    }

    #[test]
    fn a_reply_that_is_too_long_is_refused_however_small_its_values() {
        let mut parser = Parser::new(1 << 20, 1 << 20);
        feed(&mut parser, b"*100000\r\n");
        feed(&mut parser, "$20\r\n01234567890123456789\r\n".repeat(60_000).as_bytes());
        assert!(matches!(parser.advance(), Err(Fault::TooLarge { what: "a reply", .. })));
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        write_command(&[b"GET", b"a\r\n"], &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in prop::collection::vec(prop::sample::select(b"*$%+-:,_#|>~=!0123\r\nab".to_vec()), 0..60),
            piece in 1_usize..9,
        ) {
            let whole = replies(&bytes, bytes.len());
            let pieces = replies(&bytes, piece);
            prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
                prop_assert_eq!(whole, pieces);
            }
        }
    }
}
