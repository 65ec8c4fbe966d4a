//! What of a configuration may be shown beside a diagnostic: its structure, and the value that is complained of.
//!
//! Promise: of the values, only the text that a diagnostic marks and that is no secret is shown; every other text in
//! quotes is blotted out, place for place, whatever its key is called and wherever it stands, and so is a bare value of a
//! key that sounds like a secret. A misspelt `pasword` is a secret, too. Of a text that is not TOML no value is shown:
//! the message, line and column have to do.

use std::ops::Range;

use portolan_model::config::Diagnostic;

/// Parts of keys whose values are secrets even without quotes.
const SECRET_WORDS: [&str; 8] = ["pass", "pwd", "secret", "token", "key", "auth", "bearer", "literal"];

/// The text with everything blotted out that `diagnostic` has no need of.
pub(super) fn redacted(text: &str, diagnostic: &Diagnostic) -> String {
    if diagnostic.is_syntax {
        return text.split_inclusive('\n').map(key_alone).collect();
    }
    let marked = diagnostic.span.iter().filter(|_| !diagnostic.is_secret);
    let shown: Vec<&Range<usize>> = marked.chain(diagnostic.related.iter().map(|related| &related.0)).collect();
    let is_shown = |value: &Range<usize>| {
        shown.iter().any(|span| span.start < span.end && value.start <= span.start && span.end <= value.end)
    };
    let mut blots: Vec<Range<usize>> = values(text).into_iter().filter(|value| !is_shown(value)).collect();
    if let (true, Some(span)) = (diagnostic.is_secret, &diagnostic.span) {
        blots.push(super::clamp(text, span));
    }
    let mut bytes = text.as_bytes().to_vec();
    for blot in blots {
        bytes[blot].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b'*');
    }
    // Blots cover whole characters: quotes, or a span on character boundaries.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A line of which no more is shown than its key, with `=` or as the first word.
fn key_alone(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let word = line[indent..].find(char::is_whitespace).map_or(line.len(), |length| indent + length);
    let end = line.find('=').map_or(word, |place| place + 1);
    let blots = line[end..].bytes().map(|byte| if byte.is_ascii_whitespace() { char::from(byte) } else { '*' });
    line[..end].chars().chain(blots).collect()
}

/// The values that may be secrets: texts in quotes, quotes included, and bare values of keys that sound like it. Keeps
/// to lines as far as TOML does, so that a quote that is never closed hides no more than it must.
fn values(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    // Where the words since the last separator began: a key, once `=` comes.
    let mut word = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => at += line_length(&bytes[at..]),
            b'"' | b'\'' => {
                let end = at + quoted_length(&bytes[at..]);
                // A key in quotes is no value.
                if !text[end..].trim_start_matches([' ', '\t']).starts_with('=') {
                    found.push(at..end);
                }
                at = end;
            }
            b'=' => {
                let key = text[word..at].to_ascii_lowercase();
                let rest = &text[at + 1..at + 1 + line_length(&bytes[at + 1..])];
                let value = rest.trim_start();
                let start = at + 1 + rest.len() - value.len();
                let is_bare = !value.starts_with(['"', '\'', '{', '[']);
                at += 1;
                if is_bare && SECRET_WORDS.iter().any(|secret| key.contains(secret)) {
                    let end = start + value.find([',', '}', '#', ' ']).unwrap_or(value.len());
                    found.push(start..end);
                    at = end;
                }
            }
            byte => {
                at += 1;
                if matches!(byte, b'\n' | b',' | b'{' | b'[') {
                    word = at;
                }
            }
        }
    }
    found
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

/// The length of the text in quotes that `bytes` begin with; one that is not closed goes on to the end of its line.
fn quoted_length(bytes: &[u8]) -> usize {
    let quote = bytes[0];
    let is_long = bytes.len() >= 3 && bytes[1] == quote && bytes[2] == quote;
    let mut at = if is_long { 3 } else { 1 };
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote == b'"' => at += 1,
            b'\n' if !is_long => return at,
            byte if byte == quote && !is_long => return at + 1,
            byte if byte == quote && bytes[at..].starts_with(&[quote; 3]) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use portolan_model::config::Diagnostic;

    use super::*;

    fn shown(text: &str, marked: &str, is_secret: bool) -> String {
        let start = text.find(marked).unwrap();
        let mut diagnostic = Diagnostic::new("wrong", Some(start..start + marked.len()));
        diagnostic.is_secret = is_secret;
        redacted(text, &diagnostic)
    }

    #[test]
    fn no_value_but_the_marked_one_is_shown() {
        for (text, marked) in [
            ("pasword = \"hunter2\"", "pasword"),
            ("password = { literal = \"hunter2\", foo = 1 }", "foo"),
            ("auth = { bearer = \"hunter2\", foo = 1 }", "auth"),
            ("headers = { Authorization = \"Bearer hunter2\" }", "{ Authorization = \"Bearer hunter2\" }"),
            ("a = 1\npassword = \"hunter2\nb = 2", "b"),
            ("password = 'hunter2", "password"),
            ("password = hunter2", "password"),
            ("token = 'a' \"hunter2", "'a'"),
            ("x = \"\"\"one\nhunter2\"\"\" \ny = 1", "y"),
            ("x = \"a\\\"hunter2\"", "x"),
            ("password = \"hunter2\" # it's\nport = 1", "port"),
        ] {
            let shown = shown(text, marked, false);
            assert!(!shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.len(), text.len());
            assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
        }
        assert!(!shown("password = \"hunter2\"", "\"hunter2\"", true).contains("hunter2"));
        assert!(!shown("password = 1234567", "1234567", true).contains("1234567"));
    }

    #[test]
    fn of_what_is_not_toml_no_value_is_shown() {
        for line in [
            "password = hunter2",
            "pasword = hunter2",
            "password = { literal = hunter2 }",
            "password = correct horse hunter2",
            "password = \"hun\"ter2\" hunter2",
            "password = 1,hunter2",
            "passwort = { env = \"A\" } hunter2",
            "password # hunter2",
            "password = é\"hunter2",
        ] {
            let text = format!("[server]\n{line}\nport = 1");
            let start = text.find("hunter2").unwrap();
            let shown = redacted(&text, &Diagnostic::new("wrong", Some(start..start + 7)).of_syntax());
            assert!(!shown.contains("hunter2") && shown.contains("pas"), "{shown}");
            assert_eq!(shown.len(), text.len());
        }
    }

    #[test]
    fn the_marked_value_and_the_structure_are_shown() {
        assert_eq!(shown("protocol = \"htpp\" # it", "\"htpp\"", false), "protocol = \"htpp\" # it");
        assert_eq!(shown("sources = [\"a\", \"ghost\"]", "\"ghost\"", false), "sources = [***, \"ghost\"]");
        assert_eq!(shown("\"port\" = 70000", "70000", false), "\"port\" = 70000");
        assert_eq!(shown("rows = \"$.é[\" # é", "é[", false), "rows = \"$.é[\" # é");
    }

    #[test]
    fn any_text_is_blotted_without_a_panic() {
        for text in ["", "=", "\"", "'''", "é = \"é", "\\", "a=\"\\", "key=", "[[", "#\"\n\"\"\"é"] {
            for start in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                let _ = redacted(text, &Diagnostic::new("wrong", Some(start..text.len())));
            }
        }
    }
}
