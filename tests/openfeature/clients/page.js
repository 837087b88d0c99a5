export * as react from "./react.js";
export * as web from "./web.js";
