//! DataFusion's errors as ours: the right kind, the place in the text, the nearest names.

use datafusion::common::{DataFusionError, SchemaError};
use portolan_model::{Error, ErrorKind};

/// How alike two names must be to be suggested (Jaro-Winkler).
const LIKENESS_MIN: f64 = 0.75;

/// The error of a text that is not SQL. DataFusion's parser puts ` at Line: 1, Column: 8` at the end.
pub(crate) fn of_syntax(message: &str) -> Error {
    let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
    let text = match message.rsplit_once(" at Line: ") {
        Some((what, place)) => format!("line {}: {}", place.replacen(", Column: ", ", column ", 1), lower_first(what)),
        None => lower_first(message),
    };
    Error::new(ErrorKind::Configuration, "parse query", text.replace("found: EOF", "found the end"))
}

/// A table that is not there.
pub(crate) fn no_table(asked: &str, place: Option<(u64, u64)>, known: &[(String, String)]) -> Error {
    let shown: Vec<String> = known
        .iter()
        .map(|(schema, table)| if schema == crate::names::MAIN { table.clone() } else { format!("{schema}.{table}") })
        .collect();
    let message = match place {
        Some((line, column)) => format!("line {line}, column {column}: there is no table `{asked}`"),
        None => format!("there is no table `{asked}`"),
    };
    Error::new(ErrorKind::NotFound, "plan query", message).with_hint(hint(asked, &shown, "table"))
}

/// An error met before the first row: of the text, of what it names, or of planning.
pub(crate) fn of_plan(cause: DataFusionError, text: &str) -> Error {
    let mut place = None;
    let mut current = &cause;
    loop {
        match current {
            DataFusionError::Diagnostic(diagnostic, inner) => {
                place = place.or_else(|| diagnostic.span.map(|span| (span.start.line, span.start.column)));
                current = inner;
            }
            DataFusionError::Context(_, inner) => current = inner,
            DataFusionError::Shared(inner) => current = inner,
            DataFusionError::Collection(all) if !all.is_empty() => current = &all[0],
            _ => break,
        }
    }
    let located = |message: String| match place {
        Some((line, column)) => format!("line {line}, column {column}: {message}"),
        None => message,
    };
    match current {
        DataFusionError::SQL(parser, _) => of_syntax(&parser.to_string()),
        DataFusionError::SchemaError(schema, _) => match &**schema {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let place = place.or_else(|| find(text, &field.name));
                let name = field.flat_name();
                let message = match place {
                    Some((line, column)) => format!("line {line}, column {column}: there is no column `{name}`"),
                    None => format!("there is no column `{name}`"),
                };
                let names: Vec<String> = valid_fields.iter().map(|column| column.name.clone()).collect();
                Error::new(ErrorKind::NotFound, "plan query", message).with_hint(hint(&field.name, &names, "column"))
            }
            other => Error::new(ErrorKind::Configuration, "plan query", located(lower_first(&other.to_string()))),
        },
        DataFusionError::Plan(message) | DataFusionError::Configuration(message) => {
            Error::new(ErrorKind::Configuration, "plan query", located(lower_first(shorten(message))))
        }
        DataFusionError::NotImplemented(message) => {
            let message = format!("this is not supported: {}", lower_first(first_line(message)));
            Error::new(ErrorKind::Configuration, "plan query", located(message))
                .with_hint("docs/query.md describes the dialect")
        }
        _ => of_rows(cause),
    }
}

/// An error met while rows are read.
pub(crate) fn of_rows(cause: DataFusionError) -> Error {
    let operation = "run query";
    match cause {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => of_rows(*inner),
        DataFusionError::Shared(inner) => match std::sync::Arc::try_unwrap(inner) {
            Ok(inner) => of_rows(inner),
            Err(inner) => classify(&inner, operation),
        },
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::new(ErrorKind::Internal, operation, other.to_string()),
        },
        DataFusionError::ArrowError(inner, context) => match *inner {
            arrow::error::ArrowError::ExternalError(external) => match external.downcast::<DataFusionError>() {
                Ok(engine) => of_rows(*engine),
                Err(other) => Error::new(ErrorKind::Data, operation, other.to_string()),
            },
            other => classify(&DataFusionError::ArrowError(Box::new(other), context), operation),
        },
        other => classify(&other, operation),
    }
}

fn classify(cause: &DataFusionError, operation: &'static str) -> Error {
    let message = cause.strip_backtrace();
    let message = first_line(&message);
    match cause {
        DataFusionError::ResourcesExhausted(_) => Error::new(
            ErrorKind::Limit,
            operation,
            format!("the query needs more memory than it may use: {}", lower_first(message)),
        )
        .with_hint("raise the memory limit, read fewer columns, or filter first"),
        DataFusionError::IoError(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Error::new(ErrorKind::StorageFull, operation, format!("the disk is full: {io}"))
        }
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => {
            Error::new(ErrorKind::Storage, operation, lower_first(message))
        }
        DataFusionError::ParquetError(_) => Error::new(ErrorKind::Corrupt, operation, lower_first(message)).with_hint(
            "a file of the lake is gone or damaged: restore it from a backup, or read an older round with --at",
        ),
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => {
            let message = message.strip_prefix("Arrow error: ").unwrap_or(message);
            let message = message.strip_prefix("Execution error: ").unwrap_or(message);
            Error::new(ErrorKind::Data, operation, lower_first(message))
        }
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) | DataFusionError::Configuration(_) => {
            Error::new(ErrorKind::Configuration, operation, lower_first(message))
        }
        _ => Error::new(ErrorKind::Internal, operation, lower_first(message)),
    }
}

/// `column` without its table: what the text most likely holds.
fn find(text: &str, name: &str) -> Option<(u64, u64)> {
    for (index, line) in text.lines().enumerate() {
        if let Some(at) = line.find(name) {
            return Some((index as u64 + 1, line[..at].chars().count() as u64 + 1));
        }
    }
    None
}

fn hint(asked: &str, known: &[String], what: &str) -> String {
    let asked = asked.to_lowercase();
    let mut near: Vec<(f64, &String)> = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&asked, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    if let Some((_, name)) = near.first() {
        return format!("did you mean `{name}`?");
    }
    match known.len() {
        0 => format!("there is no {what} at all yet"),
        _ => {
            let mut names: Vec<&str> = known.iter().take(20).map(String::as_str).collect();
            if known.len() > names.len() {
                names.push("…");
            }
            format!("{what}s there are: {}", names.join(", "))
        }
    }
}

/// The first line, without the part in which the planner explains itself.
fn shorten(message: &str) -> &str {
    let line = first_line(message);
    line.split_once(": While expanding wildcard, ").map_or(line, |(_, detail)| detail)
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or(message)
}

fn lower_first(message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    let mut characters = message.chars();
    match characters.next() {
        // An acronym or a name in capitals stays.
        Some(first) if !characters.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => message.to_owned(),
    }
}
