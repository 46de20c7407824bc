// Token params: what a client may ask for, and what it must not.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { reaches, realtime, rest } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest, { settings: { LIMITS_TOKENS_PER_MINUTE: "0" } });
const HOUR_MS = 60 * 60 * 1000;

for (const authMethod of ["GET", "POST"]) {
  const signedIn = async (options) => {
    return { authHeaders: bearer(await sandbox.sessionToken("alice")), authMethod, ...options };
  };
  const life = ({ issued, expires }) => expires - issued;

  test(`a ttl that is asked for by ${authMethod} is honoured`, async () => {
    const byParams = rest(sandbox, await signedIn({ authParams: { ttl: "90000" } }));
    assert.equal(life(await byParams.auth.requestToken()), 90_000);
    const byDefault = rest(sandbox, await signedIn({ defaultTokenParams: { ttl: 80_000 } }));
    assert.equal(life(await byDefault.auth.requestToken()), 80_000);
  });

  test(`a ttl over the longest, asked for by ${authMethod}, is lowered and not refused`, async () => {
    const client = rest(sandbox, await signedIn({ authParams: { ttl: String(100 * HOUR_MS) } }));
    assert.equal(life(await client.auth.requestToken()), HOUR_MS);
  });

  test(`a narrower capability asked for by ${authMethod} binds the client`, async (t) => {
    const capability = { "room:*": ["subscribe", "publish"], lobby: ["subscribe"] };
    const granted = { lobby: ["subscribe"], "room:*": ["publish", "subscribe"] };
    const byParams = { authParams: { capability: JSON.stringify(capability) } };
    const byDefault = { defaultTokenParams: { capability } };
    for (const options of [byParams, byDefault]) {
      const client = realtime(t, sandbox, await signedIn(options));
      await reaches(client, "connected");
      assert.deepEqual(JSON.parse(client.auth.tokenDetails.capability), granted);
      await client.channels.get("room:1").publish("allowed", "");
      for (const forbidden of ["lobby", "elsewhere"]) {
        await assert.rejects(client.channels.get(forbidden).publish("forbidden", ""), { code: 40160, statusCode: 401 });
      }
      assert.equal(client.connection.state, "connected");
    }
  });

  test(`params that are null or undefined, as ably-js writes them by ${authMethod}, count as absent`, async () => {
    for (const absent of [null, "null", "undefined", ""]) {
      const authParams = {
        clientId: absent,
        ttl: absent,
        capability: absent,
        organization: absent,
        timestamp: absent,
        unknown: absent,
      };
      const details = await rest(sandbox, await signedIn({ authParams })).auth.requestToken();
      assert.equal(details.clientId, "alice");
      assert.equal(life(details), HOUR_MS);
      assert.deepEqual(JSON.parse(details.capability), { "[*]*": ["*"] });
    }
  });

  test(`a timestamp of the client's by ${authMethod} does not count`, async () => {
    const details = await rest(sandbox, await signedIn({ authParams: { timestamp: "1" } })).auth.requestToken();
    assert.equal(details.clientId, "alice");
  });

  test(`a client that names its own client ID by ${authMethod} connects`, async (t) => {
    const client = realtime(t, sandbox, await signedIn({ clientId: "alice" }));
    await reaches(client, "connected");
    assert.equal(client.auth.clientId, "alice");
  });

  test(`a client that asks by ${authMethod} to be another user fails for good`, async (t) => {
    const params = { clientId: "bob" };
    for (const options of [params, { authParams: params }, { defaultTokenParams: params }]) {
      const authOptions = await signedIn(options);
      const { body } = await sandbox.ask({ method: authMethod, headers: authOptions.authHeaders, params });
      const client = realtime(t, sandbox, authOptions);
      const { cause, statusCode } = await reaches(client, "failed");
      assert.equal(statusCode, 403);
      assert.deepEqual([cause.message, cause.code, cause.statusCode], [body.error.message, 40012, 403]);
    }
  });

  test(`params of the authUrl itself are honoured by GET, and are no params by POST: ${authMethod}`, async () => {
    const client = rest(sandbox, await signedIn({ authUrl: `${sandbox.authUrl}?ttl=70000` }));
    assert.equal(life(await client.auth.requestToken()), authMethod === "GET" ? 70_000 : HOUR_MS);
  });

  test(`malformed params by ${authMethod} are 400, each with its code`, async () => {
    const headers = bearer(await sandbox.sessionToken("alice"));
    for (const [params, code] of [
      [{ clientId: "*" }, 40012],
      [{ clientId: "a\nb" }, 40012],
      [{ clientId: "x".repeat(257) }, 40012],
      [{ ttl: "0" }, 40003],
      [{ ttl: "3600" }, 40003],
      [{ ttl: "-1" }, 40003],
      [{ ttl: "1.5" }, 40003],
      [{ ttl: "1h" }, 40003],
      [{ capability: "not JSON" }, 40000],
      [{ capability: "[]" }, 40000],
      [{ capability: "{}" }, 40000],
      [{ capability: '{"room":[]}' }, 40000],
      [{ capability: '{"room":["fly"]}' }, 40000],
      [{ capability: '{"room":["*","publish"]}' }, 40000],
      [[["ttl", "1000"], ["ttl", "1000"]], 40000],
    ]) {
      const answer = await sandbox.ask({ method: authMethod, params, headers });
      const { error } = answer.body;
      const asked = JSON.stringify(params);
      assert.deepEqual([answer.status, error.statusCode, error.code], [400, 400, code], asked);
      assert.equal(answer.headers.get("content-type"), "application/json", asked);
      assert.equal(answer.headers.get("x-ably-errorcode"), String(code), asked);
      assert.equal(answer.headers.get("x-ably-errormessage"), error.message, asked);
      assert.equal(error.href, `https://help.ably.io/error/${code}`, asked);
    }
  });

  test(`a malformed param by ${authMethod} leaves the client disconnected with the reason`, async (t) => {
    const client = realtime(t, sandbox, await signedIn({ authParams: { ttl: "soon" } }));
    const { cause } = await reaches(client, "disconnected");
    assert.deepEqual([cause.code, cause.statusCode], [40003, 400]);
    assert.match(cause.message, /ttl/);
  });

  test(`a client that counts in seconds, by ${authMethod}, is told that a ttl is in milliseconds`, async () => {
    const client = rest(sandbox, await signedIn({ defaultTokenParams: { ttl: 3600 } }));
    await assert.rejects(client.auth.requestToken(), ({ code, statusCode, message }) => {
      return code === 40003 && statusCode === 400 && /milliseconds/.test(message);
    });
  });
}
