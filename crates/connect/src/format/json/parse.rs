//! Text to [`Node`]s, strictly by RFC 8259.
//!
//! Promise: no input panics or recurses deeper than [`DEPTH_MAX`]; a number keeps its text; strings without escapes
//! are borrowed.

use std::borrow::Cow;
use std::fmt;

use super::node::{Member, Node};

/// The deepest nesting read.
pub const DEPTH_MAX: usize = 64;

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Where, in bytes from the start.
    pub offset: usize,
    /// What is wrong there.
    pub message: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at byte {}", self.message, self.offset)
    }
}

impl std::error::Error for ParseError {}

/// Reads a text that is one JSON value.
///
/// # Errors
/// The first place where it is not.
pub fn parse(text: &str) -> Result<Node<'_>, ParseError> {
    let mut parser = Parser::new(text);
    let node = parser.value()?;
    parser.end()?;
    Ok(node)
}

/// A reader that walks a text value by value, so that a long array need not be in memory as a whole.
pub struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// A reader at the start of `text`; a byte order mark is passed over.
    pub fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { text, bytes: text.as_bytes(), at: 0, depth: 0 }
    }

    /// Where the reader stands, in bytes.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Checks that nothing but white space is left.
    pub fn end(&mut self) -> Result<(), ParseError> {
        self.white_space();
        if self.at < self.bytes.len() { self.fail("more text after the value") } else { Ok(()) }
    }

    /// The next byte that is not white space, not consumed.
    pub fn peek(&mut self) -> Option<u8> {
        self.white_space();
        self.bytes.get(self.at).copied()
    }

    /// Steps over `byte` if it comes next.
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Steps over `byte`, which must come next.
    pub fn expect(&mut self, byte: u8, message: &'static str) -> Result<(), ParseError> {
        if self.eat(byte) { Ok(()) } else { self.fail(message) }
    }

    /// Reads one value.
    pub fn value(&mut self) -> Result<Node<'a>, ParseError> {
        match self.peek() {
            Some(b'"') => Ok(Node::Text(self.string()?)),
            Some(b'{') => self.object(),
            Some(b'[') => self.list(),
            Some(b'-' | b'0'..=b'9') => Ok(Node::Number(Cow::Borrowed(self.number()?))),
            Some(b't') => self.word("true", Node::Bool(true)),
            Some(b'f') => self.word("false", Node::Bool(false)),
            Some(b'n') => self.word("null", Node::Null),
            Some(_) => self.fail("a value is expected"),
            None => self.fail("the text ends where a value is expected"),
        }
    }

    /// Steps over one value without keeping it.
    pub fn skip(&mut self) -> Result<(), ParseError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => {
                self.enter()?;
                if !self.eat(b'}') {
                    loop {
                        self.name()?;
                        self.skip()?;
                        if !self.comma_or(b'}')? {
                            break;
                        }
                    }
                }
                self.depth -= 1;
                Ok(())
            }
            Some(b'[') => {
                self.enter()?;
                if !self.eat(b']') {
                    loop {
                        self.skip()?;
                        if !self.comma_or(b']')? {
                            break;
                        }
                    }
                }
                self.depth -= 1;
                Ok(())
            }
            _ => self.value().map(drop),
        }
    }

    /// Reads a member's name and the colon after it.
    pub fn name(&mut self) -> Result<Cow<'a, str>, ParseError> {
        if self.peek() != Some(b'"') {
            return self.fail("a member's name is expected");
        }
        let name = self.string()?;
        self.expect(b':', "a colon is expected after a member's name")?;
        Ok(name)
    }

    /// Steps over a comma (true) or the closing byte (false).
    pub fn comma_or(&mut self, close: u8) -> Result<bool, ParseError> {
        if self.eat(b',') {
            Ok(true)
        } else if self.eat(close) {
            Ok(false)
        } else {
            self.fail("a comma or the end is expected")
        }
    }

    fn fail<T>(&self, message: &'static str) -> Result<T, ParseError> {
        Err(ParseError { offset: self.at, message })
    }

    fn white_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn enter(&mut self) -> Result<(), ParseError> {
        if self.depth >= DEPTH_MAX {
            return self.fail("nested deeper than 64 levels");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &'static str, node: Node<'a>) -> Result<Node<'a>, ParseError> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(node)
        } else {
            self.fail("a value is expected")
        }
    }

    fn object(&mut self) -> Result<Node<'a>, ParseError> {
        self.enter()?;
        let mut members: Vec<Member<'a>> = Vec::new();
        if !self.eat(b'}') {
            members.reserve(8);
            loop {
                let name = self.name()?;
                members.push((name, self.value()?));
                if !self.comma_or(b'}')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(Node::Object(members))
    }

    fn list(&mut self) -> Result<Node<'a>, ParseError> {
        self.enter()?;
        let mut items = Vec::new();
        if !self.eat(b']') {
            loop {
                items.push(self.value()?);
                if !self.comma_or(b']')? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(Node::List(items))
    }

    fn number(&mut self) -> Result<&'a str, ParseError> {
        let start = self.at;
        self.at += usize::from(self.bytes[self.at] == b'-');
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("a digit is expected"),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        self.digits();
        if self.at == start { self.fail("a digit is expected") } else { Ok(()) }
    }

    /// Reads a string; the reader stands on its opening quote.
    fn string(&mut self) -> Result<Cow<'a, str>, ParseError> {
        self.at += 1;
        let start = self.at;
        self.plain();
        if self.bytes.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut text = self.text[start..self.at].to_owned();
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return self.fail("a control character in a string"),
                None => return self.fail("the text ends inside a string"),
            }
            let start = self.at;
            self.plain();
            text.push_str(&self.text[start..self.at]);
        }
    }

    /// Steps over bytes that stand for themselves in a string. It stops at ASCII only, so at a character's border.
    fn plain(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            if *byte < 0x20 || *byte == b'"' || *byte == b'\\' {
                return;
            }
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let start = self.at;
        let letter = self.bytes.get(self.at + 1).copied();
        self.at += 2;
        let character = match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hexadecimal(start)?;
                let code = if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let second = self.hexadecimal(start)?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(ParseError { offset: start, message: "half a surrogate pair" });
                    }
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                return char::from_u32(code).ok_or(ParseError { offset: start, message: "half a surrogate pair" });
            }
            _ => return Err(ParseError { offset: start, message: "an unknown escape in a string" }),
        };
        Ok(character)
    }

    fn hexadecimal(&mut self, start: usize) -> Result<u32, ParseError> {
        let digits = self.bytes.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else {
            return Err(ParseError { offset: start, message: "four hexadecimal digits are expected" });
        };
        self.at += 4;
        Ok(digits.iter().fold(0, |code, digit| code * 16 + (*digit as char).to_digit(16).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strict() {
        for bad in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            "+1",
            "1e",
            "nul",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"a\nb\"",
            "\"\\u12",
            "{a:1}",
            "[1 2]",
            "1 2",
            "NaN",
            "'a'",
            "\"\\u00zz\"",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let node = parse(" {\"a\\n\":[1,-0.5e+3,\"\\ud83d\\ude00é\",null,true,{}]} ").unwrap();
        assert_eq!(node.to_compact(), "{\"a\\n\":[1,-0.5e+3,\"😀é\",null,true,{}]}");
    }

    #[test]
    fn depth_is_bounded() {
        let fits = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        assert!(parse(&fits).is_ok());
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(Parser::new(&"{\"a\":".repeat(100_000)).skip().is_err());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let node = parse(&text).unwrap();
            prop_assert_eq!(node.to_compact(), value.to_string());
            let mut parser = Parser::new(&text);
            parser.skip().unwrap();
            prop_assert!(parser.end().is_ok());
        }

        #[test]
        fn accepts_what_serde_json_accepts(text in "[\\[\\]{}\",:0-9eE+.\\-truefalsn \\\\ux]{0,24}") {
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // serde_json refuses numbers beyond the range of a double; we keep their text
            prop_assert!(parse(&text).is_ok() == theirs || (!theirs && text.contains(['e', 'E'])));
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse(&text);
            let _ = Parser::new(&text).skip();
        }
    }
}
