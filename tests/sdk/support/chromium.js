// A real headless Chromium with an empty profile.

import "./loopback_only.js";

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

import { until } from "./clients.js";
import { freePort } from "./processes.js";

const EXECUTABLE = process.env.CHROMIUM || "/usr/bin/chromium";
const PATIENCE_MS = 30_000;

const ARGUMENTS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Nothing but this machine has a name or an address.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
];

/** Starts Chromium, with further `flags`; it ends with `context`, a test or the module `node:test` for a whole file. */
export async function startChromium(context, flags = []) {
  if (!existsSync(EXECUTABLE)) {
    throw new Error(`There is no Chromium at ${EXECUTABLE}: apt-get install chromium, or set CHROMIUM to its path.`);
  }
  const browser = await chromium.launch({ executablePath: EXECUTABLE, args: [...ARGUMENTS, ...flags] });
  context.after(() => browser.close());
  return browser;
}

/** Starts Chromium with one window, whose pages can be frozen. Playwright keeps the pages of its own windows from it. */
export async function startFreezableChromium(context) {
  const port = await freePort();
  await startChromium(context, [`--remote-debugging-port=${port}`]);
  const url = `http://127.0.0.1:${port}`;
  await until("Chromium to listen", () => fetch(`${url}/json/version`).then(({ ok }) => ok, () => false));
  const browser = await chromium.connectOverCDP(url, { noDefaults: true });
  const [window] = browser.contexts();
  return { newContext: async () => window };
}

/**
 * A window with cookies of its own, and Playwright's `options`. Whatever its pages throw, unless it `isExpected(error)`, and
 * wherever else they turn, is the test's failure.
 */
export async function openWindow(t, browser, options, isExpected = () => false) {
  const window = await browser.newContext(options);
  window.setDefaultTimeout(PATIENCE_MS);
  // A dev server builds a page when it is first asked for it.
  window.setDefaultNavigationTimeout(4 * PATIENCE_MS);
  const troubles = [];
  window.on("weberror", (error) => isExpected(error.error()) || troubles.push(error.error()));
  window.on("request", (request) => {
    const { protocol, hostname } = new URL(request.url());
    const isHere = ["localhost", "127.0.0.1"].includes(hostname) || ["data:", "blob:"].includes(protocol);
    if (!isHere) troubles.push(new Error(`a page asked for ${request.url()}`));
  });
  t.after(async () => {
    await window.close();
    if (troubles.length) throw new AggregateError(troubles, "the pages had troubles");
  });
  return window;
}
