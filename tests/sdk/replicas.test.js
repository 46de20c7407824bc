// Two replicas of one Redis. Clerk tells one of them that a session is over; the client that got its token from the
// other loses its connection, and the same user's other devices keep theirs.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import * as Ably from "ably";

import { reaches, realtime, statesFromNowOn, until } from "./support/clients.js";
import { startRedis, startReplica } from "./support/processes.js";
import { bearer, cookies, startSandbox } from "./support/sandbox.js";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MARGIN_MS = 4_000;

/** The sandbox with the replica that gets the webhooks, and another beside it. */
async function start(t, format) {
  const redis = await startRedis(t);
  const settings = {
    TOKEN_FORMAT: format,
    ABLY_REVOCABLE_TOKENS: "true",
    CLERK_WEBHOOK_SIGNING_SECRET: SECRET,
    REDIS_URL: redis.url,
    // A test asks again and again until it is refused.
    LIMITS_TOKENS_PER_MINUTE: "0",
  };
  const sandbox = await startSandbox(t, { settings });
  const other = await startReplica(t, sandbox, settings);
  await sandbox.changeKey({ revocableTokens: true, reauthMarginMs: MARGIN_MS });
  await sandbox.sendWebhooks(`${sandbox.service}/webhooks/clerk`, SECRET);
  return { redis, sandbox, other };
}

const claims = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url"));

/** A session whose token is sent as a header. */
async function withHeader({ sandbox }, { expiresInSeconds = 60 } = {}) {
  const exp = Math.floor(Date.now() / 1000) + expiresInSeconds;
  const token = await sandbox.sessionToken("alice", { exp, iat: exp - 60, nbf: exp - 70 });
  return { id: claims(token).sid, headers: bearer(token) };
}

/** A session whose token is in a browser's cookies, which are sent as long as they are there. */
async function withCookies({ sandbox }) {
  const jar = await sandbox.signIn("alice");
  const headers = { authorization: "-", get cookie() { return cookies(jar).cookie; } };
  // As clerk-js leaves them behind at a sign-out.
  const clear = () => Object.assign(jar, { __session: "", __client_uat: "0" });
  return { id: claims(jar.__session).sid, headers, clear };
}

async function connect(t, { sandbox }, { authUrl }, session) {
  const client = realtime(t, sandbox, { authUrl, authHeaders: session.headers });
  await reaches(client, "connected");
  return client;
}

/** Clients of two more devices of the same user, one through each replica. */
async function otherDevices(t, context, signIn) {
  const through = async (replica) => {
    const client = await connect(t, context, replica, await signIn(context));
    return { client, connectionId: client.connection.id, token: client.auth.tokenDetails.token };
  };
  const devices = await Promise.all([context.sandbox, context.other].map(through));
  return devices.map((device) => ({ ...device, states: statesFromNowOn(device.client) }));
}

/** When the client leaves `connected`, in milliseconds since the epoch. */
function disconnection({ connection }) {
  return new Promise((resolve) => {
    const listener = ({ current }) => {
      if (current === "connected") return;
      connection.off(listener);
      resolve(Date.now());
    };
    connection.on(listener);
  });
}

/** Signs out, and returns when Clerk sent the webhook, once the first replica has taken it. */
async function signOut({ sandbox }, session) {
  await sandbox.signOut(session.id);
  const ofThis = ({ type, data }) => type === "session.ended" && data.id === session.id;
  const { events } = await sandbox.webhooks();
  const { id, timestamp } = events.find(ofThis);
  await until("the webhook to be taken", async () => {
    const { attempts } = await sandbox.webhooks();
    return attempts.some(({ event_id, answer }) => event_id === id && answer.status === 204);
  });
  return timestamp;
}

const refuses = async ({ ask }, { headers }, status) => {
  let error;
  await until(`the other replica to answer ${status}`, async () => {
    const answer = await ask({ headers });
    ({ error } = answer.body);
    return answer.status === status;
  });
  return error;
};

/** The others are where they were when all that was revoked is gone. */
async function assertUndisturbed({ sandbox }, devices, reauthenticated) {
  const { at } = (await sandbox.revocations()).at(-1);
  await until("the margin to be over", () => Date.now() > at + MARGIN_MS + 100);
  for (const { client, connectionId, token, states } of devices) {
    await client.channels.get("room").publish("hello", "there");
    assert.deepEqual(states.filter((state) => state !== "connected"), []);
    assert.equal(client.connection.id, connectionId);
    assert.equal(client.auth.tokenDetails.token !== token, reauthenticated);
  }
  const live = await sandbox.connections();
  assert.deepEqual(live.map((each) => each.connectionId).sort(), devices.map((each) => each.connectionId).sort());
  assert.deepEqual(live.map((each) => each.revokedFrom), [null, null]);
}

/** When what is to be done is due, as replicas keep it in Redis. */
const DUE = "aca:{v4}:claimable";

/** When the one task is due that waits in Redis, in milliseconds since the epoch. */
async function dueWork(redis) {
  assert.equal(await redis.command("ZCARD", DUE), ":1");
  const script = "return tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])";
  const answer = await redis.command("EVAL", script, "1", DUE);
  return Number(answer.slice(1));
}

/** Makes all work due that waits in Redis, as if its time had come. */
async function makeDue(redis) {
  const script = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 0, id) end";
  await redis.command("EVAL", script, "1", DUE);
}

const fields = ({ message, code, statusCode, href }) => ({ message, code, statusCode, href });

describe("a sign-out told to one replica", { concurrency: 2 }, () => {
  for (const [what, format, signIn, margin] of [
    ["a JWT", "jwt", withHeader, "no margin"],
    ["a token request", "token_request", withHeader, `a margin of ${MARGIN_MS} ms`],
    ["a cookie session", "token_request", withCookies, `a margin of ${MARGIN_MS} ms`],
  ]) {
    test(`fails the client of ${what} from the other while its session token still verifies`, async (t) => {
      const context = await start(t, format);
      const session = await signIn(context);
      const client = await connect(t, context, context.other, session);
      const devices = await otherDevices(t, context, signIn);
      const disconnected = disconnection(client);

      const sent = await signOut(context, session);
      const error = await refuses(context.other, session, 403);
      assert.deepEqual([error.code, error.statusCode], [40300, 403]);
      await until("the client to be failed", () => client.connection.state === "failed");
      assert.deepEqual(fields(client.connection.errorReason.cause), error);
      console.log(`  ${what}, 403: disconnected ${(await disconnected) - sent} ms after the webhook was sent`);
      await assertUndisturbed(context, devices, format !== "jwt");
    });

    test(`disconnects the client of ${what} from the other once its session token verifies no more`, async (t) => {
      const context = await start(t, format);
      const session = await signIn(context, { expiresInSeconds: 5 });
      const client = await connect(t, context, context.other, session);
      const devices = await otherDevices(t, context, signIn);
      const disconnected = disconnection(client);
      session.clear?.();
      const error = await refuses(context.other, session, 401);
      assert.equal(client.connection.state, "connected");

      const sent = await signOut(context, session);
      await until("the refusal", () => client.connection.errorReason?.cause?.message === error.message);
      await until("the client to be disconnected", () => client.connection.state === "disconnected");
      assert.deepEqual(fields(client.connection.errorReason.cause), error);
      const after = `${(await disconnected) - sent} ms after the webhook was sent (${margin})`;
      console.log(`  ${what}, 401: disconnected ${after}`);
      await assertUndisturbed(context, devices, format !== "jwt");
    });
  }

  test("reaches a hoarded token request when it is repeated, whichever replica repeats it", async (t) => {
    const context = await start(t, "token_request");
    const { redis, sandbox, other } = context;
    const session = await withHeader(context);
    const { body: hoarded } = await other.ask({ headers: session.headers });
    const devices = await otherDevices(t, context, withHeader);
    const sent = await signOut(context, session);
    const error = await refuses(other, session, 403);

    const hoard = [hoarded];
    const authCallback = async (params, callback) => {
      const tokenRequest = hoard.shift();
      if (tokenRequest) return callback(null, tokenRequest);
      const { status, body } = await other.ask({ headers: session.headers });
      return status === 200 ? callback(null, body) : callback(Ably.ErrorInfo.fromValues(body.error), null);
    };
    const client = realtime(t, sandbox, { authUrl: undefined, authCallback });
    await reaches(client, "connected");
    const disconnected = disconnection(client);

    const wait = (await dueWork(redis)) - sent;
    assert.ok(wait >= 150_000 && wait < 180_000, `${wait} ms`);
    const repeated = Date.now();
    await makeDue(redis);
    await until("the client to be failed", () => client.connection.state === "failed");
    assert.deepEqual(fields(client.connection.errorReason.cause), error);
    const after = `${(await disconnected) - repeated} ms after the repetition was due`;
    console.log(`  a hoarded token request: disconnected ${after}`);
    await assertUndisturbed(context, devices, true);
  });
});
