//! The options of a `tcp` source, and what is wrong with them before the network is touched.

use std::sync::Arc;

use bytes::Bytes;
use portolan_model::config::{ByteSize, Diagnostic, SourceSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::framing::{Framing, Length};
use crate::format::{ColumnType, Settings};
use crate::intake::Layout;

/// The largest message that may be configured.
const MESSAGE_MAX: u64 = 16 << 20;
/// The least space of an intake log: one segment and what is under way.
const INTAKE_MIN: u64 = 128 << 20;
/// The most connections that may be configured.
const CONNECTIONS_MAX: u32 = 1 << 20;

/// The options that only this protocol has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Wait for senders at `host` and `port`, an address of this machine, instead of connecting to them. Default false.
    pub listen: bool,
    /// How messages are told apart. Default `lines`.
    pub framing: FramingOption,
    /// The text that ends each message; with `framing = "delimiter"`.
    pub delimiter: Option<String>,
    /// Bytes of the length in front of each message: 1, 2, 4 or 8; with `framing = "length"`. Default 4.
    pub length_bytes: Option<u8>,
    /// The order of these bytes. Default `big`.
    pub length_order: Option<ByteOrder>,
    /// What a message is. Default `json`.
    pub format: MessageFormat,
    /// The columns of a CSV message, in order.
    pub fields: Vec<String>,
    /// The character between the fields of CSV. Default `,`.
    pub field_delimiter: Option<char>,
    /// Infer the types of CSV columns from what comes in a round. Default false: text.
    pub infer: bool,
    /// Add the columns `peer` (the sender's address) and `received_at`, and `sender` where senders name themselves.
    /// Default false.
    pub origin: bool,
    /// Senders name themselves, number their messages and are told up to which number these are safe on disk: each message
    /// is then stored exactly once. Default false.
    pub acknowledge: bool,
    /// The largest message accepted. Default `1MiB`, at most `16MiB`.
    pub max_message: ByteSize,
    /// The most connections at once; with `listen`. Default 1024.
    pub max_connections: u32,
    /// The most connections at once from one address; with `listen`. Default: as many as `max_connections`.
    pub max_connections_per_peer: Option<u32>,
    /// The most disk space for what has arrived and is not committed yet; beyond it senders have to wait. Default `1GiB`,
    /// at least `128MiB`.
    pub max_intake: ByteSize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: false,
            framing: FramingOption::default(),
            delimiter: None,
            length_bytes: None,
            length_order: None,
            format: MessageFormat::default(),
            fields: Vec::new(),
            field_delimiter: None,
            infer: false,
            origin: false,
            acknowledge: false,
            max_message: ByteSize(1 << 20),
            max_connections: 1_024,
            max_connections_per_peer: None,
            max_intake: ByteSize(1 << 30),
        }
    }
}

/// How messages are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FramingOption {
    /// Each ends with a line feed.
    #[default]
    Lines,
    /// Each begins with its length.
    Length,
    /// Each ends with `delimiter`.
    Delimiter,
}

/// The order of the bytes of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ByteOrder {
    /// The highest byte first, as in most protocols.
    #[default]
    Big,
    /// The lowest byte first.
    Little,
}

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// One JSON value: an object's members become columns.
    #[default]
    Json,
    /// One CSV record with the columns named in `fields`.
    Csv,
    /// UTF-8 text, in the column `value`.
    Text,
    /// Bytes, in the column `value`.
    Binary,
}

/// The options worked out.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) framing: Framing,
    pub(super) message_max: usize,
    pub(super) format: MessageFormat,
    pub(super) settings: Arc<Settings>,
    /// The header line of CSV.
    pub(super) header: Bytes,
    pub(super) origin: bool,
    pub(super) acknowledge: bool,
}

impl Plan {
    /// Works the options out.
    ///
    /// # Errors
    /// The key concerned and what is wrong with it.
    pub(super) fn new(spec: &SourceSpec, options: &Options) -> Result<Self, (&'static str, String)> {
        let mut columns = std::collections::BTreeMap::new();
        for (name, text) in &spec.columns {
            let type_ =
                ColumnType::parse(text).map_err(|problem| ("columns", format!("column `{name}`: {problem}")))?;
            columns.insert(name.clone(), type_);
        }
        let field_delimiter = options.field_delimiter.unwrap_or(',');
        let settings = Settings {
            columns,
            identity: spec.key.clone(),
            csv_delimiter: u8::try_from(field_delimiter)
                .map_err(|_| ("field_delimiter", format!("{field_delimiter:?} is not an ASCII character")))?,
            csv_infer: options.infer,
            ..Settings::default()
        };
        let framing = match options.framing {
            FramingOption::Lines => Framing::Lines,
            FramingOption::Delimiter => {
                let text = options.delimiter.as_deref().filter(|text| !text.is_empty());
                let text = text.ok_or(("framing", "framing = \"delimiter\" needs `delimiter`".to_owned()))?;
                Framing::Delimiter(Bytes::copy_from_slice(text.as_bytes()))
            }
            FramingOption::Length => Framing::Length(Length {
                bytes: options.length_bytes.unwrap_or(4),
                is_little_endian: options.length_order == Some(ByteOrder::Little),
            }),
        };
        let mut header = Vec::new();
        let mut writer = csv::WriterBuilder::new().delimiter(settings.csv_delimiter).from_writer(&mut header);
        if !options.fields.is_empty() {
            writer.write_record(&options.fields).map_err(|error| ("fields", error.to_string()))?;
        }
        writer.flush().map_err(|error| ("fields", error.to_string()))?;
        drop(writer);
        Ok(Self {
            framing,
            message_max: usize::try_from(options.max_message.0.min(MESSAGE_MAX)).unwrap_or(usize::MAX),
            format: options.format,
            settings: Arc::new(settings),
            header: header.into(),
            origin: options.origin,
            acknowledge: options.acknowledge,
        })
    }

    /// How messages are kept, and how their format is read best.
    pub(super) fn layout(&self) -> Layout {
        if self.format == MessageFormat::Json { Layout::Lines } else { Layout::Counted }
    }
}

/// Every problem, each with its place in the text.
pub(super) fn problems(spec: &SourceSpec) -> Vec<Diagnostic> {
    let options: Options = match spec.options.parse() {
        Ok(options) => options,
        Err(diagnostic) => return vec![diagnostic],
    };
    let mut found: Vec<(&'static str, String, &'static str)> = Vec::new();
    let only = |present: bool, framing: FramingOption, key, help, found: &mut Vec<_>| {
        if present && options.framing != framing {
            found.push((key, format!("`{key}` has no effect with this framing"), help));
        }
    };
    only(
        options.delimiter.is_some(),
        FramingOption::Delimiter,
        "delimiter",
        "write framing = \"delimiter\"",
        &mut found,
    );
    only(
        options.length_bytes.is_some(),
        FramingOption::Length,
        "length_bytes",
        "write framing = \"length\"",
        &mut found,
    );
    only(
        options.length_order.is_some(),
        FramingOption::Length,
        "length_order",
        "write framing = \"length\"",
        &mut found,
    );
    if options.length_bytes.is_some_and(|bytes| ![1, 2, 4, 8].contains(&bytes)) {
        found.push(("length_bytes", "length_bytes must be 1, 2, 4 or 8".into(), "the width that the senders use"));
    }
    if options.delimiter.as_ref().is_some_and(|text| text.len() > 64) {
        found.push(("delimiter", "delimiter has more than 64 bytes".into(), "name the bytes that end each message"));
    }
    match (options.format, options.fields.is_empty()) {
        (MessageFormat::Csv, true) => found.push((
            "format",
            "CSV messages have no header line: name their columns in `fields`".into(),
            "for example: fields = [\"device\", \"at\", \"value\"]",
        )),
        (MessageFormat::Csv, false) => {}
        (_, false) => found.push(("fields", "`fields` has no effect without format = \"csv\"".into(), "remove it")),
        (_, true) => {}
    }
    if !(1..=MESSAGE_MAX).contains(&options.max_message.0) {
        found.push(("max_message", "max_message must be 1 byte to 16MiB".into(), "send large things as files"));
    }
    if options.max_intake.0 < INTAKE_MIN {
        found.push((
            "max_intake",
            "max_intake must be at least 128MiB".into(),
            "it holds what no round has stored yet",
        ));
    }
    if !(1..=CONNECTIONS_MAX).contains(&options.max_connections) {
        found.push(("max_connections", format!("max_connections must be 1 to {CONNECTIONS_MAX}"), "as many as send"));
    }
    if options.listen && spec.tls.is_enabled() && spec.tls.certificate.is_none() {
        found.push((
            "listen",
            "a port that waits for senders needs a certificate of its own for TLS".into(),
            "name it: tls = { certificate = \"server.pem\", key = \"server.key\" }; with `ca`, senders must show one that it signed",
        ));
    }
    if let Err((key, message)) = Plan::new(spec, &options) {
        found.push((key, message, "see docs/connectors/tcp.md"));
    }
    found
        .into_iter()
        .map(|(key, message, help)| Diagnostic::new(message, spec.options.span_of(key)).with_help(help))
        .collect()
}
