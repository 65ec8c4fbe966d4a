#!/usr/bin/env python3
"""A gigabyte of CSV in a hundred files from an FTP server: into our lake, beside lftp and DuckDB.

Starts a vsftpd of its own. Ours reads file by file over one connection, types the columns, takes the digest of every byte and
ends with a committed, synced lake. The peer mirrors the folder with lftp, then converts it with DuckDB's read_csv into one
Parquet file in the page cache.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/ftp/compare.py
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import BENCH, Measured, median

HERE = Path(__file__).resolve().parent
BYTES_A_ROW = 78
OURS, MIRROR, CONVERT = "portolan run → lake", "lftp mirror → files", "DuckDB read_csv → Parquet"
CONFIGURATION = """
[server]
host = "127.0.0.1"

[lake]
path = "lake"

[[source]]
name = "t"
port = {port}
protocol = "ftp"
tls = {{ allow_plaintext = "loopback comparison" }}
path = "{root}/out/*.csv"
columns = {{ id = "bigint", grams = "decimal(12,3)", celsius = "double", measured_at = "timestamp" }}

[[round]]
name = "copy"
sources = ["t"]
every = "1h"
deadline = "30min"
"""


def unpacked(package, program):
    """A program that setup.sh has unpacked, with what it needs of the environment, or the system's own."""
    if found := shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin"):
        return found, {}
    for folder in ("usr/bin", "usr/sbin"):
        if (path := BENCH / package / folder / program).exists():
            return str(path), {"LD_LIBRARY_PATH": ":".join(str(found) for found in (BENCH / package).glob("usr/lib/*-linux-gnu"))}
    sys.exit(f"{program} is missing: run benches/setup.sh")


class Vsftpd:
    """A vsftpd of our own that shows a folder to anonymous readers."""

    def __init__(self):
        program, environment = unpacked("vsftpd", "vsftpd")
        self.folder = Path(tempfile.mkdtemp(prefix="portolan-bench-ftp-"))
        self.port = support.free_ports(1)
        for name in ("files/out", "empty"):
            (self.folder / name).mkdir(parents=True)
        is_root = os.geteuid() == 0
        # Without root it cannot change its root folder: clients see the whole path.
        self.root = "" if is_root else str(self.folder / "files")
        if is_root:
            self.folder.chmod(0o755)
            (self.folder / "files").chmod(0o555)
        configuration = self.folder / "vsftpd.conf"
        configuration.write_text(
            f"listen=YES\nbackground=NO\nlisten_address=127.0.0.1\nlisten_port={self.port}\nanonymous_enable=YES\n"
            f"local_enable=NO\nno_anon_password=YES\nftp_username=daemon\nrun_as_launching_user={'NO' if is_root else 'YES'}\n"
            f"anon_root={self.folder}/files\nsecure_chroot_dir={self.folder}/empty\nseccomp_sandbox=NO\nxferlog_enable=NO\n")
        self.process = subprocess.Popen([program, configuration], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, env={**os.environ, **environment})
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                if connection.recv(3) == b"220":
                    return
            time.sleep(0.05)
        self.close()
        sys.exit("vsftpd does not answer")

    def close(self):
        """Stops it and removes its files."""
        support.stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def duck(*words):
    """What duck.py prints."""
    python = support.require(support.PYTHON, "run benches/setup.sh")
    done = subprocess.run([python, HERE / "duck.py", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"duck.py {words[0]} failed: {done.stderr[-2000:]}")
    return done.stdout.strip()


def ours(program, server, folder):
    """One copy into a new lake."""
    shutil.rmtree(folder / "lake", ignore_errors=True)
    (folder / "portolan.toml").write_text(CONFIGURATION.format(port=server.port, root=server.root))
    run = Measured([program, "--config", folder / "portolan.toml", "run"], None, {"PORTOLAN_LOG": "debug"}, folder, "round committed")
    if run.code:
        sys.exit(f"portolan ended with {run.code}: {run.errors[-2000:]}")
    return run, duck("sums", folder / "lake")


def theirs(server, folder):
    """The same by lftp, then DuckDB."""
    shutil.rmtree(folder / "mirror", ignore_errors=True)
    program, environment = unpacked("lftp", "lftp")
    script = f"set net:timeout 10; open -p {server.port} 127.0.0.1; mirror {server.root}/out {folder}/mirror; exit"
    mirror = Measured([program, "-c", script], None, environment, folder)
    convert = Measured([support.PYTHON, HERE / "duck.py", "convert", folder / "mirror", folder / "out.parquet"], None, {}, folder)
    if mirror.code or convert.code:
        sys.exit(f"lftp ended with {mirror.code}, DuckDB with {convert.code}: {mirror.errors}{convert.errors[-2000:]}")
    return mirror, convert, duck("sums", folder / "out.parquet")


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--files", type=int, default=100)
    arguments.add_argument("--megabytes", type=int, default=1_000)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="100 MB, once")
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    if given.quick:
        given.megabytes, given.repeats = 100, 1
    program = support.release_program("portolan", given.program)
    machine, seen = support.machine(), {OURS: [], MIRROR: [], CONVERT: []}
    with contextlib.closing(Vsftpd()) as server, tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
        folder = Path(folder)
        duck("make", server.folder / "files/out", given.files, given.megabytes * 1_000_000 // BYTES_A_ROW)
        size, count = support.folder_size(server.folder / "files/out")
        for number in range(given.repeats):
            run, sums = ours(program, server, folder)
            mirror, convert, expected = theirs(server, folder)
            if sums != expected:
                sys.exit(f"portolan has {sums}, DuckDB {expected}")
            for name, one in ((OURS, run), (MIRROR, mirror), (CONVERT, convert)):
                seen[name].append(one)
                print(f"# {number + 1} {name}: {one.wall_s:.2f} s, {one.peak_mib:.0f} MiB", file=sys.stderr, flush=True)
    rows = []
    middle = {name: [median(getattr(run, key) for run in runs) for key in ("wall_s", "cpu_s", "peak_mib")] for name, runs in seen.items()}
    both = [middle[MIRROR][0] + middle[CONVERT][0], middle[MIRROR][1] + middle[CONVERT][1], max(middle[MIRROR][2], middle[CONVERT][2])]
    for name, (wall, cpu, peak) in [*middle.items(), ("lftp, then DuckDB", both)]:
        rows.append([name, f"{size / wall / 1e6:.0f}", f"{wall:.2f}", f"{wall / middle[OURS][0]:.2f}", f"{cpu:.2f}", f"{peak:.0f}"])
    verdict = "met" if middle[OURS][0] < both[0] else "missed"
    headings = ["copy", "MB/s", "wall s", "wall beside ours", "CPU s", "peak MiB"]
    text = (f"{size / 1e6:.0f} MB of CSV, {count} files, {sums.split('|')[0]} rows from vsftpd, medians of {given.repeats} runs in "
            f"turns; {machine}.\n\n{support.table(headings, rows)}\n\n- {verdict}: {middle[OURS][0]:.2f} s against {both[0]:.2f} s of "
            "lftp and DuckDB")
    support.keep("ftp.md", text)


if __name__ == "__main__":
    main()
