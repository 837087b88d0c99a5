// OpenFeature's React SDK with the OFREP provider.
import { OFREPWebProvider } from "@openfeature/ofrep-web-provider";
import {
  OpenFeature,
  OpenFeatureProvider,
  useBooleanFlagValue,
  useOpenFeatureClient,
  useStringFlagDetails,
} from "@openfeature/react-sdk";
import { createElement as element, Suspense } from "react";
import { createRoot } from "react-dom/client";

function Flags() {
  const checkout = useStringFlagDetails("checkout", "classic");
  const values = {
    checkout: checkout.value,
    reason: checkout.reason,
    newNav: useBooleanFlagValue("new-nav", false),
    hers: useBooleanFlagValue("hers", false),
    missing: useBooleanFlagValue("missing", true),
    mismatch: useBooleanFlagValue("checkout", true),
    status: useOpenFeatureClient().providerStatus,
  };
  return element("output", {}, JSON.stringify(values));
}

export function start(baseUrl, options = {}) {
  OpenFeature.setProvider(new OFREPWebProvider({ baseUrl, pollInterval: 100, ...options }));
  const waiting = element(Suspense, { fallback: "…" }, element(Flags));
  createRoot(document.body).render(element(OpenFeatureProvider, { suspend: true }, waiting));
}
