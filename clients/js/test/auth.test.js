// createAblyAuth with the real ably-js, the service and the sandbox's stand-ins, in Node.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import * as nodeTest from "node:test";
import { promisify } from "node:util";

import { createAblyAuth } from "ably-clerk-auth";
import * as Ably from "ably";

import { nextMessage, reaches, standIn, statesFromNowOn } from "../../../tests/sdk/support/clients.js";
import { NOOR, startSandbox } from "../../../tests/sdk/support/sandbox.js";
import { html, json, redirect, SILENCE, startGateway } from "./support/gateway.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest, { settings: { LIMITS_TOKENS_PER_MINUTE: "0" } });
const EXPIRED = { iat: 1_700_000_000, nbf: 1_700_000_000, exp: 1_700_000_060 };

/** A client of the package, its errors, and how its session tokens were asked for. */
async function start(t, { user = "alice", gateway, options = {}, ...authOptions } = {}) {
  const errors = [];
  const asked = [];
  const getToken = (how) => {
    asked.push(how);
    return sandbox.sessionToken(user);
  };
  const url = gateway?.url ?? sandbox.authUrl;
  const authCallback = createAblyAuth({ url, getToken, onError: (error) => errors.push(error), ...authOptions });
  const client = new Ably.Realtime({ ...standIn(sandbox), authCallback, ...options });
  t.after(() => client.close());
  return { client, errors, asked, authCallback };
}

/** The error of one call, as ably-js gets it. */
function errorOf(authCallback, params = {}) {
  return new Promise((resolve, reject) => {
    authCallback(params, (error) => (error ? resolve(error) : reject(new Error("there is a token"))));
  });
}

const facts = ({ message, code, statusCode }) => ({ message, code, statusCode });

test("a client connects as its user and renews its token", async (t) => {
  const { client, errors, asked } = await start(t);
  await reaches(client, "connected");
  assert.equal(client.auth.clientId, "alice");
  const { message } = await nextMessage(client.channels.get("lobby"));
  await client.channels.get("lobby").publish("hello", "there");
  assert.equal((await message).data, "there");

  const states = statesFromNowOn(client);
  await client.auth.authorize();
  assert.ok(!states.includes("disconnected"), states.join());
  assert.deepEqual([errors, asked], [[], [undefined, undefined]]);
});

for (const format of ["token_request", "token_details", "jwt"]) {
  test(`TOKEN_FORMAT=${format} is understood`, async (t) => {
    const other = await startSandbox(t, { settings: { TOKEN_FORMAT: format } });
    const authCallback = createAblyAuth({ url: other.authUrl, getToken: () => other.sessionToken("bob") });
    const client = new Ably.Realtime({ ...standIn(other), authCallback });
    t.after(() => client.close());
    await reaches(client, "connected");
    assert.equal(client.auth.clientId, "bob");
  });
}

test("token params and the organization go into the query, and absent ones do not", async (t) => {
  const gateway = await startGateway(t, sandbox);
  let organization = null;
  const { authCallback } = await start(t, {
    gateway: { url: `${gateway.url}?app=web` },
    organization: () => organization,
    options: { autoConnect: false },
  });
  gateway.answer = html(502);
  const params = { ttl: 60_000, clientId: undefined, nonce: null, capability: { lobby: ["subscribe"] } };
  const asked = { app: "web", ttl: "60000", capability: '{"lobby":["subscribe"]}' };
  await errorOf(authCallback, params);
  organization = "org_acme";
  await errorOf(authCallback, params);
  organization = undefined;
  await errorOf(authCallback, params);
  assert.deepEqual(gateway.requests.map((request) => request.params), [
    { ...asked, organization: "none" },
    { ...asked, organization: "org_acme" },
    asked,
  ]);
});

test("without a session token there is no request", async (t) => {
  const gateway = await startGateway(t, sandbox);
  const { client, errors } = await start(t, { gateway, getToken: () => Promise.resolve(null) });
  const { cause } = await reaches(client, "disconnected");
  assert.deepEqual([cause.code, cause.statusCode], [40101, 401]);
  assert.match(cause.message, /not signed in/);
  assert.deepEqual([errors[0], gateway.requests.length], [cause, 0]);
});

test("a rejected session token is replaced at once, once, by one that is not from the cache", async (t) => {
  const gateway = await startGateway(t, sandbox);
  const asked = [];
  const getToken = (how) => {
    asked.push(how);
    return sandbox.sessionToken("alice", how?.skipCache ? {} : EXPIRED);
  };
  const { client, errors } = await start(t, { gateway, getToken });
  await reaches(client, "connected");
  assert.deepEqual(asked, [undefined, { skipCache: true }]);
  assert.deepEqual([errors, gateway.requests.length], [[], 2]);
});

test("a session token that stays rejected is left to ably-js after two requests", async (t) => {
  const gateway = await startGateway(t, sandbox);
  const { client, errors } = await start(t, { gateway, getToken: () => sandbox.sessionToken("alice", EXPIRED) });
  const { cause } = await reaches(client, "disconnected");
  assert.match(cause.message, /\(token-expired\)$/);
  assert.deepEqual([errors[0], errors.length, gateway.requests.length], [cause, 1, 2]);
});

test("a 403 is final, and has the service's sentence, code, status and request ID on top", async (t) => {
  const gateway = await startGateway(t, sandbox);
  const { client, errors } = await start(t, { gateway, user: NOOR });
  const reason = await reaches(client, "failed");
  assert.equal(reason.cause, errors[0]);
  assert.ok(errors[0] instanceof Ably.ErrorInfo);
  const { body } = await sandbox.ask({ headers: { authorization: gateway.requests[0].authorization } });
  const { message, code, statusCode } = body.error;
  assert.deepEqual(facts(errors[0]), { message, code, statusCode });
  assert.equal(statusCode, 403);
  assert.match(errors[0].detail.requestId, /./);
  assert.equal(gateway.requests.length, 1);
});

for (const [status, code] of [[429, 42910], [503, 50003]]) {
  test(`a ${status} is left to ably-js, which tries again`, async (t) => {
    const gateway = await startGateway(t, sandbox);
    const error = { code, statusCode: status, message: "later (test)" };
    gateway.answer = () => (gateway.requests.length === 1 ? json(status, { error }) : undefined);
    const { client, errors } = await start(t, { gateway, options: { disconnectedRetryTimeout: 50 } });
    const { cause } = await reaches(client, "disconnected");
    assert.deepEqual(facts(cause), { message: "later (test)", code, statusCode: status });
    await reaches(client, "connected");
    assert.deepEqual([errors, gateway.requests.length], [[cause], 2]);
  });
}

test("an answer that is not the service's says so", async (t) => {
  const gateway = await startGateway(t, sandbox);
  const { authCallback } = await start(t, { gateway, options: { autoConnect: false } });
  const { url } = gateway;
  for (const [answer, message, code, statusCode] of [
    [html(502), `${url} answered 502 without an Ably error.`, 40170, 502],
    [json(500, { error: "boom" }), `${url} answered 500 without an Ably error.`, 40170, 500],
    [{ ...json(500), body: "{" }, `${url} answered 500 without an Ably error.`, 40170, 500],
    [html(403), `${url} answered 403 without an Ably error.`, 40300, 403],
    [html(200), `${url} answered 200 without an Ably token.`, 40170, 401],
    [json(200, { hello: "there" }), `${url} answered 200 without an Ably token.`, 40170, 401],
    [redirect("/sign-in"), /answered with a redirect\. Exclude it from what redirects to the sign-in page\.$/, 40170, 401],
  ]) {
    gateway.answer = answer;
    const error = await errorOf(authCallback);
    assert.ok(error instanceof Ably.ErrorInfo);
    assert.match(error.message, message instanceof RegExp ? message : new RegExp(`^${message.replaceAll(/[.?/]/g, "\\$&")}$`));
    assert.deepEqual([error.code, error.statusCode], [code, statusCode]);
  }
});

test("a client goes on after a gateway's HTML 502", async (t) => {
  const gateway = await startGateway(t, sandbox);
  gateway.answer = html(502);
  const { client } = await start(t, { gateway, options: { disconnectedRetryTimeout: 50 } });
  const { cause } = await reaches(client, "disconnected");
  assert.match(cause.message, /answered 502 without an Ably error/);
  gateway.answer = undefined;
  await reaches(client, "connected");
});

test("a service that does not answer, or a Clerk that does not, is given up before ably-js does", async (t) => {
  const gateway = await startGateway(t, sandbox);
  gateway.answer = SILENCE;
  const never = () => new Promise(() => {});
  for (const getToken of [() => sandbox.sessionToken("alice"), never]) {
    const { client, errors } = await start(t, { gateway, getToken, timeoutMs: 200 });
    const { cause } = await reaches(client, "disconnected");
    const message = `${gateway.url} gave no token within 200 ms.`;
    assert.deepEqual(facts(cause), { message, code: 40170, statusCode: 401 });
    assert.deepEqual(errors, [cause]);
  }
  assert.equal(gateway.requests.length, 1);
});

test("a request that takes too long is aborted", async (t) => {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  const url = `http://127.0.0.1:${server.address().port}/`;
  const aborted = once(server, "request").then(([request]) => once(request.socket, "close"));
  const authCallback = createAblyAuth({ url, getToken: () => Promise.resolve("token"), timeoutMs: 200 });
  await errorOf(authCallback);
  await aborted;
});

test("an unreachable service and a failing getToken() are ErrorInfos too", async () => {
  const getToken = () => Promise.resolve("token");
  const unreachable = await errorOf(createAblyAuth({ url: "http://127.0.0.1:1/", getToken }));
  assert.match(unreachable.message, /^http:\/\/127\.0\.0\.1:1\/ is unreachable: /);
  for (const failing of [() => Promise.reject(new Error("offline")), () => { throw new Error("offline"); }]) {
    const error = await errorOf(createAblyAuth({ url: "http://127.0.0.1:1/", getToken: failing }));
    assert.equal(error.message, "Clerk's getToken() failed: offline");
  }
  assert.ok(unreachable instanceof Ably.ErrorInfo);
});

test("ably-js gets the error although onError throws", async () => {
  const program = `
    import { createAblyAuth } from "ably-clerk-auth";
    const onError = () => { throw new Error("onError is broken"); };
    const authCallback = createAblyAuth({ url: "http://127.0.0.1:1/", getToken: async () => null, onError });
    authCallback({}, ({ code }) => console.log(code));`;
  const running = promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], { cwd: import.meta.dirname });
  const { stdout, stderr } = await running.catch((error) => error);
  assert.equal(stdout, "40101\n");
  assert.match(stderr, /onError is broken/);
});

test("a client of a session with another active organization gets the token once Clerk has it", async (t) => {
  let organization = "org_acme";
  const active = () => ({ o: { id: organization, slg: "any", rol: "member" } });
  let cached = null;
  const getToken = async (how) => {
    if (!cached || how?.skipCache) cached = await sandbox.sessionToken("alice", active());
    return cached;
  };
  const { client, errors } = await start(t, { getToken, organization: () => organization });
  await reaches(client, "connected");
  const states = statesFromNowOn(client);
  organization = "org_beta";
  await client.auth.authorize();
  assert.ok(!states.includes("disconnected"), states.join());
  assert.deepEqual(errors, []);
});
