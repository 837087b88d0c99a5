import { own } from "./api/client";
import { useFeatures } from "./features/react";
import type { Session } from "./session";

const SOURCES = {
  local: "flag definitions, evaluated by the shop",
  posthog: "PostHog",
  stale: "PostHog, a while ago",
  fallback: "the shop’s defaults",
  disabled: "the shop’s defaults, PostHog is switched off",
};

const STATUSES: Record<number, string> = { 200: "200, something new", 304: "304, nothing new" };

/** Every flag that this browser may see, as it is now. Looking at them is no exposure. */
export function LiveFlags({ session }: { session: Session | null }) {
  const { answer, reachable, status } = useFeatures();
  // The flags of the page itself are not the API's last answer, which this section describes.
  if (status === null && reachable) return null;
  const rows = Object.entries(answer?.features ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  return (
    <section id="flags" className="card" aria-labelledby="flags-title">
      <h2 id="flags-title">Your flags, live</h2>
      <dl className="facts">
        <div className="wide">
          <dt>For PostHog you are</dt>
          <dd>
            <code id="distinct-id">{answer?.distinct_id ?? "…"}</code>{" "}
            <span className="hint">{session && (session.username ?? "anonymous")}</span>
          </dd>
        </div>
        <div>
          <dt>Flags come from</dt>
          <dd>
            <code id="source">{answer?.source ?? "…"}</code>{" "}
            <span className="hint">{answer && SOURCES[answer.source]}</span>
          </dd>
        </div>
        <div>
          <dt>The last answer</dt>
          <dd id="status">{reachable ? (STATUSES[status ?? 0] ?? status) : "none"}</dd>
        </div>
      </dl>
      <div className="scroll" tabIndex={0} role="region" aria-labelledby="flags-title">
        <table>
          <thead>
            <tr>
              <th scope="col">Flag</th>
              <th scope="col">Value and payload</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(([key, value]) => (
              <tr key={key} data-flag={key} data-value={String(value)}>
                <th scope="row">
                  <code>{key}</code>
                </th>
                <td>
                  <span className={value ? "value" : "value off"}>
                    {value === true ? "on" : value || "off"}
                  </span>
                  {parts(answer && own(answer.payloads, key)).map((part) => (
                    <code key={part} className="part">
                      {part}
                    </code>
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p className="links">
        <a href="/api/features/">/api/features/</a>
        <a href="/api/docs/">Swagger UI</a>
        <a href="/">The same shop, rendered by Django</a>
      </p>
    </section>
  );
}

/** A payload may be any JSON value; an object is shown by its parts. */
function parts(payload: unknown): string[] {
  const text = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
  if (payload === undefined) return [];
  if (typeof payload !== "object" || payload === null) return [text(payload)];
  return Object.entries(payload).map(([name, part]) => `${name}: ${text(part)}`);
}
