//! Where a source continues.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a source continues after the rows it has yielded: opaque to all but its connector.
///
/// A position advances only in the transaction that publishes the rows before it (invariant 1 in `ARCHITECTURE.md`).
/// `version` is the connector's: it reads every version it has ever written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The version of the connector's own position format.
    pub version: u32,
    /// The connector's value.
    pub value: Value,
}

impl Position {
    /// A position of the given format version.
    pub fn new(version: u32, value: Value) -> Self {
        Self { version, value }
    }

    /// The stored form: one line of JSON.
    pub fn to_text(&self) -> String {
        serde_json::json!({ "version": self.version, "value": self.value }).to_string()
    }

    /// Reads the stored form back; the error says what is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("stored position is not readable: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let position = Position::new(3, serde_json::json!({ "cursor": "2026-01-01", "seen": [1, 2] }));
        assert_eq!(Position::from_text(&position.to_text()), Ok(position));
        assert!(Position::from_text("{}").is_err());
    }
}
