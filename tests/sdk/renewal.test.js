// Tokens end; a client gets the next one by itself, or learns why not. What webhooks add is in access.test.js.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { nextMessage, reaches, realtime, until } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

/** A service that hears of nothing until a client asks it: with webhooks, a change would be noticed before. */
const UNTOLD = { CLERK_WEBHOOK_SIGNING_SECRET: "" };
const settings = { ...UNTOLD, TOKEN_TTL: "4s" };

async function hears(client, name) {
  const { message } = await nextMessage(client.channels.get(name));
  await client.channels.get(name).publish("hello", name);
  assert.equal((await message).data, name);
}

describe("a token that ends", { concurrency: true }, () => {
  for (const authMethod of ["GET", "POST"]) {
    test(`a connected client renews its token and goes on as the same connection, by ${authMethod}`, async (t) => {
      const sandbox = await startSandbox(t, { settings });
      const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")), authMethod });
      await reaches(client, "connected");
      const { id } = client.connection;
      await hears(client, "before");

      const first = client.auth.tokenDetails;
      await until("the first token to be over, and replaced", () => {
        return Date.now() > first.expires && client.auth.tokenDetails.token !== first.token;
      });
      await hears(client, "after");
      const [connection] = await sandbox.connections();
      assert.deepEqual([connection.connectionId, connection.clientId], [id, "alice"]);
      assert.ok(connection.tokenExpires > first.expires);
    });
  }

  test("a client whose token ended while it was away gets a new one by itself", async (t) => {
    const sandbox = await startSandbox(t, { settings });
    const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
    await reaches(client, "connected");
    const first = client.auth.tokenDetails;
    client.close();
    await reaches(client, "closed");

    await until("the token to be over", () => Date.now() > first.expires);
    client.connect();
    await reaches(client, "connected");
    assert.notEqual(client.auth.tokenDetails.token, first.token);
    await hears(client, "back");
  });

  for (const [what, changes, code] of [
    ["renamed", { username: "alicia" }, 40012],
    ["banned", { banned: true }, 40300],
    ["left without a username", { username: null }, 40300],
  ]) {
    test(`the client of a user who is ${what} fails at its next renewal`, async (t) => {
      const sandbox = await startSandbox(t, { settings: { ...settings, CLERK_USER_CACHE_TTL: "1ms" } });
      const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
      await reaches(client, "connected");
      await sandbox.changeUser("alice", changes);
      const { cause } = await reaches(client, "failed");
      assert.deepEqual([cause.code, cause.statusCode], [code, 403]);
    });
  }

  test("a new client of a renamed user has the new name", async (t) => {
    const sandbox = await startSandbox(t, { settings: { ...UNTOLD, CLERK_USER_CACHE_TTL: "1ms" } });
    const authHeaders = bearer(await sandbox.sessionToken("alice"));
    const before = realtime(t, sandbox, { authHeaders });
    await reaches(before, "connected");
    await sandbox.changeUser("alice", { username: "alicia" });
    const after = realtime(t, sandbox, { authHeaders });
    await reaches(after, "connected");
    assert.deepEqual([before.auth.clientId, after.auth.clientId], ["alice", "alicia"]);
  });
});
