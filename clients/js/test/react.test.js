// AblyClerkProvider in Chromium: an app with ably/react, in StrictMode, between a Clerk that the test controls, the service
// and Ably's stand-in.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import * as Ably from "ably";

import { openWindow, startChromium } from "../../../tests/sdk/support/chromium.js";
import { reaches, standIn, until } from "../../../tests/sdk/support/clients.js";
import { NOOR, startSandbox } from "../../../tests/sdk/support/sandbox.js";
import { page as pageOf } from "./support/bundle.js";
import { html, json, redirect, startGateway } from "./support/gateway.js";

const { describe, test } = nodeTest;
const settings = { LIMITS_TOKENS_PER_MINUTE: "0", CLERK_USER_CACHE_TTL: "1ms", CLERK_WEBHOOK_SIGNING_SECRET: "" };
const sandbox = await startSandbox(nodeTest, { settings });
const chromium = await startChromium(nodeTest);
const pages = { 19: await pageOf("app.tsx"), 18: await pageOf("app.tsx", { react: 18 }) };

const REFUSED = json(403, { error: { code: 40300, statusCode: 403, message: "This user is banned. (user-banned)" } });

/** Opens the app. Whatever it writes to the console as an error, or does not catch, is the test's failure. */
async function open(t, { react = 19, query = {}, options = {}, ...given } = {}) {
  const gateway = given.gateway ?? (await startGateway(t, given.sandbox ?? sandbox, pages[react]));
  const window = await openWindow(t, chromium);
  const page = await window.newPage();
  const complaints = [];
  page.on("console", (message) => {
    // Chromium itself reports each refused request.
    const isRequest = message.text().startsWith("Failed to load resource:");
    if (["error", "warning"].includes(message.type()) && !isRequest) complaints.push(message.text());
  });
  t.after(() => assert.deepEqual(complaints, [], "the console has errors"));
  const all = { ...standIn(gateway.sandbox), disconnectedRetryTimeout: 50, ...options };
  await page.goto(`${gateway.origin}/?${new URLSearchParams({ options: JSON.stringify(all), ...query })}`);
  return new App(page, gateway);
}

class App {
  constructor(page, gateway) {
    Object.assign(this, { page, gateway });
  }

  setClerk(state) {
    return this.call("setClerk", state);
  }

  /** Calls a function of the page's `window.app`, or reads a value there. */
  call(name, argument) {
    return this.page.evaluate(([name, argument]) => {
      const member = globalThis.app[name];
      return typeof member === "function" ? member(argument) : member;
    }, [name, argument]);
  }

  async shows(testId, text = /./) {
    await this.page.getByTestId(testId).filter({ hasText: text }).waitFor();
  }

  showsNoError() {
    return this.page.getByTestId("error").filter({ hasText: /^$/ }).waitFor({ state: "attached" });
  }

  count(testId) {
    return this.page.getByTestId(testId).count();
  }

  async connectedAs(user) {
    await this.shows("connection", /^connected$/);
    await this.shows("client-id", user);
  }

  /** The app's connections that Ably has: those of these users. */
  async connections(...users) {
    return (await sandbox.connections()).filter(({ clientId }) => users.includes(clientId));
  }
}

/** A client beside the page. */
async function watcher(t, user = "carol") {
  const authCallback = async (_, callback) => {
    const headers = { authorization: `Bearer ${await sandbox.sessionToken(user)}` };
    callback(null, await (await fetch(sandbox.authUrl, { headers })).json());
  };
  const client = new Ably.Realtime({ ...standIn(sandbox), authCallback });
  t.after(() => client.close());
  await reaches(client, "connected");
  return client;
}

async function presenceOf(t, user) {
  const { channels } = await watcher(t);
  const events = [];
  await channels.get("rooms").presence.subscribe(({ action, clientId }) => {
    if (clientId === user) events.push(action);
  });
  return events;
}

for (const react of [19, 18]) {
  describe(`with React ${react}`, () => {
    test("the user connects with one client and one request, and messages arrive", async (t) => {
      const app = await open(t, { react });
      await app.shows("loading");
      await app.shows("status", /^loading$/);
      await app.setClerk(null);
      await app.shows("signed-out");
      await app.shows("status", /^signed-out$/);
      assert.equal(app.gateway.requests.length, 0);

      await app.setClerk({ user: "alice" });
      await app.connectedAs("alice");
      await app.shows("status", /^ready$/);
      await app.call("publish", "hello");
      await app.shows("messages", "hello");
      assert.equal(app.gateway.requests.length, 1);
      assert.deepEqual(app.gateway.requests[0].params, { organization: "none" });
      assert.equal((await app.connections("alice")).length, 1);
      assert.deepEqual(await app.call("errors"), []);
    });

    test("another user never sees what the one before saw", async (t) => {
      const app = await open(t, { react });
      await app.setClerk({ user: "alice" });
      await app.connectedAs("alice");
      await app.call("publish", "alice's secret");
      await app.shows("messages", "alice's secret");

      await app.setClerk({ user: "bob" });
      assert.equal(await app.page.getByText("alice's secret").count(), 0);
      await app.connectedAs("bob");
      assert.equal(await app.page.getByText("alice's secret").count(), 0);
      const shown = await app.call("shown");
      assert.ok(shown.some(([user]) => user === "bob"));
      for (const [user, clientId] of shown) assert.ok(clientId === user || !clientId, `${clientId} under ${user}`);
      await until("alice's client to be closed", async () => (await app.connections("alice")).length === 0);
      assert.equal((await app.connections("bob")).length, 1);
    });

    test("a sign-out leaves presence, closes the client and shows what is for signed-out users", async (t) => {
      const app = await open(t, { react });
      const events = await presenceOf(t, "alice");
      await app.setClerk({ user: "alice" });
      await app.connectedAs("alice");
      await until("alice to be present", () => events.includes("enter"));
      await app.setClerk(null);
      await app.shows("signed-out");
      assert.equal(await app.count("chat"), 0);
      await until("alice to be gone", () => events.includes("leave"));
      await until("the client to be closed", async () => (await app.connections("alice")).length === 0);
      assert.equal(app.gateway.requests.length, 1);
    });
  });
}

test("a token that comes after the session has changed makes no client of the former session", async (t) => {
  const app = await open(t);
  let letGo;
  const held = new Promise((resolve) => {
    letGo = resolve;
  });
  app.gateway.answer = () => (app.gateway.requests.length === 1 ? held : undefined);
  await app.setClerk({ user: "alice" });
  await until("alice's request", () => app.gateway.requests.length === 1);
  await app.setClerk({ user: "bob" });
  await app.connectedAs("bob");
  letGo();
  await app.call("publish", "from bob");
  await app.shows("messages", "from bob");
  assert.equal((await app.connections("alice", "bob")).length, 1);
  assert.deepEqual(await app.call("errors"), []);
});

test("an onError that throws hinders nothing", async (t) => {
  const app = await open(t, { query: { "broken-on-error": "" } });
  app.page.context().removeAllListeners("weberror");
  app.gateway.answer = html(502);
  const thrown = app.page.waitForEvent("pageerror");
  await app.setClerk({ user: "alice" });
  assert.equal((await thrown).message, "onError is broken");
  app.gateway.answer = undefined;
  await app.connectedAs("alice");
});

test("a switch of the organization is noticed at once, on the same connection", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", orgId: "org_acme" });
  await app.connectedAs("alice");
  const before = await app.call("connectionId");
  const mounted = await app.call("mounted");

  for (const [orgId, organization] of [["org_beta", "org_beta"], [null, "none"]]) {
    const { length } = app.gateway.requests;
    await app.setClerk({ user: "alice", orgId });
    await until("the token of the other organization", () => app.gateway.requests.length > length);
    assert.deepEqual(app.gateway.requests.at(-1).params.organization, organization);
  }
  await app.connectedAs("alice");
  assert.equal(await app.call("connectionId"), before);
  assert.equal(await app.call("mounted"), mounted);
  assert.equal(app.gateway.requests.length, 3);
  assert.deepEqual(await app.call("tokenRequests"), [false, false, false]);
  assert.deepEqual(await app.call("errors"), []);
});

test("a change of the plan gets a new token, and the first claims do not", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", sessionClaims: null });
  await app.connectedAs("alice");
  await app.setClerk({ user: "alice", sessionClaims: { pla: "u:free" } });
  await app.setClerk({ user: "alice", sessionClaims: { pla: "u:free" } });
  await app.setClerk({ user: "alice", sessionClaims: { pla: "u:pro" } });
  await until("another token", () => app.gateway.requests.length === 2);
  await app.connectedAs("alice");
  assert.equal(app.gateway.requests.length, 2);
  assert.deepEqual(await app.call("tokenRequests"), [false, true], "the cached session token may have the former plan");
});

test("a plan that changes while Clerk has no claims gets a new token", async (t) => {
  const app = await open(t);
  for (const sessionClaims of [{ pla: "u:free" }, null, { pla: "u:pro" }]) {
    await app.setClerk({ user: "alice", sessionClaims });
    await app.connectedAs("alice");
  }
  await until("another token", () => app.gateway.requests.length === 2);
});

test("claims that come after a switch of the organization are no change of the plan", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", orgId: "org_acme", sessionClaims: { pla: "o:free" } });
  await app.connectedAs("alice");
  for (const sessionClaims of [null, { pla: "o:pro" }]) {
    await app.setClerk({ user: "alice", orgId: "org_beta", sessionClaims });
    await until("the token of the other organization", () => app.gateway.requests.length === 2);
  }
  await app.call("publish", "one token");
  await app.shows("messages", "one token");
  assert.equal(app.gateway.requests.length, 2);
});

test("a fresh session token is asked for until an Ably token comes", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", sessionClaims: { pla: "u:free" } });
  await app.connectedAs("alice");
  app.gateway.answer = html(502);
  await app.setClerk({ user: "alice", sessionClaims: { pla: "u:pro" } });
  await until("two attempts", () => app.gateway.requests.length >= 3);
  app.gateway.answer = undefined;
  await app.showsNoError();
  const [first, ...more] = await app.call("tokenRequests");
  assert.deepEqual([first, more.includes(false)], [false, false]);
  await app.setClerk({ user: "alice", orgId: "org_acme", sessionClaims: { pla: "u:pro" } });
  await until("the next token", async () => (await app.call("tokenRequests")).length > more.length + 1);
  assert.equal((await app.call("tokenRequests")).at(-1), false);
});

test("a token for the new organization is asked for until it comes", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", orgId: "org_acme" });
  await app.connectedAs("alice");
  const before = await app.call("connectionId");
  app.gateway.answer = html(502);
  await app.setClerk({ user: "alice", orgId: "org_beta" });
  await app.shows("error", "/api/ably answered 502 without an Ably error.");
  await until("three attempts", () => app.gateway.requests.length >= 4);
  app.gateway.answer = undefined;
  await app.showsNoError();
  assert.equal(app.gateway.requests.at(-1).params.organization, "org_beta");
  assert.equal(await app.call("connectionId"), before);
});

test("while Clerk is not loaded for a moment, the children are hidden and the connection stays", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice", orgId: "org_acme" });
  await app.connectedAs("alice");
  const before = await app.call("connectionId");
  await app.setClerk("loading");
  await app.shows("loading");
  assert.equal(await app.count("chat"), 0);
  await app.setClerk({ user: "alice", orgId: "org_beta" });
  await app.connectedAs("alice");
  await until("the token of the other organization", () => app.gateway.requests.length === 2);
  assert.equal(await app.call("connectionId"), before);
});

test("a refused user sees why, nothing is thrown, and a retry with a fresh session token helps", async (t) => {
  const app = await open(t);
  app.gateway.answer = REFUSED;
  await app.setClerk({ user: "alice" });
  await app.shows("refused", "This user is banned. (user-banned)");
  assert.equal(await app.call("mounted"), 0);
  assert.equal(app.gateway.requests.length, 1);
  assert.deepEqual(await app.page.evaluate(() => globalThis.app.errors.map(({ code, statusCode }) => [code, statusCode])), [[40300, 403]]);

  app.gateway.answer = undefined;
  await app.page.getByTestId("try-again").click();
  await app.connectedAs("alice");
  assert.deepEqual(await app.call("tokenRequests"), [false, true]);
  assert.equal((await app.connections("alice")).length, 1);
});

for (const [what, changed, skipsCache] of [
  ["organization", { orgId: "org_beta" }, false],
  ["role", { orgRole: "org:admin" }, true],
  ["plan", { sessionClaims: { pla: "u:pro" } }, true],
]) {
  test(`a refused user connects after a change of the ${what}`, async (t) => {
    const app = await open(t);
    const user = { user: "alice", orgId: "org_acme", orgRole: "org:member", sessionClaims: { pla: "u:free" } };
    app.gateway.answer = REFUSED;
    await app.setClerk(user);
    await app.shows("refused");
    app.gateway.answer = undefined;
    await app.setClerk({ ...user });
    await app.setClerk({ ...user, ...changed });
    await app.connectedAs("alice");
    assert.deepEqual(await app.call("tokenRequests"), [false, skipsCache]);
    assert.equal((await app.connections("alice")).length, 1);
  });
}

for (const [what, late] of [["403", REFUSED], ["502", html(502)]]) {
  test(`a late ${what} for an organization that the user has left again changes nothing`, async (t) => {
    const app = await open(t);
    await app.setClerk({ user: "alice", orgId: "org_acme" });
    await app.connectedAs("alice");
    const mounted = await app.call("mounted");
    let letGo;
    const held = new Promise((resolve) => {
      letGo = () => resolve(late);
    });
    const answerFor = async (organization) => {
      const response = await app.page.waitForResponse((response) => response.url().endsWith(`organization=${organization}`));
      await response.finished();
    };
    app.gateway.answer = ({ params }) => (params.organization === "org_beta" ? held : undefined);
    await app.setClerk({ user: "alice", orgId: "org_beta" });
    await until("the request for the other organization", () => app.gateway.requests.length === 2);
    const newest = answerFor("org_acme");
    await app.setClerk({ user: "alice", orgId: "org_acme" });
    await newest;
    const superseded = answerFor("org_beta");
    letGo();
    await superseded;

    await app.call("publish", "still here");
    await app.shows("messages", "still here");
    await app.shows("status", /^ready$/);
    await app.showsNoError();
    assert.equal(await app.call("mounted"), mounted);
    assert.deepEqual(await app.call("errors"), []);
    assert.equal(app.gateway.requests.length, 3);
  });
}

test("without `refused` and `loading` the error's message is shown", async (t) => {
  const app = await open(t, { query: { defaults: "" } });
  for (const [answer, message] of [
    [html(404), "/api/ably answered 404 without an Ably error."],
    [html(200), "/api/ably answered 200 without an Ably token."],
    [REFUSED, "This user is banned. (user-banned)"],
  ]) {
    app.gateway.answer = answer;
    await app.setClerk({ user: "alice" });
    await app.page.getByRole("alert").filter({ hasText: message }).waitFor();
  }
});

test("a user who is refused while connected leaves presence, sees why, and nothing is thrown", async (t) => {
  const app = await open(t);
  const events = await presenceOf(t, "alice");
  await app.setClerk({ user: "alice", orgId: "org_acme" });
  await app.connectedAs("alice");
  await until("alice to be present", () => events.includes("enter"));
  app.gateway.answer = REFUSED;
  await app.setClerk({ user: "alice", orgId: "org_beta" });
  await app.shows("refused", "This user is banned. (user-banned)");
  await until("alice to be gone", () => events.includes("leave"));
  await until("the client to be closed", async () => (await app.connections("alice")).length === 0);

  // Another user is not refused.
  app.gateway.answer = undefined;
  await app.setClerk({ user: "bob" });
  await app.connectedAs("bob");
});

test("a renamed user gets a new client with the new client ID", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "bob", sessionClaims: { pla: "u:free" } });
  await app.connectedAs("bob");
  await sandbox.changeUser("bob", { username: "robert" });
  t.after(() => sandbox.changeUser("robert", { username: "bob" }));
  await app.setClerk({ user: "robert", sessionId: "sess_bob", sessionClaims: { pla: "u:pro" } });
  await app.connectedAs("robert");
  await until("the former client to be closed", async () => (await app.connections("bob")).length === 0);
  const codes = await app.page.evaluate(() => globalThis.app.errors.map(({ code }) => code));
  assert.deepEqual(codes, [40012]);
});

test("a client ID that is never the user's is refused, not tried again and again", async (t) => {
  const app = await open(t, { options: { defaultTokenParams: { clientId: "somebody-else" } } });
  await app.setClerk({ user: "alice" });
  await app.shows("refused", /\(client-id-of-another\)$/);
  assert.equal(app.gateway.requests.length, 1);
});

test("an outage of the service shows as an error while loading, and ends by itself or with a retry", async (t) => {
  const app = await open(t);
  app.gateway.answer = html(502);
  await app.setClerk({ user: "alice" });
  await app.shows("error", "/api/ably answered 502 without an Ably error.");
  await app.shows("status", /^loading$/);
  app.gateway.answer = undefined;
  await app.connectedAs("alice");
  await app.showsNoError();

  const patient = await open(t, { options: { disconnectedRetryTimeout: 600_000 } });
  patient.gateway.answer = html(502);
  await patient.setClerk({ user: "bob" });
  await patient.shows("error", "502");
  patient.gateway.answer = undefined;
  await patient.page.getByTestId("retry").click();
  await patient.connectedAs("bob");
});

test("a redirect to a sign-in page is not followed, and the error says what to do", async (t) => {
  const app = await open(t);
  app.gateway.answer = redirect("/sign-in");
  await app.setClerk({ user: "alice" });
  await app.shows("error", "/api/ably answered with a redirect. Exclude it from what redirects to the sign-in page.");
  assert.ok(!app.gateway.paths.includes("/sign-in"));
});

test("a connection that Ably fails shows Ably's own error", async (t) => {
  const ably = await startSandbox(t);
  const app = await open(t, { query: { "without-rooms": "" }, sandbox: ably });
  await app.setClerk({ user: "alice" });
  await app.connectedAs("alice");
  await ably.setAblyOutage({ kind: "status", status: 403 });
  await app.setClerk({ user: "alice", orgId: "org_acme" });
  await app.shows("refused");
  assert.doesNotMatch(await app.page.getByTestId("refused").textContent(), /authentication provider/);
});

test("children that suspend do not make a second client", async (t) => {
  const app = await open(t, { query: { slow: "" } });
  await app.setClerk({ user: "alice" });
  await app.shows("fallback");
  await until("the connection", async () => (await app.connections("alice")).length === 1);
  await app.call("wake");
  await app.connectedAs("alice");
  assert.equal(app.gateway.requests.length, 1);
  assert.equal((await app.connections("alice")).length, 1);
});

test("a hot reload keeps the client", async (t) => {
  const app = await open(t);
  await app.setClerk({ user: "alice" });
  await app.connectedAs("alice");
  const before = await app.call("connectionId");
  await app.call("reload");
  await app.shows("version", "2");
  await app.connectedAs("alice");
  assert.equal(await app.call("connectionId"), before);
  assert.equal(app.gateway.requests.length, 1);
});

test("a page that the server rendered becomes one client", async (t) => {
  const app = await open(t, { query: { hydrate: "" } });
  assert.match(await app.call("rendered"), /loading/);
  await app.connectedAs("alice");
  assert.equal(app.gateway.requests.length, 1);
  assert.equal((await app.connections("alice")).length, 1);
});

test("what is hidden has no client, and gets one when it is shown again", async (t) => {
  const app = await open(t, { query: { hideable: "" } });
  await app.setClerk({ user: "alice" });
  await app.connectedAs("alice");
  await app.call("setHidden", true);
  await until("the client to be closed", async () => (await app.connections("alice")).length === 0);
  await app.call("setHidden", false);
  await app.connectedAs("alice");
  assert.equal((await app.connections("alice")).length, 1);
  assert.equal(app.gateway.requests.length, 2);
});

test("a page on another origin reads the service's tokens, errors and request IDs", async (t) => {
  const gateway = await startGateway(t, null, pages[19]);
  gateway.sandbox = await startSandbox(t, { settings, origins: [gateway.origin] });
  const app = await open(t, { gateway, query: { url: gateway.sandbox.authUrl } });
  await app.setClerk({ user: "alice" });
  await app.connectedAs("alice");
  await app.setClerk({ user: NOOR });
  await app.shows("refused", /\(user-without-username\)$/);
  const [requestId] = await app.page.evaluate(() => globalThis.app.errors.map(({ detail }) => detail.requestId));
  assert.match(requestId, /./);
  assert.equal(gateway.requests.length, 0);
});

test("a relative authUrl of ably-js works in a page", async (t) => {
  const app = await open(t);
  const authorization = `Bearer ${await sandbox.sessionToken("alice")}`;
  assert.equal(await app.call("connectByAuthUrl", { authorization }), "alice");
});
