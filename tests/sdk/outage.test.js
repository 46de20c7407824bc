// When Clerk does not answer: what is needed of it is missing, what is known goes on.

import assert from "node:assert/strict";
import { test } from "node:test";

import { reaches, realtime, rest } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const NONE = { kind: "none" };

for (const [how, outage] of [
  ["answers with an error", { kind: "status", status: 503 }],
  ["hangs up", { kind: "drop" }],
  ["limits its rate", { kind: "rate_limited", retry_after_s: 1 }],
]) {
  test(`a client stays disconnected while Clerk ${how}, and connects by itself when it answers again`, async (t) => {
    const sandbox = await startSandbox(t);
    const authHeaders = bearer(await sandbox.sessionToken("alice"));
    await sandbox.setOutage(outage);
    const client = realtime(t, sandbox, { authHeaders, disconnectedRetryTimeout: 200 });
    const { cause } = await reaches(client, "disconnected");
    assert.deepEqual([cause.code, cause.statusCode], [50003, 503]);
    assert.match(cause.message, /Clerk/);

    await sandbox.setOutage(NONE);
    await reaches(client, "connected");
    assert.equal(client.auth.clientId, "alice");
  });
}

test("Clerk's rate limit is answered with 503 and the wait that Clerk asked for", async (t) => {
  const sandbox = await startSandbox(t);
  const headers = bearer(await sandbox.sessionToken("alice"));
  await sandbox.setOutage({ kind: "rate_limited", retry_after_s: 42 });
  const answer = await sandbox.ask({ headers });
  assert.equal(answer.status, 503);
  assert.equal(answer.headers.get("retry-after"), "42");
  assert.deepEqual([answer.body.error.code, answer.body.error.statusCode], [50003, 503]);
});

test("while Clerk is down, users who are known and tokens with a username still get in", async (t) => {
  const sandbox = await startSandbox(t);
  const alice = bearer(await sandbox.sessionToken("alice"));
  await rest(sandbox, { authHeaders: alice }).auth.requestToken();
  const bob = bearer(await sandbox.sessionToken("bob", { username: "bob" }));
  await sandbox.setOutage({ kind: "drop" });

  for (const [name, authHeaders] of [["alice", alice], ["bob", bob]]) {
    const client = realtime(t, sandbox, { authHeaders });
    await reaches(client, "connected");
    assert.equal(client.auth.clientId, name);
  }
});

test("the signing keys of a Clerk that cannot be reached go on verifying", async (t) => {
  const sandbox = await startSandbox(t);
  await sandbox.setOutage({ kind: "status", status: 500 });
  const { status } = await sandbox.ask({ headers: bearer(await sandbox.sessionToken("carol", { username: "carol" })) });
  assert.equal(status, 200);
  const { status: forged } = await sandbox.ask({ headers: bearer("e30.e30.e30") });
  assert.equal(forged, 401);
});
