//! SQL's names of types, as DuckDB means them: timestamps have microseconds, so that they compare with stored ones
//! without loss and reach beyond the years 1677–2262.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

#[derive(Debug)]
pub(crate) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql: &SqlType) -> EngineResult<Option<FieldRef>> {
        let plain = |kind: DataType| Ok(Some(Arc::new(Field::new("", kind, true))));
        let unit = |precision: &Option<u64>| match precision {
            Some(0) => TimeUnit::Second,
            Some(1..=3) => TimeUnit::Millisecond,
            Some(7..) => TimeUnit::Nanosecond,
            _ => TimeUnit::Microsecond,
        };
        match sql {
            SqlType::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                plain(DataType::Timestamp(unit(precision), None))
            }
            SqlType::Timestamp(..) => plain(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            SqlType::Datetime(precision) => plain(DataType::Timestamp(unit(precision), None)),
            SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
                plain(DataType::Time64(TimeUnit::Microsecond))
            }
            SqlType::UTinyInt => plain(DataType::UInt8),
            SqlType::USmallInt => plain(DataType::UInt16),
            SqlType::UBigInt => plain(DataType::UInt64),
            SqlType::HugeInt => plain(DataType::Decimal128(38, 0)),
            SqlType::Blob(_) => plain(DataType::Binary),
            SqlType::JSON => {
                let extension = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
                Ok(Some(Arc::new(Field::new("", DataType::Utf8, true).with_metadata(extension))))
            }
            SqlType::Custom(name, arguments) if arguments.is_empty() => {
                match name.to_string().to_ascii_lowercase().as_str() {
                    "uinteger" => plain(DataType::UInt32),
                    "timestamp_s" => plain(DataType::Timestamp(TimeUnit::Second, None)),
                    "timestamp_ms" => plain(DataType::Timestamp(TimeUnit::Millisecond, None)),
                    "timestamp_ns" => plain(DataType::Timestamp(TimeUnit::Nanosecond, None)),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }
}
