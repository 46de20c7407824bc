// Real ably-js clients that are told where the stand-in is, and otherwise only what a test says.

import * as Ably from "ably";

const PATIENCE_MS = 30_000;

/** What makes ably-js speak to the Ably stand-in, and to nobody else. */
export function standIn({ ably }) {
  const { hostname, port } = new URL(ably);
  return {
    endpoint: hostname,
    port: Number(port),
    tls: false,
    fallbackHosts: [],
    disableConnectivityCheck: true,
    wsConnectivityCheckUrl: `ws://${hostname}:${port}/`,
    // On a busy machine a WebSocket may be slow; that is no reason to try something else.
    webSocketSlowTimeout: PATIENCE_MS,
    webSocketConnectTimeout: PATIENCE_MS,
    transports: ["web_socket"],
    logLevel: 0,
  };
}

/** A REST client whose only way to authenticate is `authUrl`. */
export function rest(sandbox, options) {
  return new Ably.Rest({ ...standIn(sandbox), authUrl: sandbox.authUrl, ...options });
}

/** A REST client that holds the API key, as a back end does: what it is for is `auth.revokeTokens`. */
export function keyHolder(sandbox) {
  return new Ably.Rest({ ...standIn(sandbox), key: sandbox.api_key });
}

/** A realtime client whose only way to authenticate is `authUrl`. It is closed when the test ends. */
export function realtime(context, sandbox, options) {
  const client = new Ably.Realtime({ ...standIn(sandbox), authUrl: sandbox.authUrl, ...options });
  context.after(() => client.close());
  return client;
}

/** Waits until the connection is in `state`, and returns why it is (null while all is well). */
export function reaches(client, state) {
  const { connection } = client;
  if (connection.state === state) return connection.errorReason;
  const seen = [connection.state];
  return eventually(`the connection to be ${state}`, () => seen.join(", "), (resolve, reject) => {
    const listener = ({ current, reason }) => {
      seen.push(current);
      if (current === state) resolve(reason ?? null);
      else if (current === "failed") reject(reason);
    };
    connection.on(listener);
    return () => connection.off(listener);
  });
}

/** Every state that the connection comes into from now on, the updates of a state included. */
export function statesFromNowOn({ connection }) {
  const states = [];
  connection.on(({ current }) => states.push(current));
  return states;
}

/** Waits for the next message on `channel`, which is attached when this returns `{ message }`, a promise. */
export async function nextMessage(channel) {
  const message = eventually("a message", () => channel.state, (resolve) => {
    channel.subscribe(resolve).catch(() => {});
    return () => channel.unsubscribe(resolve);
  });
  // Whoever waits for it hears of its failure; until then it is no unhandled rejection.
  message.catch(() => {});
  await channel.attach();
  return { message };
}

/** Waits until `isTrue()` is, looking again and again. */
export function until(what, isTrue) {
  return eventually(what, () => "it is not", (resolve, reject) => {
    const look = () => Promise.resolve().then(isTrue).then((is) => is && resolve(), reject);
    const timer = setInterval(look, 20);
    return () => clearInterval(timer);
  });
}

/** A promise with a limit that no healthy run comes near, and whose error says what was waited for. */
async function eventually(what, meanwhile, begin) {
  let end = () => {};
  let timer;
  try {
    return await new Promise((resolve, reject) => {
      const giveUp = () => reject(new Error(`waited ${PATIENCE_MS / 1000} s for ${what}: ${meanwhile()}`));
      timer = setTimeout(giveUp, PATIENCE_MS);
      end = begin(resolve, reject);
    });
  } finally {
    clearTimeout(timer);
    end();
  }
}
