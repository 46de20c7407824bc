// A person with a browser, in front of an example.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

import { openWindow } from "../../../tests/sdk/support/chromium.js";
import { signIn } from "../../../tests/sdk/support/clerk_app.js";
import { NOOR } from "../../../tests/sdk/support/sandbox.js";

const AXE = createRequire(import.meta.url).resolve("axe-core");
const SCREENSHOTS = join(import.meta.dirname, "../../../target/screenshots");
/** Clerk's buttons have another accessible name than their text. */
const OF_CLERK = /^label-content-name-mismatch: <button class="cl-/;
const SIZES = { desktop: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

/** Chromium's report of a refused request. */
const REFUSED = /status of 403/;

/** Opens the app in a browser profile of its own. `tolerated` may stand in the console. */
export async function visit(t, browser, origin, tolerated = REFUSED) {
  const window = await openWindow(t, browser);
  await window.addInitScript({ path: AXE });
  return new Visitor(window, await openTab(t, window, origin, tolerated), () => openTab(t, window, origin, tolerated));
}

/** The same, with this user signed in and connected. */
export async function connected(t, browser, origin, user, tolerated) {
  const visitor = await visit(t, browser, origin, tolerated);
  await visitor.signInAs(user);
  await visitor.isConnectedAs(user);
  return visitor;
}

/** A user without a username sees why the service refuses a token, and connects with a retry after getting one. */
export async function connectsOnceNamed(t, browser, origin, { name, sandbox }) {
  const noor = await visit(t, browser, origin);
  await noor.signInAs("noor@sandbox.example");
  await noor.page.getByRole("alert").filter({ hasText: "(user-without-username)" }).waitFor();
  await noor.inspect(name, "refused");
  await sandbox.changeUser(NOOR, { username: "noor" });
  t.after(() => sandbox.changeUser(NOOR, { username: null }));
  await noor.page.getByRole("button", { name: "Try again" }).click();
  await noor.isConnectedAs("noor");
}

/** What the console calls an error is the test's failure, unless it is tolerated. */
async function openTab(t, window, origin, tolerated) {
  const page = await window.newPage();
  const errors = [];
  page.on("console", (message) => {
    if (message.type() !== "error" || tolerated.test(message.text())) return;
    errors.push(`${message.text()} (${message.location().url})`);
  });
  t.after(() => assert.deepEqual(errors, [], "the console shows errors"));
  await page.goto(origin);
  return page;
}

class Visitor {
  #newTab;

  constructor(window, page, newTab) {
    Object.assign(this, { window, page });
    this.#newTab = newTab;
  }

  /** The same person in another tab. */
  async otherTab() {
    return new Visitor(this.window, await this.#newTab(), this.#newTab);
  }

  /** Closes the window. A page whose server ends before it reports errors. */
  async leave() {
    await this.window.close();
  }

  async signInAs(identifier) {
    await signIn(this.page, identifier);
  }

  /** Signs out in Clerk's own menu. */
  async signOut() {
    await this.page.getByRole("button", { name: "Open user menu" }).click();
    await this.page.getByRole("button", { name: "Sign out" }).click();
  }

  /** Chooses an organization in Clerk's own switcher. */
  async switchTo(organization) {
    await this.page.locator(".cl-organizationSwitcherTrigger").click();
    await this.page.getByRole("button", { name: organization }).last().click();
  }

  async isConnectedAs(clientId) {
    await this.fact("State", "connected");
    await this.fact("Client ID", clientId);
  }

  /** Waits until the app says so about the connection. */
  async fact(name, value) {
    const row = this.page.locator("dl > div").filter({ has: this.page.getByText(name, { exact: true }) });
    await row.locator("dd").filter({ hasText: value instanceof RegExp ? value : new RegExp(`^${value}$`) }).waitFor();
  }

  async isSignedOut() {
    await this.page.getByText("You are signed out").waitFor();
    await this.page.locator("input[name=identifier]").waitFor();
    assert.equal(await this.page.getByRole("log").count(), 0);
  }

  async say(text) {
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.keyboard.press("Enter");
  }

  async hears(text) {
    await this.page.getByRole("log").getByText(text).waitFor();
  }

  /** The log has these texts, each once and in this order. */
  async hasHeard(texts) {
    const entries = await this.page.getByRole("log").getByRole("listitem").allTextContents();
    const heard = entries.flatMap((entry) => texts.filter((text) => entry.endsWith(text)));
    assert.deepEqual(heard, texts);
  }

  /** Records the states of the connection. Returns what gives them. */
  async recordStates() {
    const states = await this.page.evaluateHandle(() => {
      const seen = [];
      const note = () => seen.push(document.querySelector("[data-state]")?.dataset.state ?? "none");
      new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributeFilter: ["data-state"] });
      return seen;
    });
    return () => states.jsonValue();
  }

  /** The app says that messages may be missing. */
  async seesGap() {
    await this.#gaps().waitFor();
  }

  async seesNoGap() {
    assert.equal(await this.#gaps().count(), 0);
  }

  #gaps() {
    return this.page.getByRole("log").getByText("Messages may be missing here.");
  }

  /** Has a freezable Chromium freeze the page, as it does with tabs in the background. Returns what resumes it. */
  async freeze() {
    const events = await this.page.evaluateHandle(() => {
      const seen = [];
      for (const type of ["freeze", "resume"]) document.addEventListener(type, () => seen.push(type));
      return seen;
    });
    const session = await this.window.newCDPSession(this.page);
    await session.send("Page.setWebLifecycleState", { state: "frozen" });
    return async () => {
      await session.send("Page.setWebLifecycleState", { state: "active" });
      await this.page.bringToFront();
      assert.deepEqual(await events.jsonValue(), ["freeze", "resume"]);
    };
  }

  async seesMembers(...names) {
    const pattern = new RegExp(`^${names.join("")}$`);
    await this.page.getByRole("list", { name: "Here now" }).filter({ hasText: pattern }).waitFor();
  }

  async openRoom(name) {
    await this.page.getByRole("group", { name: "Room" }).getByRole("button", { name }).click();
  }

  /** Presses Tab until what has this name has the focus. */
  async tabTo(name) {
    const passed = [];
    while (passed.length < 20) {
      await this.page.keyboard.press("Tab");
      const focused = await this.page.evaluate(() => {
        const { ariaLabel, labels, textContent } = document.activeElement;
        return ariaLabel ?? labels?.[0]?.textContent ?? textContent;
      });
      if (focused === name) return;
      passed.push(focused);
    }
    assert.fail(`Tab reaches ${passed.join(", ")}, but not ${name}`);
  }

  /** Has axe look at the page, light and dark, on a desktop and a phone, and takes a picture of each. */
  async inspect(example, state) {
    await mkdir(SCREENSHOTS, { recursive: true });
    for (const [device, size] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        await this.page.setViewportSize(size);
        await this.page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        const path = join(SCREENSHOTS, `${example}-${state}-${colorScheme}-${device}.png`);
        await this.page.screenshot({ path, fullPage: true, animations: "disabled" });
        await this.#isAccessible(`${state}, ${colorScheme}, ${device}`);
      }
    }
  }

  async #isAccessible(where) {
    const { violations, overflow } = await this.page.evaluate(async () => {
      // Colours change gradually.
      await Promise.allSettled(document.getAnimations().map(({ finished }) => finished));
      const { violations } = await globalThis.axe.run();
      return { violations, overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth };
    });
    const serious = violations
      .filter(({ impact }) => ["serious", "critical"].includes(impact))
      .flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`))
      .filter((violation) => !OF_CLERK.test(violation));
    assert.deepEqual(serious, [], where);
    assert.equal(overflow, 0, `${where}: the page is wider than the screen`);
  }
}
