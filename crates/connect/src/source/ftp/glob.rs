//! Which files are read: a path whose parts may hold `*`, `?` and `[…]`, and one `**` for folders of any depth.
//!
//! Promise: matching takes time bounded by name times pattern; nothing but names found in listings is put behind the
//! part without wildcards.

/// A path with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The folder above the first wildcard, or of the file itself: `/`, or `/a/b`.
    pub(super) base: String,
    /// What follows it, folder by folder; the last is the file's name.
    pub(super) segments: Vec<Segment>,
}

/// One part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// A name.
    Name(Vec<Token>),
    /// Folders of any depth.
    Deep,
}

/// One piece of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Character(char),
    Any,
    One,
    Set { is_negated: bool, ranges: Vec<(char, char)> },
}

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 4_096;

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or_else(|| format!("path {text:?} does not begin with `/`"))?;
        if text.len() > PATH_BYTES_MAX {
            return Err(format!("path is longer than {PATH_BYTES_MAX} bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("path {text:?} holds a control character"));
        }
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.last().is_some_and(|part| part.is_empty()) {
            return Err(format!("path {text:?} names a folder: write which files of it, such as \"{text}*.csv\""));
        }
        if let Some(part) = parts.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(format!("path {text:?} holds the part {part:?}"));
        }
        if parts.iter().filter(|part| **part == "**").count() > 1 || parts.last() == Some(&"**") {
            return Err(format!("path {text:?}: `**` may stand once, for folders, not for the file"));
        }
        let is_wild = |part: &&str| part.contains(['*', '?', '[']);
        let fixed = parts[..parts.len() - 1].iter().take_while(|part| !is_wild(part)).count();
        let base = format!("/{}", parts[..fixed].join("/"));
        let segments = parts[fixed..].iter().map(|part| segment(part)).collect::<Result<_, _>>()?;
        Ok(Self { base, segments })
    }

    /// Whether one file is named, without a wildcard.
    pub(super) fn is_one_file(&self) -> bool {
        self.segments.len() == 1 && matches!(&self.segments[0], Segment::Name(tokens) if is_literal(tokens))
    }

    /// Whether a whole path is one of those meant.
    pub(super) fn matches(&self, path: &str) -> bool {
        let base = if self.base == "/" { "" } else { &self.base };
        let Some(rest) = path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) else { return false };
        let parts: Vec<&str> = rest.split('/').collect();
        match self.segments.iter().position(|segment| *segment == Segment::Deep) {
            None => parts.len() == self.segments.len() && all_match(&self.segments, &parts),
            Some(at) => {
                let behind = self.segments.len() - at - 1;
                parts.len() >= at + behind
                    && all_match(&self.segments[..at], &parts[..at])
                    && all_match(&self.segments[at + 1..], &parts[parts.len() - behind..])
                    && parts[at..parts.len() - behind].iter().all(|part| !part.starts_with('.'))
            }
        }
    }
}

fn all_match(segments: &[Segment], parts: &[&str]) -> bool {
    segments.iter().zip(parts).all(|(segment, part)| segment.matches(part))
}

fn is_literal(tokens: &[Token]) -> bool {
    tokens.iter().all(|token| matches!(token, Token::Character(_)))
}

impl Segment {
    /// Whether a name is one of those meant. A leading dot must be written, as in a shell.
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Deep => !name.starts_with('.'),
            Self::Name(tokens) => {
                let is_hidden = name.starts_with('.') && tokens.first() != Some(&Token::Character('.'));
                !is_hidden && matches(tokens, &name.chars().collect::<Vec<_>>())
            }
        }
    }
}

fn segment(part: &str) -> Result<Segment, String> {
    if part == "**" {
        return Ok(Segment::Deep);
    }
    let mut tokens = Vec::new();
    let mut characters = part.chars().peekable();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            '*' => {
                while characters.next_if_eq(&'*').is_some() {}
                Token::Any
            }
            '?' => Token::One,
            '[' => {
                let is_negated = characters.next_if(|c| matches!(c, '!' | '^')).is_some();
                let mut ranges = Vec::new();
                loop {
                    let from = characters.next().ok_or_else(|| format!("`[` without `]` in {part:?}"))?;
                    // A `]` that comes first stands for itself.
                    if from == ']' && !ranges.is_empty() {
                        break;
                    }
                    let mut to = from;
                    if characters.peek() == Some(&'-') {
                        characters.next();
                        match characters.next() {
                            Some(']') => {
                                ranges.extend([(from, from), ('-', '-')]);
                                break;
                            }
                            Some(end) => to = end,
                            None => return Err(format!("`[` without `]` in {part:?}")),
                        }
                    }
                    if from > to {
                        return Err(format!("the range {from}-{to} in {part:?} is empty"));
                    }
                    ranges.push((from, to));
                }
                Token::Set { is_negated, ranges }
            }
            other => Token::Character(other),
        });
    }
    Ok(Segment::Name(tokens))
}

/// Matches with one place to come back to: the latest `*`.
fn matches(tokens: &[Token], name: &[char]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while at < name.len() {
        let here = name[at];
        let fits = match tokens.get(token) {
            Some(Token::Any) => {
                back = Some((token, at));
                token += 1;
                continue;
            }
            Some(Token::One) => true,
            Some(Token::Character(character)) => *character == here,
            Some(Token::Set { is_negated, ranges }) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&here)) != *is_negated
            }
            None => false,
        };
        if fits {
            (token, at) = (token + 1, at + 1);
        } else if let Some((any, from)) = back {
            (token, at) = (any + 1, from + 1);
            back = Some((any, from + 1));
        } else {
            return false;
        }
    }
    tokens[token..].iter().all(|token| *token == Token::Any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_matched_as_in_a_shell() {
        for (pattern, yes, no) in [
            (
                "/out/*.csv",
                vec!["/out/a.csv", "/out/a b.csv"],
                vec!["/out/.a.csv", "/out/x/a.csv", "/a.csv", "/out/a.csv2"],
            ),
            (
                "/out/a?[0-9x-].[!t]*",
                vec!["/out/ab7.csv", "/out/ab-.x"],
                vec!["/out/ab7.txt", "/out/ab8", "/out/aby.csv"],
            ),
            ("/a/*/b/*", vec!["/a/x/b/c"], vec!["/a/b/c", "/a/x/y/b/c"]),
            ("/a/**/*.csv", vec!["/a/x.csv", "/a/b/c/x.csv"], vec!["/b/x.csv", "/a/.b/x.csv"]),
            ("/*", vec!["/x"], vec!["/x/y", "x"]),
            ("/a*b*c", vec!["/abc", "/aXbYbZc"], vec!["/abcd", "/acb"]),
            ("/[]a]", vec!["/]", "/a"], vec!["/b"]),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            yes.iter().for_each(|path| assert!(parsed.matches(path), "{pattern} {path}"));
            no.iter().for_each(|path| assert!(!parsed.matches(path), "{pattern} {path}"));
        }
        assert_eq!(Pattern::parse("/a/b/*.csv").unwrap().base, "/a/b");
        assert!(Pattern::parse("/a/b/c.csv").unwrap().is_one_file());
        assert!(!Pattern::parse("/a/*/c.csv").unwrap().is_one_file());
        for bad in ["a", "/", "/a/", "/a//b", "/../a", "/a/./b", "/a\r\nDELE b", "/**/a/**/b", "/a/**", "/[a", "/[z-a]"]
        {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(pattern in "/[a-c*?\\[\\]!/-]{0,12}", name in "/[a-c/]{0,12}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let _ = pattern.matches(&name);
            }
        }
    }
}
