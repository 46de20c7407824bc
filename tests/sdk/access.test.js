// How access ends, as one sees it on the sandbox's page: a sign-out or a ban at Clerk, the webhook that tells of it, and
// the connections that drop, in several real browser windows at once.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { openWindow, startChromium } from "./support/chromium.js";
import { until } from "./support/clients.js";
import { connect, openDevPage, shows, signIn, statesFromNowOn, untilCut } from "./support/dev_page.js";
import { startSandbox } from "./support/sandbox.js";

const { describe, test } = nodeTest;
const chromium = await startChromium(nodeTest);

const DENIED = "The session has ended, or the user is banned or deleted. If signing in again does not help, ask whoever runs this service.";
const [ALICE, BOB] = ["Alice Moreau", "Bob Okafor"];

/** ably-js leaves a refusal unhandled for a moment if one renewal overtakes another. Its connection reports it. */
const isOfRenewal = ({ message }) => message === `${DENIED} (session-denied)`;

/** A window with cookies of its own, and in it the page, with this user signed in and connected. */
async function device(t, sandbox, user) {
  const page = await openDevPage(await openWindow(t, chromium, {}, isOfRenewal), sandbox);
  await signIn(page, user);
  await connect(page);
  return page;
}

const sessionOf = (page) => page.locator("#claims").locator("[data-field=sid]").textContent();
const entries = (page, list, attributes) => {
  const wanted = Object.entries(attributes).map(([name, value]) => `[data-${name}="${value}"]`);
  return page.locator(`#${list}`).locator(`> li${wanted.join("")}`);
};

/** Waits until the page says that the service refused its connection a new token. */
async function isRefused(page) {
  await shows(page, "connection-state", /^failed$/);
  await shows(page, "connection-reason", DENIED);
}

/** Waits for the next whole second: a JWT that is signed in the second of its revocation counts as signed before. */
function nextSecond() {
  const begun = Math.floor(Date.now() / 1000);
  return until("the next second", () => Math.floor(Date.now() / 1000) > begun);
}

/** The live connections at the stand-in, by the ids that they have there. */
async function live(sandbox) {
  return new Map((await sandbox.connections()).map((connection) => [connection.connectionId, connection]));
}

for (const format of ["jwt", "token_request"]) {
  describe(`with TOKEN_FORMAT=${format}`, () => {
    const settings = { TOKEN_FORMAT: format };

    test("signing out ends the connection of that session, and of no other", async (t) => {
      const sandbox = await startSandbox(t, { settings });
      const laptop = await device(t, sandbox, ALICE);
      const [others, another] = [await device(t, sandbox, BOB), await live(sandbox)];
      const phone = await device(t, sandbox, ALICE);
      const states = await Promise.all([laptop, others].map(statesFromNowOn));
      const before = await live(sandbox);
      assert.deepEqual([before.size, another.size], [3, 2]);

      const took = await untilCut(phone, phone.locator("#sign-out"));
      t.diagnostic(`${format}: ${took.toFixed(0)} ms from the click on “Sign out” to the end of the connection`);
      await isRefused(phone);
      await shows(phone, "sign-in-state", "Not signed in.");
      await shows(phone, "session-hint", "You signed out.");

      for (const page of [phone, laptop]) {
        await entries(page, "webhooks", { type: "session.ended", state: "delivered" }).waitFor();
        await entries(page, "connections", { client: "alice", state: "ended" }).waitFor();
        await entries(page, "connections", { client: "alice", state: "live" }).waitFor();
        await entries(page, "connections", { client: "bob", state: "live" }).waitFor();
      }
      const after = await live(sandbox);
      assert.deepEqual([...after.keys()], [...another.keys()], "the same connections go on");
      for (const [id, { clientId, tokenId }] of after) {
        const isRenewed = clientId === "alice" && format !== "jwt";
        assert.equal(tokenId !== before.get(id).tokenId, isRenewed, `${clientId} has a new token or needs none`);
      }
      for (const each of states) assert.deepEqual((await each()).filter((state) => state !== "connected"), []);
      await shows(laptop, "sign-in-state", `Signed in as ${ALICE}`);
    });

    test("a page signs another one's session out, and that one says why it dropped", async (t) => {
      const sandbox = await startSandbox(t, { settings });
      const [here, there] = [await device(t, sandbox, BOB), await device(t, sandbox, ALICE)];
      const button = here.locator("#sessions").locator(`#end-${await sessionOf(there)}`);
      await button.waitFor();
      const took = await untilCut(there, button);
      t.diagnostic(`${format}: ${took.toFixed(0)} ms from the click in one window to the end of the other's connection`);
      await isRefused(there);
      await shows(there, "session-hint", "signed out elsewhere");
      const ended = entries(here, "connections", { client: "alice", state: "ended" });
      const why = format === "jwt" ? "token revoked (40141)" : "the service refused a new one";
      await ended.filter({ hasText: why }).waitFor();
      await shows(here, "connection-state", /^connected$/);
      await shows(here, "connections-hint", "1 live connection.");
    });

    test("a ban ends all connections of its user, and when it is lifted they may come back", async (t) => {
      const sandbox = await startSandbox(t, { settings });
      const [bob, phone] = [await device(t, sandbox, BOB), await device(t, sandbox, ALICE)];
      const laptop = await device(t, sandbox, ALICE);
      const states = await statesFromNowOn(bob);
      await bob.locator("#ban-alice").click();
      for (const page of [phone, laptop]) {
        await isRefused(page);
        await shows(page, "session-hint", "alice is banned");
      }
      await entries(bob, "webhooks", { type: "user.updated", about: "alice, banned", state: "delivered" }).waitFor();
      await shows(bob, "connections-hint", "1 live connection.");
      const [left] = (await live(sandbox)).values();
      assert.equal(left.clientId, "bob");

      await signIn(laptop, ALICE);
      await laptop.locator("#get-token").click();
      for (const text of [DENIED, "40300"]) await shows(laptop, "refusal", text);
      await isRefused(laptop);

      await bob.locator("#lift-alice").click();
      const newest = bob.locator("#webhooks > li:first-child");
      await newest.and(entries(bob, "webhooks", { type: "user.updated", about: "alice", state: "delivered" })).waitFor();
      await nextSecond();
      await signIn(phone, ALICE);
      await connect(phone);
      assert.deepEqual(await states(), []);
    });
  });
}

test("a webhook that the service cannot take yet comes again until the access has ended", async (t) => {
  const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: "jwt" } });
  await sandbox.changeWebhooks({ retry_schedule_ms: Array(200).fill(300) });
  const page = await device(t, sandbox, ALICE);
  await sandbox.setAblyOutage({ kind: "status", status: 503, route: "revokeTokens" });
  await page.locator("#sign-out").click();
  await entries(page, "webhooks", { type: "session.ended", state: "failed" }).filter({ hasText: "503, retry in" }).waitFor();
  await sandbox.setAblyOutage({ kind: "none", route: "revokeTokens" });
  const delivered = entries(page, "webhooks", { type: "session.ended", state: "delivered" });
  await delivered.filter({ hasText: /204.*attempt ([2-9]|\d\d)/s }).waitFor();
  await isRefused(page);
});

test("the signing secret and revocable tokens can be set otherwise, or off", async (t) => {
  const off = { CLERK_WEBHOOK_SIGNING_SECRET: "", ABLY_REVOCABLE_TOKENS: "false", TOKEN_TTL: "2h" };
  const without = await startSandbox(t, { settings: off });
  const page = await device(t, without, ALICE);
  await shows(page, "webhooks-hint", "without CLERK_WEBHOOK_SIGNING_SECRET");
  await page.locator("#sign-out").click();
  await entries(page, "webhooks", { type: "session.ended", state: "unsent" }).waitFor();
  const { endpoints, attempts } = await without.webhooks();
  assert.deepEqual([endpoints, attempts], [[], []]);
  await shows(page, "connection-state", /^connected$/);

  const secrets = ["first", "second"].map((key) => `whsec_${Buffer.from(`the ${key} signing secret`).toString("base64")}`);
  const rotating = await startSandbox(t, { settings: { CLERK_WEBHOOK_SIGNING_SECRET: secrets.join(",") } });
  const other = await device(t, rotating, ALICE);
  await other.locator("#sign-out").click();
  await entries(other, "webhooks", { type: "session.ended", state: "delivered" }).waitFor();
  await isRefused(other);
});

test("the keyboard bans and lifts the ban without losing its place", async (t) => {
  const sandbox = await startSandbox(t);
  const page = await device(t, sandbox, ALICE);
  const [lift, ban] = ["lift-mallory", "ban-alice"].map((id) => page.locator(`#${id}`));
  await ban.focus();
  await page.keyboard.press("Enter");
  await isRefused(page);
  const hasFocus = (button) => button.evaluate((element) => element === document.activeElement);
  await page.getByRole("button", { name: `Lift the ban: ${ALICE}` }).waitFor();
  assert.ok(await hasFocus(page.locator("#lift-alice")));
  await page.keyboard.press("Tab");
  assert.ok(await hasFocus(lift));
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Space");
  await ban.waitFor({ state: "detached" });
  await page.locator("#sessions").filter({ hasNotText: ALICE }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "sessions-title");
});
