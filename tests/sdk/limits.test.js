// The rate limit: a client that is told to wait waits, and then connects by itself.

import assert from "node:assert/strict";
import { test } from "node:test";

import { reaches, realtime } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

test("a client whose user has used up the tokens stays disconnected, and connects by itself once there are more", async (t) => {
  const sandbox = await startSandbox(t, { settings: { LIMITS_TOKENS_PER_MINUTE: "10", LIMITS_TOKENS_BURST: "1" } });
  const authHeaders = bearer(await sandbox.sessionToken("alice"));
  const { status } = await sandbox.ask({ headers: authHeaders });
  assert.equal(status, 200);

  const client = realtime(t, sandbox, { authHeaders, disconnectedRetryTimeout: 500 });
  const { cause } = await reaches(client, "disconnected");
  assert.deepEqual([cause.code, cause.statusCode], [42910, 429]);
  assert.match(cause.message, /too many tokens/);

  await reaches(client, "connected");
  assert.equal(client.auth.clientId, "alice");
});
