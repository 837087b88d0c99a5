/** Logging in and out without leaving the page. */

import { csrfToken } from "./api/client";

export interface Session {
  username: string | null;
  plan: string | null;
}

export class SessionApi {
  readonly #url: string;

  constructor(baseUrl: string) {
    this.#url = `${baseUrl}/api/session/`;
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
    return (await response.json()) as Session;
  }
}
