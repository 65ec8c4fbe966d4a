//! Column types of the server as Arrow fields, without loss: what has a decoder of its own comes in its binary form, and
//! everything else as the text that the server writes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Fields, TimeUnit};

use super::statement;
use super::wire::Column;
use crate::relational::Named;

/// Numbers of built-in types (`pg_type.dat`).
pub(super) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const BYTEA: u32 = 17;
    pub(crate) const NAME: u32 = 19;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const TEXT: u32 = 25;
    pub(crate) const OID: u32 = 26;
    pub(crate) const XID: u32 = 28;
    pub(crate) const CID: u32 = 29;
    pub(crate) const JSON: u32 = 114;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const UNKNOWN: u32 = 705;
    pub(crate) const MONEY: u32 = 790;
    pub(crate) const BPCHAR: u32 = 1042;
    pub(crate) const VARCHAR: u32 = 1043;
    pub(crate) const DATE: u32 = 1082;
    pub(crate) const TIME: u32 = 1083;
    pub(crate) const TIMESTAMP: u32 = 1114;
    pub(crate) const TIMESTAMPTZ: u32 = 1184;
    pub(crate) const INTERVAL: u32 = 1186;
    pub(crate) const NUMERIC: u32 = 1700;
    pub(crate) const VOID: u32 = 2278;
    pub(crate) const UUID: u32 = 2950;
    pub(crate) const JSONB: u32 = 3802;
    pub(crate) const XID8: u32 = 5069;
}

/// How the binary form of a value is read and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `bool`.
    Boolean,
    /// `int2`.
    Int16,
    /// `int4`.
    Int32,
    /// `int8`.
    Int64,
    /// `oid`, `xid`, `cid`.
    UInt32,
    /// `xid8`.
    UInt64,
    /// `float4`.
    Float32,
    /// `float8`.
    Float64,
    /// `numeric` with at most 38 digits.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `money`: an integer of the smallest unit, of which so many digits stand after the point.
    Money {
        /// Digits after the point.
        scale: u8,
    },
    /// Text of every kind, and what the server writes as text.
    Text,
    /// `json`.
    Json,
    /// `jsonb`: a version, then text.
    Jsonb,
    /// `bytea`.
    Bytes,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`.
    Instant,
    /// `interval`.
    Interval,
    /// `uuid`.
    Uuid,
    /// An array of one dimension.
    List(Box<Kind>),
    /// A composite type: name, number of the type, and kind of each field.
    Struct(Vec<(String, u32, Kind)>),
}

/// What the catalog says of a type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Its values are words.
    Enum,
    /// Another type with a rule.
    Domain {
        base: u32,
        modifier: i32,
    },
    /// An array of another type.
    Array {
        element: u32,
    },
    /// Name, type and modifier of each field.
    Composite(Vec<(String, u32, i32)>),
    Other,
}

/// What is known of types and columns beside their description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) types: HashMap<u32, Type>,
    /// Digits of `money` after the point.
    pub(super) money_scale: u8,
    /// Table and number of the columns that are declared with several dimensions.
    pub(super) arrays_of_dimensions: Vec<(u32, i16)>,
}

/// How a column is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cast {
    None,
    Text,
    TextArray,
}

/// A column, how it is asked for and what its values become.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) column: Column,
    pub(super) kind: Kind,
    pub(super) cast: Cast,
}

impl Named for Selected {
    fn name(&self) -> &str {
        &self.column.name
    }
}

/// Whether a type is known without the catalog.
pub(super) fn is_built_in(type_id: u32) -> bool {
    scalar(type_id, -1, 0).is_some() || matches!(type_id, oid::NUMERIC)
}

/// The kind of a built-in type that has no parts.
fn scalar(type_id: u32, modifier: i32, money_scale: u8) -> Option<Kind> {
    Some(match type_id {
        oid::BOOL => Kind::Boolean,
        oid::INT2 => Kind::Int16,
        oid::INT4 => Kind::Int32,
        oid::INT8 => Kind::Int64,
        oid::OID | oid::XID | oid::CID => Kind::UInt32,
        oid::XID8 => Kind::UInt64,
        oid::FLOAT4 => Kind::Float32,
        oid::FLOAT8 => Kind::Float64,
        oid::NUMERIC => return decimal(modifier),
        oid::MONEY => Kind::Money { scale: money_scale },
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN | oid::VOID => Kind::Text,
        oid::JSON => Kind::Json,
        oid::JSONB => Kind::Jsonb,
        oid::BYTEA => Kind::Bytes,
        oid::DATE => Kind::Date,
        oid::TIME => Kind::Time,
        oid::TIMESTAMP => Kind::Timestamp,
        oid::TIMESTAMPTZ => Kind::Instant,
        oid::INTERVAL => Kind::Interval,
        oid::UUID => Kind::Uuid,
        _ => return None,
    })
}

/// The decimal that holds every value of `numeric(p, s)`; `None` where there is none: without digits given, or with more
/// than 38. From version 15 on the scale may be negative, or larger than the precision.
fn decimal(modifier: i32) -> Option<Kind> {
    let bits = u32::try_from(modifier).ok()?.checked_sub(4)?;
    let precision = i32::try_from(bits >> 16).ok()?;
    // Eleven bits with a sign.
    let scale = ((bits & 0x7FF) as i32 ^ 1024) - 1024;
    let precision = precision.max(scale) + (-scale).max(0);
    let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale.max(0)).ok()?);
    (1..=DECIMAL128_MAX_PRECISION).contains(&precision).then_some(Kind::Decimal { precision, scale })
}

/// How deep types may be nested; deeper ones are text.
const DEPTH_MAX: usize = 16;

impl Kind {
    /// Whether its values hold fields, whose names the catalog alone tells.
    pub(super) fn has_fields(&self) -> bool {
        match self {
            Self::List(element) => element.has_fields(),
            Self::Struct(_) => true,
            _ => false,
        }
    }
}

impl Facts {
    /// How `column` is asked for.
    pub(super) fn select(&self, column: Column) -> Selected {
        let declared = (column.table, column.attribute);
        let is_array = matches!(self.types.get(&column.type_id), Some(Type::Array { .. }));
        let (kind, cast) = if is_array && self.arrays_of_dimensions.contains(&declared) {
            (Kind::Text, Cast::Text)
        } else {
            match self.kind(column.type_id, column.modifier, DEPTH_MAX) {
                Some(kind) => (kind, Cast::None),
                None if is_array => (Kind::List(Box::new(Kind::Text)), Cast::TextArray),
                None => (Kind::Text, Cast::Text),
            }
        };
        Selected { column, kind, cast }
    }

    fn kind(&self, type_id: u32, modifier: i32, depth: usize) -> Option<Kind> {
        let depth = depth.checked_sub(1)?;
        if let Some(kind) = scalar(type_id, modifier, self.money_scale) {
            return Some(kind);
        }
        match self.types.get(&type_id)? {
            Type::Enum => Some(Kind::Text),
            Type::Domain { base, modifier: own } => {
                let modifier = if modifier >= 0 { modifier } else { *own };
                self.kind(*base, modifier, depth)
            }
            // An array within something else would have no place for one of another shape.
            Type::Array { element } if depth == DEPTH_MAX - 1 => {
                let element = self.kind(*element, modifier, depth)?;
                Some(Kind::List(Box::new(element)))
            }
            Type::Composite(fields) if !fields.is_empty() => {
                let fields = fields.iter().map(|(name, type_id, modifier)| {
                    Some((name.clone(), *type_id, self.kind(*type_id, *modifier, depth)?))
                });
                fields.collect::<Option<_>>().map(Kind::Struct)
            }
            _ => None,
        }
    }
}

impl Selected {
    /// The expression that it is selected by.
    pub(super) fn expression(&self) -> String {
        let name = statement::column(&self.column.name);
        match self.cast {
            Cast::None => name,
            Cast::Text => format!("{name}::text"),
            Cast::TextArray => format!("{name}::text[]"),
        }
    }

    /// The expression that tells an array which is no list: of several dimensions, or with other bounds.
    pub(super) fn shape(&self) -> Option<String> {
        let name = statement::column(&self.column.name);
        matches!(self.kind, Kind::List(_))
            .then(|| format!("CASE WHEN array_ndims({name}) > 1 OR array_lower({name}, 1) <> 1 THEN {name}::text END"))
    }

    /// Its field. Always nullable: what has no place in its type becomes NULL.
    pub(super) fn field(&self) -> Field {
        self.kind.field(&self.column.name)
    }
}

impl Kind {
    fn field(&self, name: &str) -> Field {
        let extension = match self {
            Self::Json | Self::Jsonb => "arrow.json",
            Self::Uuid => "arrow.uuid",
            _ => return Field::new(name, self.data_type(), true),
        };
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Field::new(name, self.data_type(), true).with_metadata(HashMap::from([
            entry("ARROW:extension:name", extension),
            entry("ARROW:extension:metadata", ""),
        ]))
    }

    /// The field of a list's elements.
    pub(super) fn element_field(&self) -> Arc<Field> {
        Arc::new(self.field("item"))
    }

    /// The fields of a composite type.
    pub(super) fn struct_fields(fields: &[(String, u32, Self)]) -> Fields {
        fields.iter().map(|(name, _, kind)| kind.field(name)).collect()
    }

    /// The parts of an interval, which are not convertible into each other.
    pub(super) fn interval_fields() -> Fields {
        [("months", DataType::Int32), ("days", DataType::Int32), ("microseconds", DataType::Int64)]
            .into_iter()
            .map(|(name, data_type)| Field::new(name, data_type, true))
            .collect()
    }

    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
            // Nineteen digits are those of 64 bits.
            Self::Money { scale } => DataType::Decimal128(19.max(*scale), *scale as i8),
            Self::Text | Self::Json | Self::Jsonb => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Struct(Self::interval_fields()),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::List(element) => DataType::List(element.element_field()),
            Self::Struct(fields) => DataType::Struct(Self::struct_fields(fields)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_a_numeric() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | scale & 0x7FF) + 4;
        for (precision, scale, expected) in [
            (12, 4, Some((12, 4))),
            (38, 38, Some((38, 38))),
            (39, 0, None),
            (1000, 10, None),
            (3, 5, Some((5, 5))),
            (2, -3, Some((5, 0))),
            (38, -1, None),
        ] {
            let expected = expected.map(|(precision, scale)| Kind::Decimal { precision, scale });
            assert_eq!(decimal(modifier(precision, scale)), expected, "numeric({precision}, {scale})");
        }
        assert_eq!(decimal(-1), None);
        assert_eq!(decimal(i32::MAX), None);
    }
}
