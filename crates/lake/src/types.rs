//! The types of stored columns: DuckLake's name of each, and the one Arrow type that carries it.
//!
//! Promise: a column's Arrow type follows from its DuckLake type alone, so that rows look the same whether they come
//! from the catalog or from a file. Follows the DuckLake 1.0 specification, "Data Types".

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use portolan_model::{Error, ErrorKind, Result};

/// The key under which Parquet's field id travels in an Arrow field.
pub(crate) const FIELD_ID_KEY: &str = "PARQUET:field_id";
const EXTENSION_KEY: &str = "ARROW:extension:name";

/// A column, or a part of a nested one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// DuckLake's column id, which is the Parquet field id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

/// The type of a stored column.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the DuckLake type of that name")]
pub enum Kind {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    /// Precision 1–38, scale 0–precision.
    Decimal(u8, u8),
    Date,
    Time,
    TimestampMs,
    Timestamp,
    TimestampNs,
    TimestampTz,
    Varchar,
    Json,
    Blob,
    Uuid,
    List(Box<Column>),
    Struct(Vec<Column>),
    Map(Box<Column>, Box<Column>),
}

impl Kind {
    /// Reads DuckLake's name of a type that has no children.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "boolean" => Self::Boolean,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uint8" => Self::UInt8,
            "uint16" => Self::UInt16,
            "uint32" => Self::UInt32,
            "uint64" => Self::UInt64,
            "float32" => Self::Float32,
            "float64" => Self::Float64,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp_s" | "timestamp" => Self::Timestamp,
            "timestamp_ms" => Self::TimestampMs,
            "timestamp_ns" => Self::TimestampNs,
            "timestamptz" => Self::TimestampTz,
            "varchar" => Self::Varchar,
            "json" => Self::Json,
            "blob" => Self::Blob,
            "uuid" => Self::Uuid,
            other => {
                let (precision, scale) = other.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
                Self::Decimal(precision.trim().parse().ok()?, scale.trim().parse().ok()?)
            }
        })
    }

    /// Whether values have parts with columns of their own.
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::List(_) | Self::Struct(_) | Self::Map(..))
    }

    /// Direct children of a nested type.
    pub fn children(&self) -> Vec<&Column> {
        match self {
            Self::List(element) => vec![element],
            Self::Struct(fields) => fields.iter().collect(),
            Self::Map(key, value) => vec![key, value],
            _ => Vec::new(),
        }
    }

    /// Whether both are the same type, whatever the ids of their parts.
    pub fn same_shape(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) => a.kind.same_shape(&b.kind),
            (Self::Struct(a), Self::Struct(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name == b.name && a.kind.same_shape(&b.kind))
            }
            (Self::Map(a, b), Self::Map(c, d)) => a.kind.same_shape(&c.kind) && b.kind.same_shape(&d.kind),
            _ => self == other,
        }
    }

    /// The type as a word that can be part of a column name, such as `int64` or `decimal_18_3`.
    pub fn word(&self) -> String {
        match self {
            Self::Decimal(precision, scale) => format!("decimal_{precision}_{scale}"),
            Self::List(element) => format!("list_{}", element.kind.word()),
            Self::Map(key, value) => format!("map_{}_{}", key.kind.word(), value.kind.word()),
            // The parts of a struct would make names of any length: eight digits of their digest tell them apart.
            Self::Struct(_) => {
                use sha2::{Digest, Sha256};
                let digest = Sha256::digest(self.full_name().as_bytes());
                format!("struct_{}", crate::digest::hex(&digest[..4]))
            }
            simple => simple.to_string(),
        }
    }

    /// The type with all its parts, for messages.
    pub fn full_name(&self) -> String {
        match self {
            Self::List(element) => format!("{}[]", element.kind.full_name()),
            Self::Struct(fields) => {
                let parts: Vec<_> = fields.iter().map(|f| format!("{:?} {}", f.name, f.kind.full_name())).collect();
                format!("struct({})", parts.join(", "))
            }
            Self::Map(key, value) => format!("map({}, {})", key.kind.full_name(), value.kind.full_name()),
            simple => simple.to_string(),
        }
    }

    /// The Arrow type that carries it.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::UInt8 => DataType::UInt8,
            Self::UInt16 => DataType::UInt16,
            Self::UInt32 => DataType::UInt32,
            Self::UInt64 => DataType::UInt64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale as i8),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::TimestampMs => DataType::Timestamp(TimeUnit::Millisecond, None),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Varchar | Self::Json => DataType::Utf8,
            Self::Blob => DataType::Binary,
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::List(element) => DataType::List(Arc::new(element.field().with_name("element"))),
            Self::Struct(fields) => DataType::Struct(fields.iter().map(Column::field).collect()),
            Self::Map(key, value) => {
                let key = key.field().with_name("key").with_nullable(false);
                let value = value.field().with_name("value");
                let entries = DataType::Struct(vec![key, value].into());
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
        }
    }
}

impl fmt::Display for Kind {
    /// The name in `ducklake_column.column_type`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "boolean",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::UInt8 => "uint8",
            Self::UInt16 => "uint16",
            Self::UInt32 => "uint32",
            Self::UInt64 => "uint64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Decimal(precision, scale) => return write!(formatter, "decimal({precision},{scale})"),
            Self::Date => "date",
            Self::Time => "time",
            Self::TimestampMs => "timestamp_ms",
            Self::Timestamp => "timestamp",
            Self::TimestampNs => "timestamp_ns",
            Self::TimestampTz => "timestamptz",
            Self::Varchar => "varchar",
            Self::Json => "json",
            Self::Blob => "blob",
            Self::Uuid => "uuid",
            Self::List(_) => "list",
            Self::Struct(_) => "struct",
            Self::Map(..) => "map",
        };
        formatter.write_str(name)
    }
}

impl Column {
    /// The Arrow field: nullable, with the field id, and `arrow.json` or `arrow.uuid` where the type is one of those.
    pub fn field(&self) -> Field {
        let mut metadata = HashMap::from([(FIELD_ID_KEY.to_owned(), self.id.to_string())]);
        match self.kind {
            Kind::Json => drop(metadata.insert(EXTENSION_KEY.into(), "arrow.json".into())),
            Kind::Uuid => drop(metadata.insert(EXTENSION_KEY.into(), "arrow.uuid".into())),
            _ => {}
        }
        Field::new(&self.name, self.kind.arrow(), true).with_metadata(metadata)
    }
}

/// The Arrow schema of columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>()))
}

/// The stored type of an incoming Arrow field; `None` for a column of nulls without a type, which is not stored until
/// a batch gives it one. Parts of nested types that are untyped nulls become `varchar`.
///
/// # Errors
/// `Data` for a type that has no lossless place (intervals, unions).
pub fn kind_of(field: &Field) -> Result<Option<Kind>> {
    let mut next_id = 0;
    kind_at(field, &mut next_id)
}

fn kind_at(field: &Field, next_id: &mut i64) -> Result<Option<Kind>> {
    let extension = field.metadata().get(EXTENSION_KEY).map(String::as_str);
    Ok(Some(match field.data_type() {
        DataType::Null => return Ok(None),
        DataType::Boolean => Kind::Boolean,
        DataType::Int8 => Kind::Int8,
        DataType::Int16 => Kind::Int16,
        DataType::Int32 => Kind::Int32,
        DataType::Int64 | DataType::Duration(_) => Kind::Int64,
        DataType::UInt8 => Kind::UInt8,
        DataType::UInt16 => Kind::UInt16,
        DataType::UInt32 => Kind::UInt32,
        DataType::UInt64 => Kind::UInt64,
        DataType::Float16 | DataType::Float32 => Kind::Float32,
        DataType::Float64 => Kind::Float64,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => decimal(*precision, *scale),
        DataType::Date32 => Kind::Date,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, None) => Kind::TimestampMs,
        DataType::Time32(_) | DataType::Time64(TimeUnit::Microsecond) => Kind::Time,
        // DuckLake's time has microseconds: nine digits are kept as text.
        DataType::Time64(_) => Kind::Varchar,
        DataType::Timestamp(TimeUnit::Microsecond, None) => Kind::Timestamp,
        // DuckLake's zoned timestamp has microseconds: nanoseconds are kept, in UTC, without the zone.
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Kind::TimestampNs,
        DataType::Timestamp(_, Some(_)) => Kind::TimestampTz,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match extension {
            Some("arrow.json") => Kind::Json,
            _ => Kind::Varchar,
        },
        DataType::FixedSizeBinary(16) if extension == Some("arrow.uuid") => Kind::Uuid,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Kind::Blob,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Kind::List(Box::new(part(item, "element", next_id)?)),
        DataType::Struct(fields) if fields.is_empty() => Kind::Json,
        DataType::Struct(fields) => {
            let parts = fields.iter().zip(part_names(fields));
            Kind::Struct(parts.map(|(field, name)| part(field, &name, next_id)).collect::<Result<_>>()?)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(unsupported(field)) };
            let [key, value] = fields.as_ref() else { return Err(unsupported(field)) };
            Kind::Map(Box::new(part(key, "key", next_id)?), Box::new(part(value, "value", next_id)?))
        }
        DataType::Dictionary(_, value) => {
            let plain = Field::new(field.name(), value.as_ref().clone(), true).with_metadata(field.metadata().clone());
            return kind_at(&plain, next_id);
        }
        DataType::RunEndEncoded(_, values) => return kind_at(values, next_id),
        DataType::Interval(_) | DataType::Union(..) => return Err(unsupported(field)),
    }))
}

fn part(field: &Field, name: &str, next_id: &mut i64) -> Result<Column> {
    *next_id += 1;
    let id = *next_id;
    Ok(Column { id, name: name.to_owned(), kind: kind_at(field, next_id)?.unwrap_or(Kind::Varchar) })
}

/// The names that the parts of a struct are stored under: as they come, but for what keeps DuckDB from reading any
/// table of the lake (two names that differ at most in case) or the inlined rows (no name, control characters).
pub(crate) fn part_names(fields: &Fields) -> Vec<String> {
    let clean = |name: &str| -> String { name.chars().map(|c| if c.is_control() { '_' } else { c }).collect() };
    let mut names: Vec<String> = Vec::with_capacity(fields.len());
    let mut taken: HashSet<String> = HashSet::with_capacity(fields.len());
    let wanted: HashSet<String> = fields.iter().map(|field| field.name().to_lowercase()).collect();
    for field in fields {
        let name = if field.name().is_empty() { "part".to_owned() } else { clean(field.name()) };
        let is_free = |name: &String| {
            let lower = name.to_lowercase();
            !taken.contains(&lower) && (name == field.name() || !wanted.contains(&lower))
        };
        let numbered = (2u32..).map(|number| format!("{name}_{number}"));
        let name = std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or(name);
        taken.insert(name.to_lowercase());
        names.push(name);
    }
    names
}

fn decimal(precision: u8, scale: i8) -> Kind {
    let (precision, scale) = match (i16::from(precision), i16::from(scale)) {
        (precision, scale) if scale < 0 => (precision - scale, 0),
        (precision, scale) => (precision.max(scale), scale),
    };
    if precision > 38 { Kind::Varchar } else { Kind::Decimal(precision as u8, scale as u8) }
}

fn unsupported(field: &Field) -> Error {
    Error::new(ErrorKind::Data, "store rows", format!("column `{}` has type {}", field.name(), field.data_type()))
        .with_hint("the lake has no lossless place for this type: let the source yield text or a number instead")
}
