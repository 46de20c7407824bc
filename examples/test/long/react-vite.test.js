// What takes long, or seldom happens: outages, frozen pages, renewals in a flow of messages, tabs that differ, and what
// browsers block.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import * as nodeTest from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { startChromium, startFreezableChromium } from "../../../tests/sdk/support/chromium.js";
import { freePort } from "../../../tests/sdk/support/processes.js";
import { connectionsOf, prepareExample } from "../support/example.js";
import { connected, visit } from "../support/visitor.js";

const { test } = nodeTest;
/** Chromium's reports of a WebSocket that it closed when it froze the page. */
const SOCKET_OF_FROZEN_PAGE = /entered Back-Forward Cache|already in CLOSING or CLOSED state/;
const example = await prepareExample(nodeTest, "react-vite", "vite");
const { sandbox, port, devPort } = example;
// Debian's Chromium blocks third-party cookies in any case.
const browser = await startChromium(nodeTest, ["--test-third-party-cookie-phaseout"]);
await example.run("build");
const origin = await example.serve(nodeTest, port, "vite", ["preview", "--port", port]);

test("messages flow while tokens of 5 seconds are renewed: none is lost, none comes twice, and the connection stays", async (t) => {
  const carol = await connected(t, browser, origin, "carol");
  await carol.switchTo(/globex/i);
  await carol.fact("Organization", /globex/i);
  const states = await carol.recordStates();
  const bob = await connected(t, browser, origin, "bob");
  const sent = Array.from({ length: 60 }, (_, number) => `message ${number}.`);
  for (const text of sent) {
    await bob.say(text);
    await pause(250);
  }
  await carol.hears(sent.at(-1));
  await carol.hasHeard(sent);
  await carol.fact("Tokens", /^([5-9]|\d\d), last at/);
  assert.deepEqual([...new Set(await states())], ["connected"]);
  await carol.seesNoGap();
});

test("a switch of the organization in one of two tabs changes nothing in the other", async (t) => {
  const first = await connected(t, browser, origin, "carol");
  await first.fact("Organization", /acme/i);
  const second = await first.otherTab();
  await second.isConnectedAs("carol");
  await second.fact("Organization", /acme/i);
  await second.openRoom(/acme/i);
  await first.switchTo(/globex/i);
  await first.fact("Organization", /globex/i);
  await second.say("still at acme");
  await second.hears("still at acme");
  await second.isConnectedAs("carol");
});

test("while the service is down for 20 seconds the app says so, and then goes on without a gap", async (t) => {
  const relay = await startRelay(t, Number(new URL(sandbox.authUrl).port));
  const through = { ABLY_CLERK_AUTH_URL: `http://127.0.0.1:${relay.port}` };
  const at = await example.serve(t, devPort, "vite", ["preview", "--port", devPort], through);
  const carol = await connected(t, browser, at, "carol", /status of 50\d/);
  await carol.switchTo(/globex/i);
  await carol.fact("Organization", /globex/i);
  const bob = await connected(t, browser, origin, "bob");
  await bob.say("before the outage");
  await carol.hears("before the outage");

  await relay.stop();
  await carol.page.getByRole("alert").filter({ hasText: "without an Ably error" }).waitFor();
  await bob.say("during the outage");
  await pause(20_000);
  await relay.start();
  await carol.isConnectedAs("carol");
  await carol.hears("during the outage");
  await bob.say("after the outage");
  await carol.hears("after the outage");
  await carol.seesNoGap();
  await carol.leave();
});

test("a page that is frozen for longer than its connection lives connects again, and says that messages may be missing", async (t) => {
  await sandbox.setConnectionStateTtl(5_000);
  t.after(() => sandbox.setConnectionStateTtl(120_000));
  const bob = await connected(t, browser, origin, "bob");
  const carol = await connected(t, await startFreezableChromium(t), origin, "carol", SOCKET_OF_FROZEN_PAGE);
  await bob.seesMembers("bob", "carol");
  const [{ connectionId }] = await connectionsOf(sandbox, "carol");

  const resume = await carol.freeze();
  await sandbox.dropConnection(connectionId);
  await bob.say("while carol is away");
  await bob.seesMembers("bob");
  await resume();
  await carol.seesGap();
  await carol.isConnectedAs("carol");
  await bob.seesMembers("bob", "carol");
  await bob.say("carol is back");
  await carol.hears("carol is back");
  await carol.hasHeard(["carol is back"]);
  await carol.inspect(example.name, "gap");
  const [after] = await connectionsOf(sandbox, "carol");
  assert.notEqual(after.connectionId, connectionId);
});

test("with third-party cookies blocked, a user of a Clerk on another site signs in, reloads, and hears messages", async (t) => {
  const probe = await startCookieProbe(t);
  assert.equal(await cookieOf(probe, await visit(t, browser, origin)), "blocked");
  assert.equal(await cookieOf(probe, await visit(t, browser, probe)), "kept", "to its own pages");

  const { origin: clerk } = new URL(sandbox.clerk);
  assert.equal(new URL(clerk).hostname, "127.0.0.1");
  const at = await example.serve(t, devPort, "vite", ["--port", devPort], { VITE_CLERK_PROXY_URL: `${clerk}/__clerk` });
  const alice = await visit(t, browser, "about:blank");
  // Clerk's packages load scripts of a proxy on another origin by https, which the stand-in does not have.
  await alice.window.route(/^https:.*\/npm\/@clerk\//, async (route) => {
    await route.fulfill({ response: await route.fetch({ url: route.request().url().replace("https:", "http:") }) });
  });
  await alice.page.goto(at);
  await alice.signInAs("alice");
  await alice.isConnectedAs("alice");
  await alice.page.reload();
  await alice.isConnectedAs("alice");
  await alice.say("no cookie of another site");
  await alice.hears("no cookie of another site");
  await alice.leave();
});

test("an app at an origin that the service does not know learns why it gets no token", async (t) => {
  const foreignPort = await freePort();
  const at = await example.serve(t, foreignPort, "vite", ["preview", "--port", foreignPort]);
  const alice = await visit(t, browser, at, /status of 40[13]/);
  await alice.signInAs("alice");
  await alice.page.getByRole("alert").filter({ hasText: "(token-invalid-authorized-party)" }).waitFor();
  await alice.leave();
});

/** Starts a server on another site than localhost. Returns its URL, which answers whether the browser sent its cookie. */
async function startCookieProbe(t) {
  const server = createHttpServer(({ headers }, response) => {
    const { origin = "*", cookie } = headers;
    response.setHeader("access-control-allow-origin", origin).setHeader("access-control-allow-credentials", "true");
    response.setHeader("set-cookie", "probe=1; SameSite=None; Secure").end(cookie ? "kept" : "blocked");
  });
  t.after(() => server.close());
  await once(server.listen(0, "127.0.0.1"), "listening");
  return `http://127.0.0.1:${server.address().port}/`;
}

/** What happens to the cookie of this URL, for a script of the page. */
function cookieOf(url, { page }) {
  return page.evaluate(async (url) => {
    await fetch(url, { credentials: "include" });
    return (await fetch(url, { credentials: "include" })).text();
  }, url);
}

/** Passes connections on to a port of this machine until it is stopped. */
async function startRelay(t, target) {
  const sockets = new Set();
  const server = createServer((client) => {
    const service = connect(target, "127.0.0.1");
    for (const [from, to] of [
      [client, service],
      [service, client],
    ]) {
      sockets.add(from);
      from.on("error", () => to.destroy()).on("close", () => to.destroy());
      from.pipe(to);
    }
  });
  const start = async (at) => {
    server.listen(at, "127.0.0.1");
    await once(server, "listening");
    return server.address().port;
  };
  const stop = async () => {
    if (!server.listening) return;
    const closed = once(server, "close");
    server.close();
    for (const socket of sockets) socket.destroy();
    sockets.clear();
    await closed;
  };
  t.after(stop);
  const relayPort = await start(0);
  return { port: relayPort, start: () => start(relayPort), stop };
}
