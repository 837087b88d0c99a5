import { defineConfig } from "vite";

// What a page needs of OpenFeature, in one file that a test can put into any page.
export default defineConfig({
  define: { "process.env.NODE_ENV": JSON.stringify("production") },
  build: {
    lib: { entry: "clients/page.js", formats: ["iife"], name: "clients", fileName: () => "page.js" },
    minify: false,
  },
});
