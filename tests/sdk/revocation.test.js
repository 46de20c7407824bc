// Revocation, as ably-js asks for it and as it meets its clients: who is cut, when, and who comes back.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { keyHolder, reaches, realtime, statesFromNowOn, until } from "./support/clients.js";
import { startGate } from "./support/gate.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const MARGIN_MS = 5_000;
const ALICE = { type: "clientId", value: "alice" };

/** A sandbox whose key has revocable tokens, and what is needed to revoke them. */
async function start(t, format) {
  const settings = { TOKEN_FORMAT: format, ABLY_REVOCABLE_TOKENS: "true" };
  const sandbox = await startSandbox(t, { settings });
  await sandbox.changeKey({ revocableTokens: true, reauthMarginMs: MARGIN_MS });
  const { auth } = keyHolder(sandbox);
  const revoke = async (target, options) => {
    const { successCount, failureCount, results } = await auth.revokeTokens([target], options);
    assert.deepEqual([successCount, failureCount, results[0].target], [1, 0, `${target.type}:${target.value}`]);
    return results[0];
  };
  return { sandbox, gate: await startGate(t, sandbox), revoke };
}

/** A connected client of alice, in a session of its own. */
async function connect(t, { sandbox, gate }) {
  const token = await sandbox.sessionToken("alice");
  const client = realtime(t, sandbox, { authUrl: gate.authUrl, authHeaders: bearer(token) });
  await reaches(client, "connected");
  const sessionId = JSON.parse(Buffer.from(token.split(".")[1], "base64url")).sid;
  return { client, sessionId };
}

/** Waits for the connection to be broken, and returns how its state changed then. */
function cut({ connection }) {
  return connection.once("disconnected");
}

/** Waits until the stand-in has as many live connections, and returns them. */
async function live(sandbox, count) {
  await until(`${count} live connections`, async () => (await sandbox.connections()).length === count);
  return sandbox.connections();
}

/** Waits for the next whole second: a JWT that is signed in the second of its revocation counts as signed before. */
function nextSecond() {
  const begun = Math.floor(Date.now() / 1000);
  return until("the next second", () => Math.floor(Date.now() / 1000) > begun);
}

describe("a revocation", { concurrency: true }, () => {
  for (const [status, state, code] of [
    [401, "disconnected", 40101],
    [403, "failed", 40300],
  ]) {
    test(`of a session's JWTs cuts its client and no other, which is then ${state} by a ${status}`, async (t) => {
      const context = await start(t, "jwt");
      const { sandbox, gate, revoke } = context;
      const [signedOut, other] = [await connect(t, context), await connect(t, context)];
      const states = statesFromNowOn(other.client);
      gate.refuseWith = status;
      const first = cut(signedOut.client);
      await revoke({ type: "revocationKey", value: signedOut.sessionId });

      const { connection } = signedOut.client;
      const { reason } = await first;
      assert.deepEqual([reason.code, reason.statusCode], [40141, 401]);
      await until(`the refusal, and ${state}`, () => connection.state === state && connection.errorReason?.cause);
      const { cause } = connection.errorReason;
      assert.deepEqual([cause.statusCode, cause.code, cause.message], [status, code, "refused at the door"]);
      const [left] = await live(sandbox, 1);
      assert.equal(left.revocationKey, other.sessionId);
      assert.equal(left.connectionId, other.client.connection.id);
      assert.deepEqual(states, []);
    });
  }

  test("of a session's JWTs lets its client come back with the JWT of a later second", async (t) => {
    const context = await start(t, "jwt");
    const { client, sessionId } = await connect(t, context);
    const revoked = client.auth.tokenDetails.token;
    context.gate.refuseWith = 401;
    await context.revoke({ type: "revocationKey", value: sessionId });
    await reaches(client, "disconnected");
    await nextSecond();
    context.gate.refuseWith = null;
    client.connect();
    await reaches(client, "connected");
    assert.notEqual(client.auth.tokenDetails.token, revoked);
  });

  test("of a client ID's tokens without a margin cuts its clients, who come back with new ones", async (t) => {
    const context = await start(t, "token_request");
    const { sandbox, gate, revoke } = context;
    const { client } = await connect(t, context);
    const [states, revoked] = [statesFromNowOn(client), client.auth.tokenDetails.token];
    await revoke(ALICE);
    await until("the client to be back", () => states.at(-1) === "connected");
    assert.deepEqual(states, ["disconnected", "connecting", "connected"]);
    assert.notEqual(client.auth.tokenDetails.token, revoked);
    assert.equal(gate.asked, 2);
    await live(sandbox, 1);
  });

  test("with a margin goes unnoticed by a client that gets a new token", async (t) => {
    const context = await start(t, "token_request");
    const { sandbox, revoke } = context;
    const { client } = await connect(t, context);
    const { id } = client.connection;
    const [states, revoked] = [statesFromNowOn(client), client.auth.tokenDetails.token];
    const { appliesAt, issuedBefore } = await revoke(ALICE, { allowReauthMargin: true });
    assert.equal(appliesAt - issuedBefore, MARGIN_MS);
    await until("a new token", () => {
      const now = client.auth.tokenDetails?.token;
      return now && now !== revoked;
    });
    await until("the margin to be over", () => Date.now() > appliesAt + 100);
    await client.channels.get("room").publish("hello", "there");

    assert.deepEqual(states.filter((state) => state !== "connected"), []);
    const [{ connectionId, revokedFrom }] = await live(sandbox, 1);
    assert.deepEqual([connectionId, revokedFrom], [id, null]);
  });

  test("with a margin cuts a client that is refused a new token with a 401, when the margin is over", async (t) => {
    const context = await start(t, "token_request");
    const { sandbox, gate, revoke } = context;
    const { client } = await connect(t, context);
    gate.refuseWith = 401;
    const { appliesAt } = await revoke(ALICE, { allowReauthMargin: true });
    const [{ revokedFrom }] = await sandbox.connections();
    assert.equal(revokedFrom, appliesAt);
    await reaches(client, "disconnected");
    assert.ok(Date.now() >= appliesAt);
    await live(sandbox, 0);
  });

  test("with a margin fails a client that is refused a new token with a 403, at once", async (t) => {
    const context = await start(t, "token_request");
    const { sandbox, gate, revoke } = context;
    const { client } = await connect(t, context);
    await sandbox.changeKey({ reauthMarginMs: 60_000 });
    gate.refuseWith = 403;
    await revoke(ALICE, { allowReauthMargin: true });
    const { cause } = await reaches(client, "failed");
    assert.equal(cause.code, 40300);
    await live(sandbox, 0);
  });

  test("does not reach a token request that was signed before it, until it is repeated", async (t) => {
    const { sandbox, revoke } = await start(t, "token_request");
    const { body: hoarded } = await sandbox.ask({ headers: bearer(await sandbox.sessionToken("alice")) });
    await revoke(ALICE);
    const tokens = [hoarded];
    const client = realtime(t, sandbox, {
      authUrl: undefined,
      authCallback: (params, callback) => callback(tokens.length ? null : "no more tokens", tokens.shift()),
    });
    await reaches(client, "connected");
    await revoke(ALICE);
    await reaches(client, "disconnected");
    await live(sandbox, 0);
  });
});
