// A chat as an app would write it, with the package between Clerk and Ably.

import { refresh, register } from "./hot.js";

import { Realtime, type ErrorInfo } from "ably";
import { AblyClerkProvider, useAblyAuth, type AblyOptions } from "ably-clerk-auth/react";
import { ChannelProvider, useAbly, useChannel, useConnectionStateListener, usePresence } from "ably/react";
import * as React from "react";
import { StrictMode, Suspense, useEffect, useState, type ReactNode } from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import { renderToString } from "react-dom/server.browser";

import { currentUser, setClerk, tokenRequests, useAuth } from "./clerk.js";

/** What was on the screen together: the user of Clerk and the client ID of Ably. */
const shown: [string | null, string | null | undefined][] = [];
const errors: ErrorInfo[] = [];
let mounted = 0;
let isAwake = false;
let wake: () => void;
const slow = new Promise<void>((resolve) => {
  wake = () => {
    isAwake = true;
    resolve();
  };
});

const query = new URLSearchParams(location.search);
const options = JSON.parse(query.get("options") ?? "{}") as AblyOptions;

function Chat() {
  const ably = useAbly();
  const [messages, setMessages] = useState<string[]>([]);
  const [connection, setConnection] = useState(ably.connection.state);
  const { publish, channel } = useChannel("lobby", ({ data }) => setMessages((before) => [...before, String(data)]));
  usePresence("lobby");
  useConnectionStateListener(({ current }) => setConnection(current));
  useEffect(() => {
    mounted += 1;
    window.app.publish = (text: string) => publish("message", text);
    window.app.connectionId = () => ably.connection.id;
  }, [ably, publish]);
  useEffect(() => {
    shown.push([currentUser(), ably.auth.clientId]);
  });
  return (
    <section data-testid="chat">
      <p data-testid="connection">{connection}</p>
      <p data-testid="client-id">{connection === "connected" ? ably.auth.clientId : ""}</p>
      <p data-testid="channel">{channel.name}</p>
      <ul data-testid="messages">
        {messages.map((message) => (
          <li key={message}>{message}</li>
        ))}
      </ul>
      {query.has("without-rooms") ? null : <Rooms />}
      <AuthState />
    </section>
  );
}

function Rooms() {
  const { channels } = useAbly();
  useEffect(() => {
    const { presence } = channels.get("rooms");
    void presence.enter();
    // As apps do it: nobody catches what this throws.
    return () => void presence.leave();
  }, [channels]);
  return null;
}

function AuthState() {
  const { status, error, retry } = useAblyAuth();
  return (
    <p>
      <span data-testid="status">{status}</span> <span data-testid="error">{error?.message}</span>
      <button type="button" data-testid="retry" onClick={retry}>
        Retry
      </button>
    </p>
  );
}

function Slow({ children }: { children: ReactNode }) {
  // What Suspense waits for is a promise.
  // eslint-disable-next-line @typescript-eslint/only-throw-error
  if (query.has("slow") && !isAwake) throw slow;
  return children;
}

let setHidden: (isHidden: boolean) => void;

/** What React 19 can hide with its effects undone, and show again. */
function Hideable({ children }: { children: ReactNode }) {
  const [isHidden, set] = useState(false);
  useEffect(() => {
    setHidden = set;
  }, []);
  if (!query.has("hideable")) return children;
  return <React.Activity mode={isHidden ? "hidden" : "visible"}>{children}</React.Activity>;
}

function app(version: number) {
  return function App() {
    return (
      <Hideable>
      <Suspense fallback={<p data-testid="fallback">Fallback</p>}>
        <p data-testid="version">{version}</p>
        <AblyClerkProvider
          auth={useAuth()}
          url={query.get("url") ?? "/api/ably"}
          options={{ ...options }}
          onError={(error) => {
            errors.push(error);
            if (query.has("broken-on-error")) throw new Error("onError is broken");
          }}
          signedOut={<div data-testid="signed-out"><AuthState /></div>}
          {...(query.has("defaults")
            ? {}
            : {
                loading: <div data-testid="loading"><AuthState /></div>,
                refused: ({ error, retry }) => (
                  <div role="alert">
                    <p data-testid="refused">{error.message}</p>
                    <button type="button" data-testid="try-again" onClick={retry}>
                      Try again
                    </button>
                  </div>
                ),
              })}
        >
          <Slow>
            <ChannelProvider channelName="lobby">
              <Chat />
            </ChannelProvider>
          </Slow>
        </AblyClerkProvider>
      </Suspense>
      </Hideable>
    );
  };
}

const App = app(1);
register(App, "App");

window.app = {
  setClerk,
  shown,
  errors,
  tokenRequests,
  mounted: () => mounted,
  connectByAuthUrl: async (authHeaders: Record<string, string>) => {
    const client = new Realtime({ ...options, authUrl: "/api/ably", authHeaders });
    await client.connection.whenState("connected");
    client.close();
    return client.auth.clientId;
  },
  wake: () => wake(),
  setHidden: (isHidden: boolean) => setHidden(isHidden),
  reload: () => {
    register(app(2), "App");
    refresh();
  },
};

const root = document.getElementById("root")!;
const tree = (
  <StrictMode>
    <App />
  </StrictMode>
);
if (query.has("hydrate")) {
  setClerk({ user: "alice" });
  root.innerHTML = renderToString(tree);
  window.app.rendered = root.textContent;
  hydrateRoot(root, tree);
} else {
  createRoot(root).render(tree);
}
