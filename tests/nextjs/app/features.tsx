"use client";

import { useState, type ReactNode } from "react";
import { createApi, type Answer } from "../lib/api/client";
import { FeaturesProvider } from "../lib/features/react";
import { FeatureStore } from "../lib/features/store";

interface Props {
  initial: Answer | null;
  children: ReactNode;
}

/** The flags that the server fetched, for the components of the browser. */
export function Features({ initial, children }: Props) {
  const [store] = useState(() => new FeatureStore(createApi(), initial));
  return <FeaturesProvider store={store}>{children}</FeaturesProvider>;
}
