//! Validated names. A source's name is also its table's name in the lake, so it is restricted to what every SQL
//! dialect takes without quotes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name accepted, in bytes.
pub const NAME_LENGTH_MAX: usize = 63;

/// Says why `text` is not a name, or nothing if it is one.
///
/// A name is a lower-case ASCII letter followed by lower-case letters, digits and underscores, at most
/// [`NAME_LENGTH_MAX`] bytes.
pub fn name_problem(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("a name must not be empty".into());
    }
    if text.len() > NAME_LENGTH_MAX {
        return Some(format!("a name has at most {NAME_LENGTH_MAX} bytes, this one has {}", text.len()));
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Some("a name starts with a lower-case letter a-z".into());
    }
    let stranger = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_'))?;
    Some(format!("a name holds only a-z, 0-9 and _, not {stranger:?}"))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` and wraps it; the error says which rule it breaks.
            pub fn new(text: &str) -> std::result::Result<Self, String> {
                match name_problem(text) {
                    Some(problem) => Err(problem),
                    None => Ok(Self(text.into())),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", &self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> std::result::Result<Self, String> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.to_string()
            }
        }
    };
}

name_type!(
    /// The name of a source, which is also the name of its table in the lake.
    SourceName
);
name_type!(
    /// The name of a group of sources that are read together.
    RoundName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "orders", "port_3000", "x9"] {
            assert_eq!(name_problem(good), None, "{good}");
        }
        for bad in ["", "9a", "_a", "Orders", "a-b", "a b", "é", &"a".repeat(64)] {
            assert!(name_problem(bad).is_some(), "{bad}");
        }
    }
}
