//! The words of a query, and where a read of it begins.

use aws_lc_rs::digest;

/// Where a read with a cursor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Start,
    /// After the value: `>`.
    After,
    /// With the value: `>=`, because other rows may share it.
    With,
}

/// A query without what ends it: it may stand within another one.
pub(crate) fn trimmed(query: &str) -> &str {
    query.trim_end_matches(|c: char| c == ';' || c.is_whitespace())
}

/// What a query is known by in positions, whatever lines it is written on: it may be long.
pub(crate) fn digest_of(query: &str) -> String {
    let words = query.split_whitespace().collect::<Vec<_>>().join(" ");
    let digest = digest::digest(&digest::SHA256, words.as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
