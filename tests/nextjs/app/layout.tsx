import type { ReactNode } from "react";
import { Features } from "./features";
import { getFeatures } from "./flags";

export default async function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <Features initial={await getFeatures()}>{children}</Features>
      </body>
    </html>
  );
}
