"use client";

import { Feature, useFeature, useFeatures } from "../lib/features/react";

export default function Page() {
  const { answer, reachable } = useFeatures();
  const checkout = useFeature("checkout");
  return (
    <main data-reachable={reachable}>
      <output id="person">{answer?.distinct_id}</output>
      <output id="checkout">{String(checkout)}</output>
      <Feature name="gift-wrapping" fallback={<p>No gifts.</p>}>
        <p>Gifts come wrapped.</p>
      </Feature>
    </main>
  );
}
