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
  let told: Bootstrap | null = null;

  async function follow() {
    loaded ??= import("posthog-js");
    const { default: posthog } = await loaded;
    // All that follows is of one moment: an answer and the session of the same person, or nothing.
    const { answer } = store.getState();
    if (!answer || answer.distinct_id === told?.distinctID) return;
    const session = sessions.of(answer.distinct_id);
    if (!session) return;
    const bootstrap = toBootstrap(answer, session.username !== null);
    if (!told) start(posthog, project, bootstrap);
    else become(posthog, bootstrap, told.isIdentifiedID);
    told = bootstrap;
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
  if (posthog.get_distinct_id() !== bootstrap.distinctID) become(posthog, bootstrap, true);
  window.posthog = posthog;
}

/** Later events, and flags, are the new person's. */
function become(posthog: PostHog, bootstrap: Bootstrap, wasIdentified: boolean): void {
  if (wasIdentified) posthog.reset(); // or two people would become one
  if (bootstrap.isIdentifiedID) posthog.identify(bootstrap.distinctID);
  else posthog.register({ distinct_id: bootstrap.distinctID }); // ours, in place of one made up
  posthog.updateFlags(bootstrap.featureFlags, bootstrap.featureFlagPayloads);
}
