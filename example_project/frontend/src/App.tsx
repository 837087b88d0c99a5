import { useEffect, useState, useSyncExternalStore } from "react";
import { Banner } from "./Banner";
import { Feature, useFeatures } from "./features/react";
import type { FeatureStore } from "./features/store";
import { LiveFlags } from "./LiveFlags";
import { People } from "./People";
import type { SessionApi } from "./session";
import { Teas } from "./Teas";

interface Props {
  store: FeatureStore;
  sessions: SessionApi;
}

export function App({ store, sessions }: Props) {
  const features = useFeatures();
  const person = features.answer?.distinct_id;
  // Found by the id in the answer, so that name and flags change in the same frame.
  const session = useSyncExternalStore(sessions.subscribe, () => sessions.of(person));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");

  // Nobody known has come, by a log-in in another tab for example. Should it be yet another who is
  // known then, or the question fail, the next answer asks again.
  useEffect(() => {
    if (person && !sessions.of(person)) void sessions.current().catch(() => undefined);
  }, [features, person, sessions]);

  async function become(username: string | null) {
    setBusy(true);
    setProblem("");
    try {
      // The password is no secret in a demo; a shop has a form.
      await (username ? sessions.logIn(username, "demo") : sessions.logOut());
      await store.personChanged();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
  }

  return (
    <>
      <header className="bar">
        <div className="inner">
          <a className="brand" href="/">
            <img src="/static/storefront/leaf.svg" alt="" width="26" height="26" />
            Leaf &amp; Kettle
          </a>
          <nav aria-label="Shop">
            <Feature name="new-navigation" fallback={<a href="#teas">Everything we sell</a>}>
              <ul className="tabs">
                <li>
                  <a href="#teas">Teas</a>
                </li>
                <li>
                  <a href="#flags">Your flags</a>
                </li>
              </ul>
            </Feature>
          </nav>
          <People session={session} busy={busy} become={become} />
        </div>
      </header>
      <main id="main">
        <Banner />
        {problem && (
          <p className="banner" role="alert">
            That did not work: {problem}.
          </p>
        )}
        <Teas />
        <LiveFlags session={session} />
      </main>
    </>
  );
}
