import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { followPerson } from "./analytics";
import { createApi } from "./api/client";
import { App } from "./App";
import { fromBootstrap } from "./features/bootstrap";
import { FeaturesProvider } from "./features/react";
import { FeatureStore } from "./features/store";
import { bootstrap, page } from "./page";
import { SessionApi } from "./session";
import "./live.css";

const REFRESH_SECONDS = 5; // a page that shows flags changing; a shop would leave it out

const initial = bootstrap && page.source ? fromBootstrap(bootstrap, page.source) : null;
const store = new FeatureStore(createApi(page.api), initial);
const sessions = new SessionApi(page.api, page.session);

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <FeaturesProvider store={store} refreshSeconds={REFRESH_SECONDS}>
      <App store={store} sessions={sessions} />
    </FeaturesProvider>
  </StrictMode>,
);

if (page.posthog) followPerson(page.posthog, store, sessions);
