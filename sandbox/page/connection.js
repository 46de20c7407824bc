// The real ably-js, configured with the authUrl and the address of the stand-in.

export const CHANNEL = "chat:lobby";

let loading;

/** Loads ably-js on the first call; resolves to whether it is available. */
export function available() {
  loading ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = "/ably.js";
    script.onload = () => resolve(Boolean(window.Ably));
    script.onerror = () => resolve(false);
    document.head.append(script);
  });
  return loading;
}

/**
 * Opens a connection. `changed(state, reason, client)` is called on each state, `received(message)` on each message, and
 * `refused(error)` if the token does not allow the channel.
 */
export function open({ authUrl, params, ably, changed, received, refused }) {
  const { hostname, port } = new URL(ably);
  const client = new window.Ably.Realtime({
    authUrl,
    authMethod: "GET",
    authParams: params,
    // ably-js sends cookies to another origin only with this header. The service ignores the dash.
    authHeaders: { authorization: "-" },
    endpoint: hostname,
    port: Number(port),
    tls: false,
    fallbackHosts: [],
    transports: ["web_socket"],
    logLevel: 1,
  });
  let closed = false;
  const report = (state, reason) => closed || changed(state, reason, client);
  client.connection.on((change) => report(change.current, change.reason));
  report(client.connection.state, null);
  const channel = client.channels.get(CHANNEL);
  // A failed connection has reported its own reason.
  const refuse = (error) => closed || client.connection.state !== "connected" || refused(error);
  channel.subscribe((message) => closed || received(message)).catch(refuse);
  return {
    /** The connection id, once connected. */
    id: () => client.connection.id ?? null,
    publish: (text) => channel.publish("message", text),
    close() {
      closed = true;
      client.close();
    },
  };
}
