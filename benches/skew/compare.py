#!/usr/bin/env python3
"""How far apart the requests of one round arrive, measured from outside: ours beside a bare loop of `send`, aiohttp,
axios and curl, plain and over TLS, on loopback and over an emulated path with jitter and loss.

The sample server keeps the kernel's receive timestamp of what completes each port's request. All clients run against the same
server and take turns in an order shuffled anew each time. Prints medians and 99th percentiles of the arrival spread, our
reported figures beside the true ones, and whether the bars are met.

    benches/setup.sh && cargo build --release -p portolan-bench && sudo benches/skew/compare.py [--short]
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import network
import report
import support
from support import BENCH, PYTHON

HERE = Path(__file__).resolve().parent
BIN = BENCH / "bin"
# Seconds that a network and a number of ports may take; and how often floor and released rounds have their turn while the
# others have one: their 99th percentiles are asked for, and over two ports the medians scatter.
BUDGET_S = {
    "loopback": {2: 20, 16: 25, 64: 100, 256: 140},
    "jitter": {2: 120, 16: 60, 64: 80, 256: 110},
    "loss": {2: 30, 16: 45, 64: 60, 256: 80},
}
TURNS = {
    "loopback": {2: 10, 16: 10, 64: 10, 256: 10},
    "jitter": {2: 5, 16: 6, 64: 3, 256: 3},
    "loss": {2: 5, 16: 5, 64: 5, 256: 3},
}
LOSS_PERMILLE = {"jitter": 0, "loss": 20}
WARM_ROUNDS = {"loopback": 3, "jitter": 1, "loss": 1}


class Program:
    """A client that runs one round for each line it is given."""

    def __init__(self, words):
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def go(self):
        """One round: the numbers it answers."""
        self.process.stdin.write("go\n")
        return [int(word) for word in self.process.stdout.readline().split()]

    def close(self):
        """Its end."""
        self.process.stdin.close()
        support.stop(self.process, 5)


class Curl:
    """One process of curl a round; `again` asks each port twice, the second time over the connections of the first."""

    def __init__(self, enter, urls, folder, name, ca_file, again):
        self.config = Path(folder) / name
        lines = [f'url = "{url}"\noutput = "/dev/null"' for url in urls * (2 if again else 1)]
        self.config.write_text("\n".join(lines) + "\n")
        trust = ["--cacert", ca_file] if ca_file else []
        self.words = [*enter, "curl", "--silent", "--parallel", "--parallel-immediate", "--parallel-max", str(min(len(urls), 300)),
                      *trust, "--write-out", "%{http_code}\n", "--config", str(self.config)]
        self.wanted = len(lines) // len(urls)

    def go(self):
        """One round: how many ports answered every time."""
        done = subprocess.run(self.words, capture_output=True, text=True)
        return [done.stdout.split().count("200") // self.wanted]

    def close(self):
        """Nothing is kept."""


def clients(place, first, ports, ca_file, folder, program, chosen):
    """Name → a starter of each client that `chosen` has a part of the name of."""
    modules = BENCH / "node" / "node_modules"
    found = {report.FLOOR: lambda: Program([*place.client, BIN / "skew_floor", place.address, first, ports, "loop"])}
    if place.client:
        found[report.DATAGRAMS] = lambda: Program([*place.client, BIN / "skew_floor", place.address, first, ports, "datagrams"])
    for suffix, base, ca in (("", first, None), (report.TLS, first + ports, ca_file)):
        trust = [ca] if ca else []
        target = [place.address, base, ports]
        urls = [f"{'https' if ca else 'http'}://{place.address}:{base + index}/" for index in range(ports)]

        def started(*words):
            return lambda: Program([*place.client, *words])

        def curled(name, again, urls=urls, ca=ca):
            return lambda: Curl(place.client, urls, folder, name.replace(" ", "_"), ca, again)

        found[report.RELEASED + suffix] = started(program, *target, "released", *trust)
        found[report.PLAIN + suffix] = started(program, *target, "none", *trust)
        for kind in ("warm", "cold"):
            found[f"aiohttp {kind}{suffix}"] = started(PYTHON, HERE / "client.py", *target, kind, *trust)
            if modules.exists():
                found[f"axios {kind}{suffix}"] = started("node", HERE / "client.js", *target, kind, modules, *trust)
            name = f"curl {kind}{suffix}"
            found[name] = curled(name, kind == "warm")
    return {name: start for name, start in found.items() if not chosen or any(part in name for part in chosen)}


class Server:
    """The sample server and what it saw."""

    def __init__(self, place, first, ports, certificate, key):
        words = [*place.server, BIN / "skew_server", place.address, first, ports, certificate, key]
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)
        if self.process.stdout.readline() != "ready\n":
            sys.exit("the sample server did not start")

    def ask(self, command):
        """The words of its answer."""
        self.process.stdin.write(command + "\n")
        return self.process.stdout.readline().split()

    def close(self):
        """Its end."""
        self.process.stdin.close()
        support.stop(self.process, 5)


def certificate(folder, address):
    """A certificate for the address, and its key."""
    files = [f"{folder}/certificate-{address}.pem", f"{folder}/key-{address}.pem"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=skew", "-addext", f"subjectAltName=IP:{address}",
                    "-addext", "basicConstraints=critical,CA:FALSE", "-out", files[0], "-keyout", files[1]],
                   check=True, stderr=subprocess.DEVNULL)
    return files


def measure(name, place, ports, budget_s, chosen, program, shuffle):
    """A list of rounds for every client: true spread, spread of the server's acting, and what we reported, in microseconds."""
    seen, left_out = {}, []
    with tempfile.TemporaryDirectory(prefix="portolan-skew-") as folder, contextlib.ExitStack() as running:
        pair = certificate(folder, place.address)
        first = support.free_ports(2 * ports)
        server = Server(place, first, ports, *pair)
        running.callback(server.close)
        started = {}
        for client, start in clients(place, first, ports, pair[0], folder, program, chosen).items():
            started[client] = start()
            running.callback(started[client].close)
            seen[client] = []
        begun, cycles, warm = time.monotonic(), 0, WARM_ROUNDS[name]
        while cycles <= warm or time.monotonic() - begun < budget_s:
            many = TURNS[name][ports] if cycles >= warm else 1
            often = (report.FLOOR, report.RELEASED, report.RELEASED + report.TLS, report.DATAGRAMS)
            turns = [client for client in started for _ in range(many if client in often else 1)]
            shuffle.shuffle(turns)
            for client in turns:
                server.ask("begin")
                answers, *reported = started[client].go() or [0]
                arrived, spread_ns, acted_ns, out_of_order = map(int, server.ask("end"))
                # Of datagrams that get lost, the others count.
                is_whole = arrived == ports or (client == report.DATAGRAMS and arrived >= 2)
                if answers != ports or not is_whole:
                    left_out.append(client)
                    if name == "loopback":
                        sys.exit(f"{client} over {ports} ports: {answers} answers, {arrived} arrivals")
                elif cycles >= warm:
                    seen[client].append([spread_ns / 1e3, acted_ns / 1e3, *reported, out_of_order])
            cycles += 1
    return {"rounds": seen, "left_out": {client: left_out.count(client) for client in sorted(set(left_out))}}


def main():
    """Measures and reports."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="64 ports only, a few seconds a network")
    arguments.add_argument("--networks", nargs="*", default=list(BUDGET_S), choices=list(BUDGET_S))
    arguments.add_argument("--ports", type=int, nargs="*", default=[2, 16, 64, 256], choices=[2, 16, 64, 256])
    arguments.add_argument("--clients", nargs="*", help="only clients whose names hold one of these")
    arguments.add_argument("--share", type=float, default=1.0, help="this share of the usual time")
    arguments.add_argument("--seed", type=int, default=1, help="of the turns' order and of the emulated path")
    arguments.add_argument("--program", help="our client, if it is not in target/release")
    given = arguments.parse_args()
    program = support.release_program("skew", given.program)
    for needed in ("skew_server", "skew_floor", "skew_link"):
        support.require(BIN / needed, "run benches/setup.sh")
    support.require(PYTHON, "run benches/setup.sh")
    support.raise_file_limit()
    shuffle = random.Random(given.seed)
    sizes, share = ([64], 0.1) if given.short else (given.ports, given.share)
    support.RESULTS.mkdir(parents=True, exist_ok=True)
    results = {"machine": support.machine(), "networks": {}}
    for name in given.networks:
        for ports in sizes:
            link = network.loopback() if name == "loopback" else network.link(BIN / "skew_link", LOSS_PERMILLE[name], given.seed)
            with link as place:
                found = measure(name, place, ports, BUDGET_S[name][ports] * share, given.clients, program, shuffle)
            results["networks"].setdefault(name, {})[str(ports)] = found
            print(f"# {name}, {ports} ports: " + report.summary(found), file=sys.stderr, flush=True)
            results["bars"] = report.bars(results["networks"])
            (support.RESULTS / "skew.json").write_text(json.dumps(results))
    support.keep("skew.md", report.show(results))


if __name__ == "__main__":
    main()
