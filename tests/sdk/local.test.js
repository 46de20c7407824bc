// Local by default: issuing calls neither Clerk nor Ably, save once for a username that is nowhere else.

import assert from "node:assert/strict";
import { test } from "node:test";

import { rest } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const TIMES = 50;
const UNLIMITED = { LIMITS_TOKENS_PER_MINUTE: "0" };

/** The calls of the stand-ins that `act` led to. */
async function callsDuring(sandbox, act) {
  const before = await sandbox.calls();
  await act();
  const after = await sandbox.calls();
  const difference = (part) => {
    const counts = Object.entries(after[part]).map(([route, count]) => [route, count - before[part][route]]);
    return Object.fromEntries(counts.filter(([, count]) => count > 0));
  };
  const { backend_jwks: refreshes = 0, ...clerk } = difference("clerk");
  assert.ok(refreshes <= 1, "at most the one refresh of the background falls into a test");
  return { clerk, ably: difference("ably") };
}

async function askAtOnce(sandbox, token) {
  const headers = bearer(token);
  const answers = await Promise.all(Array.from({ length: TIMES }, () => sandbox.ask({ headers })));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
  assert.equal(new Set(answers.map(({ body }) => body.nonce)).size, TIMES);
  return [...new Set(answers.map(({ body }) => body.clientId))];
}

test("with a username claim in the session token, issuing makes no call at all", async (t) => {
  const sandbox = await startSandbox(t, { settings: UNLIMITED });
  const token = await sandbox.sessionToken("alice", { username: "alice-by-claim" });
  const calls = await callsDuring(sandbox, async () => {
    assert.deepEqual(await askAtOnce(sandbox, token), ["alice-by-claim"]);
  });
  assert.deepEqual(calls, { clerk: {}, ably: {} });
});

test("first requests of one user make one call together, and later ones none", async (t) => {
  const sandbox = await startSandbox(t, { settings: UNLIMITED });
  const token = await sandbox.sessionToken("alice");
  const first = await callsDuring(sandbox, () => askAtOnce(sandbox, token));
  assert.deepEqual(first, { clerk: { users: 1 }, ably: {} });
  const later = await callsDuring(sandbox, () => askAtOnce(sandbox, token));
  assert.deepEqual(later, { clerk: {}, ably: {} });
});

test("an ably-js client's whole way to a token is one call to Ably, its own", async (t) => {
  const sandbox = await startSandbox(t);
  const authHeaders = bearer(await sandbox.sessionToken("alice", { username: "alice" }));
  const calls = await callsDuring(sandbox, () => rest(sandbox, { authHeaders }).auth.requestToken());
  assert.deepEqual(calls, { clerk: {}, ably: { request_token: 1 } });
});
