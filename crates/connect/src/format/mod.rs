//! Bytes to Arrow record batches: JSON, NDJSON, CSV.
