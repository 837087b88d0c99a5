/** posthog-js beside our flags: the same person, the same values, before it has asked anybody. */

import type { PostHog } from "posthog-js";
import type { Bootstrap } from "./features/bootstrap";

declare global {
  interface Window {
    posthog?: PostHog;
  }
}

let identified = false;

/** Load and start it, in a chunk of its own that nothing on the page waits for. */
export async function startAnalytics(
  project: { token: string; host: string },
  bootstrap: Bootstrap,
): Promise<void> {
  const { default: posthog } = await import("posthog-js");
  posthog.init(project.token, {
    api_host: project.host,
    bootstrap,
    capture_pageview: true,
    autocapture: false,
    disable_session_recording: true,
    disable_surveys: true,
    disable_external_dependency_loading: true, // no scripts but those of this build
  });
  identified = bootstrap.isIdentifiedID;
  window.posthog = posthog;
}

/** Follow a log-in or a log-out: later events, and flags, are the new person's. */
export function followPerson(bootstrap: Bootstrap): void {
  const posthog = window.posthog;
  if (!posthog) return;
  if (identified) posthog.reset(); // or two people would become one
  identified = bootstrap.isIdentifiedID;
  if (identified) posthog.identify(bootstrap.distinctID);
  else posthog.register({ distinct_id: bootstrap.distinctID }); // ours, in place of one made up
  posthog.updateFlags(bootstrap.featureFlags, bootstrap.featureFlagPayloads);
}
