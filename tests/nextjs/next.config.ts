import type { NextConfig } from "next";

const config: NextConfig = {
  skipTrailingSlashRedirect: true, // Django's addresses end with a slash
  turbopack: { root: import.meta.dirname },
};

export default config;
