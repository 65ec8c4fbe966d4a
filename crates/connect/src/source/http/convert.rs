//! The body of one answer to rows: content decoding, format, page token, cursor, record batches. No I/O, so that a large
//! body can be converted on a thread of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::source::Output;

use super::plan::Plan;
use crate::format::json::node::Node;
use crate::format::{self, Cursor, Format, Item, Sink};

/// Bodies above this many bytes are converted on a thread of their own, so that other sources stay on time.
const INLINE_BYTES: usize = 256 << 10;
/// The same for compressed bodies, which may be many times as long.
const INLINE_COMPRESSED_BYTES: usize = 32 << 10;
/// Batches that wait between the converting thread and the output.
const BATCHES_WAITING: usize = 2;

/// The body of one answer and what is said of it.
pub(super) struct Conversion {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) encoding: Option<HeaderValue>,
    pub(super) content_type: Option<HeaderValue>,
}

/// What a body gave beside its rows.
#[derive(Debug, Default)]
pub(super) struct Converted {
    /// Rows, those in the quarantine included.
    pub(super) rows: u64,
    /// Rows given to be stored, those in the quarantine not included.
    pub(super) given: u64,
    pub(super) cursor: Option<Cursor>,
    /// The token of the next page.
    pub(super) token: Option<String>,
}

impl Conversion {
    /// Converts and gives the rows to `output`.
    pub(super) async fn run(self, plan: &Arc<Plan>, output: &mut dyn Output) -> Result<Converted> {
        let limit = if self.encoding.is_some() { INLINE_COMPRESSED_BYTES } else { INLINE_BYTES };
        if self.body.len() <= limit {
            return self.run_inline(plan, output).await;
        }
        let (sender, mut receiver) = tokio::sync::mpsc::channel(BATCHES_WAITING);
        let shared = Arc::clone(plan);
        let task = tokio::task::spawn_blocking(move || {
            self.convert(&shared, &mut |item| {
                // The receiver is gone when the read was dropped: nobody waits for the rest.
                sender
                    .blocking_send(item)
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "decode body", "the read was given up"))
            })
        });
        let mut quarantined = 0;
        while let Some(item) = receiver.recv().await {
            quarantined += give(item, output).await?;
        }
        let mut converted = task.await.map_err(|error| {
            Error::new(ErrorKind::Internal, "decode body", "the conversion ended early").with_cause(error)
        })??;
        converted.rows += quarantined;
        Ok(converted)
    }

    async fn run_inline(self, plan: &Plan, output: &mut dyn Output) -> Result<Converted> {
        let mut items = Vec::with_capacity(1);
        let mut converted = self.convert(plan, &mut |item| {
            items.push(item);
            Ok(())
        })?;
        for item in items {
            converted.rows += give(item, output).await?;
        }
        Ok(converted)
    }

    fn convert(self, plan: &Plan, sink: &mut Sink<'_>) -> Result<Converted> {
        let body = match &self.encoding {
            Some(encoding) => format::encoding::decode(encoding.to_str().ok(), &self.body, plan.body_max)?,
            None => self.body,
        };
        if self.status == StatusCode::NO_CONTENT {
            return Ok(Converted::default());
        }
        let content_type = self.content_type.as_ref().and_then(|value| value.to_str().ok());
        let format = plan.format(content_type, &body)?;
        if body.iter().all(u8::is_ascii_whitespace) {
            // No lines are no rows; no JSON value is an answer that went missing.
            if format == Format::Json {
                return Err(Error::new(ErrorKind::Data, "decode body", format!("{} with an empty body", self.status))
                    .with_hint("no rows in JSON are [] or a 204; look at the answer with curl -i"));
            }
            return Ok(Converted::default());
        }
        let token = match plan.paging.as_ref().and_then(|paging| paging.token.as_ref()) {
            Some(path) => find(format, &body, path)?.and_then(|node| match node {
                Node::Number(text) | Node::Text(text) => Some(text.into_owned()),
                _ => None,
            }),
            None => None,
        };
        let server_cursor = match &plan.cursor_value {
            Some(path) => match find(format, &body, path)? {
                Some(node) => {
                    Cursor::from_node(&node).map_err(|problem| Error::new(ErrorKind::Data, "read cursor", problem))?
                }
                None => None,
            },
            None => None,
        };
        let summary = format::decode(format, &body, &plan.settings_for(content_type), sink)?;
        Ok(Converted { rows: summary.rows, given: summary.rows, cursor: server_cursor.or(summary.cursor), token })
    }
}

fn find(format: Format, body: &[u8], path: &format::RowPath) -> Result<Option<Node<'static>>> {
    if format == Format::Json {
        return format::json::find(body, path);
    }
    Err(Error::new(ErrorKind::Data, "decode body", "a token is looked for in a body that is not JSON")
        .with_hint("set format = \"json\" if it is; `pagination.value` and `cursor.value` read from JSON bodies alone"))
}

/// Gives one item on. Returns the rows that went to the quarantine whole.
async fn give(item: Item, output: &mut dyn Output) -> Result<u64> {
    match item {
        Item::Batch(batch) => output.batch(batch).await.map(|()| 0),
        Item::Quarantine(item) => {
            let whole_row = u64::from(item.column.is_none());
            output.quarantine(item).await.map(|()| whole_row)
        }
    }
}
