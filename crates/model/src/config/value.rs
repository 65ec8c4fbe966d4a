//! Values that have a written form of their own: durations, sizes, references to secrets.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as written in the configuration: a number and one of `ms`, `s`, `min`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// Reads the written form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?} is not a duration: write a number and a unit, such as \"250ms\", \"10s\", \"5min\", \"2h\", \"7d\""
            )
        };
        let unit_start = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(expected)?;
        let (number, unit) = text.split_at(unit_start);
        let scale_ms = match unit.trim() {
            "ms" => 1.0,
            "s" => 1_000.0,
            "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return Err(expected()),
        };
        let milliseconds = number.parse::<f64>().map_err(|_| expected())? * scale_ms;
        if !(milliseconds.is_finite() && milliseconds <= 3_650.0 * 86_400_000.0) {
            return Err(format!("{text:?} is longer than ten years"));
        }
        Ok(Self(Duration::from_micros((milliseconds * 1_000.0).round() as u64)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_micros() as f64 / 1_000.0;
        for (scale_ms, unit) in [(86_400_000.0, "d"), (3_600_000.0, "h"), (60_000.0, "min"), (1_000.0, "s")] {
            if milliseconds >= scale_ms && milliseconds % scale_ms == 0.0 {
                return write!(formatter, "{}{unit}", milliseconds / scale_ms);
            }
        }
        write!(formatter, "{milliseconds}ms")
    }
}

/// A number of bytes as written in the configuration: a number and one of `B`, `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads the written form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("{text:?} is not a size: write a whole number and a unit, such as \"512KiB\", \"64MiB\", \"2GiB\"")
        };
        let unit_start = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
        let (number, unit) = text.split_at(unit_start);
        let shift = match unit.trim() {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(expected()),
        };
        let number: u64 = number.parse().map_err(|_| expected())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("{text:?} is more than 16 EiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(formatter, "{}{unit}", self.0 >> shift);
            }
        }
        write!(formatter, "{}B", self.0)
    }
}

macro_rules! written_form {
    ($type:ident, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

written_form!(DurationText, r"^[0-9]+(\.[0-9]+)?\s*(ms|s|min|h|d)$", "10s");
written_form!(ByteSize, r"^[0-9]+\s*(B|KiB|MiB|GiB)$", "64MiB");

/// Where a secret is found. The configuration names the place; the secret itself never stands in the file unless the
/// word `literal` is written out.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretReference {
    /// An environment variable.
    Environment(String),
    /// A file, relative to the configuration file; a line end at its end is not part of the secret.
    File(String),
    /// The secret itself, by express wish.
    Literal(String),
}

impl fmt::Debug for SecretReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(formatter, "env {name:?}"),
            Self::File(path) => write!(formatter, "file {path:?}"),
            Self::Literal(_) => formatter.write_str("literal …"),
        }
    }
}

/// How the refusal of a secret in the text begins.
const LITERAL_SECRET: &str = "a secret does not stand in the configuration";
/// How a secret is written; stands in each refusal of one.
pub(super) const SECRET_FORMS: &str =
    "write { env = \"NAME\" } or { file = \"PATH\" }; a secret in the file itself needs { literal = \"…\" }";

impl<'de> Deserialize<'de> for SecretReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceVisitor;

        impl<'de> Visitor<'de> for ReferenceVisitor {
            type Value = SecretReference;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a reference to a secret: {SECRET_FORMS}")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretReference, E> {
                Err(E::custom(format!("{LITERAL_SECRET}: {SECRET_FORMS}")))
            }

            // Without these, the reader's own refusal would repeat the value.
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretReference, E> {
                self.visit_str("")
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretReference, E> {
                self.visit_str("")
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretReference, E> {
                self.visit_str("")
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretReference, E> {
                self.visit_str("")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretReference, A::Error> {
                let Some(form) = map.next_key::<String>()? else {
                    return Err(de::Error::custom(format!("an empty reference to a secret: {SECRET_FORMS}")));
                };
                // The reader's own words would repeat the value.
                let value = map.next_value::<String>().map_err(|_| {
                    de::Error::custom(format!("the `{form}` of a secret is not text in quotes: {SECRET_FORMS}"))
                })?;
                if map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom(format!("a reference to a secret has one key: {SECRET_FORMS}")));
                }
                match form.as_str() {
                    "env" => Ok(SecretReference::Environment(value)),
                    "file" => Ok(SecretReference::File(value)),
                    "literal" => Ok(SecretReference::Literal(value)),
                    _ => Err(de::Error::custom(format!("unknown form `{form}` of a secret: {SECRET_FORMS}"))),
                }
            }
        }

        deserializer.deserialize_any(ReferenceVisitor)
    }
}

impl JsonSchema for SecretReference {
    fn schema_name() -> Cow<'static, str> {
        "SecretReference".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a secret is found",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": {
                "env": { "type": "string", "description": "an environment variable" },
                "file": { "type": "string", "description": "a file, relative to the configuration file" },
                "literal": { "type": "string", "description": "the secret itself; not advised" }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn written_forms() {
        assert_eq!(DurationText::parse("250ms"), Ok(DurationText(Duration::from_millis(250))));
        assert_eq!(DurationText::parse("1.5 s"), Ok(DurationText(Duration::from_millis(1_500))));
        assert_eq!(DurationText::parse("7d").map(|d| d.to_string()), Ok("7d".into()));
        for bad in ["", "10", "s", "10 parsecs", "1.2.3s", "-1s", "9999999d"] {
            assert!(DurationText::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(ByteSize::parse("64MiB"), Ok(ByteSize(64 << 20)));
        for bad in ["", "64", "64MB", "1.5MiB", "99999999999999GiB"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_literal_secret_is_not_shown() {
        assert!(!format!("{:?}", SecretReference::Literal("hunter2".into())).contains("hunter2"));
    }

    #[test]
    fn no_refusal_of_a_secret_repeats_it() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            #[expect(dead_code, reason = "only its reading is looked at")]
            password: SecretReference,
        }
        for secret in [
            "\"770077\"",
            "770077",
            "770.077",
            "{ literal = 770077 }",
            "{ env = 770077 }",
            "{ pass = \"770077\" }",
            "[770077]",
        ] {
            let error = toml_edit::de::from_str::<Holder>(&format!("password = {secret}")).unwrap_err();
            let diagnostic = super::super::diagnostic::explain(&error, None);
            assert!(diagnostic.is_secret, "{secret}: {diagnostic:?}");
            assert!(!format!("{diagnostic:?}").contains("770"), "{secret}: {diagnostic:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_forms_are_read_back(milliseconds in 0u64..10_000_000_000, bytes in 0u64..1 << 50) {
            let duration = DurationText(Duration::from_millis(milliseconds));
            prop_assert_eq!(DurationText::parse(&duration.to_string()), Ok(duration));
            let size = ByteSize(bytes);
            prop_assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = DurationText::parse(&text);
            let _ = ByteSize::parse(&text);
        }
    }
}
