/** posthog-js beside our flags: the same person, the same values, before it has asked anybody. */

import type { PostHog } from "posthog-js";
import { toBootstrap, type Bootstrap } from "./features/bootstrap";
import type { FeatureStore } from "./features/store";
import type { SessionApi } from "./session";

declare global {
  interface Window {
    posthog?: PostHog;
  }
}

interface Project {
  token: string;
  host: string;
}

/**
 * Start posthog-js as the person of the store's answers, and follow log-ins and log-outs, wherever
 * they happen. Nothing on the page waits for it: it is loaded, in a chunk of its own, once the API
 * has answered.
 */
export function followPerson(project: Project, store: FeatureStore, sessions: SessionApi): void {
  let loaded: Promise<{ default: PostHog }> | null = null;
  let current: { person: string; identified: boolean } | null = null;

  async function follow() {
    loaded ??= import("posthog-js");
    const { default: posthog } = await loaded;
    // All that follows is of one moment: an answer and the session of the same person, or nothing.
    const { answer } = store.getState();
    if (!answer || answer.distinct_id === current?.person) return;
    const session = sessions.of(answer.distinct_id);
    if (!session) return;
    const identified = session.username !== null;
    const bootstrap = toBootstrap(answer, identified);
    if (!current) start(posthog, project, bootstrap);
    else become(posthog, bootstrap, current.identified);
    current = { person: answer.distinct_id, identified };
  }

  const look = () => void follow().catch(() => undefined); // an ad blocker may stop the chunk
  store.subscribe(look);
  sessions.subscribe(look);
}

function start(posthog: PostHog, project: Project, bootstrap: Bootstrap): void {
  posthog.init(project.token, {
    api_host: project.host,
    bootstrap,
    capture_pageview: true,
    autocapture: false,
    disable_session_recording: true,
    disable_surveys: true,
    disable_external_dependency_loading: true, // no scripts but those of this build
  });
  // It stays with a user whom it knows from an earlier visit, whoever has logged in since.
  const { distinctID = null } = bootstrap;
  const isAnother = distinctID !== null && posthog.get_distinct_id() !== distinctID;
  if (isAnother) become(posthog, bootstrap, true);
  window.posthog = posthog;
}

/** Later events, and flags, are the new person's. */
function become(posthog: PostHog, bootstrap: Bootstrap, wasIdentified: boolean): void {
  if (wasIdentified) posthog.reset(); // or two people would become one
  const { distinctID, isIdentifiedID } = bootstrap;
  if (distinctID && isIdentifiedID) posthog.identify(distinctID);
  else if (distinctID) posthog.register({ distinct_id: distinctID }); // ours, in place of one made up
  posthog.updateFlags(bootstrap.featureFlags, bootstrap.featureFlagPayloads);
}
