// The session in Clerk's cookies, in each of the forms that a browser may hold them.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { reaches, realtime } from "./support/clients.js";
import { cookies, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest);

const plain = (values) => values;
const suffixed = (values) => Object.fromEntries(
  Object.entries(values).map(([name, value]) => [`${name}_${sandbox.cookie_suffix}`, value]),
);
const both = (values) => ({ ...plain(values), ...suffixed(values) });

for (const [form, named] of [["plain", plain], ["suffixed", suffixed], ["both", both]]) {
  for (const [beside, headers] of [["alone", {}], ["beside the dummy authorization", { authorization: "-" }]]) {
    for (const authMethod of ["GET", "POST"]) {
      test(`Clerk's cookies under ${form} names, ${beside}, connect by ${authMethod}`, async (t) => {
        const authHeaders = { ...cookies(named(await sandbox.signIn("alice"))), ...headers };
        const client = realtime(t, sandbox, { authHeaders, authMethod });
        await reaches(client, "connected");
        assert.equal(client.auth.clientId, "alice");
      });
    }
  }
}

test("a Bearer token counts before cookies of someone else", async (t) => {
  const authorization = `Bearer ${await sandbox.sessionToken("bob")}`;
  const client = realtime(t, sandbox, { authHeaders: { ...cookies(await sandbox.signIn("alice")), authorization } });
  await reaches(client, "connected");
  assert.equal(client.auth.clientId, "bob");
});

for (const [why, change] of [
  ["say that nobody is signed in", { __client_uat: "0" }],
  ["are older than the last sign-in", { __client_uat: String(Math.floor(Date.now() / 1000) + 3600) }],
  ["lack the dev browser's", { __clerk_db_jwt: "" }],
  ["lack the session token", { __session: "" }],
]) {
  test(`cookies that ${why} leave the client disconnected with the reason`, async (t) => {
    const authHeaders = { ...cookies({ ...(await sandbox.signIn("alice")), ...change }), authorization: "-" };
    const { body } = await sandbox.ask({ headers: authHeaders });
    const client = realtime(t, sandbox, { authHeaders });
    const { cause } = await reaches(client, "disconnected");
    assert.deepEqual([cause.message, cause.code, cause.statusCode], [body.error.message, 40101, 401]);
  });
}
