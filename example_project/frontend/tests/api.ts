/** A page without a browser, and an API whose every response a test decides. */

import { vi } from "vitest";
import { createApi, type Answer } from "../src/api/client";

export const SECOND = 1000;

/** What the code of the page sees as `document`; its events are those of `window` too. */
export let page = newPage();

function newPage() {
  return Object.assign(new EventTarget(), { cookie: "", visibilityState: "visible" });
}

export function answerOf(person: string, features: Record<string, boolean | string>): Answer {
  return { distinct_id: person, source: "posthog", features, payloads: {} };
}

class Exchange {
  readonly response: Promise<Response>;
  resolve!: (response: Response) => void;
  reject!: (reason: unknown) => void;

  constructor(readonly request: Request) {
    this.response = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    request.signal.addEventListener("abort", () => this.reject(request.signal.reason));
  }
}

/** Replace the network and the clock. */
export function openPage() {
  vi.useFakeTimers();
  page = newPage();
  vi.stubGlobal("document", page);
  vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
  vi.stubGlobal("removeEventListener", page.removeEventListener.bind(page));
  const exchanges: Exchange[] = [];
  vi.stubGlobal("fetch", (request: Request) => {
    const exchange = new Exchange(request);
    exchanges.push(exchange);
    return exchange.response;
  });
  return {
    api: createApi("https://shop.test"),
    /** The requests that the page has sent, in order. */
    async requests(): Promise<Request[]> {
      await settle();
      return exchanges.map((exchange) => exchange.request);
    },
    /** Respond to the newest request, or to the one with this number. */
    async respond(body: unknown, init?: ResponseInit, number = -1): Promise<void> {
      await settle();
      const text = body === null ? null : JSON.stringify(body);
      exchanges.at(number)!.resolve(new Response(text, init));
      await settle();
    },
    /** Let the newest request fail, or the one with this number. */
    async fail(number = -1): Promise<void> {
      await settle();
      exchanges.at(number)!.reject(new TypeError("Failed to fetch"));
      await settle();
    },
  };
}

export function closePage(): void {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
}

/** Let everything happen that waits for no timer. */
async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

/** The visitor leaves the tab, or returns to it. */
export async function turn(visibility: "visible" | "hidden"): Promise<void> {
  page.visibilityState = visibility;
  page.dispatchEvent(new Event("visibilitychange"));
  await settle();
}
