/** Reports of the flags that were rendered: each once, several in one request, none lost. */

import type { Api } from "../api/client";
import { Retry, withTimeLimit } from "./retry";

const FRAME_MILLISECONDS = 16;
const MAX_KEYS = 100; // of one request, as the API allows

interface Exposure {
  /** Person, key and value: another value is another exposure. */
  id: string;
  key: string;
}

export class ExposureQueue {
  readonly #api: Api;
  readonly #timeoutSeconds: number;
  readonly #known = new Set<string>(); // pending, being sent, or reported
  readonly #retry = new Retry(() => this.#send());
  #person: string | null = null;
  #pending: Exposure[] = [];
  #frame: ReturnType<typeof setTimeout> | undefined;

  constructor(api: Api, timeoutSeconds: number) {
    this.#api = api;
    this.#timeoutSeconds = timeoutSeconds;
  }

  /** Report that the person was shown a flag, unless that has been done for this value. */
  add(person: string, key: string, value: boolean | string): void {
    this.#person = person;
    const id = JSON.stringify([person, key, value]);
    if (this.#known.has(id)) return;
    this.#known.add(id);
    this.#keep([{ id, key }]);
    // After a failure it goes along with what is retried.
    if (!this.#retry.isScheduled)
      this.#frame ??= setTimeout(() => this.#send(), FRAME_MILLISECONDS);
  }

  /** Drop what is pending once the person changes: the server would count it for the next one. */
  dropPending(): void {
    this.#person = null;
    this.#forget(this.#pending);
    this.#pending = [];
    clearTimeout(this.#frame);
    this.#frame = undefined;
    this.#retry.reset();
  }

  #keep(exposures: Exposure[]): void {
    this.#pending.push(...exposures);
    document.addEventListener("visibilitychange", this.#leavePage); // adds it once
    addEventListener("pagehide", this.#leavePage);
  }

  #forget(exposures: Exposure[]): void {
    for (const { id } of exposures) this.#known.delete(id);
  }

  /** A page that is hidden may never run again: send everything at once. */
  readonly #leavePage = (event: Event): void => {
    if (event.type === "pagehide" || document.visibilityState === "hidden") this.#send();
  };

  #send(): void {
    clearTimeout(this.#frame);
    this.#frame = undefined;
    const exposures = this.#pending;
    this.#pending = [];
    document.removeEventListener("visibilitychange", this.#leavePage);
    removeEventListener("pagehide", this.#leavePage);
    for (let start = 0; start < exposures.length; start += MAX_KEYS) {
      void this.#report(exposures.slice(start, start + MAX_KEYS));
    }
  }

  async #report(exposures: Exposure[]): Promise<void> {
    const person = this.#person;
    let response: Response | undefined;
    try {
      ({ response } = await withTimeLimit(this.#timeoutSeconds, (signal) =>
        this.#api.POST("/api/features/exposures/", {
          body: { keys: [...new Set(exposures.map(({ key }) => key))] },
          keepalive: true, // also when the person is leaving the page
          signal,
        }),
      ));
    } catch {
      // The network or the time limit.
    }
    if (response?.ok) {
      if (!this.#pending.length) this.#retry.reset();
    } else if (person !== this.#person) {
      this.#forget(exposures);
    } else {
      this.#keep(exposures);
      this.#retry.schedule(response);
    }
  }
}
