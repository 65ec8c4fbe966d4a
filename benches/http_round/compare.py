#!/usr/bin/env python3
"""Round time over N kept HTTP connections: ours beside a C epoll loop and the Python and Node clients people use.

All clients run against the same server and take turns round by round, so that whatever else the machine does hits
everybody alike. Reads medians of wall and CPU time, prints their ratios to the C loop and whether the bars are met.

    benches/setup.sh && cargo build --release -p portolan-bench && benches/http_round/compare.py [--quick]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support
from support import BENCH, PYTHON, median

C, OURS, COMMITTED = "C epoll loop", "portolan", "portolan, committed"
HERE = Path(__file__).resolve().parent


def clients(program, lake):
    """Name → command line; FIRST and PORTS are filled in."""
    python = [support.require(PYTHON, "run benches/setup.sh"), HERE / "client.py", "FIRST", "PORTS"]
    node = ["node", HERE / "client.js", "FIRST", "PORTS"]
    modules = BENCH / "node" / "node_modules"
    found = {
        C: [BENCH / "bin" / "epoll_client", "FIRST", "PORTS"],
        OURS: [program, "FIRST", "PORTS"],
        COMMITTED: [program, "FIRST", "PORTS", lake],
    }
    if modules.exists():
        found["Node undici"] = [*node, "undici", modules]
    found["Python aiohttp + uvloop"] = [*python, "uvloop"]
    found["Python aiohttp"] = [*python, "aiohttp"]
    if modules.exists():
        found["Node axios Promise.all"] = [*node, "axios", modules]
    found["Python threads + requests"] = [*python, "threads"]
    found["Python requests one by one"] = [*python, "one_by_one"]
    return found


def measure(ports, service_ms, slow_ms, rounds, warm, program, chosen):
    """Medians (wall ms, CPU ms, rounds) of every client."""
    slow = (ports // 2, slow_ms * 1000) if slow_ms else None
    with support.sample_server(ports, service_ms * 1000, slow) as first, tempfile.TemporaryDirectory() as lake:
        running = {}
        try:
            for name, command in clients(program, lake).items():
                if chosen and name not in chosen:
                    continue
                words = [str({"FIRST": first, "PORTS": ports}.get(word, word)) for word in command]
                running[name] = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            seen = {name: [] for name in running}
            for number in range(warm + rounds):
                for name, process in running.items():
                    # One by one takes ports × service time: a few rounds of it say enough.
                    is_long = name.endswith("one by one") and ports * max(service_ms, 1) > 1_000
                    if is_long and (0 < number < warm or number >= warm + 2):
                        continue
                    process.stdin.write("go\n")
                    line = process.stdout.readline().split()
                    if len(line) != 3 or int(line[2]) != ports:
                        sys.exit(f"{name} over {ports} ports answered {line}")
                    if number >= warm:
                        seen[name].append((float(line[0]) / 1e3, float(line[1]) / 1e3))
        finally:
            for process in running.values():
                process.stdin.close()
                support.stop(process, 5)
    return {name: [median(wall for wall, _ in found), median(cpu for _, cpu in found), len(found)]
            for name, found in seen.items()}


def bars(label, ports, service_ms, found):
    """What is asked of us at this size: (met, text)."""
    if OURS not in found or C not in found:
        return
    wall, cpu = found[OURS][:2]
    if service_ms >= 5:
        limit = 1.15 if ports <= 64 else 2.0
        ratio = wall / found[C][0]
        yield ratio <= limit, f"{label}: {ratio:.2f} × the C loop (at most {limit})"
    for name, (peer_wall, peer_cpu, _) in found.items():
        if name in (C, OURS, COMMITTED):
            continue
        yield wall < peer_wall, f"{label}: wall {wall:.2f} ms, {name} {peer_wall:.2f} ms"
        yield cpu < peer_cpu, f"{label}: CPU {cpu:.2f} ms, {name} {peer_cpu:.2f} ms"


def show(results):
    """The report in Markdown."""
    text = [f"Round time over kept connections; {support.machine()}.",
            "Median ms per round (CPU ms in brackets), × = wall beside the C loop's.", ""]
    labels = list(results)
    names = dict.fromkeys(name for result in results.values() for name in result["found"])
    rows = []
    for name in names:
        cells = []
        for label in labels:
            found = results[label]["found"]
            if name not in found:
                cells.append("–")
                continue
            wall, cpu, _ = found[name]
            times = f" ×{wall / found[C][0]:.2f}" if C in found and name != C else ""
            cells.append(f"{wall:.2f} ({cpu:.2f}){times}")
        rows.append([name, *cells])
    text.append(support.table(["client", *labels], rows))
    committed = [
        f"{label} {result['found'][COMMITTED][0] - result['found'][OURS][0]:.2f} ms"
        for label, result in results.items() if COMMITTED in result["found"] and OURS in result["found"]
    ]
    if committed:
        text += ["", "Committing the round to the lake adds (wall): " + "; ".join(committed) + "."]
    checked = [bar for label, result in results.items() for bar in bars(label, *result["size"], result["found"])]
    missed = [line for met, line in checked if not met]
    text += ["", f"Bars: {len(checked) - len(missed)} of {len(checked)} met."]
    text += [f"- missed: {line}" for line in missed]
    return "\n".join(text)


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a few sizes and rounds")
    arguments.add_argument("--ports", type=int, nargs="*", default=[2, 8, 64, 512])
    arguments.add_argument("--service-ms", type=int, nargs="*", default=[0, 5, 50])
    arguments.add_argument("--slow-ms", type=int, default=200, help="also with one port this slow among ports at 5 ms; 0: not")
    arguments.add_argument("--rounds", type=int, help="measured rounds a client; default 30 to 50 by size")
    arguments.add_argument("--clients", nargs="*", help="only these, by name")
    arguments.add_argument("--program", help="our client, if it is not in target/release")
    given = arguments.parse_args()
    program = support.release_program("http_round", given.program)
    support.raise_file_limit()
    sizes = [(ports, ms, 0) for ports in given.ports for ms in given.service_ms]
    if given.slow_ms:
        sizes += [(ports, 5, given.slow_ms) for ports in given.ports]
    if given.quick:
        sizes = [(2, 5, 0), (64, 0, 0), (64, 5, 0), (512, 5, 0)]
    results = {}
    for ports, ms, slow_ms in sizes:
        rounds, warm = (50, 15) if ports * max(ms, 1) <= 500 else (30, 6)
        if given.quick:
            rounds, warm = 15, 5
        label = f"{ports} × {ms} ms" + (f", one {slow_ms}" if slow_ms else "")
        found = measure(ports, ms, slow_ms, given.rounds or rounds, warm, program, given.clients)
        results[label] = {"size": [ports, max(ms, slow_ms)], "found": found}
        print(f"# {label}: " + "; ".join(f"{name} {wall:.2f} ({cpu:.2f})" for name, (wall, cpu, _) in found.items()),
              file=sys.stderr, flush=True)
        support.RESULTS.mkdir(parents=True, exist_ok=True)
        (support.RESULTS / "http_round.json").write_text(json.dumps(results, indent=1))
    support.keep("http_round.md", show(results))


if __name__ == "__main__":
    main()
