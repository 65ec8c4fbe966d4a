//! Any JSON, any row path, any column type: batches whose columns have one length, with the types asked for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_connect::format::{ColumnType, Format, Item, RowPath, Settings, decode};

/// Types that columns are given, as a configuration names them.
const TYPES: [&str; 12] = [
    "boolean",
    "int32",
    "int64",
    "uint64",
    "float64",
    "decimal(20,4)",
    "decimal(38,10)",
    "date",
    "timestamp",
    "timestamptz",
    "varchar",
    "json",
];

fuzz_target!(|input: (u8, u8, &str, &str)| {
    let (kind, choice, path, text) = input;
    let mut settings = Settings::default();
    if kind & 1 != 0 {
        let Ok(path) = RowPath::parse(path) else { return };
        settings.rows = Some(path);
    }
    if let Ok(column_type) = ColumnType::parse(TYPES[usize::from(choice) % TYPES.len()]) {
        for name in ["a", "id", "value"] {
            settings.columns.insert(name.into(), column_type);
        }
    }
    if kind & 2 != 0 {
        settings.cursor = Some(RowPath::column("id"));
    }
    let format = if kind & 4 == 0 { Format::Json } else { Format::Ndjson };
    let columns = settings.columns.clone();
    let mut rows = 0;
    let result = decode(format, text.as_bytes(), &settings, &mut |item| {
        if let Item::Batch(batch) = item {
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                assert_eq!(column.len(), batch.num_rows());
                if let Some(column_type) = columns.get(field.name()) {
                    assert_eq!(*field.data_type(), column_type.data_type(), "{}", field.name());
                }
            }
            rows += batch.num_rows() as u64;
        }
        Ok(())
    });
    if let Ok(summary) = result {
        assert_eq!(summary.rows, rows);
    }
});
