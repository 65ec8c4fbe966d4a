"""What DuckDB does for the comparison of FTP, in processes of its own.

duck.py make FOLDER FILES ROWS        ROWS rows over FILES files of CSV, numbered
duck.py convert FOLDER OUTPUT         every CSV file of a folder into one Parquet file
duck.py sums FILE|LAKE                rows, sum of ids, sum of grams, latest instant: of a Parquet file, or of a lake's table t
"""

import glob
import os
import sys
from pathlib import Path

import duckdb

COLUMNS = "{'id': 'bigint', 'device': 'varchar', 'grams': 'decimal(12,3)', 'celsius': 'double', 'measured_at': 'timestamp', 'note': 'varchar'}"
command, place = sys.argv[1], sys.argv[2]
database = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})

if command == "make":
    files, rows = int(sys.argv[3]), int(sys.argv[4])
    for number in range(files):
        first, last = rows * number // files, rows * (number + 1) // files
        path = f"{place}/part-{number:04}.csv"
        database.execute(f"""
            copy (select i as id, 'device-' || i % 5000 as device, (i * 37 % 100000000) / 1000.0::decimal(12,3) as grams,
                  round(20 + sin(i / 1000.0) * 15, 3) as celsius, make_timestamp(1767225600000000 + i * 250000) as measured_at,
                  'batch ' || i // 1000 || ', line ' || i % 40 as note
                  from range({first}, {last}) t(i)) to '{path}' (header, delimiter ',')""")
        os.chmod(path, 0o644)
elif command == "convert":
    database.execute(f"copy (select * from read_csv('{place}/*.csv', header = true, columns = {COLUMNS})) "
                     f"to '{sys.argv[3]}' (format parquet, compression zstd)")
else:
    table = f"'{place}'"
    if Path(place).is_dir():
        packages = Path(duckdb.__file__).resolve().parent.parent
        for name in ("ducklake", "sqlite_scanner"):
            found = glob.glob(f"{packages}/**/{name}.duckdb_extension", recursive=True)
            database.execute(f"load '{found[0]}'")
        database.execute(f"attach 'ducklake:sqlite:{place}/catalog.sqlite' as lake (read_only)")
        table = "lake.t"
    print(*database.execute(f"select count(*), sum(id), sum(grams), max(measured_at) from {table}").fetchone(), sep="|")
