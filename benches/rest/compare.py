#!/usr/bin/env python3
"""What `portolan run` takes at rest: eight sources (six HTTP ports, two MariaDB tables), memory and CPU after a minute.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/rest/compare.py
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support

MEMORY_MIB_MAX = 40
HTTP_PORTS, TABLES = 6, 2


def configuration(first_port, database_port, every):
    """The text of a portolan.toml."""
    names = [f"port_{index}" for index in range(HTTP_PORTS)] + [f"table_{index}" for index in range(TABLES)]
    text = '[server]\nhost = "127.0.0.1"\n\n[lake]\npath = "lake"\n'
    for index in range(HTTP_PORTS):
        text += f"""
[[source]]
name = "port_{index}"
port = {first_port + index}
protocol = "http"
path = "/"
tls = {{ allow_plaintext = "loopback comparison" }}
"""
    for index in range(TABLES):
        text += f"""
[[source]]
name = "table_{index}"
port = {database_port}
protocol = "mysql"
user = "root"
database = "demo"
table = "t{index}"
cursor = "id"
tls = {{ allow_plaintext = "loopback comparison" }}
"""
    return text + f'\n[[round]]\nname = "all"\nsources = {names}\nevery = "{every}"\n'.replace("'", '"')


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--every", nargs="*", default=["10s", "1s"], help="the round's interval; one measurement each")
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    program = support.release_program("portolan", given.program)
    machine, rows = support.machine(), []
    with support.MariaDb("--innodb-buffer-pool-size=16M") as server, support.sample_server(HTTP_PORTS, 1000) as first_port:
        server.run("create database demo")
        for index in range(TABLES):
            server.run(f"use demo; create table t{index}(id bigint primary key, name varchar(40));"
                       f"insert into t{index} select seq, md5(seq) from seq_1_to_100")
        for every in given.every:
            with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
                config = Path(folder) / "portolan.toml"
                config.write_text(configuration(first_port, server.port, every))
                log = open(Path(folder) / "log", "w+")
                process = subprocess.Popen([program, "--config", config, "run"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                try:
                    time.sleep(given.seconds)
                    if process.poll() is not None:
                        sys.exit(f"portolan ended: {open(log.name).read()[-2000:]}")
                    resident, proportional = support.process_memory_mib(process.pid)
                    status = dict(line.split(":", 1) for line in open(f"/proc/{process.pid}/status").read().splitlines())
                    peak = int(status["VmHWM"].split()[0]) / 1024
                    cpu_ms = support.process_cpu_s(process.pid) * 1e3 / given.seconds
                finally:
                    support.stop(process)
                    log.close()
                collected = [support.lake_rows(Path(folder) / "lake", name) for name in ("port_0", "table_0")]
                if not all(collected):
                    sys.exit(f"nothing was collected: {collected}")
                verdict = "met" if resident <= MEMORY_MIB_MAX else "missed"
                rows.append([every, f"{resident:.1f}", f"{proportional:.1f}", f"{peak:.1f}", status["Threads"].strip(),
                             f"{cpu_ms:.1f}", verdict])
    headings = ["rounds every", "resident MiB", "proportional MiB", "peak MiB", "threads", "CPU ms per second",
                f"at most {MEMORY_MIB_MAX} MiB"]
    text = f"`portolan run` with {HTTP_PORTS + TABLES} sources after {given.seconds} s; {machine}.\n\n{support.table(headings, rows)}"
    support.keep("rest.md", text)


if __name__ == "__main__":
    main()
