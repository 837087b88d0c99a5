"use client";

/** The flags in React: a provider, two hooks and a component. */

import { createContext, useContext, useEffect, useSyncExternalStore, type ReactNode } from "react";
import { own, type FeatureKey, type FeatureValue } from "../api/client";
import { valueOf, type FeatureStore, type State } from "./store";

const Context = createContext<FeatureStore | null>(null);

interface ProviderProps {
  store: FeatureStore;
  /** Ask again this often while the tab is visible; by default only when it becomes visible. */
  refreshSeconds?: number;
  children: ReactNode;
}

export function FeaturesProvider({ store, refreshSeconds, children }: ProviderProps) {
  useEffect(() => store.start(refreshSeconds), [store, refreshSeconds]);
  return <Context value={store}>{children}</Context>;
}

function useStore(): FeatureStore {
  const store = useContext(Context);
  if (!store) throw new Error("Put a <FeaturesProvider> around whatever uses features.");
  return store;
}

/** Everything known, to look at. It counts as no exposure. */
export function useFeatures(): State {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, store.getState, store.getInitialState);
}

/**
 * The value of a flag that is being rendered. Undefined until the first answer; false where the flag
 * is off, and where no answer is available.
 */
export function useFeature(key: FeatureKey): FeatureValue | undefined {
  const store = useStore();
  const state = useFeatures();
  useEffect(() => store.expose(key), [store, key, state.answer]);
  return valueOf(state, key);
}

/** The payload of a flag, which may be any JSON value, or undefined. It counts as no exposure. */
export function useFeaturePayload(key: FeatureKey): unknown {
  const { answer } = useFeatures();
  return answer ? own<unknown>(answer.payloads, key) : undefined;
}

interface FeatureProps {
  name: FeatureKey;
  /** What to show where the flag is off, and where no answer is available. */
  fallback?: ReactNode;
  /** What to show where it is on; a function gets the variant and the payload. */
  children: ReactNode | ((value: FeatureValue, payload: unknown) => ReactNode);
}

/** One piece of the page. Until the flag is known it is neither on nor off: nothing shows. */
export function Feature({ name, fallback = null, children }: FeatureProps) {
  const value = useFeature(name);
  const payload = useFeaturePayload(name);
  if (value === undefined) return null;
  if (!value) return fallback;
  return typeof children === "function" ? children(value, payload) : children;
}
