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
    /// A second place that belongs to the problem, with what stands beside it.
    pub related: Option<Box<(Range<usize>, String)>>,
}

impl Diagnostic {
    /// A problem at `span`.
    pub fn new(message: impl Into<String>, span: Option<Range<usize>>) -> Self {
        Self { message: message.into(), span, label: None, help: None, related: None }
    }

    /// Adds what stands beside the marked text.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
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
