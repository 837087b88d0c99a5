/** What Django put into the page as JSON, all of it optional: a page from elsewhere has none. */

import type { Source } from "./api/client";
import type { Bootstrap } from "./features/bootstrap";
import type { Session } from "./session";

export interface Page {
  /** Where the API is; "" for the origin of the page. */
  api: string;
  /** Who is logged in, and where the flags of `posthog-bootstrap` came from. */
  session?: Session;
  source?: Source;
  /** The PostHog project for posthog-js, where the site has one. */
  posthog?: { token: string; host: string } | null;
}

function read<T>(id: string): T | null {
  const text = document.getElementById(id)?.textContent;
  return text ? (JSON.parse(text) as T) : null;
}

export const page: Page = read<Page>("page") ?? { api: "" };
export const bootstrap = read<Bootstrap>("posthog-bootstrap");
