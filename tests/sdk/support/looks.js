// How a page looks: axe-core's findings, screenshots, and what it writes to the console.

import { createRequire } from "node:module";
import { join } from "node:path";

import { openWindow } from "./chromium.js";
import { TARGET } from "./sandbox.js";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const SCREENSHOTS = join(TARGET, "screenshots");

export const DESKTOP = { viewport: { width: 1280, height: 800 } };
export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

/** A window with axe-core in each of its pages; `options` are Playwright's. */
export async function openLooks(t, browser, options) {
  const window = await openWindow(t, browser, options);
  // A script element would not get past a content security policy.
  await window.addInitScript({ path: AXE });
  return window;
}

/** Every error in the console from now on, except that Chromium reports a refused request to `mayRefuse`. */
export function consoleErrorsFromNowOn(window, mayRefuse) {
  const errors = [];
  window.on("console", (message) => {
    const isRefusal = message.text().startsWith("Failed to load resource") && message.location().url.startsWith(mayRefuse);
    if (message.type() === "error" && !isRefusal) errors.push(message.text());
  });
  return errors;
}

/** The serious and critical violations that axe-core finds in the page, a line each. */
export function violations(page) {
  return page.evaluate(async () => {
    const found = await window.axe.run(document, { resultTypes: ["violations"] });
    const grave = found.violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    return grave.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target}: ${failureSummary}`));
  });
}

/** Writes a picture of the whole page to `target/screenshots/`. */
export function takeScreenshot(page, name) {
  return page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage: true, animations: "disabled" });
}
