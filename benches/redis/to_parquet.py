"""to_parquet.py PORT hashes|stream OUTPUT: what one writes today: redis-py, pages of 1,000, a Parquet file by PyArrow.

Every value stays text, as Redis gives it. Prints the number of rows.
"""

import sys

import pyarrow
import pyarrow.parquet
import redis

FIELDS = ["place", "celsius", "humidity", "status", "read_at"]
PAGE, ROW_GROUP = 1_000, 100_000

port, kind, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
server = redis.Redis(port=port, decode_responses=True)
schema = pyarrow.schema([(name, pyarrow.string()) for name in ["id", *FIELDS]])


def hashes():
    """Pages of (key, fields)."""
    cursor = 0
    while True:
        cursor, keys = server.scan(cursor, match="sensor:*", count=PAGE)
        pipeline = server.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        yield list(zip(keys, pipeline.execute()))
        if cursor == 0:
            return


def stream():
    """Pages of (id, fields)."""
    last = "0"
    while page := server.xread({"readings": last}, count=PAGE):
        entries = page[0][1]
        last = entries[-1][0]
        yield entries


rows = 0
with pyarrow.parquet.ParquetWriter(output, schema, compression="zstd") as writer:
    pending = []
    for page in hashes() if kind == "hashes" else stream():
        pending.extend([key, *(fields.get(name) for name in FIELDS)] for key, fields in page)
        if len(pending) >= ROW_GROUP:
            writer.write_table(pyarrow.table(list(map(list, zip(*pending))), schema=schema))
            rows += len(pending)
            pending = []
    if pending:
        writer.write_table(pyarrow.table(list(map(list, zip(*pending))), schema=schema))
        rows += len(pending)
print(rows)
