//! What a position belongs to: hashes of the options that give a cursor, a page token or an ETag their meaning.
//!
//! Promise: worked out once, when the source is opened; stable over versions and machines; no option can be read from it.

use aws_lc_rs::digest::{Context, SHA256};
use portolan_model::config::SourceSpec;
use portolan_model::error::{Error, ErrorKind, Result};
use serde_json::Value;

use super::options::{HttpOptions, Method};

/// The options that a cursor depends on, in the order stored.
const PARTS: [&str; 4] = ["`path`", "`query`, `method` or `body`", "`cursor`", "`pagination`"];
/// The one of them that matters only between two pages.
const PAGINATION: usize = 3;

/// The hashes of one source's options; each of 53 bits, which every reader of JSON holds exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    parts: [u64; 4],
    whole: u64,
}

impl Fingerprint {
    pub(super) fn new(spec: &SourceSpec, options: &HttpOptions) -> Self {
        let (path, fixed) = options.path.split_once('?').unwrap_or((&options.path, ""));
        let method = if options.method == Method::Get { "GET" } else { "POST" };
        let mut query = vec![method, options.body.as_deref().unwrap_or(""), fixed];
        query.extend(options.query.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
        let cursor = options.cursor.as_ref().map(|cursor| {
            let (column, value) = (cursor.column.as_deref(), cursor.value.as_deref());
            [cursor.parameter.as_str(), column.unwrap_or(""), value.unwrap_or("")]
        });
        // How many pages one round takes does not change which page is the next.
        let pagination = options.pagination.as_ref().map(|pagination| {
            let numbers = (pagination.by, pagination.first, pagination.size);
            format!("{numbers:?} {:?}", (&pagination.parameter, &pagination.value, &pagination.size_parameter))
        });
        let parts = [
            hash_texts(&[path]),
            hash_texts(&query),
            hash_texts(cursor.as_ref().map_or(&[][..], |cursor| cursor)),
            hash_texts(&[pagination.as_deref().unwrap_or("")]),
        ];
        let reading = (options.format, options.delimiter, options.infer, &options.rows, &spec.columns);
        let whole = hash_texts(&[&format!("{parts:?}"), &format!("{reading:?}")]);
        Self { parts, whole }
    }

    /// What a position with a cursor or page stores.
    pub(super) fn of_cursor(&self) -> Value {
        Value::Array(self.parts.iter().map(|part| Value::from(*part)).collect())
    }

    /// What a position with an ETag stores.
    pub(super) fn of_etag(&self) -> Value {
        Value::from(self.whole)
    }

    /// Whether a stored ETag speaks of what is read now, as rows that would be the same.
    pub(super) fn is_of_etag(&self, stored: Option<&Value>) -> bool {
        stored.and_then(Value::as_u64) == Some(self.whole)
    }

    /// Refuses a cursor of another resource; positions of before this was stored are taken as they are.
    ///
    /// # Errors
    /// `Configuration`, naming what has changed.
    pub(super) fn require_cursor(&self, stored: Option<&Value>, between_pages: bool) -> Result<()> {
        let Some(stored) = stored.and_then(Value::as_array) else { return Ok(()) };
        for (index, (part, name)) in self.parts.iter().zip(PARTS).enumerate() {
            let matters = index != PAGINATION || between_pages;
            if matters && stored.get(index).and_then(Value::as_u64) != Some(*part) {
                let message = format!("{name} has changed since the stored position was written");
                return Err(Error::new(ErrorKind::Configuration, "read position", message).with_hint(
                    "put it back to go on where the last round ended, or give the source another name to read from \
                     the beginning",
                ));
            }
        }
        Ok(())
    }
}

fn hash_texts(texts: &[&str]) -> u64 {
    hash(&texts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>())
}

/// A hash of the texts in their order, of 53 bits; the length before each keeps `ab`, `c` apart from `a`, `bc`. The same
/// for ever: it is stored.
pub(super) fn hash(texts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text);
    }
    context.finish().as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte)) >> 11
}
