/** The flags of the person at this browser. No React here: any framework can subscribe. */

import { own, type Answer, type Api, type FeatureKey, type FeatureValue } from "../api/client";

export interface State {
  /** The last known answer; null before the first one. Never another person's. */
  readonly answer: Answer | null;
  /** Whether the API itself answered when it was last asked, be it with a refusal. */
  readonly reachable: boolean;
  /** The status of the API's last answer: 304 when nothing had changed, null when none came. */
  readonly status: number | null;
}

export class FeatureStore {
  readonly #api: Api;
  readonly #listeners = new Set<() => void>();
  readonly #exposed = new Set<string>();
  #state: State;
  #etag: string | null = null;
  #personIsNew = false;
  #flight: AbortController | null = null;
  #newest: Promise<void> = Promise.resolve();

  /** `initial` is what the page itself brought, so that the first paint is right. */
  constructor(api: Api, initial: Answer | null = null) {
    this.#api = api;
    this.#state = { answer: initial, reachable: true, status: null };
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly getState = (): State => this.#state;

  /** The value of a flag; undefined before the first answer, false for one that is not in it. */
  value(key: FeatureKey): FeatureValue | undefined {
    const { answer } = this.#state;
    return answer ? (own(answer.features, key) ?? false) : undefined;
  }

  /** Fetch, unless that has been done. */
  async fetchOnce(): Promise<void> {
    if (!this.#flight) await this.refetch();
  }

  /** Ask again. An unchanged answer costs a 304; without an answer the last known one stays. */
  refetch(): Promise<void> {
    this.#flight?.abort(); // it may be about the person before
    this.#flight = new AbortController();
    return (this.#newest = this.#fetch(this.#flight.signal));
  }

  async #fetch(signal: AbortSignal): Promise<void> {
    let answer: Answer | undefined;
    let status: number | null = null;
    try {
      const { data, response } = await this.#api.GET("/api/features/", {
        cache: "no-store", // the 304 comes to us, not to the browser's cache
        headers: this.#etag ? { "If-None-Match": this.#etag } : {},
        signal,
      });
      status = response.status;
      answer = data;
      if (signal.aborted) return await this.#newest; // whoever waits, waits for what is known then
      if (answer) this.#etag = response.headers.get("ETag");
    } catch {
      if (signal.aborted) return await this.#newest;
    }
    const known = answer ?? (this.#personIsNew ? null : this.#state.answer);
    if (answer) this.#personIsNew = false;
    this.#set({
      answer: known,
      reachable: status !== null && status < 500,
      status,
    });
  }

  /** After a log-in or a log-out: resolves when the state is about the new person, or nobody. */
  async personChanged(): Promise<void> {
    this.#etag = null;
    this.#personIsNew = true;
    await this.refetch();
  }

  /** Tell the server that a flag was rendered: once for each person, flag and value. */
  expose(key: FeatureKey): void {
    const { answer } = this.#state;
    const value = answer && own(answer.features, key);
    if (!answer || value === undefined) return;
    if (answer.source === "fallback" || answer.source === "disabled") return; // nobody decided it
    const exposure = JSON.stringify([answer.distinct_id, key, value]);
    if (this.#exposed.has(exposure)) return;
    this.#exposed.add(exposure);
    void this.#report(key).catch(() => this.#exposed.delete(exposure));
  }

  async #report(key: FeatureKey): Promise<void> {
    const { response } = await this.#api.POST("/api/features/{key}/exposure/", {
      params: { path: { key } },
      keepalive: true, // also when the person is leaving the page
    });
    if (!response.ok && response.status !== 404) throw new Error(`${response.status}`);
  }

  #set(state: State): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}
