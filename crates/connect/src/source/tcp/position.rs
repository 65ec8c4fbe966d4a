//! Where a `tcp` source continues.
//!
//! Version 1 is an object: `log`, which log it is; `segment` and `offset`, the block that comes next in it.

use portolan_model::error::{Error, ErrorKind, Result};
use portolan_model::position::Position;
use serde::{Deserialize, Serialize};

use crate::intake::Place;

const VERSION: u32 = 1;

/// The decoded position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TcpPosition {
    /// The log's own number.
    pub(super) log: i64,
    #[serde(flatten)]
    pub(super) place: Place,
}

impl TcpPosition {
    /// Reads a stored position.
    ///
    /// # Errors
    /// `Configuration` if it is none of ours.
    pub(super) fn read(position: &Position) -> Result<Self> {
        let value =
            (position.version == VERSION).then(|| serde_json::from_value(position.value.clone()).ok()).flatten();
        value.ok_or_else(|| {
            let text = position.to_text();
            Error::new(ErrorKind::Configuration, "read position", format!("the stored position {text} is not readable"))
                .with_hint("was it written by a newer version, or by another protocol under the same source name?")
        })
    }

    pub(super) fn to_position(self) -> Position {
        Position::new(
            VERSION,
            serde_json::json!({
                "log": self.log, "segment": self.place.segment, "offset": self.place.offset,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_is_read_for_ever() {
        let stored = r#"{"version":1,"value":{"log":1700000000000000,"segment":3,"offset":32}}"#;
        let position = TcpPosition::read(&Position::from_text(stored).unwrap()).unwrap();
        assert_eq!(position, TcpPosition { log: 1_700_000_000_000_000, place: Place { segment: 3, offset: 32 } });
        assert_eq!(TcpPosition::read(&position.to_position()).unwrap(), position);
        for bad in [r#"{"version":2,"value":{}}"#, r#"{"version":1,"value":{"log":1}}"#] {
            assert!(TcpPosition::read(&Position::from_text(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
