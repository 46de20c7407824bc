// What the server of an app asks the stand-in: real @clerk/backend, as @clerk/nextjs uses it for each request of a page.

import "./support/loopback_only.js";

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { createClerkClient } from "@clerk/backend";

import { ask, bearer, cookies, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const APP = "http://localhost:5173";
const sandbox = await startSandbox(nodeTest, { app: APP });
const { next } = sandbox.app;
const options = {
  publishableKey: next.NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY,
  secretKey: next.CLERK_SECRET_KEY,
  apiUrl: next.CLERK_API_URL,
  proxyUrl: next.NEXT_PUBLIC_CLERK_PROXY_URL,
  telemetry: { disabled: true },
};
const clerk = createClerkClient(options);

/** What @clerk/backend says about a request for a page of the app with these cookies. */
function visit(jar, path = "/") {
  const headers = { ...cookies(jar), accept: "text/html", "sec-fetch-dest": "document" };
  return clerk.authenticateRequest(new Request(APP + path, { headers }), options);
}

/** Follows a handshake as a browser does: through the stand-in, and back to the app, which sets the cookies. */
async function shakeHands(state, jar, change = (url) => url) {
  assert.equal(state.status, "handshake", state.reason);
  const there = change(new URL(state.headers.get("location")));
  const answer = await fetch(there, { redirect: "manual" });
  assert.equal(answer.status, 307, await answer.text());
  const back = new URL(answer.headers.get("location"));
  assert.equal(back.origin, APP);
  const returned = await visit(jar, back.pathname + back.search);
  for (const cookie of returned.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
    if (value) jar[name] = value;
    else delete jar[name];
  }
  assert.equal(returned.headers.get("location"), `${APP}/`);
  return returned;
}

/** A browser that has been at the app: its cookies, after clerk-js has signed in a user under both names. */
async function signedIn(user) {
  const values = await sandbox.signIn(user, APP);
  const suffixed = Object.entries(values).map(([name, value]) => [`${name}_${sandbox.cookie_suffix}`, value]);
  return { ...values, ...Object.fromEntries(suffixed) };
}

test("a new browser is signed out after one handshake", async () => {
  const jar = {};
  const first = await visit(jar);
  assert.equal(first.reason, "dev-browser-missing");
  await shakeHands(first, jar);
  assert.match(jar.__clerk_db_jwt, /^dvb_/);
  assert.equal(jar.__client_uat, "0");
  assert.equal((await visit(jar)).status, "signed-out");
});

test("a signed-in user needs no handshake", async () => {
  const state = await visit(await signedIn("carol"));
  assert.equal(state.status, "signed-in", state.reason);
  assert.equal(state.toAuth().orgSlug, "acme");
});

for (const format of ["nonce", "token"]) {
  test(`one handshake brings a new session token when the old one is gone, by ${format}`, async () => {
    const jar = await signedIn("alice");
    for (const name of Object.keys(jar).filter((name) => name.startsWith("__session"))) delete jar[name];
    const first = await visit(jar);
    assert.equal(first.reason, "client-uat-but-no-session-token");
    const returned = await shakeHands(first, jar, (url) => {
      if (format === "token") url.searchParams.delete("format");
      return url;
    });
    assert.equal(returned.status, "signed-in", returned.reason);
    for (const values of [jar, { ...jar, __session: "" }]) {
      assert.equal((await visit(values)).status, "signed-in");
    }
    // As at Clerk, a token that came with a navigation names no page.
    const { body } = await ask(sandbox.authUrl, { headers: { ...cookies(jar), authorization: "-" } });
    assert.match(body.error.message, /azp|authorized-party/);
  });
}

test("a handshake after the sign-out takes the session away", async () => {
  const jar = await signedIn("bob");
  const { sid } = JSON.parse(Buffer.from(jar.__session.split(".")[1], "base64url"));
  await sandbox.signOut(sid);
  for (const name of Object.keys(jar).filter((name) => name.startsWith("__session"))) delete jar[name];
  await shakeHands(await visit(jar), jar);
  assert.equal(jar.__client_uat, "0");
  assert.equal((await visit(jar)).status, "signed-out");
});

test("a server makes a session and its tokens without a browser", async () => {
  const { data: [user] } = await clerk.users.getUserList({ orderBy: "created_at" });
  const session = await clerk.sessions.createSession({ userId: user.id });
  assert.equal(session.userId, user.id);
  const { jwt } = await clerk.sessions.getToken(session.id);
  const state = await clerk.authenticateRequest(new Request(APP, { headers: bearer(jwt) }), options);
  assert.equal(state.toAuth().sessionId, session.id);
  await clerk.sessions.revokeSession(session.id);
  await assert.rejects(clerk.sessions.getToken(session.id), { status: 404 });
});
