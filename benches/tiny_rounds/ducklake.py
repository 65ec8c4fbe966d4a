"""ducklake.py FOLDER ROUNDS ROWS [SPEED]: DuckDB itself writing a DuckLake with a SQLite catalog, one transaction a round.

The same three tables and rows as our rounds, without receipts and positions; rows are kept inside the catalog as ours
are (data_inlining_row_limit). Prints `rounds_per_s p50_us p99_us cpu_us`.
"""

import glob
import sys
import time
from pathlib import Path

import duckdb

folder, rounds, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
TABLES, WARM = ("alpha", "beta", "gamma"), 5

folder.mkdir(parents=True, exist_ok=True)
packages = Path(duckdb.__file__).resolve().parent.parent
database = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
for name in ("ducklake", "sqlite_scanner"):
    found = glob.glob(f"{packages}/**/{name}.duckdb_extension", recursive=True)
    database.execute(f"load '{found[0]}'")
database.execute(f"attach 'ducklake:sqlite:{folder}/catalog.sqlite' as lake (data_path '{folder}/data', data_inlining_row_limit 1000)")
for table in TABLES:
    database.execute(f"create table lake.{table}(time timestamptz, device bigint, text varchar, sequence bigint)")


def commit(number):
    first = number * rows
    database.execute("begin")
    for table in TABLES:
        database.execute(
            f"insert into lake.{table} select make_timestamptz(1750000000000000 + i * 1000), i % 100, md5(i::varchar), i "
            f"from range({first}, {first + rows}) t(i)")
    database.execute("commit")


for number in range(WARM):
    commit(number)
taken = []
start, cpu = time.perf_counter(), time.process_time()
for number in range(WARM, WARM + rounds):
    before = time.perf_counter()
    commit(number)
    taken.append((time.perf_counter() - before) * 1e6)
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
taken.sort()
print(f"{rounds / wall:.1f} {taken[rounds // 2]:.0f} {taken[rounds * 99 // 100]:.0f} {cpu / rounds * 1e6:.0f}")
