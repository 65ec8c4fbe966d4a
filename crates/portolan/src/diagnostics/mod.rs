//! Shows what is wrong with a configuration: file, line, column, the offending text, what to do.

mod redaction;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use portolan_model::config::{Diagnostic, line_and_column};

use redaction::redacted;

/// The diagnostics as text for a terminal, one block each.
pub(crate) fn render(text: &str, file: &str, diagnostics: &[Diagnostic], is_colored: bool) -> String {
    let renderer = if is_colored { Renderer::styled() } else { Renderer::plain() };
    let mut shown = String::new();
    for diagnostic in diagnostics {
        shown.push_str(&renderer.render(&groups(&redacted(text, diagnostic), file, diagnostic)));
        shown.push_str("\n\n");
    }
    let count = diagnostics.len();
    shown.push_str(&format!("{file}: {count} {}\n", if count == 1 { "error" } else { "errors" }));
    shown
}

fn groups<'a>(text: &'a str, file: &'a str, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
    let title = Level::ERROR.primary_title(diagnostic.message.as_str());
    let mut group = match &diagnostic.span {
        None => title.element(annotate_snippets::Origin::path(file)),
        Some(span) => {
            let span = clamp(text, span);
            let mut annotation = AnnotationKind::Primary.span(span);
            if let Some(label) = &diagnostic.label {
                annotation = annotation.label(label.as_str());
            }
            let mut snippet = Snippet::source(text).path(file).annotation(annotation);
            if let Some(related) = &diagnostic.related {
                let (span, label) = &**related;
                let span = clamp(text, span);
                snippet = snippet.annotation(AnnotationKind::Context.span(span).label(label.as_str()));
            }
            title.element(snippet)
        }
    };
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    vec![group]
}

/// A table's span covers all its lines; the first one is enough to find it. Never outside the text.
fn clamp(text: &str, span: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let first_line_end = text[start..end].find('\n').map_or(end, |offset| start + offset);
    start..first_line_end
}

/// The diagnostics for programs: one object each.
pub(crate) fn to_json(text: &str, file: &str, diagnostics: &[Diagnostic]) -> serde_json::Value {
    diagnostics
        .iter()
        .map(|diagnostic| {
            let place = diagnostic.span.as_ref().map(|span| line_and_column(text, span.start));
            serde_json::json!({
                "file": file,
                "line": place.map(|(line, _)| line),
                "column": place.map(|(_, column)| column),
                "message": diagnostic.message,
                "help": diagnostic.help,
            })
        })
        .collect()
}
