#!/usr/bin/env python3
"""Lines of 64-byte JSON over TCP: into our lake, typed and durable, beside two system loggers writing a file.

A C sender writes as fast as it is read, over one connection and over a thousand; everybody takes it in turns. Ours
is timed from the first byte sent to the commit that makes the last row visible; the loggers to the last byte in their
file, which is text in the page cache: they parse nothing and sync nothing.

    benches/setup.sh && cargo build --release -p portolan --no-default-features && benches/tcp/compare.py

`--latency` measures how old a message is when a reader of the lake can see it, `--profile` where our CPU time goes.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import latency
import receivers
import shares
import support
from receivers import MESSAGE_BYTES, OURS
from support import median

MESSAGES_PER_S_MIN = 1_200_000
CONNECTIONS = [1, 1000]
POLL_S = 0.005
PATIENCE_S = 300


def competitors(program, every):
    """Name → what makes its command, for a folder, a port and a number of connections."""
    return {
        OURS: lambda *given: receivers.portolan(program, *given, every),
        "rsyslog → file, untyped, not synced": receivers.rsyslog,
        "syslog-ng → file, untyped, not synced": receivers.syslog_ng,
    }


def transfer(make, name, connections, messages, perf=None):
    """One run: seconds to the last message stored, CPU s of the receiver, its peak MiB, seconds until all was sent."""
    with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
        folder, port = Path(folder), support.free_ports(1)
        command, environment, stored = make(folder, port, connections)
        with receivers.Receiver(command, environment, folder, port) as receiver, contextlib.ExitStack() as ends:
            if perf:
                ends.enter_context(perf(receiver.process.pid))
            cpu_s = receiver.cpu_s()
            with receivers.sender(port, connections, messages) as sending:
                begin = time.monotonic()
                while (count := stored()) < messages:
                    if receiver.process.poll() is not None or time.monotonic() > begin + PATIENCE_S:
                        sending.kill()
                        sys.exit(f"{name}: {count} of {messages} messages were stored: {receiver.errors()}")
                    time.sleep(POLL_S)
                last_ns = time.monotonic_ns()
                cpu_s = receiver.cpu_s() - cpu_s
                peak_mib = receiver.peak_mib()
                first_ns, sent_ns, _ = map(int, sending.stdout.readline().split())
        check(name, folder, messages, receiver)
        return (last_ns - first_ns) / 1e9, cpu_s, peak_mib, (sent_ns - first_ns) / 1e9


def check(name, folder, messages, receiver):
    """Every message is there, and is there once."""
    if name == OURS:
        count = support.lake_rows(folder / "lake", "messages")
    else:
        with open(folder / "out.text", "rb") as file:
            count = sum(block.count(b"}\n") for block in iter(lambda: file.read(1 << 20), b""))
    if count != messages:
        sys.exit(f"{name}: {count} messages instead of {messages}: {receiver.errors()}")


def throughput(program, given):
    """Everybody in turns, over each number of connections; the report in Markdown."""
    machine, seen, left_out = support.machine(), {}, []
    for name, make in competitors(program, given.every).items():
        with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
            if make(Path(folder), 1, 1) is None:
                left_out.append(name)
    for number in range(given.repeats):
        for connections in CONNECTIONS:
            for name, make in competitors(program, given.every).items():
                if name in left_out or given.only and not any(word in name for word in given.only):
                    continue
                # Nobody waits for what somebody else has left to be written.
                os.sync()
                run = transfer(make, name, connections, given.messages)
                seen.setdefault(f"{connections}", {}).setdefault(name, []).append(run)
                print(f"# {number + 1} {connections} {name}: {given.messages / run[0] / 1e3:.0f} k/s, "
                      f"CPU {run[1]:.2f} s, {run[2]:.0f} MiB, sent after {run[3]:.2f} of {run[0]:.2f} s", file=sys.stderr, flush=True)
    support.RESULTS.mkdir(parents=True, exist_ok=True)
    (support.RESULTS / "tcp.json").write_text(json.dumps({"messages": given.messages, "runs": seen}, indent=1))
    return show(seen, left_out, machine, given)


def show(seen, left_out, machine, given):
    """The report in Markdown."""
    rows, bars, millions = [], [], given.messages / 1e6
    for connections, runs_of in seen.items():
        for name, runs in runs_of.items():
            wall, cpu, peak, _ = (median(column) for column in zip(*runs))
            rates = [given.messages / run[0] / 1e3 for run in runs]
            label = f"{name}, {connections} connection" + "s" * (connections != "1")
            rows.append([label, f"{given.messages / wall / 1e3:.0f} k", f"{min(rates):.0f}–{max(rates):.0f}",
                         f"{cpu / millions:.2f}", f"{peak:.0f}"])
            if name == OURS:
                verdict = "met" if given.messages / wall >= MESSAGES_PER_S_MIN else "missed"
                bars.append(f"- {verdict}: {given.messages / wall / 1e6:.2f} M messages/s over {connections}, "
                            f"at least {MESSAGES_PER_S_MIN / 1e6:.1f} M")
    headings = ["receiver", "messages/s", "range, k/s", "CPU s per million", "peak MiB"]
    text = [f"{millions:g} M lines of {MESSAGE_BYTES}-byte JSON over TCP, medians of {given.repeats} runs in turns, "
            f"our rounds every {given.every}; {machine}.", "", support.table(headings, rows), "", *bars]
    text += [f"- left out: {name}, which could not be had (benches/setup.sh)" for name in left_out]
    return "\n".join(text)


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, help="of one run; 12,000,000 unless told")
    arguments.add_argument("--repeats", type=int)
    arguments.add_argument("--quick", action="store_true", help="3,000,000 messages, one run each; shorter schedules")
    arguments.add_argument("--every", default="1s", help="the interval of our rounds, whose last one is waited for")
    arguments.add_argument("--only", nargs="*", help="only those whose name holds one of these words")
    arguments.add_argument("--latency", action="store_true", help="how old messages are when they can be seen")
    arguments.add_argument("--profile", action="store_true", help="shares of our CPU time, with perf")
    arguments.add_argument("--program", help="the portolan program, if it is not in target/release")
    given = arguments.parse_args()
    given.messages = given.messages or (3_000_000 if given.quick else 12_000_000)
    given.repeats = given.repeats or (1 if given.quick else 3)
    program = support.release_program("portolan", given.program)
    support.raise_file_limit()
    if given.latency:
        support.keep("tcp_latency.md", latency.measure(program, given.quick))
    elif given.profile:
        make = competitors(program, given.every)[OURS]
        runs = lambda connections, perf: transfer(make, OURS, connections, given.messages, perf)
        support.keep("tcp_profile.md", shares.measure(runs, CONNECTIONS, given.messages))
    else:
        support.keep("tcp.md", throughput(program, given))


if __name__ == "__main__":
    main()
