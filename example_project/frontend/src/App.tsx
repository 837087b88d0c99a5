import { useEffect, useState } from "react";
import { flushSync } from "react-dom";
import { followPerson } from "./analytics";
import { Banner } from "./Banner";
import { toBootstrap } from "./features/bootstrap";
import { Feature } from "./features/react";
import type { FeatureStore } from "./features/store";
import { LiveFlags } from "./LiveFlags";
import { People } from "./People";
import type { Session, SessionApi } from "./session";
import { Teas } from "./Teas";

interface Props {
  store: FeatureStore;
  sessions: SessionApi;
  session: Session | null;
}

export function App({ store, sessions, session: initial }: Props) {
  const [session, setSession] = useState(initial);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    if (!initial) void sessions.current().then(setSession, () => undefined);
  }, [initial, sessions]);

  async function become(username: string | null) {
    setBusy(true);
    setProblem("");
    try {
      // The password is no secret in a demo; a shop has a form.
      const next = await (username ? sessions.logIn(username, "demo") : sessions.logOut());
      await store.personChanged();
      flushSync(() => setSession(next)); // the name changes in the same frame as the flags
      const { answer } = store.getState();
      if (answer) followPerson(toBootstrap(answer, next.username !== null));
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
