"""connectorx_to_parquet.py URL PARTITIONS FILE: a table through ConnectorX into one Parquet file, zstd level 1."""

import sys

import connectorx
import pyarrow.parquet

url, partitions, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
split = {"partition_on": "id", "partition_num": partitions} if partitions > 1 else {}
rows = connectorx.read_sql(url, "select * from t", return_type="arrow", protocol="binary", **split)
if hasattr(rows, "read_all"):
    rows = rows.read_all()
pyarrow.parquet.write_table(rows, path, compression="zstd", compression_level=1)
