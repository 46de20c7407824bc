// examples/react-vite as `vite preview` and Vite's dev server show it.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { startChromium } from "../../tests/sdk/support/chromium.js";
import { until } from "../../tests/sdk/support/clients.js";
import { connectionsOf, prepareExample, testSource } from "./support/example.js";
import { connected, connectsOnceNamed } from "./support/visitor.js";

const { test } = nodeTest;
const example = await prepareExample(nodeTest, "react-vite", "vite");
const { sandbox, port, devPort } = example;
const browser = await startChromium(nodeTest);
await example.run("build");
const origin = await example.serve(nodeTest, port, "vite", ["preview", "--port", port]);

testSource(nodeTest, example);

test("two users see each other and their messages", async (t) => {
  const alice = await connected(t, browser, origin, "alice");
  await alice.seesMembers("alice");
  const bob = await connected(t, browser, origin, "bob");
  await alice.seesMembers("alice", "bob");
  await bob.seesMembers("alice", "bob");
  await alice.say("hello from alice");
  await bob.hears("hello from alice");
  await alice.hears("hello from alice");
  await bob.say("hello from bob");
  await alice.hears("hello from bob");
  await alice.inspect(example.name, "chat");
  await bob.signOut();
  await bob.isSignedOut();
  await alice.seesMembers("alice");
});

test("a keyboard reaches and uses everything", async (t) => {
  const carol = await connected(t, browser, origin, "carol");
  await carol.tabTo("acme");
  await carol.page.keyboard.press("Enter");
  await carol.seesMembers("carol");
  for (const name of ["Messages", "Message"]) await carol.tabTo(name);
  await carol.page.keyboard.type("no mouse");
  await carol.tabTo("Send");
  await carol.page.keyboard.press("Space");
  await carol.hears("no mouse");
});

test("a sign-out ends the access of both tabs, and the next user has another client ID", async (t) => {
  const first = await connected(t, browser, origin, "alice");
  const second = await first.otherTab();
  await second.isConnectedAs("alice");
  await second.say("alice was here");
  await first.hears("alice was here");
  assert.equal((await connectionsOf(sandbox, "alice")).length, 2);

  await first.signOut();
  await first.isSignedOut();
  await second.isSignedOut();
  await until("both connections to end", async () => (await connectionsOf(sandbox, "alice")).length === 0);
  await first.inspect(example.name, "signed-out");

  await first.signInAs("bob");
  await first.isConnectedAs("bob");
  await second.page.reload();
  await second.isConnectedAs("bob");
  for (const { page } of [first, second]) assert.equal(await page.getByText("alice was here").count(), 0);
});

test("a switch of the organization gets a token for it, on the same connection", async (t) => {
  const carol = await connected(t, browser, origin, "carol");
  await carol.fact("Organization", /acme/i);
  await carol.openRoom(/acme/i);
  await carol.say("for acme only");
  await carol.hears("for acme only");
  await carol.inspect(example.name, "organization");
  const [{ connectionId }] = await connectionsOf(sandbox, "carol");

  await carol.switchTo(/globex/i);
  await carol.fact("Organization", /globex/i);
  await carol.page.getByText(/^You may not use this room:/).waitFor();
  assert.equal(await carol.page.getByText("for acme only").count(), 0);
  await carol.inspect(example.name, "room-refused");

  await carol.switchTo(/acme/i);
  await carol.fact("Organization", /acme/i);
  await carol.say("back at acme");
  await carol.hears("back at acme");
  assert.deepEqual((await connectionsOf(sandbox, "carol")).map((connection) => connection.connectionId), [connectionId]);
});

test("a renewal shows, and messages go on", async (t) => {
  const carol = await connected(t, browser, origin, "carol");
  await carol.switchTo(/globex/i);
  await carol.say("before");
  await carol.hears("before");
  // Tokens are for five seconds.
  for (const count of [4, 5]) await carol.fact("Tokens", new RegExp(`^${count}, last at`));
  await carol.say("after");
  await carol.hears("after");
  await carol.hears("before");
});

test("a refused user sees why, and connects with a retry when the reason is gone", (t) => connectsOnceNamed(t, browser, origin, example));

test("the dev server passes tokens on too", async (t) => {
  const devOrigin = await example.serve(t, devPort, "vite", ["--port", devPort]);
  const alice = await connected(t, browser, devOrigin, "alice");
  await alice.say("hello from the dev server");
  await alice.hears("hello from the dev server");
  await alice.leave();
});
