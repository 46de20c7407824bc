// The real ably-js, told only where to ask for a token and where the stand-in listens.

export const CHANNEL = "chat:lobby";

let loading;

/** Whether ably-js is there; it is loaded the first time that somebody asks. */
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
 * Opens a connection; `changed(state, reason, client)` hears of its states, `received(message)` of messages, and
 * `refused(error)` that the token is not good for the channel.
 */
export function open({ authUrl, params, ably, changed, received, refused }) {
  const { hostname, port } = new URL(ably);
  const client = new window.Ably.Realtime({
    authUrl,
    authMethod: "GET",
    authParams: params,
    // Without a header of this name ably-js sends no cookies to another origin. The service ignores the dash.
    authHeaders: { authorization: "-" },
    endpoint: hostname,
    port: Number(port),
    tls: false,
    fallbackHosts: [],
    transports: ["web_socket"],
    logLevel: 1,
  });
  let closed = false;
  const tell = (state, reason) => closed || changed(state, reason, client);
  client.connection.on((change) => tell(change.current, change.reason));
  tell(client.connection.state, null);
  const channel = client.channels.get(CHANNEL);
  // A connection that failed has told its own reason.
  const refuse = (error) => closed || client.connection.state !== "connected" || refused(error);
  channel.subscribe((message) => closed || received(message)).catch(refuse);
  return {
    /** Ably's id of it, once there is one. */
    id: () => client.connection.id ?? null,
    publish: (text) => channel.publish("message", text),
    close() {
      closed = true;
      client.close();
    },
  };
}
