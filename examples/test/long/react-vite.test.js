// What takes long, or seldom happens: outages, renewals in a flow of messages, tabs that differ, and what browsers block.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import * as nodeTest from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { startChromium } from "../../../tests/sdk/support/chromium.js";
import { freePort } from "../../../tests/sdk/support/processes.js";
import { prepareExample } from "../support/example.js";
import { connected, visit } from "../support/visitor.js";

const { test } = nodeTest;
const example = await prepareExample(nodeTest, "react-vite", "vite");
const { sandbox, port, devPort } = example;
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
});

test("an app at an origin that the service does not know learns why it gets no token", async (t) => {
  const foreignPort = await freePort();
  const at = await example.serve(t, foreignPort, "vite", ["preview", "--port", foreignPort]);
  const alice = await visit(t, browser, at, /status of 40[13]/);
  await alice.signInAs("alice");
  await alice.page.getByRole("alert").filter({ hasText: "(token-invalid-authorized-party)" }).waitFor();
});

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
