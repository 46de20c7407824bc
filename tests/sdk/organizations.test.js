// The param `organization`: a client gets the rights of the organization that it means, or asks again.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { reaches, realtime, rest, statesFromNowOn } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const policy = `
[[grants]]
name = "organization"
when = { organization = ["acme", "beta"] }
capability = { "org:{org_id}:*" = ["*"] }
[[grants]]
name = "all"
capability = { lobby = ["subscribe"] }
`;
const sandbox = await startSandbox(nodeTest, { policy, settings: { LIMITS_TOKENS_PER_MINUTE: "0" } });
const ACME = { id: "org_acme", slg: "acme", rol: "member" };
const BETA = { id: "org_beta", slg: "beta", rol: "member" };

/** The header of a session that is active in this organization, or in none. */
const activeIn = async (o) => bearer(await sandbox.sessionToken("alice", { o }));
const resources = ({ auth }) => Object.keys(JSON.parse(auth.tokenDetails.capability));

for (const authMethod of ["GET", "POST"]) {
  test(`a client that names its organization in authParams connects with that one's rights, by ${authMethod}`, async (t) => {
    for (const [o, organization, granted] of [
      [ACME, "org_acme", ["lobby", "org:org_acme:*"]],
      [ACME, "acme", ["lobby", "org:org_acme:*"]],
      [null, "none", ["lobby"]],
      [ACME, null, ["lobby", "org:org_acme:*"]],
      [ACME, "", ["lobby", "org:org_acme:*"]],
    ]) {
      const client = realtime(t, sandbox, { authHeaders: await activeIn(o), authMethod, authParams: { organization } });
      await reaches(client, "connected");
      assert.deepEqual(resources(client), granted, organization);
    }
  });

  test(`a client whose session is active in another organization retries, and then gets the token, by ${authMethod}`, async (t) => {
    const authHeaders = await activeIn(ACME);
    const authParams = { organization: "org_beta" };
    const client = realtime(t, sandbox, { authHeaders, authMethod, authParams, disconnectedRetryTimeout: 50 });
    const { cause } = await reaches(client, "disconnected");
    assert.deepEqual([cause.code, cause.statusCode], [40101, 401]);
    assert.match(cause.message, /\(organization-mismatch\)$/);

    // As the session cookie does in a browser, the header changes under the client.
    Object.assign(authHeaders, await activeIn(BETA));
    await reaches(client, "connected");
    assert.deepEqual(resources(client), ["lobby", "org:org_beta:*"]);
  });

  test(`a connected client switches organizations with authorize(), by ${authMethod}`, async (t) => {
    const { authUrl } = sandbox;
    const authHeaders = await activeIn(ACME);
    const client = realtime(t, sandbox, { authHeaders, authMethod, authParams: { organization: "org_acme" } });
    await reaches(client, "connected");
    const states = statesFromNowOn(client);

    // Too early: the session is not active there yet. The connection keeps its token.
    const authParams = { organization: "org_beta" };
    const tooEarly = client.auth.authorize(null, { authUrl, authMethod, authHeaders, authParams });
    await assert.rejects(tooEarly, ({ message }) => message.includes("(organization-mismatch)"));
    await client.channels.get("org:org_acme:chat").publish("hello", "");

    await client.auth.authorize(null, { authUrl, authMethod, authHeaders: await activeIn(BETA), authParams });
    assert.deepEqual(resources(client), ["lobby", "org:org_beta:*"]);
    await client.channels.get("org:org_beta:chat").publish("hello", "");
    await assert.rejects(client.channels.get("org:org_acme:chat").publish("hello", ""), { code: 40160 });
    assert.ok(!states.includes("failed") && !states.includes("disconnected"), states.join());
  });
}

test("an organization in the query of the authUrl counts by GET", async () => {
  const authUrl = `${sandbox.authUrl}?organization=org_beta`;
  const client = rest(sandbox, { authUrl, authHeaders: await activeIn(ACME) });
  await assert.rejects(client.auth.requestToken(), { code: 40101, statusCode: 401 });
  const there = rest(sandbox, { authUrl, authHeaders: await activeIn(BETA) });
  assert.equal((await there.auth.requestToken()).clientId, "alice");
});
