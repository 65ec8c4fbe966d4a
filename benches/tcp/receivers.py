"""The programs that take the messages, their configurations, and how to see from outside what they have stored."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import time

import support
from support import BENCH

MESSAGE_BYTES = 64
OURS = "portolan run → lake"

PORTOLAN = """
[server]
host = "127.0.0.1"

[lake]
path = "lake"

[[source]]
name = "messages"
host = "127.0.0.1"
port = {port}
protocol = "tcp"
listen = true
{every}
max_connections = {connections}
tls = {{ allow_plaintext = "loopback comparison" }}
"""

# The message as it came and nothing else, written in blocks; nothing of it is parsed. A full queue holds senders back.
RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="1k")
module(load="imptcp" threads="2")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="store" queue.type="FixedArray" queue.size="100000" queue.dequeueBatchSize="4096"
        queue.workerThreads="1" queue.timeoutEnqueue="600000" queue.highWatermark="100000") {{
  action(type="omfile" file="{folder}/out.text" template="raw" ioBufferSize="256k" flushOnTXEnd="on")
}}
input(type="imptcp" address="127.0.0.1" port="{port}" ruleset="store" SocketBacklog="1024")
"""

SYSLOG_NG = """
@version: 3.38
options {{ stats-freq(0); }};
source messages {{
  network(ip("127.0.0.1") port({port}) transport("tcp") flags(no-parse) keep-hostname(yes) use-dns(no)
          max-connections({connections}) listen-backlog(1024) log-fetch-limit({fetch}) log-iw-size({window}));
}};
destination store {{ file("{folder}/out.text" template("$MSG\\n") flush-lines(1000) log-fifo-size({window})); }};
log {{ source(messages); destination(store); flags(flow-control); }};
"""


def libraries(folder):
    """LD_LIBRARY_PATH for what setup.sh has unpacked there."""
    found = {str(file.parent) for file in folder.rglob("*.so.*")}
    return {"LD_LIBRARY_PATH": ":".join(sorted(found))}


def portolan(program, folder, port, connections, every):
    """Command, environment and, as a function, the messages stored; `every = None` leaves the source's default."""
    line = f'every = "{every}"' if every else ""
    text = PORTOLAN.format(port=port, connections=max(connections + 8, 64), every=line)
    (folder / "portolan.toml").write_text(text)
    return [program, "--config", folder / "portolan.toml", "run"], {}, Visible(folder / "lake", "messages")


def rsyslog(folder, port, _connections):
    """The same of rsyslog; nothing where it could not be had."""
    root = BENCH / "rsyslog"
    if not (root / "complete").exists():
        return None
    (folder / "rsyslog.conf").write_text(RSYSLOG.format(folder=folder, port=port))
    modules = next(root.rglob("imptcp.so")).parent
    command = [root / "usr" / "sbin" / "rsyslogd", "-n", "-f", folder / "rsyslog.conf", "-i", folder / "pid",
               "-M", modules]
    return command, libraries(root), lambda: file_messages(folder)


def syslog_ng(folder, port, connections):
    """The same of syslog-ng; nothing where it could not be had."""
    root = BENCH / "syslog-ng-core"
    if not (root / "complete").exists():
        return None
    connections += 8
    fetch = 1000 if connections < 100 else 100
    # Its window is shared by all connections, and its queue has to hold the whole of it.
    window = fetch * max(connections, 100)
    text = SYSLOG_NG.format(folder=folder, port=port, connections=connections, fetch=fetch, window=window)
    (folder / "syslog-ng.conf").write_text(text)
    modules = next(root.rglob("libafsocket.so")).parent
    command = [root / "usr" / "sbin" / "syslog-ng", "--foreground", "--no-caps", "--cfgfile", folder / "syslog-ng.conf",
               "--persist-file", folder / "persist", "--control", folder / "control", "--pidfile", folder / "pid",
               f"--module-path={modules}"]
    return command, libraries(root), lambda: file_messages(folder)


def file_messages(folder):
    """Messages in the file that a system logger writes."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(folder / "out.text").st_size // MESSAGE_BYTES
    return 0


class Visible:
    """The rows of a table that a reader of the lake sees now, from one short read transaction of the catalog.

    A commit writes the count in the transaction that makes its rows visible, so that it is neither early nor late. What
    it counts is held against the catalog's own files and rows at the end of every run.
    """

    def __init__(self, lake, table):
        self.lake, self.table, self.catalog, self.id = lake, table, None, None

    def __call__(self):
        if self.id is None and not self.open():
            return 0
        found = self.catalog.execute(
            "select record_count from ducklake_table_stats where table_id = ?", [self.id]).fetchone()
        return found[0] if found else 0

    def open(self):
        """Whether the lake and the table are there by now."""
        try:
            if self.catalog is None:
                self.catalog = sqlite3.connect(f"file:{self.lake}/catalog.sqlite?mode=ro", uri=True)
            found = self.catalog.execute(
                "select table_id from ducklake_table where table_name = ? and end_snapshot is null",
                [self.table]).fetchone()
        except sqlite3.OperationalError:  # not there yet
            return False
        self.id = found and found[0]
        return found is not None


def sender(*words):
    """The C sender, started; the words are its own (sender.c)."""
    program = support.require(BENCH / "bin" / "sender", "run benches/setup.sh")
    words = [program, *(str(word) for word in words)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Receiver:
    """One of them running; ended by `with`."""

    def __init__(self, command, environment, folder, port):
        self.log = folder / "log"
        command = [str(word) for word in command]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **environment}, cwd=folder)
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        support.stop(self.process)
        sys.exit(f"{command[0]} does not listen: {self.errors()}")

    def errors(self):
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def cpu_s(self):
        """CPU time it has used, in seconds."""
        return support.process_cpu_s(self.process.pid)

    def peak_mib(self):
        """Its largest resident memory so far, in MiB."""
        status = dict(line.split(":", 1) for line in open(f"/proc/{self.process.pid}/status").read().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        support.stop(self.process)
