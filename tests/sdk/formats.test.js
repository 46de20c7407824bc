// Each form of a token, as ably-js takes it from `authUrl`.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { nextMessage, reaches, realtime, rest, until } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const FORMATS = ["token_request", "jwt", "token_details"];

/** How often Ably is asked for a token, by whomever: clients exchange token requests, the service token details. */
const EXCHANGES = { token_request: 1, jwt: 0, token_details: 1 };

async function hears(client, name) {
  const { message } = await nextMessage(client.channels.get(name));
  await client.channels.get(name).publish("hello", name);
  const { clientId, data } = await message;
  assert.deepEqual({ clientId, data }, { clientId: "alice", data: name });
}

for (const format of FORMATS) {
  describe(`with TOKEN_FORMAT=${format}`, { concurrency: true }, () => {
    for (const authMethod of ["GET", "POST"]) {
      test(`a realtime client connects as the Clerk user, publishes and receives, by ${authMethod}`, async (t) => {
        const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: format } });
        const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")), authMethod });
        assert.equal(await reaches(client, "connected"), null);
        assert.equal(client.auth.clientId, "alice");
        await hears(client, "room");
        const { ably } = await sandbox.calls();
        assert.equal(ably.request_token, EXCHANGES[format]);
      });
    }

    test("a REST client publishes as the Clerk user and reads history", async (t) => {
      const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: format } });
      const channel = rest(sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) }).channels.get("room");
      await channel.publish("first", { n: 1 });
      const { items } = await channel.history();
      const seen = items.map(({ name, data, clientId }) => ({ name, data, clientId }));
      assert.deepEqual(seen, [{ name: "first", data: { n: 1 }, clientId: "alice" }]);
    });

    test("a connected client renews its token and goes on as the same connection", async (t) => {
      const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: format, TOKEN_TTL: "4s" } });
      const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
      await reaches(client, "connected");
      const [first] = await sandbox.connections();
      const { token } = client.auth.tokenDetails;
      await until("the first token to be over, and replaced", () => {
        return Date.now() > first.tokenExpires && client.auth.tokenDetails.token !== token;
      });
      await hears(client, "after");
      const [second] = await sandbox.connections();
      assert.deepEqual([second.connectionId, second.clientId], [first.connectionId, "alice"]);
      assert.ok(second.tokenExpires > first.tokenExpires);
    });

    test("what a client asks of its token is what it may do", async (t) => {
      const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: format } });
      const authHeaders = bearer(await sandbox.sessionToken("alice"));
      const defaultTokenParams = { capability: JSON.stringify({ allowed: ["publish"] }) };
      const client = rest(sandbox, { authHeaders, defaultTokenParams });
      await client.channels.get("allowed").publish("hello", "there");
      await assert.rejects(client.channels.get("elsewhere").publish("hello", "there"), { code: 40160 });
    });

    test("a client that takes itself for another fails", async (t) => {
      const sandbox = await startSandbox(t, { settings: { TOKEN_FORMAT: format } });
      const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")), clientId: "bob" });
      const { cause } = await reaches(client, "failed");
      assert.deepEqual([cause.code, cause.statusCode], [40012, 403]);
    });
  });
}
