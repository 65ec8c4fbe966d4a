//! The unified store: a DuckLake 1.0 catalog in SQLite and Parquet files, written one round a transaction
