// Calls functions of a module here as stdin tells: a JSON array of name and arguments in each line.
import { createInterface } from "node:readline";

const jar = new Map();
const plainFetch = globalThis.fetch;

// As a browser does it, for one site.
globalThis.fetch = async (input, init) => {
  const request = new Request(input, init);
  request.headers.set("cookie", [...jar].map((pair) => pair.join("=")).join("; "));
  const response = await plainFetch(request);
  for (const cookie of response.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
    jar.set(name, value);
  }
  return response;
};

const client = await import(`./${process.argv[2]}.js`);

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...rest] = JSON.parse(line);
  console.log(JSON.stringify((await client[name](...rest)) ?? null));
}
process.exit(0); // a provider may still be polling
