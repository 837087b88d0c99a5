import { useFeatures } from "./features/react";

/** Says so when flags are not what PostHog says now. */
export function Banner() {
  const { answer, reachable } = useFeatures();
  const source = answer?.source;
  return (
    <div role="status" id="outage" data-source={source} data-reachable={reachable}>
      {source === "fallback" && (
        <p className="banner">
          <strong>PostHog is down.</strong> Flags have the shop’s own defaults, and the shop goes
          on.
        </p>
      )}
      {source === "stale" && (
        <p className="banner offer">
          <strong>PostHog cannot be asked just now.</strong> These are your flags of a while ago.
        </p>
      )}
      {!reachable && (
        <p className="banner offer">
          <strong>The shop does not answer.</strong> This page goes on with what it knows.
        </p>
      )}
    </div>
  );
}
