import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const django = `http://127.0.0.1:${process.env["PORT"] ?? "8000"}`;
const base = "/static/live/";

// Django serves the page and asks the manifest which files it needs. In development the browser
// talks to Vite, which hands on to Django whatever is not a source file: one origin in both cases.
export default defineConfig({
  base,
  plugins: [react()],
  build: {
    manifest: "manifest.json",
    rolldownOptions: { input: "src/main.tsx" },
  },
  server: {
    host: "127.0.0.1",
    port: Number(process.env["VITE_PORT"] ?? "5173"),
    strictPort: true,
    // Django is to see the browser's own Host: it compares that with the Origin of what is posted.
    proxy: { [`^(?!${base})`]: { target: django, changeOrigin: false } },
  },
});
