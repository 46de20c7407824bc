// Real clerk-js and Clerk's own components against the stand-in, and the service with what they make.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { openWindow, startChromium } from "./support/chromium.js";
import { openApp, serveApp, showsUser, signIn } from "./support/clerk_app.js";
import { openDevPage, signIn as signInOnDevPage } from "./support/dev_page.js";
import { startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const app = await serveApp(nodeTest);
const sandbox = await startSandbox(nodeTest, {
  origins: [app.origin],
  policy: '[[grants]]\nname = "organization"\ncapability = { "org:{org_slug}" = ["*"] }\n' +
    '\n[[grants]]\nname = "own"\ncapability = { "own:{user_id}" = ["*"] }\n',
});
const browser = await startChromium(nodeTest);

async function openSignedIn(t, identifier, user = identifier) {
  const page = await openApp(t, await openWindow(t, browser), app);
  await signIn(page, identifier);
  await showsUser(page, user);
  return page;
}

/** What the service answers to the page: `{ status, body }`. */
function askFrom(page, { bearer }) {
  return page.evaluate(async ({ authUrl, bearer }) => {
    const authorization = bearer ? `Bearer ${await window.Clerk.session.getToken()}` : "-";
    const response = await fetch(authUrl, { headers: { authorization }, credentials: "include" });
    return { status: response.status, body: await response.json() };
  }, { authUrl: sandbox.authUrl, bearer });
}

const channels = ({ body }) => Object.keys(JSON.parse(body.capability)).filter((name) => name.startsWith("org:"));

for (const [where, proxyUrl] of [["at the stand-in", undefined], ["at the app's own origin", "/__clerk"]]) {
  test(`a user signs in with Clerk's component, with the proxy URL ${where}`, async (t) => {
    app.show(sandbox, proxyUrl);
    const page = await openSignedIn(t, "alice");
    for (const bearer of [true, false]) {
      const { status, body } = await askFrom(page, { bearer });
      assert.deepEqual([status, body.clientId], [200, "alice"], `${bearer} ${JSON.stringify(body)}`);
    }
    const session = await page.evaluate(() => window.Clerk.session.id);
    await page.reload();
    await showsUser(page, "alice");
    assert.equal(await page.evaluate(() => window.Clerk.session.id), session);
    assert.equal((await askFrom(page, { bearer: false })).status, 200);
  });
}

test("an email address signs in too", async (t) => {
  app.show(sandbox);
  const page = await openSignedIn(t, "bob@sandbox.example", "bob");
  assert.equal((await askFrom(page, { bearer: true })).body.clientId, "bob");
});

test("the organization that a page makes active is in the next token, and in the cookies", async (t) => {
  app.show(sandbox);
  const page = await openSignedIn(t, "carol");
  const activate = (slug) => page.evaluate((slug) => window.Clerk.setActive({ organization: slug }), slug);
  assert.deepEqual(channels(await askFrom(page, { bearer: true })), ["org:acme"]);
  for (const [organization, expected] of [["globex", ["org:globex"]], [null, []], ["acme", ["org:acme"]]]) {
    await activate(organization);
    for (const bearer of [true, false]) {
      assert.deepEqual(channels(await askFrom(page, { bearer })), expected, `${organization} ${bearer}`);
    }
  }
  await page.reload();
  await showsUser(page, "carol");
  const other = await page.evaluate(async () => {
    const { organization } = window.Clerk.user.organizationMemberships.find(({ organization }) => organization.slug === "globex");
    const token = await window.Clerk.session.getToken({ organizationId: organization.id });
    return JSON.parse(atob(token.split(".")[1])).o.slg;
  });
  assert.equal(other, "globex");
  assert.equal(await page.evaluate(() => window.Clerk.organization.slug), "acme");
});

test("Clerk's switcher lists the organizations and switches", async (t) => {
  app.show(sandbox);
  const page = await openSignedIn(t, "carol");
  await page.locator("#switcher button").click();
  await page.getByRole("button", { name: "globex" }).click();
  await page.waitForFunction(() => window.Clerk.organization?.slug === "globex");
  assert.deepEqual(channels(await askFrom(page, { bearer: false })), ["org:globex"]);
});

test("after a sign-out the cookies are those of nobody", async (t) => {
  app.show(sandbox);
  const page = await openSignedIn(t, "alice");
  const session = await page.evaluate(() => window.Clerk.session.id);
  // Not awaited in the page, which it leaves.
  await page.evaluate(() => void window.Clerk.signOut({ redirectUrl: "/" }));
  await showsUser(page, "");
  await page.locator("input[name=identifier]").waitFor();
  const cookies = await page.context().cookies(app.origin);
  const value = (name) => cookies.find((cookie) => cookie.name === name)?.value;
  assert.deepEqual([value("__session"), value("__client_uat")], [undefined, "0"]);
  assert.equal((await sandbox.sessions()).find(({ id }) => id === session).status, "removed");
  await signIn(page, "bob");
  await showsUser(page, "bob");
  assert.equal((await askFrom(page, { bearer: false })).body.clientId, "bob");
});

test("two users are signed in at once, and a page goes from one to the other", async (t) => {
  app.show(sandbox);
  const page = await openSignedIn(t, "alice");
  await page.evaluate(async () => {
    const { createdSessionId } = await window.Clerk.client.signIn.create({ identifier: "bob", password: "any" });
    await window.Clerk.setActive({ session: createdSessionId });
  });
  for (const name of ["bob", "alice", "bob"]) {
    await page.evaluate(async (name) => {
      const session = window.Clerk.client.sessions.find(({ user }) => user.username === name);
      await window.Clerk.setActive({ session });
    }, name);
    await showsUser(page, name);
    for (const bearer of [true, false]) {
      assert.equal((await askFrom(page, { bearer })).body.clientId, name);
    }
  }
});

test("the stand-in's own sign-in page sends the user back to the app", async (t) => {
  app.show(sandbox);
  const page = await openApp(t, await openWindow(t, browser), app);
  await page.locator("input[name=identifier]").waitFor();
  await page.evaluate(() => window.Clerk.redirectToSignIn());
  await page.waitForURL(/\/sign-in\?/);
  await signIn(page, "alice");
  await page.waitForURL(`${app.origin}/`);
  await showsUser(page, "alice");
  assert.equal((await askFrom(page, { bearer: false })).body.clientId, "alice");
});

test("the stand-in's sign-in page sends nobody to an origin that is not allowed", async (t) => {
  const { origin } = new URL(sandbox.clerk_proxy_url);
  const page = await openApp(t, await openWindow(t, browser), { origin: `${origin}/sign-in?redirect_url=https://elsewhere.example/` });
  await signIn(page, "alice");
  await page.waitForFunction(() => window.Clerk?.user?.username === "alice");
  assert.equal(new URL(page.url()).origin, origin);
});

test("cookies of an earlier sandbox do not get in the way of the next one", async (t) => {
  const earlier = await startSandbox(t, { origins: [app.origin] });
  app.show(earlier);
  const page = await openSignedIn(t, "alice");
  app.show(sandbox);
  await page.reload();
  await signIn(page, "bob");
  await showsUser(page, "bob");
  for (const bearer of [true, false]) {
    assert.equal((await askFrom(page, { bearer })).body.clientId, "bob");
  }
});

test("a sign-in on the sandbox's page is one in the app, since both are on this host name", async (t) => {
  app.show(sandbox);
  const window = await openWindow(t, browser);
  const devPage = await openDevPage(window, sandbox);
  await signInOnDevPage(devPage, "Alice");
  const page = await openApp(t, window, app);
  await showsUser(page, "alice");
});
