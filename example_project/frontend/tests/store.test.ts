import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { FeatureStore } from "../src/features/store";
import { answerOf, closePage, openPage, SECOND, turn } from "./api";

const ON = { checkout: true };

beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(1)); // the longest delay of the jitter
afterEach(closePage);

/** A page with a store that is started. */
function startStore(refreshSeconds = 0) {
  const shop = openPage();
  const store = new FeatureStore(shop.api);
  return { shop, store, stop: store.start(refreshSeconds) };
}

describe("progress", () => {
  test("a response slower than the polling interval is delivered", async () => {
    const { shop, store } = startStore(1);
    await vi.advanceTimersByTimeAsync(5 * SECOND);
    expect(await shop.requests()).toHaveLength(1);
    await shop.respond(answerOf("1", { checkout: "express" }));
    expect(store.value("checkout")).toBe("express");
    await vi.advanceTimersByTimeAsync(SECOND);
    expect(await shop.requests()).toHaveLength(2);
  });

  test("refetch waits for the request that is under way", async () => {
    const { shop, store } = startStore();
    const refetched = store.refetch();
    await turn("visible");
    expect(await shop.requests()).toHaveLength(1);
    await shop.respond(answerOf("1", ON));
    await refetched;
    expect(store.value("checkout")).toBe(true);
  });

  test("a change of person aborts the request of the person before", async () => {
    const { shop, store } = startStore();
    await shop.requests();
    const changed = store.personChanged();
    const [first] = await shop.requests();
    expect(first?.signal.aborted).toBe(true);
    await shop.respond(answerOf("2", ON));
    await changed;
    expect(store.getState().answer?.distinct_id).toBe("2");
  });

  test("everyone who waits during a change of person waits for the new person", async () => {
    const { shop, store } = startStore();
    await shop.requests();
    const people: unknown[] = [];
    const note = () => people.push(store.getState().answer?.distinct_id);
    const waiting = [store.fetchOnce(), store.refetch(), store.personChanged()];
    const noted = Promise.all(waiting.map((one) => one.then(note)));
    await shop.respond(answerOf("2", ON));
    await noted;
    expect(people).toEqual(["2", "2", "2"]);
  });

  test("a request that hangs ends at the time limit, and the last known flags stay", async () => {
    const { shop, store } = startStore();
    await shop.respond(answerOf("1", ON));
    const refetched = store.refetch();
    await vi.advanceTimersByTimeAsync(10 * SECOND - 1);
    expect(store.getState().reachable).toBe(true);
    await vi.advanceTimersByTimeAsync(1);
    await refetched;
    expect(store.getState()).toMatchObject({ reachable: false, status: null });
    expect(store.value("checkout")).toBe(true);
  });

  test("a request that hangs after a change of person leaves no flags of the one before", async () => {
    const { shop, store } = startStore();
    await shop.respond(answerOf("1", ON));
    const changed = store.personChanged();
    await vi.advanceTimersByTimeAsync(10 * SECOND);
    await changed;
    expect(store.getState()).toMatchObject({ answer: null, reachable: false });
  });

  test("middleware that hangs ends at the time limit too", async () => {
    const { api } = openPage();
    api.use({ onRequest: () => new Promise<never>(() => undefined) });
    const store = new FeatureStore(api, null, { timeoutSeconds: 2 });
    store.start();
    await vi.advanceTimersByTimeAsync(2 * SECOND);
    expect(store.getState().reachable).toBe(false);
  });
});

describe("without an answer", () => {
  test("flags are unknown until the first request fails, and off after it", async () => {
    const { shop, store } = startStore();
    expect(store.value("checkout")).toBeUndefined();
    await shop.fail();
    expect(store.value("checkout")).toBe(false);
    expect(store.getState()).toMatchObject({ pending: false, reachable: false });
  });

  test.each([401, 403, 404, 429, 502])("a status %d is a failure too", async (status) => {
    const { shop, store } = startStore();
    await shop.respond({ detail: "No." }, { status });
    expect(store.value("checkout")).toBe(false);
    expect(store.getState()).toMatchObject({ pending: false, reachable: status < 500, status });
  });

  test.each([null, {}, [], "<html>", { features: null, payloads: {} }])(
    "a 200 with %j is no answer",
    async (body) => {
      const { shop, store } = startStore();
      await shop.respond(body);
      expect(store.getState()).toMatchObject({ answer: null, reachable: false });
    },
  );
});

describe("retries", () => {
  test("come with back-off, up to a minute apart", async () => {
    const { shop } = startStore();
    for (const [failures, seconds] of [1, 2, 4, 8, 16, 32, 60, 60].entries()) {
      expect(await shop.requests()).toHaveLength(failures + 1);
      await shop.respond(null, { status: 503 });
      await vi.advanceTimersByTimeAsync(seconds * SECOND - 1);
      expect(await shop.requests()).toHaveLength(failures + 1);
      await vi.advanceTimersByTimeAsync(1);
    }
  });

  test("have jitter of up to half the delay", async () => {
    vi.mocked(Math.random).mockReturnValue(0);
    const { shop } = startStore();
    await shop.fail();
    await vi.advanceTimersByTimeAsync(SECOND / 2 - 1);
    expect(await shop.requests()).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(await shop.requests()).toHaveLength(2);
  });

  test("start with a short delay again after a success", async () => {
    const { shop, store } = startStore();
    for (const seconds of [1, 2]) {
      await shop.fail();
      await vi.advanceTimersByTimeAsync(seconds * SECOND);
    }
    await shop.respond(answerOf("1", ON));
    void store.refetch();
    await shop.fail();
    await vi.advanceTimersByTimeAsync(SECOND);
    expect(await shop.requests()).toHaveLength(5);
  });

  test("hold back the polling", async () => {
    const { shop } = startStore(1);
    for (const seconds of [1, 2, 4]) {
      await shop.fail();
      await vi.advanceTimersByTimeAsync(seconds * SECOND);
    }
    expect(await shop.requests()).toHaveLength(4);
  });

  test.each([
    ["seconds", () => "60"],
    ["an HTTP date", () => new Date(Date.now() + 60 * SECOND).toUTCString()],
  ])("wait for Retry-After as %s, also when the tab becomes visible", async (_, header) => {
    const { shop } = startStore(5);
    vi.setSystemTime("2026-12-01T12:00:00Z"); // an HTTP date has no fractions of a second
    await shop.respond({}, { status: 429, headers: { "Retry-After": header() } });
    await turn("visible");
    await vi.advanceTimersByTimeAsync(60 * SECOND - 1);
    await turn("visible");
    expect(await shop.requests()).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(SECOND + 1);
    expect(await shop.requests()).toHaveLength(2);
  });

  test.each(["soon", "-5", "Thu, 01 Jan 1970 00:00:00 GMT"])(
    "ignore the Retry-After %j",
    async (header) => {
      const { shop } = startStore();
      await shop.respond(null, { status: 503, headers: { "Retry-After": header } });
      await vi.advanceTimersByTimeAsync(SECOND);
      expect(await shop.requests()).toHaveLength(2);
    },
  );

  test("wait for a day at most", async () => {
    const { shop } = startStore();
    await shop.respond(null, { status: 503, headers: { "Retry-After": "9".repeat(20) } });
    await vi.advanceTimersByTimeAsync(24 * 60 * 60 * SECOND);
    expect(await shop.requests()).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(SECOND);
    expect(await shop.requests()).toHaveLength(2);
  });

  test("follow no refusal that time does not change", async () => {
    const { shop } = startStore();
    await shop.respond({ detail: "No." }, { status: 401 });
    await vi.advanceTimersByTimeAsync(3600 * SECOND);
    expect(await shop.requests()).toHaveLength(1);
  });

  test("end with the provider", async () => {
    const { shop, stop } = startStore();
    await shop.fail();
    stop();
    await vi.advanceTimersByTimeAsync(3600 * SECOND);
    expect(await shop.requests()).toHaveLength(1);
  });

  test("of a hidden tab wait until it is visible", async () => {
    const { shop } = startStore();
    await turn("hidden");
    await shop.fail();
    await vi.advanceTimersByTimeAsync(3600 * SECOND);
    expect(await shop.requests()).toHaveLength(1);
    await turn("visible");
    expect(await shop.requests()).toHaveLength(2);
  });

  test("do not hold back the next person", async () => {
    const { shop, store } = startStore();
    await shop.respond({}, { status: 429, headers: { "Retry-After": "3600" } });
    void store.personChanged();
    expect(await shop.requests()).toHaveLength(2);
  });
});

describe("starting", () => {
  test("twice, as React's strict mode does, sends one request", async () => {
    const { shop, store, stop } = startStore();
    stop();
    store.start();
    expect(await shop.requests()).toHaveLength(1);
  });

  test("again after a failure fetches again", async () => {
    const { shop, store, stop } = startStore();
    await shop.fail();
    stop();
    store.start();
    expect(await shop.requests()).toHaveLength(2);
  });
});

test.each(["constructor", "toString", "__proto__", "hasOwnProperty", "valueOf"])(
  "%s is a flag key like any other",
  async (key) => {
    const { shop, store } = startStore();
    await shop.respond(answerOf("1", { other: true }));
    expect(store.value(key)).toBe(false);
    void store.refetch();
    await shop.respond(answerOf("1", JSON.parse(`{"${key}": "express"}`)));
    expect(store.value(key)).toBe("express");
    expect(store.value("other")).toBe(false);
  },
);
