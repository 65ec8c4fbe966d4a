//! DuckDB writes a lake and reads it back, at each snapshot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use portolan_testkit::duckdb::{Session, query, query_at};
use serde_json::json;

#[test]
fn reads_rows_as_json_at_any_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Session { folder: folder.path(), snapshot: None, write: true };
    writer
        .run(&[
            "CREATE TABLE items (id BIGINT, price DECIMAL(10,2), moment TIMESTAMP, raw BLOB, big UBIGINT)",
            "INSERT INTO items VALUES (1, 1.50, '2026-01-02 03:04:05', 'a'::BLOB, 18446744073709551615)",
            "INSERT INTO items VALUES (2, NULL, NULL, NULL, 3)",
        ])
        .unwrap();
    let rows = query(folder.path(), "SELECT * FROM items ORDER BY id").unwrap();
    let first = json!({
        "id": 1, "price": "1.50", "moment": "2026-01-02 03:04:05", "raw": "61", "big": "18446744073709551615"
    });
    assert_eq!(rows[0], first);
    assert_eq!(rows[1], json!({ "id": 2, "price": null, "moment": null, "raw": null, "big": 3 }));
    assert_eq!(query_at(folder.path(), 2, "SELECT id FROM items").unwrap(), [json!({ "id": 1 })]);
    let error = query(folder.path(), "INSERT INTO items (id) VALUES (3)").unwrap_err().to_string();
    assert!(error.contains("read-only"), "{error}");
}
