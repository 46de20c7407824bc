// Visitors who are not signed in, as docs/connect.md advises: a token of the app's own, and a new client after the sign-in.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { keyHolder, reaches, realtime } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest);

test("a guest has a token of the app's own that only reads, and is the user with a new client after the sign-in", async (t) => {
  const visitor = realtime(t, sandbox, {});
  assert.equal((await reaches(visitor, "disconnected")).cause.code, 40101);
  visitor.close();

  const app = keyHolder(sandbox);
  const forGuests = { capability: { "public:*": ["subscribe"] } };
  const authCallback = (params, callback) =>
    app.auth.createTokenRequest({ ...params, ...forGuests }).then((request) => callback(null, request), callback);
  const guest = realtime(t, sandbox, { authUrl: undefined, authCallback });
  await reaches(guest, "connected");
  const channel = guest.channels.get("public:news");
  await channel.attach();
  await assert.rejects(channel.publish("greeting", "hello"), { code: 40160 });
  await assert.rejects(guest.channels.get("private").attach(), { code: 40160 });
  guest.close();

  const user = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
  await reaches(user, "connected");
  assert.equal(user.auth.clientId, "alice");
});
