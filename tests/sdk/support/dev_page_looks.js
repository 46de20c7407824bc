// Each main state of the sandbox's page, on one device and in one colour scheme.

import assert from "node:assert/strict";

import { openDevPage, throughStates } from "./dev_page.js";
import { consoleErrorsFromNowOn, openLooks, PHONE, takeScreenshot, violations } from "./looks.js";
import { startSandbox } from "./sandbox.js";

/** Six screens of a phone. */
const MOST_PX = 6 * PHONE.viewport.height;

/** Checks what every state must have, and takes a screenshot of each: `sandbox-page-<name>-<colorScheme>-<state>.png`. */
export async function checkLooks(t, chromium, name, { colorScheme, ...device }) {
  const sandbox = await startSandbox(t, { policy: null });
  const window = await openLooks(t, chromium, { colorScheme, ...device });
  const errors = consoleErrorsFromNowOn(window, sandbox.authUrl.replace("127.0.0.1", "localhost"));
  const page = await openDevPage(window, sandbox);
  await throughStates(page, async (state) => {
    await takeScreenshot(page, `sandbox-page-${name}-${colorScheme}-${state}`);
    assert.deepEqual(await violations(page), [], state);
    assert.deepEqual(errors, [], state);
    const [width, height] = await page.evaluate(() => {
      const { scrollWidth, scrollHeight } = document.documentElement;
      return [scrollWidth, scrollHeight];
    });
    assert.ok(width <= device.viewport.width, `${state} is ${width} px wide`);
    assert.ok(height < MOST_PX, `${state} is ${height} px long`);
  });
}
