/** Who is logged in; logging in and out without leaving the page. */

import { csrfToken } from "./api/client";

export interface Session {
  /** The person's id, as in the API's answers: it tells which answers this session belongs to. */
  distinct_id: string;
  username: string | null;
  plan: string | null;
}

export class SessionApi {
  readonly #url: string;
  readonly #known = new Map<string, Session>();
  readonly #listeners = new Set<() => void>();
  #newest: Session | null = null;

  /** `initial` is the session that the page itself brought. */
  constructor(baseUrl: string, initial: Session | null = null) {
    this.#url = `${baseUrl}/api/session/`;
    if (initial) this.#keep(initial);
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** What is known of the person with this id; without an id, of whoever came last. */
  of(person: string | undefined): Session | null {
    return person === undefined ? this.#newest : (this.#known.get(person) ?? null);
  }

  current(): Promise<Session> {
    return this.#send("GET");
  }

  logIn(username: string, password: string): Promise<Session> {
    return this.#send("POST", new URLSearchParams({ username, password }));
  }

  logOut(): Promise<Session> {
    return this.#send("DELETE");
  }

  async #send(method: string, body: URLSearchParams | null = null): Promise<Session> {
    const response = await fetch(this.#url, {
      method,
      body,
      credentials: "include",
      headers: method === "GET" ? {} : { "X-CSRFToken": csrfToken() },
    });
    if (!response.ok) throw new Error(`the shop answered ${response.status}`);
    return this.#keep((await response.json()) as Session);
  }

  #keep(session: Session): Session {
    this.#newest = session;
    this.#known.set(session.distinct_id, session);
    for (const listener of this.#listeners) listener();
    return session;
  }
}
