import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FeatureStore } from "../src/features/store";
import { answerOf, closePage, openPage, page, SECOND, turn } from "./api";

const FRAME = 16;
const TAKEN = { status: 204 };

beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(1)); // the longest delay of the jitter
afterEach(closePage);

/** A page with a store whose person has these flags. */
function openStore(features: Record<string, boolean | string>, source = "posthog") {
  const shop = openPage();
  const answer = { ...answerOf("1", features), source: source as "posthog" };
  const store = new FeatureStore(shop.api, answer);
  /** The keys of each report so far. */
  async function reports(): Promise<string[][]> {
    const posts = (await shop.requests()).filter((request) => request.method === "POST");
    const bodies = posts.map((post) => post.clone().json() as Promise<{ keys: string[] }>);
    return (await Promise.all(bodies)).map(({ keys }) => keys);
  }
  return { shop, store, reports };
}

async function nextFrame(): Promise<void> {
  await vi.advanceTimersByTimeAsync(FRAME);
}

test("several first renders go out as one request", async () => {
  const { shop, store, reports } = openStore({ a: true, b: false, c: "test" });
  for (const key of ["a", "b", "a", "c"]) store.expose(key);
  await nextFrame();
  expect(await reports()).toEqual([["a", "b", "c"]]);
  const [request] = await shop.requests();
  expect(new URL(request!.url).pathname).toBe("/api/features/exposures/");
  expect(request!.keepalive).toBe(true);
});

test("a flag is reported once for each value", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  await nextFrame();
  await shop.respond(null, TAKEN);
  store.expose("a");
  await nextFrame();
  expect(await reports()).toEqual([["a"]]);
  void store.refetch();
  await shop.respond(answerOf("1", { a: false }));
  store.expose("a");
  await nextFrame();
  expect(await reports()).toEqual([["a"], ["a"]]);
});

test("a flag without a decision of PostHog is not reported", async () => {
  for (const source of ["fallback", "disabled"]) {
    const { store, reports } = openStore({ a: true }, source);
    store.expose("a");
    store.expose("unknown");
    await nextFrame();
    expect(await reports()).toEqual([]);
  }
});

test("more than 100 flags go out in several requests", async () => {
  const keys = Array.from({ length: 250 }, (_, number) => `flag-${number}`);
  const { store, reports } = openStore(Object.fromEntries(keys.map((key) => [key, true])));
  for (const key of keys) store.expose(key);
  await nextFrame();
  expect((await reports()).map((report) => report.length)).toEqual([100, 100, 50]);
  expect((await reports()).flat()).toEqual(keys);
});

test("a report that fails or is refused is sent again, with back-off", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  await nextFrame();
  await shop.fail();
  await vi.advanceTimersByTimeAsync(SECOND);
  await shop.respond({ detail: "CSRF Failed" }, { status: 403 });
  await vi.advanceTimersByTimeAsync(2 * SECOND - 1);
  expect(await reports()).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(1);
  await shop.respond(null, TAKEN);
  await vi.advanceTimersByTimeAsync(3600 * SECOND);
  expect(await reports()).toEqual([["a"], ["a"], ["a"]]);
});

test("a report that hangs is sent again", async () => {
  const { store, reports } = openStore({ a: true });
  store.expose("a");
  await vi.advanceTimersByTimeAsync(FRAME + 11 * SECOND);
  expect(await reports()).toEqual([["a"], ["a"]]);
});

test("a report that is refused waits for Retry-After, and takes new ones along", async () => {
  const { shop, store, reports } = openStore({ a: true, b: true });
  store.expose("a");
  await nextFrame();
  await shop.respond({}, { status: 429, headers: { "Retry-After": "60" } });
  store.expose("b");
  await vi.advanceTimersByTimeAsync(60 * SECOND);
  expect(await reports()).toEqual([["a"]]);
  await vi.advanceTimersByTimeAsync(SECOND);
  expect(await reports()).toEqual([["a"], ["a", "b"]]);
});

test("of several requests only those that failed are sent again", async () => {
  const keys = Array.from({ length: 101 }, (_, number) => `flag-${number}`);
  const { shop, store, reports } = openStore(Object.fromEntries(keys.map((key) => [key, true])));
  for (const key of keys) store.expose(key);
  await nextFrame();
  await shop.fail(1);
  await shop.respond(null, TAKEN, 0);
  await vi.advanceTimersByTimeAsync(SECOND);
  expect((await reports()).slice(2)).toEqual([["flag-100"]]);
});

test.each(["hidden", "pagehide"])("on %s everything pending is sent at once", async (way) => {
  const { shop, store, reports } = openStore({ a: true, b: true, c: true });
  const leave = () => (way === "hidden" ? turn("hidden") : page.dispatchEvent(new Event(way)));
  store.expose("a");
  await leave();
  expect(await reports()).toEqual([["a"]]);
  await shop.fail();
  store.expose("b");
  await leave(); // before the back-off is over
  expect(await reports()).toEqual([["a"], ["a", "b"]]);
  await shop.respond(null, TAKEN);
  await leave();
  await vi.advanceTimersByTimeAsync(3600 * SECOND);
  expect(await reports()).toHaveLength(2);
});

test("what is pending when the person changes is not reported for the next one", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  const changed = store.personChanged();
  store.expose("a"); // the flags of the person before are still there
  await nextFrame();
  await shop.respond(answerOf("2", { a: true }));
  await changed;
  expect(await reports()).toEqual([]);
  store.expose("a");
  await nextFrame();
  expect(await reports()).toEqual([["a"]]);
});

test("what was dropped is reported once the person is back", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  for (const person of ["2", "1"]) {
    void store.personChanged();
    await shop.respond(answerOf(person, { a: true }));
  }
  store.expose("a");
  await nextFrame();
  expect(await reports()).toEqual([["a"]]);
});

test("a log-in in another tab drops what is pending too", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  void store.refetch();
  await shop.respond(answerOf("2", { a: true }));
  await nextFrame();
  expect(await reports()).toEqual([]);
});

test("a key is in a request once, also when its value has changed meanwhile", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  void store.refetch();
  await shop.respond(answerOf("1", { a: false }));
  store.expose("a");
  await nextFrame();
  expect(await reports()).toEqual([["a"]]);
});

test("a report that fails after a change of person is dropped, and made when they are back", async () => {
  const { shop, store, reports } = openStore({ a: true });
  store.expose("a");
  await nextFrame();
  void store.personChanged();
  await shop.respond(answerOf("2", {}));
  await shop.fail(0);
  await vi.advanceTimersByTimeAsync(3600 * SECOND);
  expect(await reports()).toHaveLength(1);
  void store.personChanged();
  await shop.respond(answerOf("1", { a: true }));
  store.expose("a");
  await nextFrame();
  expect(await reports()).toHaveLength(2);
});

test("keys that every object inherits are reported", async () => {
  const { store, reports } = openStore(JSON.parse('{"__proto__": true, "constructor": "test"}'));
  for (const key of ["__proto__", "constructor", "toString"]) store.expose(key);
  await nextFrame();
  expect(await reports()).toEqual([["__proto__", "constructor"]]);
});
