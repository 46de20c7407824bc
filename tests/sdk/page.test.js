// The sandbox's page for everybody: its size, its looks, the keyboard, screen readers and phones. long/page.test.js has
// every device and colour scheme.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as nodeTest from "node:test";
import { fileURLToPath } from "node:url";

import { openWindow, startChromium } from "./support/chromium.js";
import { connect, openDevPage, shows, signIn, unfold } from "./support/dev_page.js";
import { checkLooks } from "./support/dev_page_looks.js";
import { DESKTOP, PHONE } from "./support/looks.js";
import { startSandbox } from "./support/sandbox.js";

const { describe, test } = nodeTest;

const SOURCES = join(dirname(fileURLToPath(import.meta.url)), "../../sandbox/page");
const MOST_BYTES = 60_000;

const sandbox = await startSandbox(nodeTest);
const chromium = await startChromium(nodeTest);

const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.name);

/** Presses Tab until the element with this id, or the form field with this name, has the focus. */
async function tabTo(page, id) {
  const passed = [];
  do {
    assert.ok(passed.length < 100, `the keyboard does not reach ${id}, but ${passed}`);
    await page.keyboard.press("Tab");
    passed.push(await focused(page));
  } while (passed.at(-1) !== id);
}

test("the page's own files are under 60 KB, as they are stored and as they are transferred", async (t) => {
  const names = readdirSync(SOURCES).filter((name) => /\.(html|css|js|svg)$/.test(name));
  const stored = names.reduce((sum, name) => sum + readFileSync(join(SOURCES, name)).length, 0);
  assert.ok(stored < MOST_BYTES, `${stored} bytes`);

  const window = await openWindow(t, chromium);
  const sizes = new Map();
  window.on("response", (response) => {
    const { origin, pathname } = new URL(response.url());
    const name = pathname === "/" ? "index.html" : pathname.slice(1);
    if (origin === sandbox.page && names.includes(name)) sizes.set(name, response.request().sizes());
  });
  await openDevPage(window, sandbox);
  const transferred = await Promise.all([...sizes.values()].map(async (size) => (await size).responseBodySize));
  const sum = transferred.reduce((a, b) => a + b, 0);
  assert.ok(sum > 0 && sum < MOST_BYTES, `${sum} bytes`);
  t.diagnostic(`${stored} bytes stored, ${sum} transferred`);
  // Chromium asks for the icon when it likes.
  const missing = names.filter((name) => !sizes.has(name) && name !== "icon.svg");
  assert.deepEqual(missing, [], "every file is needed");
});

describe("axe-core finds nothing serious, the console has no error, and six screens are enough", { concurrency: 2 }, () => {
  test("on a desktop, light", (t) => checkLooks(t, chromium, "desktop", { ...DESKTOP, colorScheme: "light" }));
  test("on a phone, dark", (t) => checkLooks(t, chromium, "phone", { ...PHONE, colorScheme: "dark" }));
});

test("the keyboard alone leads from a user to a message, and out again", async (t) => {
  const page = await openDevPage(await openWindow(t, chromium), sandbox);
  await tabTo(page, "user");
  await page.keyboard.press("Space");
  await shows(page, "sign-in-state", "Signed in as Alice Moreau");
  await page.keyboard.press("ArrowDown");
  await shows(page, "sign-in-state", "Signed in as Bob Okafor");
  await tabTo(page, "get-token");
  await page.keyboard.press("Enter");
  await shows(page, "connection-state", /^connected$/);
  await tabTo(page, "message-input");
  await page.keyboard.type("typed");
  await page.keyboard.press("Enter");
  await shows(page, "messages", "typed");
  await page.locator("#sign-out").focus();
  await page.keyboard.press("Enter");
  await shows(page, "sign-in-state", "Not signed in.");
  assert.equal(await focused(page), "user");
});

test("the keyboard reaches everything that can be operated, shows where it is, and folds", async (t) => {
  const page = await openDevPage(await openWindow(t, chromium), sandbox);
  await signIn(page, "Alice Moreau");
  await connect(page);
  const expected = await page.evaluate(() => {
    const can = document.querySelectorAll("a[href], button, input:not([type=radio]), input:checked, textarea, summary, [tabindex='0']");
    const visible = [...can].filter((element) => element.checkVisibility());
    visible.forEach((element, index) => (element.dataset.stop = index));
    return visible.length;
  });
  const stops = new Set();
  for (let i = 0; i < expected + 5; i += 1) {
    await page.keyboard.press("Tab");
    const { stop, name, isShown } = await page.evaluate(() => {
      const { activeElement: at } = document;
      const outlined = at.closest("label.user") ?? at;
      const isShown = at === document.body || getComputedStyle(outlined).outlineStyle !== "none";
      return { stop: at.dataset.stop, name: at.outerHTML.slice(0, 80), isShown };
    });
    assert.ok(isShown, `no focus is shown on ${name}`);
    if (stop) stops.add(stop);
  }
  assert.equal(stops.size, expected);

  const policy = page.locator("#policy");
  await page.locator("summary", { hasText: "The policy" }).focus();
  await page.keyboard.press("Enter");
  await policy.waitFor({ state: "hidden" });
  await page.keyboard.press("Space");
  await policy.waitFor();
});

test("a screen reader is told the state of each step, and of what happens meanwhile", async (t) => {
  const page = await openDevPage(await openWindow(t, chromium), sandbox);
  const heading = (name) => page.getByRole("heading", { level: 3, name }).waitFor();
  const told = (text) => page.getByRole("status").filter({ hasText: text }).first().waitFor();
  await page.getByRole("radiogroup", { name: "Pick a user" }).waitFor();
  await page.getByRole("radio", { name: "Noor Haddad" }).check({ force: true });
  await told("Signed in as Noor Haddad");
  await heading(/^Done: ?Pick a user$/);
  await page.getByRole("button", { name: "Get a token" }).click();
  await told("The user has no username.");
  await heading(/^Failed: ?A refusal$/);
  await told(/^failed$/);

  await page.getByRole("radio", { name: "Alice Moreau" }).check({ force: true });
  await page.getByRole("button", { name: "Get a token" }).click();
  await told(/^connected$/);
  await heading(/^Done: ?The connection$/);
  await page.getByRole("textbox", { name: "Message to the channel chat:lobby" }).fill("read this");
  await page.keyboard.press("Enter");
  await page.getByRole("log", { name: "Messages received" }).filter({ hasText: "read this" }).waitFor();
  const levels = await page.locator("h1, h2, h3, h4").evaluateAll((all) => all.map(({ tagName }) => Number(tagName[1])));
  assert.equal(levels[0], 1);
  for (const [index, level] of levels.entries()) assert.ok(level <= (levels[index - 1] ?? 1) + 1, "no level is left out");
});

test("a phone shows the steps, and unfolds the rest when it is asked to", async (t) => {
  const page = await openDevPage(await openWindow(t, chromium, PHONE), sandbox);
  await signIn(page, "Alice Moreau");
  await connect(page);
  await shows(page, "client-id", "alice");
  for (const id of ["claims", "token-request", "token-details", "sessions", "policy", "curl"]) {
    assert.equal(await page.locator(`#${id}`).isVisible(), false, id);
  }
  await page.locator("summary", { hasText: "Fields of the answer" }).tap();
  await shows(page, "token-request", "alice");
  await unfold(page, "When access ends");
  await shows(page, "connections", "alice");

  await page.setViewportSize(DESKTOP.viewport);
  await shows(page, "claims", "sess_");
});
