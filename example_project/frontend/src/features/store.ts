/** The flags of the person at this browser. No React here: any framework can subscribe. */

import { own, type Answer, type Api, type FeatureKey, type FeatureValue } from "../api/client";
import { ExposureQueue } from "./exposures";
import { Retry, withTimeLimit } from "./retry";

export interface State {
  /** The last known answer; null where there is none. Never another person's. */
  readonly answer: Answer | null;
  /** Whether the first answer is still to come. False once a request for it has failed. */
  readonly pending: boolean;
  /** Whether the API itself answered when it was last asked, be it with a refusal. */
  readonly reachable: boolean;
  /** The status of the API's last answer: 304 when nothing had changed, null when none came. */
  readonly status: number | null;
}

export interface Options {
  /** The time limit of a request; after it the API counts as unreachable. */
  timeoutSeconds?: number;
}

/**
 * Return the value of a flag. Undefined is "not known yet"; a flag is false where the answer does
 * not have it, and where no answer is available.
 */
export function valueOf(state: State, key: FeatureKey): FeatureValue | undefined {
  if (!state.answer) return state.pending ? undefined : false;
  return own<FeatureValue>(state.answer.features, key) ?? false;
}

export class FeatureStore {
  readonly #api: Api;
  readonly #timeoutSeconds: number;
  readonly #initialState: State;
  readonly #listeners = new Set<() => void>();
  readonly #exposures: ExposureQueue;
  readonly #retry = new Retry(() => {
    if (isVisible()) void this.refetch(); // a hidden tab asks when it becomes visible
  });
  #state: State;
  #etag: string | null = null;
  #personIsNew = false;
  #starts = 0;
  #request: AbortController | null = null;
  #newest: Promise<void> | null = null;

  /** `initial` is what the page itself brought, so that the first paint is right. */
  constructor(api: Api, initial: Answer | null = null, { timeoutSeconds = 10 }: Options = {}) {
    this.#api = api;
    this.#timeoutSeconds = timeoutSeconds;
    this.#exposures = new ExposureQueue(api, timeoutSeconds);
    this.#state = { answer: initial, pending: initial === null, reachable: true, status: null };
    this.#initialState = this.#state;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly getState = (): State => this.#state;

  /** The state of the page as the server rendered it: React hydrates with it. */
  readonly getInitialState = (): State => this.#initialState;

  /** The value of a flag, as `valueOf` the current state. */
  value(key: FeatureKey): FeatureValue | undefined {
    return valueOf(this.#state, key);
  }

  /**
   * Keep the flags up to date until the returned function is called: fetch them, fetch them again
   * when the tab becomes visible and, with `refreshSeconds`, as often while it is, and retry after
   * failures.
   */
  start(refreshSeconds = 0): () => void {
    const poll = () => {
      if (isVisible() && !this.#retry.isScheduled) void this.refetch();
    };
    const returnToTab = () => {
      if (isVisible() && !this.#retry.isPaused) void this.refetch();
    };
    this.#starts += 1;
    void (this.#state.reachable ? this.fetchOnce() : this.refetch());
    document.addEventListener("visibilitychange", returnToTab);
    const timer = refreshSeconds ? setInterval(poll, refreshSeconds * 1000) : undefined;
    return () => {
      document.removeEventListener("visibilitychange", returnToTab);
      clearInterval(timer);
      this.#starts -= 1;
      if (!this.#starts) this.#retry.cancel();
    };
  }

  /** Fetch, unless that has been done. */
  async fetchOnce(): Promise<void> {
    await (this.#newest ?? this.refetch());
  }

  /**
   * Fetch again, or wait for the request that is under way. An unchanged answer costs a 304; without
   * an answer the last known one stays.
   */
  refetch(): Promise<void> {
    return this.#request && this.#newest ? this.#newest : this.#fetch();
  }

  /** After a log-in or a log-out: resolves when the state is about the new person, or empty. */
  async personChanged(): Promise<void> {
    this.#etag = null;
    this.#personIsNew = true;
    this.#exposures.dropPending();
    const previous = this.#request;
    const fetched = this.#fetch();
    previous?.abort(); // it may be about the person before
    await fetched;
  }

  #fetch(): Promise<void> {
    this.#request = new AbortController();
    return (this.#newest = this.#receive(this.#request));
  }

  async #receive(request: AbortController): Promise<void> {
    let answer: Answer | undefined;
    let response: Response | undefined;
    try {
      const result = await withTimeLimit(
        this.#timeoutSeconds,
        (signal) =>
          this.#api.GET("/api/features/", {
            cache: "no-store", // the 304 comes to us, not to the browser's cache
            headers: this.#etag ? { "If-None-Match": this.#etag } : {},
            signal,
          }),
        request,
      );
      if (result.response.ok && !isAnswer(result.data)) throw new TypeError("no answer of the API");
      ({ data: answer, response } = result);
    } catch {
      // No usable answer: the network, the time limit, or a page of a proxy.
    }
    if (this.#request !== request) return this.#newest ?? undefined; // the next person's
    this.#request = null;
    const previous = this.#personIsNew ? null : this.#state.answer;
    if (answer) {
      if (answer.distinct_id !== previous?.distinct_id) this.#exposures.dropPending();
      this.#etag = response?.headers.get("ETag") ?? null;
      this.#personIsNew = false;
    }
    const status = response?.status ?? null;
    const reachable = status !== null && status < 500;
    if (reachable && status !== 408 && status !== 429) this.#retry.reset();
    else if (this.#starts) this.#retry.schedule(response);
    this.#set({ answer: answer ?? previous, pending: false, reachable, status });
  }

  /** Tell the server that a flag was rendered: once for each person, flag and value. */
  expose(key: FeatureKey): void {
    const { answer } = this.#state;
    const value = answer ? own<FeatureValue>(answer.features, key) : undefined;
    if (!answer || this.#personIsNew || value === undefined) return;
    if (answer.source === "fallback" || answer.source === "disabled") return; // PostHog did not decide
    this.#exposures.add(answer.distinct_id, key, value);
  }

  #set(state: State): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

function isVisible(): boolean {
  return document.visibilityState === "visible";
}

function isAnswer(data: unknown): data is Answer {
  const { features, payloads } = (data ?? {}) as Record<string, unknown>;
  return [features, payloads].every((part) => typeof part === "object" && part !== null);
}
