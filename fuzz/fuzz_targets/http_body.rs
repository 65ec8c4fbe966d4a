//! Any body under any coding and format: rows, quarantine or an error, and never more bytes than the limit.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use portolan_connect::format::{Format, Item, RowPath, Settings, decode, encoding};

/// The largest body accepted here.
const LIMIT: u64 = 1 << 20;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, body) = input;
    let coding = [None, Some("gzip"), Some("zstd"), Some("gzip, zstd")][usize::from(kind & 3)];
    let Ok(body) = encoding::decode(coding, &Bytes::copy_from_slice(body), LIMIT) else { return };
    assert!(body.len() as u64 <= LIMIT);
    let format = [Format::Json, Format::Ndjson, Format::Csv][usize::from(kind >> 2 & 3) % 3];
    let mut settings = Settings { csv_infer: kind & 16 != 0, ..Settings::default() };
    if kind & 32 != 0 {
        settings.cursor = Some(RowPath::column("id"));
        settings.identity = vec!["id".into()];
    }
    let mut rows = 0;
    let result = decode(format, &body, &settings, &mut |item| {
        if let Item::Batch(batch) = item {
            // A row without members, `{}`, is a row without columns.
            assert!(batch.num_rows() > 0);
            rows += batch.num_rows() as u64;
        }
        Ok(())
    });
    if let Ok(summary) = result {
        assert_eq!(summary.rows, rows, "rows given and rows counted");
    }
});
