"""How old a message is when a reader of the lake can see it.

The sender keeps to a fixed schedule: message number N is due at the first instant + N / rate, whatever happened to
those before it. Age counts from that instant, not from when the message could be sent at last, so that a pause of the
collector is charged to every message that it delayed. All go over one connection and are stored in order: rows seen =
messages seen.

A reader looks from outside, every millisecond, with one statement in the catalog; what it sees is dated when its answer
is there, so that an age is at most its pause too high and never too low.
"""

import sys
import tempfile
import time
from pathlib import Path

import receivers
import support
from receivers import OURS
from support import median

RATES = [1_000, 50_000]
# What the round's interval is set to → seconds of messages; the source's default is 10 s.
INTERVALS = {None: 30, "100ms": 10, "10ms": 10}
INTERVALS_QUICK = {None: 10, "100ms": 3, "10ms": 3}
POLL_S = 0.001
PATIENCE_S = 60


def percentile(ordered, share):
    """Of sorted values: the one that `share` of them do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Run:
    """One schedule: ages in ms, and what the reader saw."""

    def __init__(self, program, rate, every, seconds):
        messages = rate * seconds
        with tempfile.TemporaryDirectory(prefix="portolan-bench-") as folder:
            folder, port = Path(folder), support.free_ports(1)
            command, environment, visible = receivers.portolan(program, folder, port, 1, every)
            with receivers.Receiver(command, environment, folder, port) as receiver:
                cpu_s = receiver.cpu_s()
                with receivers.sender(port, 1, messages, rate) as sending:
                    seen, pauses_ms, own_cpu_s = self.watch(visible, messages, receiver, sending, seconds)
                    first_ns, _, late_ns = map(int, sending.stdout.readline().split())
                self.cpu_ms = (receiver.cpu_s() - cpu_s) * 1e3 / ((seen[-1][0] - first_ns) / 1e9)
            if (rows := support.lake_rows(folder / "lake", "messages")) != messages:
                sys.exit(f"the lake holds {rows} rows instead of {messages}: {receiver.errors()}")
        self.commits = len(seen)
        self.late_ms = late_ns / 1e6
        self.pause_ms, self.pause_ms_max = median(pauses_ms), max(pauses_ms)
        self.reader_cpu_ms = own_cpu_s * 1e3 / (sum(pauses_ms) / 1e3)
        ages, self.newest, before = [], [], 0
        for instant_ns, count in seen:
            since_ms = (instant_ns - first_ns) / 1e6
            ages += [since_ms - number * 1e3 / rate for number in range(before, count)]
            # The last commit says nothing of it: no message came any more while its round was waited for.
            if count < messages or not self.newest:
                self.newest.append(ages[-1])
            before = count
        self.ages = sorted(ages)
        instants = [instant_ns / 1e6 for instant_ns, _ in seen]
        self.steps = [later - earlier for earlier, later in zip(instants, instants[1:])]

    @staticmethod
    def watch(visible, messages, receiver, sending, seconds):
        """(instant, rows) whenever there are more rows; the pauses between two looks; the CPU time of looking."""
        seen, pauses_ms, last, count = [], [], 0, 0
        begin, looked_ns, cpu_s = time.monotonic(), time.monotonic_ns(), time.process_time()
        while last < messages:
            time.sleep(POLL_S)
            count, now_ns = visible(), time.monotonic_ns()
            pauses_ms.append((now_ns - looked_ns) / 1e6)
            looked_ns = now_ns
            if count > last:
                seen.append((now_ns, count))
                last = count
            elif receiver.process.poll() is not None or time.monotonic() > begin + seconds + PATIENCE_S:
                sending.kill()
                sys.exit(f"{OURS}: {count} of {messages} messages were stored: {receiver.errors()}")
        return seen, pauses_ms, time.process_time() - cpu_s


def measure(program, quick):
    """The report in Markdown."""
    machine, rows, runs = support.machine(), [], []
    for every, seconds in (INTERVALS_QUICK if quick else INTERVALS).items():
        for rate in RATES:
            run = Run(program, rate, every, seconds)
            runs.append(run)
            p50, p99 = (percentile(run.ages, share) for share in (0.5, 0.99))
            newest = median(run.newest)
            step = f"{median(run.steps):.1f}" if run.steps else "–"
            rows.append([f"{every or '10s, the default'}, {rate:,} messages/s", f"{p50:.1f}", f"{p99:.1f}",
                         f"{run.ages[-1]:.1f}", step, f"{newest:.1f}", run.commits, f"{run.cpu_ms:.0f}",
                         f"{run.late_ms:.1f}"])
            print(f"# {every} {rate}: p50 {p50:.1f} ms, p99 {p99:.1f}, max {run.ages[-1]:.1f}, newest {newest:.1f}, "
                  f"{run.commits} commits", file=sys.stderr, flush=True)
    headings = ["interval, load", "p50 ms", "p99 ms", "max ms", "between commits ms", "newest message ms", "commits",
                "CPU ms per second", "sender late ms, max"]
    pause, pause_max = median([run.pause_ms for run in runs]), max(run.pause_ms_max for run in runs)
    reader_cpu_ms = max(run.reader_cpu_ms for run in runs)
    text = ["Age of 64-byte JSON messages when a reader of the lake can see them, from the instant at which each was "
            f"due; {machine}.", "", support.table(headings, rows), "",
            "- *Between commits* (median) is what a message waits at most for its round: p50 is half of it and the "
            "rest, p99 nearly all of it and the rest.",
            "- *Newest message* (median over the commits) is the rest: the age of the last message that a round took. "
            "It holds the way through the socket, the intake log's group sync (every 5 ms), the round (read, parse, "
            "write, commit, sync) and the reader's pause.",
            f"- The reader looked every {pause:.2f} ms (median; {pause_max:.1f} at most), for {reader_cpu_ms:.0f} ms of "
            "CPU time a second at most; ages are at most such a pause too high."]
    return "\n".join(text)
