#!/usr/bin/env python3
"""Durable rounds of three tables × ten rows: ours beside a bare SQLite transaction and DuckDB writing a DuckLake.

All take turns, each time on an empty folder; medians. With --day, a day of rounds at full speed with a reader and
maintenance beside, as a table over time.

    benches/setup.sh && cargo build --release -p portolan-bench && benches/tiny_rounds/compare.py [--day]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import median

HERE = Path(__file__).resolve().parent
FLOOR, LAKE, FILES = "SQLite transaction of the rows alone", "portolan, rows in the catalog", "portolan, a file a table"


def speed(program, given):
    """Rounds a second, in turns."""
    python = support.require(support.PYTHON, "run benches/setup.sh")
    machine, seen = support.machine(), {}
    for number in range(given.repeats):
        for rows in given.rows:
            for name, command, rounds in (
                (FLOOR, [program, "floor"], given.rounds),
                (LAKE, [program, "lake"], given.rounds),
                (FILES, [program, "files"], given.rounds // 5),
                ("DuckDB writing a DuckLake", [python, HERE / "ducklake.py"], max(given.rounds // 40, 20)),
            ):
                with tempfile.TemporaryDirectory(prefix="portolan-bench-", dir=given.folder, ignore_cleanup_errors=True) as folder:
                    words = [str(word) for word in (*command, f"{folder}/lake", rounds, rows)]
                    done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
                seen.setdefault((rows, name), []).append([float(word) for word in done.stdout.split()])
                print(f"# {number + 1} {rows} rows, {name}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    lines = []
    for (rows, name), runs in seen.items():
        per_second, p50, p99, cpu = (median(column) for column in zip(*runs))
        floor = median(run[0] for run in seen[rows, FLOOR])
        lines.append([f"3 × {rows} rows: {name}", f"{per_second:.0f}", f"{p50:.0f}", f"{p99:.0f}", f"{cpu:.0f}",
                      f"{floor / per_second:.2f}"])
    text = [f"Durable rounds, one after the other, medians of {given.repeats} runs in turns; {machine}.", "",
            support.table(["round", "rounds/s", "p50 µs", "p99 µs", "CPU µs", "time beside the bare transaction"], lines)]
    support.keep("tiny_rounds.md", "\n".join(text))


def day(program, given):
    """A day at full speed."""
    machine = support.machine()
    with tempfile.TemporaryDirectory(prefix="portolan-bench-", dir=given.folder, ignore_cleanup_errors=True) as folder:
        words = [program, "day", f"{folder}/lake", given.day_rounds, given.keep_s, given.maintenance_s]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
    if process.wait():
        sys.exit(f"ended with {process.returncode}")
    heading = (f"{given.day_rounds} rounds of 3 × 10 rows at full speed, a second apart on the lake's clock, snapshots kept "
               f"{given.keep_s} s, maintenance looked for every {given.maintenance_s} s of real time; {machine}.")
    support.keep("tiny_rounds_day.md", f"{heading}\n\n{''.join(lines).strip()}")


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=2_000, help="rounds of ours and of the floor in a run")
    arguments.add_argument("--rows", type=int, nargs="*", default=[10, 100])
    arguments.add_argument("--day", action="store_true")
    arguments.add_argument("--day-rounds", type=int, default=86_400)
    arguments.add_argument("--keep-s", type=int, default=3_600, help="with --day: age from which on snapshots expire")
    arguments.add_argument("--maintenance-s", type=float, default=5, help="with --day: the collector's own pace is 5")
    arguments.add_argument("--folder", help="where the lakes are made: the disk to measure; default the temporary folder")
    arguments.add_argument("--program", help="our program, if it is not in target/release")
    given = arguments.parse_args()
    program = support.release_program("tiny_rounds", given.program)
    (day if given.day else speed)(program, given)


if __name__ == "__main__":
    main()
