#!/usr/bin/env python3
"""Hashes and a stream out of Redis: into our lake, beside the server's own limits and what one writes in Python.

Starts a Redis of its own and fills it. Ours ends with a committed, synced lake whose columns are typed; the Python script
ends with a Parquet file of texts in the page cache; `redis-cli --scan` names the keys and reads none of them.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/redis/compare.py
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import Measured, median

HERE = Path(__file__).resolve().parent
TYPES = '{ celsius = "double", humidity = "integer", read_at = "timestamptz" }'
KINDS = {
    "hashes": f'keys = "sensor:*"\ntype = "hash"\ncolumns = {TYPES}',
    "stream": f'stream = "readings"\ncolumns = {TYPES}',
    "group": f'stream = "readings"\ngroup = "lake"\ncreate_group = true\ncolumns = {TYPES}',
}


def configuration(port, kind):
    """The text of a portolan.toml that reads one kind."""
    return f"""
[server]
host = "127.0.0.1"

[lake]
path = "lake"

[[source]]
name = "t"
port = {port}
protocol = "redis"
tls = {{ allow_plaintext = "loopback comparison" }}
{KINDS[kind]}

[[round]]
name = "copy"
sources = ["t"]
every = "1h"
deadline = "10min"
"""


class Redis:
    """A Redis of our own without persistence."""

    def __init__(self):
        for name in ("redis-server", "redis-cli", "redis-benchmark"):
            if not shutil.which(name):
                sys.exit(f"{name} is missing: run `cargo xtask setup`")
        self.folder = tempfile.mkdtemp(prefix="portolan-bench-redis-")
        self.port = support.free_ports(1)
        self.process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
             "--dir", self.folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.cli("PING", check=False).stdout.strip() != "PONG":
            if self.process.poll() is not None:
                sys.exit("redis-server ended")

    def cli(self, *words, check=True):
        """Runs redis-cli to its end."""
        return subprocess.run(["redis-cli", "-p", str(self.port), *words], capture_output=True, text=True, check=check)

    def fill(self, rows):
        """A hash and an entry of the stream for each number; keys are named as redis-benchmark names them."""
        self.cli("FLUSHALL")
        load = subprocess.Popen(["redis-cli", "-p", str(self.port), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for first in range(0, rows, 10_000):
            commands = []
            for number in range(first, min(first + 10_000, rows)):
                fields = (f"place hall-{number % 97} celsius {number % 4000 / 100:.2f} humidity {number % 100} "
                          f"status {('ok', 'ok', 'warm')[number % 3]} read_at 2026-11-{number % 28 + 1:02}T08:00:{number % 60:02}Z")
                commands.append(f"HSET sensor:{number:012} {fields}\r\nXADD readings * {fields}\r\n")
            load.stdin.write("".join(commands).encode())
        load.stdin.close()
        said = load.stdout.read().decode()
        load.wait()
        if "errors: 0" not in said:
            sys.exit(f"filling failed: {said}")

    def close(self):
        """Stops it."""
        support.stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


class Until:
    """Asks the collector to stop once its rounds have as many rows."""

    def __init__(self, rows):
        self.missing = rows

    def __call__(self, line):
        if "round committed" in line:
            said = json.loads(line)
            self.missing -= int(said.get("rows", said.get("fields", {}).get("rows", 0)))
            return self.missing <= 0
        return False


def ours(program, redis, kind, rows, folder):
    """One copy into a new lake."""
    shutil.rmtree(folder / "lake", ignore_errors=True)
    if kind == "group":
        redis.cli("XGROUP", "DESTROY", "readings", "lake", check=False)
    (folder / "portolan.toml").write_text(configuration(redis.port, kind))
    run = Measured([program, "--config", folder / "portolan.toml", "--log-format", "json", "run"], None,
                   {"PORTOLAN_LOG": "debug"}, folder, Until(rows))
    held = 0 if run.code else support.lake_rows(folder / "lake", "t")
    if held != rows:
        sys.exit(f"{kind}: ended with {run.code}, {held} rows of {rows}: {run.errors[-2000:]}")
    if kind == "group" and (pending := redis.cli("XPENDING", "readings", "lake").stdout.split()[0]) != "0":
        sys.exit(f"{pending} entries are not acknowledged")
    return run


def theirs(redis, kind, rows, folder):
    """The same by a Python script; None where redis-py cannot be had."""
    python = support.require(support.PYTHON, "run benches/setup.sh")
    run = Measured([python, HERE / "to_parquet.py", redis.port, kind, folder / "out.parquet"], folder / "rows")
    if run.code or int((folder / "rows").read_text()) != rows:
        sys.exit(f"to_parquet.py: {run.errors[-2000:]}")
    return run


def requests_per_s(redis, count, *words):
    """What redis-benchmark gets of a command, 16 of them under way."""
    done = subprocess.run(["redis-benchmark", "-p", str(redis.port), "-c", "1", "-P", "16", "-n", str(count), "--csv", *words],
                          capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1].rsplit('","', 7)[1].strip('"'))


def measure(program, redis, rows, repeats):
    """Lines of the report for one size."""
    redis.fill(rows)
    seen = {}
    with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
        folder = Path(folder)
        for _ in range(repeats):
            scan = Measured(["redis-cli", "-p", redis.port, "--scan", "--pattern", "sensor:*"], folder / "keys")
            seen.setdefault("redis-cli --scan: names of keys alone", []).append(scan)
            for kind in KINDS:
                seen.setdefault(f"portolan, {kind} → lake", []).append(ours(program, redis, kind, rows, folder))
                if kind != "group":
                    name = f"redis-py, {kind} → Parquet, as text"
                    seen.setdefault(name, []).append(theirs(redis, kind, rows, folder))
            for name, runs in seen.items():
                print(f"# {rows} {name}: {runs[-1].wall_s:.2f} s, {runs[-1].peak_mib:.0f} MiB", file=sys.stderr, flush=True)
    lines = []
    for name, runs in seen.items():
        wall = median(run.wall_s for run in runs)
        lines.append([f"{rows:,}", name, f"{rows / wall / 1e3:.0f} k", f"{wall:.2f}", f"{median(run.cpu_s for run in runs):.2f}",
                      f"{median(run.peak_mib for run in runs):.0f}"])
    hashes = requests_per_s(redis, rows, "-r", str(rows), "HGETALL", "sensor:__rand_int__")
    pages = requests_per_s(redis, max(rows // 1_000, 16), "XRANGE", "readings", "-", "+", "COUNT", "1000")
    lines.append([f"{rows:,}", "redis-benchmark: HGETALL, 16 under way", f"{hashes / 1e3:.0f} k", "–", "–", "–"])
    lines.append([f"{rows:,}", "redis-benchmark: XRANGE of 1,000, 16 under way", f"{pages:.0f} k", "–", "–", "–"])
    return lines


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="100,000 rows, once")
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    if given.quick:
        given.rows, given.repeats = [100_000], 1
    program = support.release_program("portolan", given.program)
    machine = support.machine()
    with contextlib.closing(Redis()) as redis:
        lines = [line for rows in given.rows for line in measure(program, redis, rows, given.repeats)]
    headings = ["rows", "copy", "rows/s", "wall s", "CPU s", "peak MiB"]
    text = (f"Hashes of five fields and entries of as many out of Redis, medians of {given.repeats} runs in turns; {machine}.\n\n"
            f"{support.table(headings, lines)}")
    support.keep("redis.md", text)


if __name__ == "__main__":
    main()
