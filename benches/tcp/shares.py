"""Where our CPU time goes while messages come: perf's samples by groups of our own."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import support

SAMPLES_PER_S = 999

# A sample belongs to the first group whose expression is found in its innermost function; where this is the kernel's,
# in any of the kernel's functions of its stack.
KERNEL = [
    ("kernel: sync of files", r"fsync|fdatasync|sync_file"),
    ("kernel: file write", r"vfs_write|ksys_write|pwrite|writev|fallocate|ftruncate|sys_unlink|sys_openat|rename"),
    ("kernel: socket read", r"sock_|tcp_|inet_|sys_recv|net_rx"),
    ("kernel: file read", r"vfs_read|ksys_read|pread"),
    ("kernel: polling, waking and switching", r"epoll|futex|schedule|eventfd"),
    ("kernel: memory (page faults, map, unmap)", r"fault|mmap|munmap|madvise|brk|clear_page"),
]
OURS = [
    ("framing (search for line ends)", r"memchr|framing|::transport::"),
    ("checksum of the log (CRC)", r"crc32"),
    ("SHA-256", r"sha2|sha256"),
    ("intake log", r"::intake::"),
    ("JSON → Arrow", r"format::|arrow_json|serde_json|lexical|dec2flt|arrow_(buffer|array|data|select)"),
    ("zstd", r"zstd|ZSTD|HUF_|FSE_|HIST_|XXH"),
    ("Parquet", r"parquet|::encode::|::statistics::|hashbrown|ahash|twox"),
    ("SQLite", r"sqlite|rusqlite|btree|vdbe|pager"),
    ("allocation", r"malloc|calloc|realloc|^free|cfree|_int_free|mi_|je_|alloc::|unlink_chunk"),
    ("copying (memcpy, memmove, memset)", r"memcpy|memmove|memset|__mem"),
    ("lake, other", r"portolan_lake"),
    ("connect, other", r"portolan_connect|portolan_rounds"),
    ("tokio", r"tokio|mio::"),
]


def group(stack):
    """The group of one sample; `stack` holds (function, object), the innermost first."""
    function, place = stack[0]
    if "kernel" in place or place == "[unknown]" or place.endswith(".ko"):
        kernel = " ".join(function for function, place in stack if "kernel" in place)
        return next((name for name, words in KERNEL if re.search(words, kernel)), "kernel: other")
    return next((name for name, words in OURS if re.search(words, function)), "other")


def samples(file):
    """The stacks of a recording."""
    command = ["perf", "script", "-i", str(file), "-F", "ip,sym,dso"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    for block in done.stdout.split("\n\n"):
        stack = []
        for line in block.splitlines():
            if found := re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)\s*$", line):
                stack.append((found[1], found[2]))
        if stack:
            yield stack


@contextlib.contextmanager
def recording(pid, file):
    """Samples of a running process into a file."""
    command = ["perf", "record", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-g", "-o", str(file), "-p", str(pid)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def measure(transfer, connection_counts, messages):
    """One run for each number of connections; the report in Markdown. `transfer` takes the number and what records."""
    if not shutil.which("perf"):
        sys.exit("perf is missing: install linux-perf")
    machine, text = support.machine(), []
    for connections in connection_counts:
        with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
            file = Path(folder) / "perf.data"
            wall_s, cpu_s, *_ = transfer(connections, lambda pid: recording(pid, file))
            groups, functions = Counter(), Counter()
            for stack in samples(file):
                groups[group(stack)] += 1
                functions[group(stack), stack[0][0].split("+0x")[0][:90]] += 1
        total = sum(groups.values())
        if not total:
            sys.exit("perf has recorded nothing: is it allowed to (kernel.perf_event_paranoid)?")
        rows = []
        for name, count in groups.most_common():
            inside = Counter({function: number for (where, function), number in functions.items() if where == name})
            (function, most), = inside.most_common(1)
            rows.append([name, f"{count / total:.1%}", f"{cpu_s / messages * 1e9 * count / total:.0f}",
                         f"`{function}` {most / total:.1%}".replace("|", "\\|")])
        text += [f"{messages / 1e6:g} M messages over {connections}, {messages / wall_s / 1e6:.2f} M a second while "
                 f"perf looked on, {total} samples; {machine}.", "",
                 support.table(["part", "share", "CPU ns a message", "of it most in"], rows), ""]
        unknown = sum(count for (_, function), count in functions.items() if function == "[unknown]")
        if unknown > total / 10:
            text += ["Functions without names: build with `CARGO_PROFILE_RELEASE_STRIP=false` into a folder of its own "
                     "and give that program with `--program`.", ""]
    return "\n".join(text)
