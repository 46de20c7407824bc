// A page's script, with React 19 or 18.

import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const REACT_18 = { react: at("../react-18/node_modules/react"), "react-dom": at("../react-18/node_modules/react-dom") };

/** The files of a page that runs `test/pages/<name>` in React's development mode. */
export async function page(name, { react = 19 } = {}) {
  const { outputFiles } = await build({
    entryPoints: [at(`../pages/${name}`)],
    bundle: true,
    write: false,
    format: "iife",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"development"' },
    alias: react === 18 ? REACT_18 : {},
    logLevel: "error",
  });
  const html = '<!doctype html><html lang="en"><title>An app</title><div id="root"></div><script src="/app.js"></script></html>';
  return {
    "/": ["text/html; charset=utf-8", html],
    "/app.js": ["text/javascript; charset=utf-8", outputFiles[0].contents],
    "/favicon.ico": ["image/x-icon", ""],
  };
}
