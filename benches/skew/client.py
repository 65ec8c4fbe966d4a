"""client.py ADDRESS FIRST_PORT PORTS warm|cold [CA_FILE]: aiohttp's client of the skew comparison, with `gather`.

`warm` keeps its connections, `cold` opens new ones each round; with CA_FILE over TLS. For each line on standard input, one round
over all ports; prints the answers.
"""

import asyncio
import ssl
import sys

import aiohttp

ADDRESS, FIRST_PORT, PORTS, KIND = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
CA_FILE = sys.argv[5] if len(sys.argv) > 5 else None
URLS = [f"{'https' if CA_FILE else 'http'}://{ADDRESS}:{FIRST_PORT + index}/" for index in range(PORTS)]
ID = 12345


async def main():
    """Rounds until the input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    trust = ssl.create_default_context(cafile=CA_FILE) if CA_FILE else True
    connector = aiohttp.TCPConnector(limit=0, ssl=trust, force_close=KIND == "cold")
    async with aiohttp.ClientSession(connector=connector) as session:

        async def get(url):
            async with session.get(url) as answer:
                return (await answer.json())["id"]

        while await lines.readline():
            found = await asyncio.gather(*[get(url) for url in URLS], return_exceptions=True)
            print(sum(one == ID for one in found), flush=True)


asyncio.run(main())
