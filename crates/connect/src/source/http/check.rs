//! What can be found wrong with the options of a source without touching the network.

use http::{HeaderName, HeaderValue, Uri};
use portolan_model::config::{ByteSize, Diagnostic, DurationText, SourceSpec};

use super::options::{Auth, CursorOption, FormatOption, HttpOptions, LateWindow, Method, Pagination, PaginationKind};
use super::paging::PAGES_MAX;
use super::plan::{Plan, Problem};
use super::request::RESERVED_HEADERS;

/// The largest `max_body`: an Arrow column counts its bytes with 32 bits.
const BODY_MAX: ByteSize = ByteSize(1 << 30);

/// Headers that carry secrets by their name.
const SECRET_HEADERS: [&str; 14] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "api-key",
    "apikey",
    "x-api-key",
    "x-apikey",
    "x-api-token",
    "x-access-token",
    "x-auth-token",
    "x-auth-key",
    "x-vault-token",
    "private-token",
    "ocp-apim-subscription-key",
];

/// Every problem of the options, each with its place in the text.
pub(super) fn check(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: HttpOptions = match spec.options.parse() {
        Ok(options) => options,
        Err(diagnostic) => return vec![diagnostic],
    };
    let mut problems = Vec::new();
    target(&options, &mut problems);
    request(&options, &mut problems);
    format(&options, &mut problems);
    if let Some(pagination) = &options.pagination {
        paging(pagination, &options, &mut problems);
    }
    if let Some(cursor) = &options.cursor {
        incremental(cursor, &options, spec, &mut problems);
    }
    if let Err(problem) = Plan::new(spec, &options) {
        problems.push(problem);
    }
    problems
        .into_iter()
        .map(|problem| {
            let mut diagnostic = Diagnostic::new(problem.message, spec.options.span_of(problem.key));
            diagnostic.is_secret = problem.is_secret;
            match problem.help {
                Some(help) => diagnostic.with_help(help),
                None => diagnostic,
            }
        })
        .collect()
}

fn target(options: &HttpOptions, problems: &mut Vec<Problem>) {
    if !options.path.starts_with('/') {
        problems.push(
            Problem::new("path", format!("path {:?} does not begin with `/`", options.path))
                .with_help("host and port have keys of their own; `path` is what follows them"),
        );
    } else if options.path.parse::<Uri>().is_err() || options.path.contains('#') {
        problems.push(
            Problem::new("path", format!("path {:?} holds a character that a request cannot carry", options.path))
                .with_help("percent-encode it, or give parameters as `query = { name = \"value\" }`"),
        );
    }
}

fn request(options: &HttpOptions, problems: &mut Vec<Problem>) {
    for (name, value) in &options.headers {
        let lower = name.to_ascii_lowercase();
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            problems.push(Problem::new("headers", format!("{name:?} is not a header name")));
        } else if RESERVED_HEADERS.contains(&lower.as_str()) {
            problems.push(Problem::new("headers", format!("header `{name}` is set by the connector")));
        } else if SECRET_HEADERS.contains(&lower.as_str()) {
            problems.push(Problem {
                is_secret: true,
                ..Problem::new(
                    "headers",
                    format!("header `{name}` is a secret, and a secret does not stand in the configuration"),
                )
                .with_help(format!("write auth = {{ header = {{ name = \"{name}\", value = {{ env = \"NAME\" }} }} }}"))
            });
        }
        if HeaderValue::from_str(value).is_err() {
            problems.push(Problem::new(
                "headers",
                format!("the value of header `{name}` holds a byte that headers cannot carry"),
            ));
        }
    }
    match &options.auth {
        Some(Auth::Basic { user, .. }) if user.contains(':') => {
            problems
                .push(Problem::new("auth", format!("auth.basic.user {user:?} holds a colon (RFC 7617, section 2)")));
        }
        Some(Auth::Header { name, .. }) if HeaderName::from_bytes(name.as_bytes()).is_err() => {
            problems.push(Problem::new("auth", format!("auth.header.name {name:?} is not a header name")));
        }
        _ => {}
    }
    if options.method == Method::Get {
        for (key, present) in [("body", options.body.is_some()), ("content_type", options.content_type.is_some())] {
            if present {
                problems.push(
                    Problem::new(key, format!("`{key}` has no effect on a GET"))
                        .with_help("set method = \"POST\", or remove it"),
                );
            }
        }
    }
    if options.content_type.as_deref().is_some_and(|text| HeaderValue::from_str(text).is_err()) {
        problems.push(Problem::new("content_type", "content_type holds a byte that headers cannot carry"));
    }
    if options.max_body > BODY_MAX || options.max_body.0 == 0 {
        problems
            .push(Problem::new("max_body", format!("max_body {} is not between 1B and {BODY_MAX}", options.max_body)));
    }
}

fn format(options: &HttpOptions, problems: &mut Vec<Problem>) {
    let is = |format: FormatOption| options.format == format;
    if options.rows.is_some() && (is(FormatOption::Ndjson) || is(FormatOption::Csv)) {
        problems.push(Problem::new("rows", "`rows` selects within one JSON body; it has no effect on ndjson or csv"));
    }
    for (key, present) in [("delimiter", options.delimiter.is_some()), ("infer", options.infer.is_some())] {
        if present && (is(FormatOption::Json) || is(FormatOption::Ndjson)) {
            problems.push(Problem::new(key, format!("`{key}` is for CSV alone")));
        }
    }
    if let Some(delimiter) = options.delimiter
        && (!delimiter.is_ascii() || matches!(delimiter, '"' | '\r' | '\n'))
    {
        problems.push(Problem::new(
            "delimiter",
            format!("delimiter {delimiter:?} is not an ASCII character that may separate fields"),
        ));
    }
}

fn paging(pagination: &Pagination, options: &HttpOptions, problems: &mut Vec<Problem>) {
    let key = "pagination";
    let mut report = |message: String| problems.push(Problem::new(key, message));
    let kind = pagination.by;
    let counts = matches!(kind, PaginationKind::Page | PaginationKind::Offset);
    let name = match kind {
        PaginationKind::Link => "link",
        PaginationKind::Cursor => "cursor",
        PaginationKind::Page => "page",
        PaginationKind::Offset => "offset",
    };
    if kind == PaginationKind::Cursor && pagination.value.is_none() {
        report("pagination by cursor needs `value`, the JSONPath of the next token".into());
    }
    let without_effect = [
        ("parameter", pagination.parameter.is_some() && kind == PaginationKind::Link),
        ("value", pagination.value.is_some() && kind != PaginationKind::Cursor),
        ("first", pagination.first.is_some() && !counts),
        ("size", pagination.size.is_some() && !counts),
        ("size_parameter", pagination.size_parameter.is_some() && !counts),
    ];
    for (option, present) in without_effect {
        if present {
            report(format!("pagination.{option} has no effect on pagination by {name}"));
        }
    }
    if pagination.size_parameter.is_some() && pagination.size.is_none() {
        report("pagination.size_parameter without pagination.size".into());
    }
    if pagination.size == Some(0) {
        report("pagination.size must be at least 1".into());
    }
    if pagination.max_pages.is_some_and(|pages| pages == 0 || pages > PAGES_MAX) {
        report(format!("pagination.max_pages is not between 1 and {PAGES_MAX}"));
    }
    if kind == PaginationKind::Cursor && matches!(options.format, FormatOption::Csv | FormatOption::Ndjson) {
        report("pagination by cursor reads its token from a JSON body".into());
    }
    if options.etag == Some(true) {
        problems.push(Problem::new(
            "etag",
            "`etag` has no effect beside `pagination`: one page unchanged proves nothing of the others",
        ));
    }
}

fn incremental(cursor: &CursorOption, options: &HttpOptions, spec: &SourceSpec, problems: &mut Vec<Problem>) {
    let mut report = |problem: Problem| problems.push(problem);
    match (&cursor.column, &cursor.value) {
        (Some(_), Some(_)) => {
            report(Problem::new("cursor", "cursor has both `column` and `value`").with_help("remove one of the two"))
        }
        (None, None) => report(
            Problem::new("cursor", "cursor has neither `column` nor `value`")
                .with_help("name the column whose highest value is asked for next: column = \"id\""),
        ),
        _ => {}
    }
    if cursor.parameter.is_empty() {
        report(Problem::new("cursor", "cursor.parameter is empty"));
    }
    if let Some(pagination) = &options.pagination {
        let default = match pagination.by {
            PaginationKind::Link => "",
            PaginationKind::Cursor => "cursor",
            PaginationKind::Page => "page",
            PaginationKind::Offset => "offset",
        };
        if pagination.parameter.as_deref().unwrap_or(default) == cursor.parameter {
            report(Problem::new(
                "cursor",
                format!("cursor.parameter `{}` is also that of the pagination", cursor.parameter),
            ));
        }
    }
    if cursor.late_window.is_some() {
        if spec.key.is_empty() {
            report(
                Problem::new("cursor", "cursor.late_window without `key`: rows read again would be stored again")
                    .with_help("name the columns that identify a row: key = [\"id\"]"),
            );
        }
        if cursor.value.is_some() {
            report(Problem::new("cursor", "cursor.late_window has no effect on a server's token"));
        }
    }
    if let Some(LateWindow::Duration(text)) = &cursor.late_window
        && let Err(problem) = DurationText::parse(text)
    {
        report(Problem::new("cursor", format!("cursor.late_window: {problem}")));
    }
    if cursor.value.is_some() && matches!(options.format, FormatOption::Csv | FormatOption::Ndjson) {
        report(Problem::new("cursor", "cursor.value reads from a JSON body"));
    }
    if options.etag == Some(true) {
        report(Problem::new("etag", "`etag` has no effect beside `cursor`"));
    }
    if spec.mode == Some(portolan_model::catalog::WriteMode::Replace) {
        report(
            Problem::new("cursor", "mode = \"replace\" beside `cursor`: each round would leave only the newest rows")
                .with_help("remove mode, or read everything without cursor"),
        );
    }
}
