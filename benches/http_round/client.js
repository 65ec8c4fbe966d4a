// client.js FIRST_PORT PORTS KIND MODULES: the Node clients of the round comparison, with kept connections.
//
// KIND is `axios` (the usual Promise.all) or `undici`; MODULES is the folder of the installed packages. For each line
// on standard input, one round over all ports; prints `wall_us cpu_us answers`.
const [firstPort, ports, kind, modules] = [+process.argv[2], +process.argv[3], process.argv[4], process.argv[5]];
const urls = Array.from({ length: ports }, (_, index) => `http://127.0.0.1:${firstPort + index}/`);
const ID = 12345;

let get;
if (kind === "axios") {
  const axios = require(`${modules}/axios`);
  const httpAgent = new (require("http").Agent)({ keepAlive: true });
  get = (url) => axios.get(url, { httpAgent }).then((answer) => answer.data.id);
} else {
  const { request, Agent } = require(`${modules}/undici`);
  const dispatcher = new Agent({ pipelining: 1 });
  get = async (url) => (await (await request(url, { dispatcher })).body.json()).id;
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", async () => {
    const start = process.hrtime.bigint();
    const before = process.cpuUsage();
    const ids = await Promise.all(urls.map(get));
    const wallUs = Number(process.hrtime.bigint() - start) / 1e3;
    const cpu = process.cpuUsage(before);
    console.log(`${wallUs} ${cpu.user + cpu.system} ${ids.filter((id) => id === ID).length}`);
  });
