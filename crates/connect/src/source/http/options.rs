//! The options of an `http` source, as written in `portolan.toml`.
//!
//! The doc comments here are the option reference: the JSON Schema carries them, and `docs/connectors/http.md` follows.

use std::collections::BTreeMap;

use portolan_model::config::{ByteSize, SecretReference};
use schemars::JsonSchema;
use serde::Deserialize;

/// What only an `http` source has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpOptions {
    /// Path of the resource, with its query string if it always has one. Default `/`.
    pub path: String,
    /// Parameters added to the query string, percent-encoded by us.
    pub query: BTreeMap<String, String>,
    /// `GET` or `POST`. Default `GET`.
    pub method: Method,
    /// Headers sent with every request. Secrets belong in `auth`.
    pub headers: BTreeMap<String, String>,
    /// Body of a `POST`.
    pub body: Option<String>,
    /// Media type of `body`. Default `application/json`.
    pub content_type: Option<String>,
    /// How we say who we are.
    pub auth: Option<Auth>,
    /// How the answer is written: `auto` goes by its `Content-Type`, then by its first byte. Default `auto`.
    pub format: FormatOption,
    /// JSONPath (RFC 9535) of the rows in a JSON body, such as `$.data[*]`. Default: the elements of an array, or the
    /// whole value.
    pub rows: Option<String>,
    /// Character between the fields of CSV. Default `,`.
    pub delimiter: Option<char>,
    /// Infer the types of CSV columns: a column whose values are all whole numbers, numbers or true/false, written
    /// canonically. Default false: text.
    pub infer: Option<bool>,
    /// How the next page is found. Default: there is one page.
    pub pagination: Option<Pagination>,
    /// How only what is new is asked for. Default: everything is read each time.
    pub cursor: Option<CursorOption>,
    /// Whether `If-None-Match` is sent with the last committed strong ETag, where there is neither pagination nor a
    /// cursor. Default true.
    pub etag: Option<bool>,
    /// Speak HTTP/2 without asking: on a plaintext port by prior knowledge. Over TLS, HTTP/2 is negotiated anyway.
    /// Default false.
    pub http2: bool,
    /// The largest body accepted, before and after decompression. Default `64MiB`, at most `1GiB`.
    pub max_body: ByteSize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            path: "/".into(),
            query: BTreeMap::new(),
            method: Method::default(),
            headers: BTreeMap::new(),
            body: None,
            content_type: None,
            auth: None,
            format: FormatOption::default(),
            rows: None,
            delimiter: None,
            infer: None,
            pagination: None,
            cursor: None,
            etag: None,
            http2: false,
            max_body: ByteSize(64 << 20),
        }
    }
}

/// The request method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Method {
    /// Reads a resource; repeated on a fresh connection when a kept one turns out to be closed.
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// Sends `body`; never repeated by us within a round.
    #[serde(rename = "POST")]
    Post,
}

/// How we say who we are: one of the three.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// User name, without a colon.
        user: String,
        /// Password.
        password: SecretReference,
    },
    /// `Authorization: Bearer` (RFC 6750).
    Bearer(SecretReference),
    /// A header of its own, such as `X-Api-Key`.
    Header {
        /// Name of the header.
        name: String,
        /// Value of the header.
        value: SecretReference,
    },
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatOption {
    /// By `Content-Type`, then by the first byte.
    #[default]
    Auto,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
}

/// How the next page is found.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pagination {
    /// `link`: the `Link` header with `rel="next"` (RFC 8288). `cursor`: a token in the body, sent back as a
    /// parameter. `page`: a page number that counts up. `offset`: a row number that counts up.
    pub by: PaginationKind,
    /// Query parameter that carries the token, page number or offset. Default: `cursor`, `page` or `offset`.
    pub parameter: Option<String>,
    /// For `cursor`: JSONPath of the next token in the body; null, empty or absent means the last page.
    pub value: Option<String>,
    /// For `page` and `offset`: the number of the first page or row. Default 1 for `page`, 0 for `offset`.
    pub first: Option<u64>,
    /// For `page` and `offset`: query parameter that carries `size`.
    pub size_parameter: Option<String>,
    /// For `page` and `offset`: rows of a full page; a shorter page is the last one. Without it, a page without rows
    /// is the last one.
    pub size: Option<u64>,
    /// The most pages read in one round, 1 to 100000. Default 1000. More pages are an error where there is no
    /// `cursor`; with one, the next round continues where this one ended.
    pub max_pages: Option<u32>,
}

/// The ways to find the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaginationKind {
    /// The `Link` header with `rel="next"` (RFC 8288).
    Link,
    /// A token in the body.
    Cursor,
    /// A page number.
    Page,
    /// A row number.
    Offset,
}

/// How only what is new is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CursorOption {
    /// Query parameter that carries the cursor, such as `since`.
    pub parameter: String,
    /// Column, or JSONPath relative to a row, whose highest value is the next cursor: a whole number or text (RFC 3339
    /// instants are compared as instants, other text byte by byte).
    pub column: Option<String>,
    /// JSONPath in the body of a token that becomes the next cursor as it is, where the server keeps count.
    pub value: Option<String>,
    /// Cursor of the first read. Default: the parameter is left out.
    pub initial: Option<String>,
    /// How far before the cursor is read again, for rows that become visible late: a whole number for numbers, a
    /// duration such as `5min` for instants. Needs `key`, by which rows read twice are stored once.
    pub late_window: Option<LateWindow>,
}

/// How far before the cursor is read again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LateWindow {
    /// Of a number.
    Number(u64),
    /// Of an instant, a duration.
    Duration(String),
}
