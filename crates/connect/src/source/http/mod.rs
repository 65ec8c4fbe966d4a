//! HTTP/1.1 and HTTP/2: JSON, NDJSON and CSV answers as rows.
