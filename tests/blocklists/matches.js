// Reads requests as JSON lines, and writes for each whether Ghostery's block list matches it.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { FiltersEngine, Request } from "@ghostery/adblocker";

const LIST = `${import.meta.dirname}/node_modules/@ghostery/trackerdb/dist/trackerdb.txt`;
const engine = FiltersEngine.parse(readFileSync(LIST, "utf8"));

for await (const line of createInterface({ input: process.stdin })) {
  const { match } = engine.match(Request.fromRawDetails(JSON.parse(line)));
  console.log(match);
}
