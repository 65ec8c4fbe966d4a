"""The networks of the skew comparison: loopback, and an emulated path between two network namespaces.

The path is benches/skew/link.c between two TUN devices: 20 ms ± 10 ms each way, uniformly and packet by packet, as
`netem delay 20ms 10ms` does it, with or without loss. It needs root, as namespaces do. Standard library only.
"""

import contextlib
import os
import subprocess

DELAY_US, JITTER_US = 20_000, 10_000


class Network:
    """Where the clients are, where the server is, and at which address."""

    def __init__(self, address, client=(), server=()):
        self.address, self.client, self.server = address, list(client), list(server)


@contextlib.contextmanager
def loopback():
    """Clients and server on this machine."""
    yield Network("127.0.0.1")


def ip(*words):
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def link(program, loss_permille, seed):
    """Clients and server in namespaces of their own, with the emulated path between them."""
    names = [f"skew-{end}-{os.getpid()}" for end in ("client", "server")]
    with contextlib.ExitStack() as undo:
        for name in names:
            ip("netns", "add", name)
            undo.callback(ip, "netns", "delete", name)
        words = [program, *names, DELAY_US, JITTER_US, loss_permille, seed]
        process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
        undo.callback(process.wait)
        undo.callback(process.kill)
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the link did not start: it needs root and /dev/net/tun")
        for index, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.213.0.{1 + index}/24", "dev", "skew")
            # All that a round sends at once fits.
            ip("-n", name, "link", "set", "skew", "up", "txqueuelen", "10000")
            ip("-n", name, "link", "set", "lo", "up")
        enter = [["ip", "netns", "exec", name] for name in names]
        yield Network("10.213.0.2", *enter)
