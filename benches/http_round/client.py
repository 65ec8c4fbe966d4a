"""client.py FIRST_PORT PORTS KIND: the Python clients of the round comparison, with kept connections.

KIND is `one_by_one` or `threads` (requests), `aiohttp` or `uvloop` (aiohttp on uvloop). For each line on standard
input, one round over all ports; prints `wall_us cpu_us answers`.
"""

import asyncio
import sys
import time

FIRST_PORT, PORTS, KIND = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
URLS = [f"http://127.0.0.1:{FIRST_PORT + index}/" for index in range(PORTS)]
ID = 12345


def clocks():
    return time.perf_counter_ns(), time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)


def report(start, ids):
    wall, cpu = clocks()
    print(f"{(wall - start[0]) / 1e3:.1f} {(cpu - start[1]) / 1e3:.1f} {sum(i == ID for i in ids)}", flush=True)


def with_requests():
    import requests
    from concurrent.futures import ThreadPoolExecutor
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_connections=PORTS + 8, pool_maxsize=8))

    def get(url):
        return session.get(url).json()["id"]

    pool = ThreadPoolExecutor(PORTS)
    for _ in sys.stdin:
        start = clocks()
        ids = list(pool.map(get, URLS)) if KIND == "threads" else [get(url) for url in URLS]
        report(start, ids)


async def with_aiohttp():
    import aiohttp

    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def get(url):
            async with session.get(url) as answer:
                return (await answer.json())["id"]

        while await lines.readline():
            start = clocks()
            report(start, await asyncio.gather(*[get(url) for url in URLS]))


if KIND in ("one_by_one", "threads"):
    with_requests()
elif KIND == "uvloop":
    import uvloop

    uvloop.run(with_aiohttp())
elif KIND == "aiohttp":
    asyncio.run(with_aiohttp())
else:
    sys.exit(f"unknown kind {KIND}")
