//! What is wrong with a configuration, and where.

use std::ops::Range;

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, a lower-case fragment that names entity and value.
    pub message: String,
    /// The bytes of the text it concerns.
    pub span: Option<Range<usize>>,
    /// What stands beside the marked text.
    pub label: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    /// The marked text is a secret: it is not to be shown.
    pub is_secret: bool,
    /// The text is not TOML: what is a value in it, and what a secret, cannot be told.
    pub is_syntax: bool,
    /// A second place that belongs to the problem, with what stands beside it.
    pub related: Option<Box<(Range<usize>, String)>>,
}

impl Diagnostic {
    /// A problem at `span`.
    pub fn new(message: impl Into<String>, span: Option<Range<usize>>) -> Self {
        Self {
            message: message.into(),
            span,
            label: None,
            help: None,
            is_secret: false,
            is_syntax: false,
            related: None,
        }
    }

    /// Adds what stands beside the marked text.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Says that the text is not TOML.
    #[must_use]
    pub fn of_syntax(mut self) -> Self {
        self.is_syntax = true;
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a second place.
    #[must_use]
    pub fn with_related(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some(Box::new((span, label.into())));
        self
    }
}

/// A reading error of one value in words for people: types by what to write, unknown words with the nearest known one.
/// `place` is used where the error has none of its own.
pub(super) fn explain(error: &toml_edit::de::Error, place: Option<Range<usize>>) -> Diagnostic {
    let span = error.span().or(place);
    let message = error.message().trim();
    for (prefix, entity) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        if let Some((word, rest)) = message.strip_prefix(prefix).and_then(|rest| rest.split_once('`')) {
            let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
            return Diagnostic::new(format!("unknown {entity} `{word}`"), span).with_help(suggestion(word, &known));
        }
    }
    let mut words = message.to_owned();
    for (of_program, of_people) in [
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number"),
        ("expected a string", "expected text in quotes"),
        ("expected a boolean", "expected true or false"),
        ("expected a sequence", "expected a list in [ ]"),
        ("expected a map", "expected a table in { }"),
        ("invalid type: string", "this is text:"),
        ("invalid type: integer", "this is a whole number:"),
        ("invalid type: boolean", "this is true or false:"),
        ("invalid value: integer", "out of range:"),
    ] {
        words = words.replace(of_program, of_people);
    }
    let mut diagnostic = Diagnostic::new(words, span);
    diagnostic.is_secret = message.contains(super::value::SECRET_FORMS);
    diagnostic
}

/// The nearest known word, or all of them.
pub(super) fn suggestion(text: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(text.len()) / 3)
        .min();
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => "there is none to refer to".to_owned(),
        None => format!("known: {}", known.join(", ")),
    }
}

/// Line and column (both from 1, column in characters) of a byte offset; the end of the text where it lies beyond.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::line_and_column;

    #[test]
    fn places_are_counted_from_one_in_characters() {
        assert_eq!(line_and_column("ab\ncdé x", 0), (1, 1));
        assert_eq!(line_and_column("ab\ncdé x", 3), (2, 1));
        assert_eq!(line_and_column("ab\ncdé x", 7), (2, 4));
        assert_eq!(line_and_column("ab", 99), (1, 3));
        assert_eq!(line_and_column("é", 1), (1, 1));
    }
}
