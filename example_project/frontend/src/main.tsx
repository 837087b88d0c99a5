import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { startAnalytics } from "./analytics";
import { createApi } from "./api/client";
import { App } from "./App";
import { fromBootstrap, toBootstrap } from "./features/bootstrap";
import { FeaturesProvider } from "./features/react";
import { FeatureStore } from "./features/store";
import { bootstrap, page } from "./page";
import { SessionApi } from "./session";
import "./live.css";

const REFRESH_SECONDS = 5; // a page that shows flags changing; a shop would leave it out

const initial = bootstrap && page.source ? fromBootstrap(bootstrap, page.source) : null;
const store = new FeatureStore(createApi(page.api), initial);
const sessions = new SessionApi(page.api);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <FeaturesProvider store={store} refreshSeconds={REFRESH_SECONDS}>
      <App store={store} sessions={sessions} session={page.session ?? null} />
    </FeaturesProvider>
  </StrictMode>,
);

if (page.posthog) {
  const project = page.posthog;
  const unsubscribe = store.subscribe(() => {
    const { answer } = store.getState();
    if (!answer) return;
    unsubscribe();
    void sessions
      .current()
      .then(({ username }) => startAnalytics(project, toBootstrap(answer, username !== null)));
  });
}
