"""What the comparisons share: paths, free ports, measured processes, servers of their own, medians and tables.

Standard library only. Every server started here is stopped by the script that started it; nothing leaves loopback.
"""

import contextlib
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

BENCHES = pathlib.Path(__file__).resolve().parent
WORKSPACE = BENCHES.parent
BENCH = WORKSPACE / "target" / "bench"
RESULTS = BENCH / "results"
PYTHON = BENCH / "venv" / "bin" / "python"
median = statistics.median


def require(path, how):
    """The absolute path, or the end of the script with what to do."""
    if not pathlib.Path(path).exists():
        sys.exit(f"{path} is missing: {how}")
    return str(pathlib.Path(path).absolute())


def release_program(name, given=None):
    """A program of this repository, built for release."""
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target"))
    package = "portolan" if name == "portolan" else "portolan-bench"
    return require(given or folder / "release" / name, f"cargo build --release -p {package}")


def free_ports(count):
    """The first of `count` neighbouring ports that are free now, below the range that systems hand out."""
    for first in range(20000, 32000, max(count, 50)):
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    one = sockets.enter_context(socket.socket())
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("127.0.0.1", port))
                return first
            except OSError:
                continue
    sys.exit(f"no {count} neighbouring free ports")


def raise_file_limit():
    """As many open files as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def sample_server(ports, service_us, slow=None):
    """The sample server; yields its first port. `slow` is (index, service_us)."""
    program = require(BENCH / "bin" / "server", "run benches/setup.sh")
    first = free_ports(ports)
    words = [program, first, ports, service_us, *(slow or ())]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "ready\n":
            sys.exit("the sample server did not start")
        yield first
    finally:
        process.kill()
        process.wait()


def stop(process, patience_s=30):
    """Asks a process of ours to end, then makes it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class MariaDb:
    """A MariaDB of our own in a temporary folder, without privileges beside the user who runs it."""

    def __init__(self, *arguments):
        path = os.environ.get("PATH", "") + ":/usr/sbin"
        for program in ("mariadb-install-db", "mariadbd", "mariadb"):
            if not shutil.which(program, path=path):
                sys.exit(f"{program} is missing: run `cargo xtask setup`")
        self.program = shutil.which("mariadb", path=path)
        self.folder = tempfile.mkdtemp(prefix="portolan-bench-mariadb-")
        self.port = free_ports(1)
        # A temporary folder of its own: two servers being set up at once trip over each other's files in /tmp.
        os.mkdir(f"{self.folder}/tmp")
        data, temporary = f"--datadir={self.folder}/data", f"--tmpdir={self.folder}/tmp"
        user = ["--user=root"] if os.geteuid() == 0 else []
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", *user, data, temporary, "--auth-root-authentication-method=normal", "--skip-test-db",
             "--skip-name-resolve"], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
        self.process = subprocess.Popen(
            [shutil.which("mariadbd", path=path), "--no-defaults", *user, data, temporary, f"--socket={self.folder}/socket",
             "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve", f"--log-error={self.folder}/log",
             *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            if self.process.poll() is not None:
                sys.exit(f"MariaDB ended: {open(self.folder + '/log').read()[-2000:]}")
            if subprocess.run(self.client("-e", "select 1"), capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        self.close()
        sys.exit("MariaDB does not answer")

    def client(self, *arguments):
        """The command line of its client."""
        return [self.program, "--no-defaults", "-h127.0.0.1", f"-P{self.port}", "-uroot", *arguments]

    def run(self, script):
        """Runs SQL and returns what it prints."""
        done = subprocess.run(self.client("-BN"), input=script, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"SQL failed: {done.stderr}")
        return done.stdout

    def cpu_s(self):
        """CPU time it has used, in seconds."""
        return process_cpu_s(self.process.pid)

    def close(self):
        """Stops it and removes its data."""
        stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Postgres:
    """A PostgreSQL of our own in a temporary folder; as the account `postgres` where we are root, which it refuses."""

    def __init__(self, *settings):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            sys.exit("PostgreSQL is missing: run `cargo xtask setup`")
        self.programs = found[-1].parent
        self.folder = tempfile.mkdtemp(prefix="portolan-bench-postgres-")
        self.port = free_ports(1)
        self.account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.account:
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(
            [self.programs / "initdb", "--pgdata", f"{self.folder}/data", "--username=postgres", "--auth=trust", "--encoding=UTF8",
             "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self.account)
        given = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}/data", *settings]
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", f"{self.folder}/data", *(word for setting in given for word in ("-c", setting))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{self.folder}/log", "wb"), cwd="/", **self.account)
        for _ in range(400):
            if self.process.poll() is not None:
                sys.exit(f"PostgreSQL ended: {open(self.folder + '/log').read()[-2000:]}")
            if subprocess.run(self.client("postgres", "-c", "select 1"), capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        self.close()
        sys.exit("PostgreSQL does not answer")

    def client(self, database, *arguments):
        """The command line of its client."""
        return [str(self.programs / "psql"), "-Xq", "-h127.0.0.1", f"-p{self.port}", "-Upostgres", "-vON_ERROR_STOP=1", f"-d{database}", *arguments]

    def run(self, script, database):
        """Runs SQL and returns what it prints."""
        done = subprocess.run(self.client(database, "-At"), input=script, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"SQL failed: {done.stderr}")
        return done.stdout

    def cpu_s(self):
        """CPU time it and its sessions, also ended ones, have used, in seconds."""
        total = 0
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # vanished meanwhile
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                if int(folder.name) == self.process.pid:
                    total += sum(int(field) for field in fields[11:15])
                elif int(fields[1]) == self.process.pid:
                    total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def close(self):
        """Stops it and removes its data."""
        self.process.send_signal(signal.SIGINT)
        stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def process_cpu_s(pid):
    """User and system time of a running process, in seconds."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_memory_mib(pid):
    """Resident and proportional memory of a running process, in MiB."""
    sizes = {}
    for line in open(f"/proc/{pid}/smaps_rollup"):
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            sizes[name] = int(rest.split()[0]) / 1024
    return sizes["Rss"], sizes["Pss"]


class Measured:
    """A command run to its end: wall time, CPU time and the peak memory of its largest process.

    A collector has no end of its own: with `until`, it is asked to stop when its log shows that text, or when a line of
    it makes that function true.
    """

    def __init__(self, command, output=None, environment=None, folder=None, until=None):
        target = open(output, "wb") if output else subprocess.DEVNULL
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=target,
                                   stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}, cwd=folder, text=True,
                                   errors="replace")
        lines = []
        for line in process.stderr:
            lines.append(line)
            if until and (until(line) if callable(until) else until in line):
                process.terminate()
                until = None
        _, status, usage = os.wait4(process.pid, 0)
        self.wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        if output:
            target.close()
        self.code = process.returncode
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.peak_mib = usage.ru_maxrss / 1024
        self.errors = "".join(lines)


def folder_size(path):
    """Bytes of all files below, and their number."""
    sizes = []
    for folder, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(OSError):  # vanished meanwhile
                sizes.append(os.path.getsize(os.path.join(folder, file)))
    return sum(sizes), len(sizes)


def lake_rows(lake, table):
    """Rows of a lake's table as its catalog counts them: files and rows kept inside the catalog."""
    with contextlib.closing(sqlite3.connect(f"file:{lake}/catalog.sqlite?mode=ro", uri=True)) as catalog:
        found = catalog.execute(
            "select table_id from ducklake_table where table_name = ? and end_snapshot is null", [table]).fetchone()
        if not found:
            return 0
        rows = catalog.execute(
            "select coalesce(sum(record_count), 0) from ducklake_data_file where table_id = ? and end_snapshot is null",
            found).fetchone()[0]
        inlined = catalog.execute("select table_name from ducklake_inlined_data_tables where table_id = ?", found).fetchall()
        for (name,) in inlined:
            rows += catalog.execute(f'select count(*) from "{name}" where end_snapshot is null').fetchone()[0]
        return rows


def table(headings, rows):
    """A table in Markdown, numbers to the right."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def machine():
    """One line on where this was measured."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{platform.system()} {platform.machine()}, {cores} cores, load {load:.1f} at the start, {time.strftime('%Y-%m-%d %H:%M')}"


def keep(name, text):
    """Prints a result and keeps it in target/bench/results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / name).write_text(text + "\n")
    print(text, flush=True)
