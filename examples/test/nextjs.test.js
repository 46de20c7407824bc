// examples/nextjs as `next start` shows it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as nodeTest from "node:test";

import { startChromium } from "../../tests/sdk/support/chromium.js";
import { until } from "../../tests/sdk/support/clients.js";
import { connectionsOf, prepareExample, testSource } from "./support/example.js";
import { connected, connectsOnceNamed, visit } from "./support/visitor.js";

const { test } = nodeTest;
const MATCHER = /"\/\(\(\?!.*?"/g;
const example = await prepareExample(nodeTest, "nextjs", "next");
const { sandbox, port } = example;
const browser = await startChromium(nodeTest);
await example.run("build");
const origin = await example.serve(nodeTest, port, "next", ["start", "--port", port]);

testSource(nodeTest, example);

test("signed-out visitors get the sign-in page, but from the token route the service's own answer", async (t) => {
  const visitor = await visit(t, browser, origin);
  await visitor.isSignedOut();
  assert.equal(new URL(visitor.page.url()).pathname, "/sign-in");
  await visitor.inspect(example.name, "signed-out");

  const response = await fetch(`${origin}/api/ably`, { redirect: "manual" });
  assert.equal(response.status, 401);
  assert.match((await response.json()).error.message, /\(session-token-missing\)$/);
});

test("the documented matchers are the one of this example", async () => {
  const read = (path) => readFile(join(import.meta.dirname, "../..", path), "utf8");
  const [ours] = (await read("examples/nextjs/proxy.ts")).match(MATCHER);
  for (const path of ["docs/connect.md", "docs/sandbox.md", "examples/nextjs/README.md"]) {
    const documented = (await read(path)).match(MATCHER);
    assert.equal(documented.at(-1), ours, path);
  }
});

test("messages arrive, a sign-out ends the access of both tabs, and the next user has another client ID", async (t) => {
  const alice = await connected(t, browser, origin, "alice");
  const otherTab = await alice.otherTab();
  await otherTab.isConnectedAs("alice");
  const bob = await connected(t, browser, origin, "bob");
  await alice.say("hello from alice");
  await bob.hears("hello from alice");
  await bob.say("hello from bob");
  await otherTab.hears("hello from bob");
  await alice.inspect(example.name, "messages");

  await alice.signOut();
  await alice.isSignedOut();
  await otherTab.isSignedOut();
  await until("both connections to end", async () => (await connectionsOf(sandbox, "alice")).length === 0);
  await alice.signInAs("carol");
  await alice.isConnectedAs("carol");
  assert.equal(await alice.page.getByText("hello from").count(), 0);
});

test("a switch of the organization gets a token for it, on the same connection", async (t) => {
  const carol = await connected(t, browser, origin, "carol");
  await carol.fact("Organization", "acme");
  const [{ connectionId }] = await connectionsOf(sandbox, "carol");
  await carol.switchTo(/globex/);
  await carol.fact("Organization", "globex");
  // Tokens for this organization are short.
  await carol.fact("Tokens", "4");
  await carol.say("still here");
  await carol.hears("still here");
  assert.deepEqual((await connectionsOf(sandbox, "carol")).map((connection) => connection.connectionId), [connectionId]);
});

test("a refused user sees why, and connects with a retry when the reason is gone", (t) => connectsOnceNamed(t, browser, origin, example));

test("a page that is reopened without a valid session token connects with its first request", async (t) => {
  const alice = await connected(t, browser, origin, "alice");
  await alice.window.clearCookies({ name: /^__session/ });
  // Clerk's server-side SDK now gets a token without `azp`, and the service refuses the cookie.
  const document = { accept: "text/html", "sec-fetch-dest": "document" };
  assert.equal((await alice.window.request.get(origin, { headers: document })).status(), 200);
  const byCookie = await alice.window.request.get(`${origin}/api/ably`);
  assert.match((await byCookie.json()).error.message, /\(token-missing-authorized-party\)$/);

  const reopened = await alice.otherTab();
  await reopened.isConnectedAs("alice");
  await reopened.fact("Tokens", "1");
});

test("the dev server passes tokens on too", async (t) => {
  const devOrigin = await example.serve(t, example.devPort, "next", ["dev", "--port", example.devPort]);
  const alice = await connected(t, browser, devOrigin, "alice");
  await alice.say("hello from the dev server");
  await alice.hears("hello from the dev server");
  await alice.leave();
});
