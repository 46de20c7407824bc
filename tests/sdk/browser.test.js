// Real Chromium: the sandbox's own page, and apps on other ports and hosts with the real ably-js.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { openWindow, startChromium } from "./support/chromium.js";
import { standIn } from "./support/clients.js";
import { openDevPage, shows, signIn } from "./support/dev_page.js";
import { connectInPage, openPage, servePage } from "./support/pages.js";
import { bearer, NOOR, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;

const appPort = await servePage(nodeTest);
const strangerPort = await servePage(nodeTest);
const APP = `http://localhost:${appPort}`;
const APP_ON_ANOTHER_HOST = `http://127.0.0.1:${appPort}`;
const STRANGER = `http://localhost:${strangerPort}`;

const sandbox = await startSandbox(nodeTest, { origins: [APP, APP_ON_ANOTHER_HOST] });
const chromium = await startChromium(nodeTest);
const cookieTrick = { authHeaders: { authorization: "-" } };

test("ably-js is there for the dev page", async () => {
  const { status } = await fetch(`${sandbox.page}/ably.js`);
  assert.equal(status, 200, "run npm ci in sandbox/page");
});

test("the dev page leads from signing in to a connection under the username, and out again", async (t) => {
  const window = await openWindow(t, chromium);
  const page = await openDevPage(window, sandbox);
  await signIn(page, "Alice Moreau");
  await page.locator("#get-token").click();
  await shows(page, "connection-state", "connected");
  assert.equal(await page.locator("#client-id").textContent(), "alice");
  const field = (part, name) => page.locator(`#${part}`).locator(`[data-field=${name}]`).textContent();
  assert.equal(await field("token-request", "clientId"), "alice");
  assert.equal(await field("token-request", "keyName"), sandbox.api_key.split(":")[0]);
  assert.equal(await field("token-details", "clientId"), "alice");
  assert.ok((await sandbox.connections()).some(({ clientId }) => clientId === "alice"));

  await page.locator("#message-input").fill("hello from Chromium");
  await page.locator("#message-send").click();
  await shows(page, "messages", "hello from Chromium");
  await shows(page, "messages", "alice");

  await page.locator("#sign-out").click();
  await shows(page, "sign-in-state", "Not signed in.");
  await page.locator("#get-token").click();
  await shows(page, "refusal", "40101");
});

test("the dev page shows why a user without a username is refused", async (t) => {
  const page = await openDevPage(await openWindow(t, chromium), sandbox);
  await signIn(page, "Noor Haddad");
  await page.locator("#get-token").click();
  for (const text of ["no username", "403", "40300"]) await shows(page, "refusal", text);
  await shows(page, "connection-state", "failed");
  await shows(page, "connection-reason", "no username");
});

test("a user who signs in on one port is known on another port of the host, with the cookie trick", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Alice Moreau");
  const page = await openPage(window, APP);
  for (const authMethod of ["GET", "POST"]) {
    const options = { ...standIn(sandbox), authUrl: sandbox.authUrl, authMethod, ...cookieTrick };
    const { state, clientId, heard } = await connectInPage(page, options);
    assert.deepEqual({ state, clientId }, { state: "connected", clientId: "alice" });
    assert.deepEqual(heard, { clientId: "alice", data: "page" });
  }
});

test("without the cookie trick no cookies travel, and the page reads the service's own reason", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Alice Moreau");
  const page = await openPage(window, APP);
  const { body } = await sandbox.ask();
  for (const authMethod of ["GET", "POST"]) {
    const options = { ...standIn(sandbox), authUrl: sandbox.authUrl, authMethod };
    const { state, cause } = await connectInPage(page, options);
    assert.equal(state, "disconnected");
    assert.deepEqual(cause, { message: body.error.message, code: 40101, statusCode: 401 });
  }
});

test("a refusal for good fails the connection in a browser too, with the service's own reason", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Noor Haddad");
  const page = await openPage(window, APP);
  const { state, cause } = await connectInPage(page, { ...standIn(sandbox), authUrl: sandbox.authUrl, ...cookieTrick });
  assert.equal(state, "failed");
  const { body } = await sandbox.ask({ headers: bearer(await sandbox.sessionToken(NOOR)) });
  assert.match(body.error.message, /no username/);
  assert.deepEqual(cause, { message: body.error.message, code: 40300, statusCode: 403 });
});

test("params that are null in a browser count as absent", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Bob Okafor");
  const page = await openPage(window, APP);
  const authParams = { clientId: null, ttl: null, capability: null, organization: null };
  for (const authMethod of ["GET", "POST"]) {
    const options = { ...standIn(sandbox), authUrl: sandbox.authUrl, authMethod, authParams, ...cookieTrick };
    const { state, clientId } = await connectInPage(page, options);
    assert.deepEqual({ state, clientId }, { state: "connected", clientId: "bob" });
  }
});

/** What an app on another host does: a fresh session token for each token request, sent as a Bearer token. */
const withFreshBearer = (user) => `async (params, done) => {
  try {
    const post = async (path, body) => {
      const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      return (await fetch(${JSON.stringify(sandbox.clerk)} + path, options)).json();
    };
    window.session ??= (await post("/v1/client/sign_ins", { user: ${JSON.stringify(user)} })).created_session_id;
    const { jwt } = await post("/v1/client/sessions/" + window.session + "/tokens", {});
    const response = await fetch(${JSON.stringify(sandbox.authUrl)}, { headers: { authorization: "Bearer " + jwt } });
    const answer = await response.json();
    response.ok ? done(null, answer) : done(answer.error, null);
  } catch (error) {
    done(error, null);
  }
}`;

test("an app on another host name connects by authCallback with a fresh Bearer token", async (t) => {
  const page = await openPage(await openWindow(t, chromium), APP_ON_ANOTHER_HOST);
  const { state, clientId, heard } = await connectInPage(page, standIn(sandbox), withFreshBearer("carol"));
  assert.deepEqual({ state, clientId }, { state: "connected", clientId: "carol" });
  assert.deepEqual(heard, { clientId: "carol", data: "page" });
});

test("cookies do not reach the service from a page on another host name", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Alice Moreau");
  const page = await openPage(window, APP_ON_ANOTHER_HOST);
  const { state, cause } = await connectInPage(page, { ...standIn(sandbox), authUrl: sandbox.authUrl, ...cookieTrick });
  assert.equal(state, "disconnected");
  assert.deepEqual([cause.code, cause.statusCode], [40101, 401]);
});

test("a page of an origin that is not allowed reads no answer, though the user is signed in", async (t) => {
  const window = await openWindow(t, chromium);
  await signIn(await openDevPage(window, sandbox), "Alice Moreau");
  const read = async (origin, headers) => {
    const page = await openPage(window, origin);
    return page.evaluate(async ({ authUrl, headers }) => {
      try {
        const response = await fetch(authUrl, { credentials: "include", headers });
        return (await response.json()).clientId;
      } catch (error) {
        return error.name;
      }
    }, { authUrl: sandbox.authUrl, headers });
  };
  for (const headers of [{}, cookieTrick.authHeaders]) {
    assert.equal(await read(APP, headers), "alice");
    assert.equal(await read(STRANGER, headers), "TypeError");
  }

  const page = await openPage(window, STRANGER);
  const { state, cause } = await connectInPage(page, { ...standIn(sandbox), authUrl: sandbox.authUrl, ...cookieTrick });
  assert.equal(state, "disconnected");
  assert.doesNotMatch(cause.message, /Clerk/);
});
