// Refusals: each is told to the SDK in a way that it understands, keeps, and shows to the app.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { reaches, realtime, rest } from "./support/clients.js";
import { bearer, NOOR, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest);

/** A session token of alice that differs in these claims. */
const alice = async (claims) => bearer(await sandbox.sessionToken("alice", claims));
const past = (seconds) => Math.floor(Date.now() / 1000) - seconds;
const fields = ({ message, code, statusCode, href }) => ({ message, code, statusCode, href });

/** The same token with another user in it, under the old signature. */
function forged(token) {
  const [header, payload, signature] = token.split(".");
  const claims = JSON.parse(Buffer.from(payload, "base64url"));
  claims.username = "bob";
  return [header, Buffer.from(JSON.stringify(claims)).toString("base64url"), signature].join(".");
}

const UNAUTHORIZED = [
  ["no session at all", async () => ({}), /No Clerk session/],
  ["an expired session token", () => alice({ iat: past(120), nbf: past(130), exp: past(60) }), /expired/],
  ["a tampered session token", async () => bearer(forged(await sandbox.sessionToken("alice"))), /signature/],
  ["a session token minted for another origin", () => alice({ azp: "https://elsewhere.example" }), /authorized party/],
  ["a pending session", () => alice({ sts: "pending" }), /pending/],
  ["something that is no token", async () => bearer("x.y.z"), /./],
];

const FORBIDDEN = [
  ["a user without a username", async () => bearer(await sandbox.sessionToken(NOOR)), /no username/],
  ["a banned user", async () => bearer(await sandbox.sessionToken("mallory")), /banned/],
];

for (const [state, statusCode, code, cases] of [
  ["disconnected", 401, 40101, UNAUTHORIZED],
  ["failed", 403, 40300, FORBIDDEN],
]) {
  for (const [who, authHeadersOf, words] of cases) {
    for (const authMethod of ["GET", "POST"]) {
      test(`${who} leaves a realtime client ${state} with the service's reason by ${authMethod}`, async (t) => {
        const authHeaders = await authHeadersOf();
        const { status, body } = await sandbox.ask({ method: authMethod, headers: authHeaders });
        assert.equal(status, statusCode);
        assert.match(body.error.message, words);
        assert.match(body.error.message, / \([a-z-]+\)$/);

        const client = realtime(t, sandbox, { authHeaders, authMethod });
        const reason = await reaches(client, state);
        assert.equal(reason.code, 80019);
        assert.equal(reason.statusCode, statusCode);
        assert.deepEqual(fields(reason.cause), body.error);
        assert.deepEqual([body.error.code, body.error.statusCode], [code, statusCode]);
        assert.deepEqual(fields(client.connection.errorReason.cause), body.error);
      });
    }

    test(`${who} makes a REST client reject with the service's reason`, async () => {
      const authHeaders = await authHeadersOf();
      const { body } = await sandbox.ask({ headers: authHeaders });
      const client = rest(sandbox, { authHeaders });
      await assert.rejects(client.auth.requestToken(), body.error);
      await assert.rejects(client.channels.get("any").publish("any", ""), body.error);
    });
  }
}

test("with TOKEN_SIGNED_OUT=fail a client without a session fails, and connects after the sign-in", async (t) => {
  const failing = await startSandbox(t, { settings: { TOKEN_SIGNED_OUT: "fail" } });
  for (const authMethod of ["GET", "POST"]) {
    for (const authHeaders of [{}, { authorization: "-" }, { authorization: "Bearer null" }]) {
      const client = realtime(t, failing, { authHeaders, authMethod });
      const { statusCode, cause } = await reaches(client, "failed");
      assert.deepEqual([statusCode, cause.code, cause.statusCode], [403, 40300, 403]);
      assert.match(cause.message, /\(session-token-missing\)$/);

      Object.assign(authHeaders, bearer(await failing.sessionToken("alice")));
      client.connect();
      await reaches(client, "connected");
    }
    // Whoever is signed in may get a better session token in a moment.
    const authHeaders = bearer(await failing.sessionToken("alice", { iat: past(120), nbf: past(130), exp: past(60) }));
    await reaches(realtime(t, failing, { authHeaders, authMethod }), "disconnected");
  }
});

test("a client that was refused connects once its app gives it a session", async (t) => {
  const client = realtime(t, sandbox, {});
  await reaches(client, "disconnected");
  await client.auth.authorize(null, { authUrl: sandbox.authUrl, authHeaders: await alice() });
  await reaches(client, "connected");
  assert.equal(client.auth.clientId, "alice");
});
