// What a signed-in user's client can do: connect under the right name, publish, receive.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { keyHolder, nextMessage, reaches, realtime, rest } from "./support/clients.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const sandbox = await startSandbox(nodeTest);

const METHODS = ["GET", "POST"];
const PROTOCOLS = [["MessagePack", true], ["JSON", false]];

for (const authMethod of METHODS) {
  for (const [protocol, useBinaryProtocol] of PROTOCOLS) {
    const how = `with authMethod ${authMethod} over ${protocol}`;

    test(`a realtime client connects as the Clerk user, publishes and receives ${how}`, async (t) => {
      const authHeaders = bearer(await sandbox.sessionToken("alice"));
      const client = realtime(t, sandbox, { authHeaders, authMethod, useBinaryProtocol });
      assert.equal(await reaches(client, "connected"), null);
      assert.equal(client.auth.clientId, "alice");
      const connections = await sandbox.connections();
      assert.equal(connections.find((each) => each.connectionId === client.connection.id).clientId, "alice");

      const channel = client.channels.get(`realtime ${how}`);
      for (const data of ["text", { an: ["object", 1] }, Buffer.from([0, 1, 255])]) {
        const { message } = await nextMessage(channel);
        await channel.publish("greeting", data);
        const received = await message;
        assert.deepEqual(received.data, data);
        assert.equal(received.name, "greeting");
        assert.equal(received.clientId, "alice");
        assert.equal(received.connectionId, client.connection.id);
      }
    });

    test(`a REST client publishes as the Clerk user and reads history ${how}`, async () => {
      const authHeaders = bearer(await sandbox.sessionToken("bob"));
      const client = rest(sandbox, { authHeaders, authMethod, useBinaryProtocol });
      const channel = client.channels.get(`rest ${how}`);
      await channel.publish("first", { n: 1 });
      await channel.publish("second", "two");
      assert.equal(client.auth.tokenDetails.clientId, "bob");

      const { items } = await channel.history();
      assert.deepEqual(items.map(({ name, data, clientId }) => ({ name, data, clientId })), [
        { name: "second", data: "two", clientId: "bob" },
        { name: "first", data: { n: 1 }, clientId: "bob" },
      ]);
    });
  }
}

test("two users hear each other, each under their own name", async (t) => {
  const [alice, bob] = await Promise.all(["alice", "bob"].map(async (user) => {
    const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken(user)) });
    await reaches(client, "connected");
    return client;
  }));
  const { message } = await nextMessage(bob.channels.get("between users"));
  await alice.channels.get("between users").publish("hello", "bob");
  const { clientId, data } = await message;
  assert.deepEqual({ clientId, data }, { clientId: "alice", data: "bob" });

  await bob.channels.get("between users").presence.enter("here");
  const members = await alice.channels.get("between users").presence.get();
  assert.deepEqual(members.map(({ clientId, data }) => ({ clientId, data })), [{ clientId: "bob", data: "here" }]);
});

test("a back end with the API key reaches the users without a token of the service", async (t) => {
  const alice = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
  await reaches(alice, "connected");
  const { message } = await nextMessage(alice.channels.get("from the back end"));
  await keyHolder(sandbox).channels.get("from the back end").publish("news", "for all");
  const { clientId, data } = await message;
  assert.deepEqual({ clientId, data }, { clientId: undefined, data: "for all" });
});

test("nobody publishes under another's name", async (t) => {
  const client = realtime(t, sandbox, { authHeaders: bearer(await sandbox.sessionToken("alice")) });
  await reaches(client, "connected");
  const publish = client.channels.get("disguise").publish({ name: "hello", data: "", clientId: "bob" });
  await assert.rejects(publish, { code: 40012 });
});
