// The real ably-js, told only where to ask for a token and where the stand-in listens.

const CHANNEL = "sandbox";

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

/** Opens a connection; `changed(state, reason, client)` hears of its states, `received(message)` of messages. */
export function open({ authUrl, ably, changed, received }) {
  const { hostname, port } = new URL(ably);
  const client = new window.Ably.Realtime({
    authUrl,
    authMethod: "GET",
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
  channel.subscribe((message) => closed || received(message)).catch(() => {});
  return {
    publish: (text) => channel.publish("message", text),
    close() {
      closed = true;
      client.close();
    },
  };
}
