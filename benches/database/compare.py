#!/usr/bin/env python3
"""One million rows out of MariaDB and PostgreSQL: into our lake, beside the loaders people use.

Starts a server of its own, fills a table, then lets everybody copy it in turns. Reads medians of wall time, CPU time
and peak memory. Ours ends with a committed, synced lake; the others end with a file in the page cache.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/database/compare.py
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import BENCH, Measured, median

MEMORY_MIB_MAX = 150
# Our rows a second, of those that the raw COPY brings into a file.
RAW_SHARE_MIN = 0.6
RAW = "COPY … BINARY → file"
HERE = Path(__file__).resolve().parent
OURS = "portolan run → lake"

# One round, after whose commit the collector is asked to stop: the process takes as long as reading and committing the
# table, start and stop included.
COMMITTED = "round committed"
CONFIGURATION = """
[server]
host = "127.0.0.1"

[lake]
path = "lake"

[[source]]
name = "t"
port = {port}
protocol = "{protocol}"
tls = {{ allow_plaintext = "loopback comparison" }}
user = "{user}"
database = "demo"
table = "t"

[[round]]
name = "copy"
sources = ["t"]
every = "1h"
deadline = "10min"
"""


class MariaDb(support.MariaDb):
    """MariaDB, and what others read it with."""

    title, protocol, user = "MariaDB", "mysql", "root"

    def __init__(self):
        super().__init__("--innodb-buffer-pool-size=1G")

    def url(self):
        return f"mysql://root@127.0.0.1:{self.port}/demo"

    def fill(self, rows):
        self.run((HERE / "mariadb.sql").read_text().replace("1000000", str(rows)))

    def stream(self):
        return "demo.t"

    def raw(self, folder):
        command = self.client("--quick", "-BN", "-e", "select * from demo.t")
        return {"mariadb --quick → file, as text": (command, folder / "out.text", {})}


class Postgres(support.Postgres):
    """PostgreSQL, and what others read it with."""

    title, protocol, user = "PostgreSQL", "postgres", "postgres"

    def __init__(self):
        super().__init__("shared_buffers=1GB")
        self.run("create database demo", "postgres")

    def url(self):
        return f"postgresql://postgres@127.0.0.1:{self.port}/demo?sslmode=disable"

    def fill(self, rows):
        self.run((HERE / "postgres.sql").read_text().replace("1000000", str(rows)), "demo")

    def stream(self):
        return "public.t"

    def raw(self, folder):
        return {RAW: (self.client("demo", "-c", "copy t to stdout (format binary)"), folder / "out.copy", {})}


ENGINES = {engine.protocol: engine for engine in (MariaDb, Postgres)}


def competitors(program, server, folder):
    """Name → (command, where standard output goes, environment)."""
    (folder / "portolan.toml").write_text(CONFIGURATION.format(port=server.port, protocol=server.protocol, user=server.user))
    url = server.url()
    python = support.require(support.PYTHON, "run benches/setup.sh")
    script = HERE / "connectorx_to_parquet.py"
    output = folder / "out.parquet"
    found = {OURS: ([program, "--config", folder / "portolan.toml", "run"], None, {"PORTOLAN_LOG": "debug"})}
    for partitions in (1, 2):
        name = f"ConnectorX → Parquet, {partitions} partition" + ("s" if partitions > 1 else "")
        found[name] = ([python, script, url, partitions, output], None, {})
    sling = BENCH / "bin" / "sling"
    if sling.exists():
        environment = {"SOURCE": url, "SLING_HOME_DIR": str(folder / "sling"), "SLING_DISABLE_TELEMETRY": "true",
                       "SLING_DUCKDB_COMPUTE": "false"}
        command = [sling, "run", "--src-conn", "SOURCE", "--src-stream", server.stream(), "--tgt-object", f"file://{output}"]
        found["sling → Parquet"] = (command, None, environment)
    found.update(server.raw(folder))
    return found


def clean(folder):
    """Removes what the run before left."""
    shutil.rmtree(folder / "lake", ignore_errors=True)
    for name in ("out.parquet", "out.text", "out.copy"):
        (folder / name).unlink(missing_ok=True)


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--only", nargs="*", help="only those whose name holds one of these words")
    arguments.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES))
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    program = support.release_program("portolan", given.program)
    machine = support.machine()
    everything, reports = {}, []
    for protocol in given.engines:
        seen = measure(ENGINES[protocol], program, given)
        everything[protocol] = seen
        reports.append(show(ENGINES[protocol].title, seen, machine, given.rows, given.repeats))
    support.keep("database.md", "\n\n".join(reports))
    (support.RESULTS / "database.json").write_text(json.dumps(everything, indent=1))


def measure(engine, program, given):
    """Name → what each run took."""
    seen = {}
    with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder, engine() as server:
        folder = Path(folder)
        server.fill(given.rows)
        for number in range(given.repeats):
            for name, (command, output, environment) in competitors(program, server, folder).items():
                if given.only and not any(word in name for word in given.only):
                    continue
                clean(folder)
                server_cpu = server.cpu_s()
                run = Measured(command, output, environment, folder, COMMITTED if name == OURS else None)
                server_cpu = server.cpu_s() - server_cpu
                if run.code:
                    sys.exit(f"{name} ended with {run.code}: {run.errors[-2000:]}")
                size, _ = support.folder_size(folder / "lake" if name == OURS else folder)
                if name == OURS and (rows := support.lake_rows(folder / "lake", "t")) != given.rows:
                    sys.exit(f"the lake holds {rows} rows instead of {given.rows}: {run.errors[-2000:]}")
                seen.setdefault(name, []).append((run.wall_s, run.peak_mib, run.cpu_s, server_cpu, size / 1e6))
                print(f"# {number + 1} {engine.title}, {name}: {run.wall_s:.2f} s, {run.peak_mib:.0f} MiB, CPU {run.cpu_s:.2f} s",
                      file=sys.stderr, flush=True)
        clean(folder)
    return seen


def show(title, seen, machine, row_count, repeats):
    """The report in Markdown."""
    middle = {name: [median(column) for column in zip(*runs)] for name, runs in seen.items()}
    ours = middle.get(OURS)
    rows = []
    for name, (wall, peak, cpu, server_cpu, size) in middle.items():
        spread = [run[0] for run in seen[name]]
        beside = f"{wall / ours[0]:.2f}" if ours else "–"
        rows.append([name, f"{row_count / wall / 1e3:.0f} k", f"{wall:.2f} ({min(spread):.2f}–{max(spread):.2f})", beside,
                     f"{peak:.0f}", f"{cpu:.2f}", f"{server_cpu:.2f}", f"{size:.0f}"])
    headings = ["copy", "rows/s", "wall s (range)", "wall beside ours", "peak MiB", "CPU s", "server CPU s", "MB written"]
    text = [f"{row_count} rows out of {title}, medians of {repeats} runs in turns; {machine}.", "",
            support.table(headings, rows), ""]
    if ours:
        for name, (wall, *_) in middle.items():
            if "Parquet" in name:
                text.append(f"- {met(ours[0] < wall)}: {ours[0]:.2f} s against {wall:.2f} s of {name}")
        if RAW in middle:
            share = middle[RAW][0] / ours[0]
            text.append(f"- {met(share >= RAW_SHARE_MIN)}: {share:.2f} of the rows/s of {RAW}, at least {RAW_SHARE_MIN}")
        text.append(f"- {met(ours[1] < MEMORY_MIB_MAX)}: {ours[1]:.0f} MiB at the peak, at most {MEMORY_MIB_MAX}")
    return "\n".join(text)


def met(is_met):
    """What is said of a bar."""
    return "met" if is_met else "missed"


if __name__ == "__main__":
    main()
