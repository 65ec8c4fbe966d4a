#!/usr/bin/env python3
"""512 sources in one process: how long `portolan run` takes to start, its memory and CPU at rest, and a round over all.

Twice: all sources in one round, read at once and committed together; and each source a round of its own, as they are
where no round names them.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/many_sources/compare.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import median


def configuration(first_port, sources, every, is_together):
    """The text of a portolan.toml."""
    text = '[server]\nhost = "127.0.0.1"\n\n[lake]\npath = "lake"\n'
    for index in range(sources):
        text += f"""
[[source]]
name = "port_{index}"
port = {first_port + index}
protocol = "http"
path = "/"
tls = {{ allow_plaintext = "loopback comparison" }}
"""
        if not is_together:
            text += f'every = "{every}"\n'
    if is_together:
        names = ", ".join(f'"port_{index}"' for index in range(sources))
        text += f'\n[[round]]\nname = "all"\nsources = [{names}]\nevery = "{every}"\n'
    return text


class Collector:
    """A running collector whose log is read as it comes."""

    def __init__(self, program, folder):
        self.started = time.perf_counter()
        self.lines = []
        self.process = subprocess.Popen(
            [program, "--config", folder / "portolan.toml", "--log-format", "json", "run"], cwd=folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**support.os.environ, "PORTOLAN_LOG": "debug"})
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        """Notes each line with the time at which it came."""
        for line in self.process.stderr:
            self.lines.append((time.perf_counter() - self.started, line))

    def said(self, text):
        """Seconds and content of each line of its log that holds a text."""
        return [(second, json.loads(line)) for second, line in list(self.lines) if text in line]

    def wait_for(self, text, count, patience_s):
        """Seconds from its start until it had said so `count` times."""
        while time.perf_counter() - self.started < patience_s:
            if self.process.poll() is not None:
                sys.exit(f"portolan ended: {''.join(line for _, line in self.lines[-20:])}")
            if len(found := self.said(text)) >= count:
                return found[count - 1][0]
            time.sleep(0.02)
        sys.exit(f"{len(self.said(text))} of {count} times {text!r}: {''.join(line for _, line in self.lines[-20:])}")

    def stop(self):
        """Stops it in order."""
        support.stop(self.process)
        self.reader.join()


def measure(program, given, is_together):
    """One row of the report."""
    with support.sample_server(given.sources, given.service_ms * 1000) as first, \
            tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
        folder = Path(folder)
        (folder / "portolan.toml").write_text(configuration(first, given.sources, given.every, is_together))
        collector = Collector(program, folder)
        try:
            rounds = 1 if is_together else given.sources
            ready_s = collector.wait_for("round committed", rounds, 60)
            collector.wait_for("source is healthy", given.sources, 60)
            cpu_started, since = support.process_cpu_s(collector.process.pid), time.perf_counter()
            time.sleep(given.seconds)
            cpu_ms = (support.process_cpu_s(collector.process.pid) - cpu_started) * 1e3 / (time.perf_counter() - since)
            resident, proportional = support.process_memory_mib(collector.process.pid)
            status = dict(line.split(":", 1) for line in open(f"/proc/{collector.process.pid}/status").read().splitlines())
        finally:
            collector.stop()
        durations = [float(find(line, "duration_ms")) for _, line in collector.said("round committed")][rounds:]
        rows = sum(support.lake_rows(folder / "lake", f"port_{index}") for index in range(given.sources))
        if rows < given.sources or not durations:
            sys.exit(f"{rows} rows in the lake, {len(durations)} rounds after the first")
        name = "one round over all" if is_together else "a round each"
        return [name, f"{ready_s * 1e3:.0f}", f"{median(durations):.1f}", f"{max(durations):.1f}", len(durations),
                f"{resident:.1f}", f"{int(status['VmHWM'].split()[0]) / 1024:.1f}", status["Threads"].strip(), f"{cpu_ms:.1f}"]


def find(line, key):
    """A field of a line of the log, wherever it stands."""
    return line[key] if key in line else line["fields"][key]


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sources", type=int, default=512)
    arguments.add_argument("--service-ms", type=int, default=5, help="how long a port takes to answer")
    arguments.add_argument("--every", default="10s")
    arguments.add_argument("--seconds", type=int, default=60, help="how long it is watched once it has started")
    arguments.add_argument("--quick", action="store_true", help="rounds each second, watched for ten")
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    if given.quick:
        given.every, given.seconds = "1s", 10
    program = support.release_program("portolan", given.program)
    support.raise_file_limit()
    machine = support.machine()
    rows = [measure(program, given, is_together) for is_together in (True, False)]
    headings = ["rounds", "start to all committed, ms", "round, median ms", "longest ms", "rounds seen", "resident MiB",
                "peak MiB", "threads", "CPU ms per second"]
    text = (f"`portolan run` with {given.sources} HTTP sources of {given.service_ms} ms, every {given.every}, watched for "
            f"{given.seconds} s; {machine}.\n\n{support.table(headings, rows)}")
    support.keep("many_sources.md", text)


if __name__ == "__main__":
    main()
