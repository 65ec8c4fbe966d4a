// client.js ADDRESS FIRST_PORT PORTS warm|cold MODULES [CA_FILE]: axios of the skew comparison, with `Promise.all`.
//
// `warm` keeps its connections, `cold` opens new ones each round; with CA_FILE over TLS. MODULES is the folder of the installed
// packages. For each line on standard input, one round over all ports; prints the answers.
const [address, firstPort, ports, kind, modules, caFile] = process.argv.slice(2);
const axios = require(`${modules}/axios`);
const ID = 12345;

const options = { keepAlive: kind === "warm", ca: caFile && require("fs").readFileSync(caFile) };
const agents = caFile
  ? { httpsAgent: new (require("https").Agent)(options) }
  : { httpAgent: new (require("http").Agent)(options) };
const urls = Array.from({ length: +ports }, (_, index) => `${caFile ? "https" : "http"}://${address}:${+firstPort + index}/`);
const get = (url) => axios.get(url, agents).then((answer) => answer.data.id, () => null);

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", async () => {
    const ids = await Promise.all(urls.map(get));
    console.log(ids.filter((id) => id === ID).length);
  });
