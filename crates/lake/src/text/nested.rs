//! The text of lists, structs and maps, as a tree.

use portolan_model::Result;

use crate::error::corrupt;

/// How deep nested text may be.
const DEPTH_MAX: usize = 64;

/// A value as the catalog holds it, before its type is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Node>),
    Entries(Vec<(Node, Node)>),
}

/// Reads the text of a nested value.
pub(crate) fn parse(text: &str) -> Result<Node> {
    let mut parser = Parser { text, position: 0 };
    let node = parser.node(0, &[])?;
    parser.skip_space();
    if parser.position < text.len() {
        return Err(parser.wrong("the end"));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.position += 1;
        }
    }

    fn wrong(&self, expected: &str) -> portolan_model::Error {
        corrupt("read inlined rows", format!("nested text lacks {expected} at byte {}", self.position))
    }

    fn node(&mut self, depth: usize, stops: &[u8]) -> Result<Node> {
        if depth > DEPTH_MAX {
            return Err(corrupt("read inlined rows", format!("nested text is deeper than {DEPTH_MAX} levels")));
        }
        self.skip_space();
        match self.peek() {
            Some(b'[') => {
                let mut items = Vec::new();
                self.sequence(b']', |parser| {
                    items.push(parser.node(depth + 1, b",]")?);
                    Ok(())
                })?;
                Ok(Node::List(items))
            }
            Some(b'{') => {
                let mut entries = Vec::new();
                self.sequence(b'}', |parser| {
                    let key = parser.node(depth + 1, b":=")?;
                    parser.skip_space();
                    if !matches!(parser.peek(), Some(b':' | b'=')) {
                        return Err(parser.wrong("`:` or `=`"));
                    }
                    parser.position += 1;
                    entries.push((key, parser.node(depth + 1, b",}")?));
                    Ok(())
                })?;
                Ok(Node::Entries(entries))
            }
            Some(b'\'' | b'"') => self.quoted(),
            _ => Ok(self.bare(stops)),
        }
    }

    fn sequence(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.position += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            self.position += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(byte) if byte == close => {
                    self.position += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("`,` or a closing bracket")),
            }
        }
    }

    fn quoted(&mut self) -> Result<Node> {
        let mut text = String::new();
        // Adjacent quoted pieces are one string to DuckDB.
        while let Some(quote @ (b'\'' | b'"')) = self.peek() {
            self.position += 1;
            let mut characters = self.text[self.position..].char_indices();
            loop {
                match characters.next() {
                    Some((_, '\\')) => match characters.next() {
                        Some((_, escaped)) => text.push(escaped),
                        None => return Err(self.wrong("a closing quote")),
                    },
                    Some((index, character)) if character == char::from(quote) => {
                        self.position += index + 1;
                        break;
                    }
                    Some((_, character)) => text.push(character),
                    None => return Err(self.wrong("a closing quote")),
                }
            }
        }
        Ok(Node::Text(text))
    }

    fn bare(&mut self, stops: &[u8]) -> Node {
        let rest = &self.text.as_bytes()[self.position..];
        let length = rest.iter().position(|byte| stops.contains(byte)).unwrap_or(rest.len());
        let text = self.text[self.position..self.position + length].trim();
        self.position += length;
        if text.eq_ignore_ascii_case("null") { Node::Null } else { Node::Text(text.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_of_duckdb_are_read() {
        let text = r#"[a, 'it\'s', 'a,b', NULL, {'k': 1, b c=NULL}]"#;
        let word = |text: &str| Node::Text(text.to_owned());
        let entries = vec![(word("k"), word("1")), (word("b c"), Node::Null)];
        let expected = vec![word("a"), word("it's"), word("a,b"), Node::Null, Node::Entries(entries)];
        assert_eq!(parse(text).unwrap(), Node::List(expected));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}'\",:=\\\\ a-cé]{0,40}") {
            let _ = parse(&text);
        }
    }
}
