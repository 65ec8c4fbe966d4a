"""What the skew comparison makes of its rounds: tables, and the bars that are met or missed. Standard library only."""

import support
from support import median

FLOOR, DATAGRAMS, RELEASED, PLAIN, TLS = "loop of send", "single datagrams", "portolan released", "portolan none", ", TLS"
OURS = [RELEASED, RELEASED + TLS, PLAIN, PLAIN + TLS]
FLOOR_TIMES, WARM_TIMES, JITTER_TIMES, COLD_TIMES, COVERED, REPORTED_TIMES = 1.3, 5, 1.1, 3, 0.99, 2


def percentile(values, share):
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def spreads(found, client):
    """True spreads of a client, in microseconds; empty if it did not run."""
    return [row[0] for row in found["rounds"].get(client, [])]


def summary(found):
    """One line."""
    return "; ".join(f"{client} {median(spreads(found, client)):.0f}" for client, rows in found["rounds"].items() if rows)


def loopback_bars(ports, found):
    """On loopback: beside the floor, beside warm clients, and what we report beside what is true."""
    floor = spreads(found, FLOOR)
    for suffix in ("", TLS):
        ours = spreads(found, RELEASED + suffix)
        if not ours:
            continue
        if floor and ports >= 64:
            times = percentile(ours, 0.99) / percentile(floor, 0.99)
            yield times <= FLOOR_TIMES, f"p99 {times:.2f} × the loop's (at most {FLOOR_TIMES}){suffix}"
        for peer in ("aiohttp warm", "axios warm"):
            theirs = spreads(found, peer + suffix)
            if theirs and ports == 64:
                times = median(theirs) / median(ours)
                yield times >= WARM_TIMES, f"{times:.1f} × tighter than {peer} (at least {WARM_TIMES}){suffix}"
        times = median(row[2] / row[0] for row in found["rounds"][RELEASED + suffix])
        yield times <= REPORTED_TIMES, f"reported release spread {times:.2f} × the true one (at most {REPORTED_TIMES}){suffix}"


def jitter_bars(_, found):
    """With jitter and without loss: beside single packets, and beside clients that connect first."""
    single = spreads(found, DATAGRAMS)
    for suffix in ("", TLS):
        ours = spreads(found, RELEASED + suffix)
        if single and ours:
            times = median(ours) / median(single)
            yield times <= JITTER_TIMES, f"{times:.2f} × the spread of single datagrams (at most {JITTER_TIMES}){suffix}"
    for peer in ("aiohttp cold", "axios cold", "curl cold"):
        ours, theirs = spreads(found, RELEASED + TLS), spreads(found, peer + TLS)
        if ours and theirs:
            times = median(theirs) / median(ours)
            yield times >= COLD_TIMES, f"{times:.1f} × tighter than {peer}{TLS} (at least {COLD_TIMES})"


def coverage_bars(_, found):
    """Everywhere: the reported bound is no smaller than what is true."""
    for client in OURS:
        rows = found["rounds"].get(client)
        if rows:
            share = sum(row[3] >= row[0] for row in rows) / len(rows)
            yield share >= COVERED, f"{client}: the bound covers {share:.1%} of {len(rows)} rounds (at least {COVERED:.0%})"


def bars(networks):
    """All that is asked of us: {met, bar}."""
    made = []
    for name, sizes in networks.items():
        for ports, found in sizes.items():
            asked = {"loopback": loopback_bars, "jitter": jitter_bars}.get(name)
            checked = [*(asked(int(ports), found) if asked else ()), *coverage_bars(ports, found)]
            made += [{"met": met, "bar": f"{name}, {ports} ports: {text}"} for met, text in checked]
    return made


def cell(found, client):
    """Median and 99th percentile in microseconds, and how many rounds."""
    values = spreads(found, client)
    return f"{median(values):,.0f} / {percentile(values, 0.99):,.0f} ({len(values)})" if values else "–"


def ours_table(sizes):
    """What we reported beside what is true."""
    rows = []
    for client in OURS:
        for ports, found in sizes.items():
            rounds = found["rounds"].get(client)
            if not rounds:
                continue
            true, acted, released, bound, out_of_order = zip(*rounds)
            rows.append([client, ports, *(f"{median(values):,.0f}" for values in (true, released, acted, bound)),
                         f"{sum(b >= t for b, t in zip(bound, true)) / len(rounds):.1%}", sum(out_of_order)])
    headings = ["client", "ports", "true spread", "reported spread", "server read apart", "reported bound", "covered",
                "out of order"]
    return support.table(headings, rows)


def show(results):
    """The report in Markdown."""
    text = [f"Spread of the arrivals of one round's requests, kernel receive timestamps; {results['machine']}.",
            "Microseconds, median / 99th percentile (rounds)."]
    for name, sizes in results["networks"].items():
        clients = dict.fromkeys(client for found in sizes.values() for client in found["rounds"])
        rows = [[client, *(cell(found, client) for found in sizes.values())] for client in clients]
        text += ["", f"## {name}", "", support.table(["client", *(f"{ports} ports" for ports in sizes)], rows), "",
                 ours_table(sizes)]
        for ports, found in sizes.items():
            if found["left_out"]:
                left_out = ", ".join(f"{client} {count}" for client, count in found["left_out"].items())
                text += ["", f"{ports} ports: rounds without all answers, left out: {left_out}."]
    missed = [bar["bar"] for bar in results["bars"] if not bar["met"]]
    text += ["", f"Bars: {len(results['bars']) - len(missed)} of {len(results['bars'])} met."]
    text += [f"- {'met' if bar['met'] else 'missed'}: {bar['bar']}" for bar in results["bars"]]
    return "\n".join(text)
