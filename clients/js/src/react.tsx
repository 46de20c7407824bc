"use client";

/** An Ably client for the user who is signed in at Clerk, for `ably/react`. */

import type { ErrorInfo } from "ably";
import { AblyProvider } from "ably/react";
import {
  createContext,
  useContext,
  useEffect,
  useMemo,
  useReducer,
  useState,
  useSyncExternalStore,
  type ReactNode,
} from "react";

import { AblySession, type AblyOptions, type ClerkAuth } from "./session.js";

export type { AblyOptions, ClerkAuth } from "./session.js";

export interface AblyAuth {
  status: "loading" | "signed-out" | "ready" | "refused";
  /** Why there is no token, or no new one. Null while all is well. */
  error: ErrorInfo | null;
  /** Asks for a token now, with a fresh session token. */
  retry: () => void;
}

export interface AblyClerkProviderProps {
  /** The result of `useAuth()` of your Clerk SDK. */
  auth: ClerkAuth;
  /** The service's token endpoint. It may be relative, such as `/api/ably`. */
  url: string;
  /** Options of ably-js. They apply from the next client on. */
  options?: AblyOptions | undefined;
  /** How long a token may take, in milliseconds. Default: 8000. */
  timeoutMs?: number | undefined;
  /** Called with each error. */
  onError?: ((error: ErrorInfo) => void) | undefined;
  /** Shown until Clerk has loaded and the first token has come. By default the error's message, if there is an error. */
  loading?: ReactNode;
  /** Shown while the user is signed out. */
  signedOut?: ReactNode;
  /** Shown after a 403, or when Ably has failed the connection. By default the error's message. */
  refused?: ((state: { error: ErrorInfo; retry: () => void }) => ReactNode) | undefined;
  /** What uses `ably/react`. Mounted anew for each client. */
  children?: ReactNode;
}

const AblyAuthContext = createContext<AblyAuth | null>(null);

const NOT_LOADED: AblyAuth = { status: "loading", error: null, retry: () => undefined };
const SIGNED_OUT: AblyAuth = { ...NOT_LOADED, status: "signed-out" };

/** Gives `ably/react` one client per Clerk session. */
export function AblyClerkProvider(props: AblyClerkProviderProps): ReactNode {
  const { isLoaded, isSignedIn, sessionId } = props.auth;
  const current = isSignedIn ? sessionId : null;
  const [session, setSession] = useState(current);
  // While Clerk changes the organization, it may be not loaded for a moment. The client stays.
  if (isLoaded && session !== current) setSession(current);
  if (session) return <SessionProvider key={session} {...props} />;
  return (
    <AblyAuthContext.Provider value={isLoaded ? SIGNED_OUT : NOT_LOADED}>
      {isLoaded ? props.signedOut : props.loading}
    </AblyAuthContext.Provider>
  );
}

/** How the token of the signed-in user is doing, for components inside `AblyClerkProvider`. */
export function useAblyAuth(): AblyAuth {
  const auth = useContext(AblyAuthContext);
  if (!auth) throw new Error("useAblyAuth() needs an <AblyClerkProvider> around it.");
  return auth;
}

function SessionProvider(props: AblyClerkProviderProps) {
  const { auth, url, options, timeoutMs, onError, refused = showMessage, children } = props;
  const settings = { auth, url, options, timeoutMs, onError };
  const [session] = useState(() => new AblySession(settings));
  const [, rerender] = useReducer((count: number) => count + 1, 0);
  const state = useSyncExternalStore(session.subscribe, session.state, session.stateOnServer);
  useEffect(() => {
    if (auth.isLoaded) session.configure(settings);
  });
  useEffect(() => session.open(rerender), [session]);

  const { retry } = session;
  const { error } = state;
  const status = auth.isLoaded ? state.status : "loading";
  const value = useMemo(() => ({ status, error, retry }), [status, error, retry]);

  const { loading = error && showMessage({ error }) } = props;
  let shown: ReactNode = loading;
  if (auth.isLoaded && state.status === "refused") shown = refused({ error: state.error, retry });
  if (auth.isLoaded && state.status === "ready") {
    shown = (
      <AblyProvider key={state.key} client={state.client}>
        {children}
      </AblyProvider>
    );
  }
  return <AblyAuthContext.Provider value={value}>{shown}</AblyAuthContext.Provider>;
}

function showMessage({ error }: { error: ErrorInfo }) {
  return <p role="alert">{error.message}</p>;
}
