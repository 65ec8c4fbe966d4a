//! Replies of the control connection (RFC 959, section 4.2) and what they carry: features (RFC 2389), passive ports
//! (RFC 959, RFC 2428), times and sizes (RFC 3659).
//!
//! Promise: pure functions of the bytes; no input panics, and a reply is bounded in lines and bytes.

use std::net::Ipv4Addr;

/// The longest line of a reply, in bytes.
const LINE_BYTES_MAX: usize = 8 << 10;
/// The longest reply, in bytes.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// The most lines of a reply.
const REPLY_LINES_MAX: usize = 1_000;
/// The longest text of a reply that is shown, in characters.
const SHOWN_CHARACTERS_MAX: usize = 300;

/// One reply, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of each line, without the code; control characters replaced.
    pub lines: Vec<String>,
}

impl Reply {
    /// 1xx: more replies follow.
    pub fn is_preliminary(&self) -> bool {
        self.code < 200
    }

    /// 2xx: done.
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The text in one line, cut, for people.
    pub fn text(&self) -> String {
        self.lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(SHOWN_CHARACTERS_MAX)
            .collect()
    }

    /// The last line's text, which is where answers stand.
    pub fn last(&self) -> &str {
        self.lines.last().map_or("", |line| line.trim())
    }
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A line does not begin with a code.
    Code,
    /// A line, or the reply as a whole, is too long.
    Length,
}

/// Takes bytes as they come and gives replies.
#[derive(Debug, Default)]
pub struct ReplyParser {
    buffer: Vec<u8>,
    open: Option<Reply>,
    bytes: usize,
}

impl ReplyParser {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing waits: no reply and no part of one.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.open.is_none()
    }

    /// The next reply, once it is whole.
    ///
    /// # Errors
    /// What came is no reply, or one beyond the limits.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
                return if self.buffer.len() > LINE_BYTES_MAX { Err(Malformed::Length) } else { Ok(None) };
            };
            self.bytes += end + 1;
            if end > LINE_BYTES_MAX || self.bytes > REPLY_BYTES_MAX {
                return Err(Malformed::Length);
            }
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.take_line(line)?
                && let Some(reply) = self.open.take()
            {
                self.bytes = 0;
                return Ok(Some(reply));
            }
        }
    }

    /// Takes a line; true if it is the reply's last.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, Malformed> {
        let code = code_of(line);
        let Some(open) = &mut self.open else {
            let (code, is_last) = code.ok_or(Malformed::Code)?;
            self.open = Some(Reply { code, lines: vec![printable(line.get(4..).unwrap_or_default())] });
            return Ok(is_last);
        };
        if open.lines.len() >= REPLY_LINES_MAX {
            return Err(Malformed::Length);
        }
        // Within a reply any text may stand; its end is its own code with a space (RFC 959, section 4.2).
        let (is_own, is_last) = match code {
            Some((code, is_last)) if code == open.code => (true, is_last),
            _ => (false, false),
        };
        open.lines.push(printable(if is_own { line.get(4..).unwrap_or_default() } else { line }));
        Ok(is_last)
    }
}

/// The code at the start of a line, and whether a space (or nothing) follows it.
fn code_of(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(b'1'..=b'6').contains(&digits[0]) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.first() {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}

/// Text as it can be shown.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a server says it can do beyond RFC 959 (the answer to `FEAT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Machine-readable listings.
    pub mlsd: bool,
    /// Times of change.
    pub mdtm: bool,
    /// Sizes.
    pub size: bool,
    /// Names in UTF-8.
    pub utf8: bool,
    /// Transfers from an offset on.
    pub rest_stream: bool,
}

impl Features {
    /// Reads the answer to `FEAT`.
    pub fn of(reply: &Reply) -> Self {
        let mut features = Self::default();
        for line in &reply.lines {
            let mut words = line.split_ascii_whitespace();
            let name = words.next().unwrap_or_default().to_ascii_uppercase();
            match name.as_str() {
                // A server that has the one has the other (RFC 3659, section 7.8).
                "MLST" | "MLSD" => features.mlsd = true,
                "MDTM" => features.mdtm = true,
                "SIZE" => features.size = true,
                "UTF8" => features.utf8 = true,
                "REST" => features.rest_stream |= words.next().is_some_and(|word| word.eq_ignore_ascii_case("STREAM")),
                _ => {}
            }
        }
        features
    }
}

/// The port of a 229 reply (RFC 2428, section 3): `(|||6446|)`, with any delimiter.
pub fn extended_passive_port(text: &str) -> Option<u16> {
    let inside = text.split_once('(')?.1.split_once(')')?.0;
    let delimiter = inside.chars().next()?;
    let mut parts = inside.split(delimiter);
    let (_, _, _) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?.parse().ok().filter(|port| *port != 0)
}

/// Address and port of a 227 reply (RFC 959, section 4.1.2): six numbers, with or without brackets round them.
pub fn passive_address(text: &str) -> Option<(Ipv4Addr, u16)> {
    let is_part = |c: char| c.is_ascii_digit() || c == ',';
    let numbers = text.split(|c| !is_part(c)).find(|part| part.matches(',').count() == 5)?;
    let numbers: Vec<u8> = numbers.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, high, low] = numbers.try_into().ok()?;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some((Ipv4Addr::new(a, b, c, d), port))
}

/// A time of change as RFC 3659 writes it (`YYYYMMDDHHMMSS`, perhaps with a fraction), kept as text: it is only compared.
pub fn modify_time(text: &str) -> Option<String> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (whole.len() == 14 && digits(whole) && digits(fraction) && text.len() <= 32).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Vec<Reply>, Malformed> {
        let mut parser = ReplyParser::default();
        let mut replies = Vec::new();
        // Byte by byte, as a slow network brings it.
        for byte in bytes {
            parser.push(&[*byte]);
            while let Some(reply) = parser.next_reply()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_of_one_line_and_of_many() {
        let replies = parse(
            b"220 ready\r\n211-Features:\r\n MDTM\r\n REST STREAM\r\n220 not the end\r\n211-still\r\n211 End\r\n226\n",
        )
        .unwrap();
        let codes: Vec<_> = replies.iter().map(|reply| (reply.code, reply.lines.len())).collect();
        assert_eq!(codes, [(220, 1), (211, 6), (226, 1)]);
        assert_eq!(replies[1].last(), "End");
        let features = Features::of(&replies[1]);
        assert_eq!(features, Features { mdtm: true, rest_stream: true, ..Features::default() });
    }

    #[test]
    fn what_is_no_reply_is_refused_and_bounded() {
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), Err(Malformed::Code));
        assert_eq!(parse(b"22 x\r\n"), Err(Malformed::Code));
        assert_eq!(parse(b"2200 x\r\n"), Err(Malformed::Code));
        assert_eq!(parse(&vec![b'2'; LINE_BYTES_MAX + 2]), Err(Malformed::Length));
        let endless = [b"211-x\r\n".as_slice(), &b" y\r\n".repeat(REPLY_LINES_MAX + 1)].concat();
        assert_eq!(parse(&endless), Err(Malformed::Length));
        assert!(!parse(b"220 a\x1b[31mb\r\n").unwrap()[0].text().contains('\x1b'));
    }

    #[test]
    fn passive_answers() {
        assert_eq!(extended_passive_port("Entering Extended Passive Mode (|||6446|)"), Some(6446));
        assert_eq!(extended_passive_port("(!!!21!)"), Some(21));
        for bad in ["", "()", "(|||0|)", "(|||70000|)", "|||5|", "(||5|)"] {
            assert_eq!(extended_passive_port(bad), None, "{bad}");
        }
        let expected = Some((Ipv4Addr::new(127, 0, 0, 1), 84 * 256 + 11));
        assert_eq!(passive_address("Entering Passive Mode (127,0,0,1,84,11)."), expected);
        assert_eq!(passive_address("Entering Passive Mode 127,0,0,1,84,11"), expected);
        for bad in ["(127,0,0,1,0,0)", "(1,2,3,4,5)", "(1,2,3,4,5,256)", "(1,2,3,4,5,6,7)", ""] {
            assert_eq!(passive_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_of_change() {
        for good in ["20261123075004", "20261123075004.123", " 20261123075004\r"] {
            assert!(modify_time(good).is_some(), "{good}");
        }
        for bad in ["", "2026", "20261123075004.", "20261123075004.x", "2026112307500x"] {
            assert!(modify_time(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), text in ".{0,60}") {
            let _ = parse(&bytes);
            let _ = (extended_passive_port(&text), passive_address(&text), modify_time(&text));
        }
    }
}
