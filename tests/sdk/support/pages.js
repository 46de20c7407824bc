// An app's page on a port of its own: empty, but for ably-js as npm has it.

import "./loopback_only.js";

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const entry = createRequire(import.meta.url).resolve("ably");
const ABLY_JS = readFileSync(join(dirname(entry), "ably.min.js"));
const HTML = '<!doctype html><html lang="en"><title>An app</title><script src="/ably.js"></script></html>';

const FILES = {
  "/": ["text/html; charset=utf-8", HTML],
  "/ably.js": ["text/javascript; charset=utf-8", ABLY_JS],
  "/favicon.ico": ["image/x-icon", ""],
};

/** Serves the page on any free port until `context` ends, and returns the port. */
export async function servePage(context) {
  const server = createServer((request, response) => {
    const [type, body] = FILES[request.url] ?? [];
    if (type) response.writeHead(200, { "content-type": type }).end(body);
    else response.writeHead(404).end();
  });
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return server.address().port;
}

/** Opens the page of this origin. */
export async function openPage(window, origin) {
  const page = await window.newPage();
  await page.goto(origin);
  return page;
}

/**
 * Makes a client in the page and waits until it is connected, or has told why it is not:
 * `{ state, clientId, reason, cause }`, and when connected what it `heard` of its own first message.
 */
export function connectInPage(page, options, authCallback) {
  return page.evaluate(connect, { options, authCallback: authCallback && `(${authCallback})` });
}

async function connect({ options, authCallback }) {
  // Written as text, since a function cannot travel into a page.
  const callback = authCallback && { authCallback: (0, eval)(authCallback) };
  const client = new window.Ably.Realtime({ ...options, ...callback });
  const change = await new Promise((resolve) => {
    client.connection.on((change) => change.current !== "connecting" && resolve(change));
  });
  const fields = (error) => error && { message: error.message, code: error.code, statusCode: error.statusCode };
  const told = {
    state: change.current,
    clientId: client.auth.clientId ?? null,
    reason: fields(change.reason),
    cause: fields(change.reason?.cause),
  };
  if (change.current === "connected") {
    const channel = client.channels.get(`of the page ${location.origin}`);
    told.heard = await new Promise((resolve, reject) => {
      const attached = channel.subscribe(({ clientId, data }) => resolve({ clientId, data }));
      attached.then(() => channel.publish("hello", "page")).catch(reject);
    });
  }
  client.close();
  return told;
}
