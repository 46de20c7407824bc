// examples/nextjs as `next start` shows it.

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import * as nodeTest from "node:test";

import { startChromium } from "../../tests/sdk/support/chromium.js";
import { until } from "../../tests/sdk/support/clients.js";
import { connectionsOf, prepareExample, testSource } from "./support/example.js";
import { connected, connectsOnceNamed, visit } from "./support/visitor.js";

const { test } = nodeTest;
const ROOT = join(import.meta.dirname, "../..");
const MATCHERS = ["examples/nextjs/proxy.ts", "examples/nextjs/README.md", "docs/connect.md", "docs/sandbox.md"];
const example = await prepareExample(nodeTest, "nextjs", "next");
const { sandbox, port } = example;
const browser = await startChromium(nodeTest);
await example.run("build");
const origin = await example.serve(nodeTest, port, "next", ["start", "--port", port]);

testSource(nodeTest, example);

for (const path of MATCHERS) {
  test(`the matcher in ${path} leaves out exactly the token route, Next.js' own files and static files`, async () => {
    // Next.js defines it before it loads anything else.
    globalThis.AsyncLocalStorage = AsyncLocalStorage;
    const { unstable_doesMiddlewareMatch: doesMatch } = createRequire(join(ROOT, "examples/nextjs/"))("next/experimental/testing/server");
    const config = { matcher: await matcherIn(path) };
    const matches = (pathname) => doesMatch({ config, nextConfig: {}, url: `${origin}${pathname}` });
    const inside = ["/", "/dashboard", "/users/jane.doe", "/users/jane.jsmith", "/a.css/b", "/_nextdoor"];
    const api = ["/api/orders/1.0", "/api/report.csv", "/api/ably-admin", "/api/ably/x", "/api/ably.json", "/v1/api/ably"];
    const outside = ["/api/ably", "/api/ably?clientId=alice", "/_next/static/x.js", "/favicon.ico", "/logo.svg"];
    assert.deepEqual([...inside, ...api].filter((pathname) => !matches(pathname)), []);
    assert.deepEqual(outside.filter(matches), []);
    assert.deepEqual(config.matcher, await matcherIn(MATCHERS[0]), "another matcher than the example's");
  });
}

test("signed-out visitors get the sign-in page, but from the token route the service's own answer", async (t) => {
  const visitor = await visit(t, browser, origin);
  await visitor.isSignedOut();
  assert.equal(new URL(visitor.page.url()).pathname, "/sign-in");
  await visitor.inspect(example.name, "signed-out");

  const response = await fetch(`${origin}/api/ably`, { redirect: "manual" });
  assert.equal(response.status, 401);
  assert.match((await response.json()).error.message, /\(session-token-missing\)$/);
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

test("a page that is opened again after its session token has expired connects at once", async (t) => {
  const alice = await connected(t, browser, origin, "alice");
  const { window, page } = alice;
  await page.goto("about:blank");
  await window.clearCookies({ name: /^__session/ });
  // Clerk gives the app's server a session token without azp, which the service rejects as a cookie.
  await window.request.get(origin, { headers: { accept: "text/html" } });
  const byCookie = await window.request.get(`${origin}/api/ably`);
  assert.match((await byCookie.json()).error.message, /\(token-missing-authorized-party\)$/);

  const answers = [];
  page.on("response", (response) => {
    if (new URL(response.url()).pathname === "/api/ably") answers.push(response.status());
  });
  // So ably-js does not try again by itself: it waits for at least 12 seconds.
  await page.addInitScript(() => {
    const { setTimeout } = globalThis;
    globalThis.setTimeout = (callback, ms, ...args) => (ms >= 10_000 ? 0 : setTimeout(callback, ms, ...args));
  });
  await page.goto(origin);
  await alice.isConnectedAs("alice");
  assert.deepEqual(answers, [200]);
});

test("the dev server passes tokens on too", async (t) => {
  const devOrigin = await example.serve(t, example.devPort, "next", ["dev", "--port", example.devPort]);
  const alice = await connected(t, browser, devOrigin, "alice");
  await alice.say("hello from the dev server");
  await alice.hears("hello from the dev server");
  await alice.leave();
});

/** The matcher that a file recommends. In a diff, the new one. */
async function matcherIn(path) {
  const lines = (await readFile(join(ROOT, path), "utf8")).split("\n").filter((line) => !line.startsWith("- "));
  const [, matcher] = lines.map((line) => line.replace(/^\+ /, "")).join("\n").match(/^ *matcher: (\[[^\]]*\])/m);
  return JSON.parse(matcher.replace(/,\s*\]$/, "]"));
}
