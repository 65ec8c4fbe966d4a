//! Any bytes as a Parquet file: rows as many as are told, in columns of one length, or an error; never more memory than a file of
//! that size may ask for.

#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use portolan_connect::format::Item;
use portolan_connect::format::parquet::{Body, decode};

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The reader's own panics are caught and told as errors; those of this target still end it.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let mut rows = 0;
    let decoded = decode(&Body::Memory(bytes.to_vec().into()), &mut |item| {
        let Item::Batch(batch) = item else { return Ok(()) };
        rows += batch.num_rows() as u64;
        if rows > 1_000_000 {
            // A file of nulls alone may have any number of rows: the lake is where they end.
            return Err(portolan_model::Error::new(portolan_model::ErrorKind::Cancelled, "fuzz", "enough"));
        }
        let is_even = batch.columns().iter().all(|column| column.len() == batch.num_rows());
        if !is_even {
            std::process::abort();
        }
        Ok(())
    });
    if decoded.is_ok_and(|told| told != rows) {
        std::process::abort();
    }
});
