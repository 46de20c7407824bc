import { Realtime, type AuthOptions, type ClientOptions, type ErrorInfo, type TokenParams } from "ably";

import { requestToken, type GetToken, type Token } from "./token.js";

/** What the provider needs from the result of `useAuth()` of any Clerk SDK. */
export interface ClerkAuth {
  isLoaded: boolean;
  isSignedIn: boolean | undefined;
  sessionId: string | null | undefined;
  orgId: string | null | undefined;
  orgRole?: string | null | undefined;
  sessionClaims?: object | null | undefined;
  getToken: GetToken;
}

/** Options of ably-js. The provider sets those that decide how a client authenticates, and when it connects. */
export type AblyOptions = Omit<ClientOptions, keyof AuthOptions | "autoConnect">;

export interface Settings {
  auth: ClerkAuth;
  url: string;
  options: AblyOptions | undefined;
  timeoutMs: number | undefined;
  onError: ((error: ErrorInfo) => void) | undefined;
}

export type SessionState =
  | { status: "loading"; client: null; error: ErrorInfo | null }
  | { status: "ready"; client: Realtime; key: number; error: ErrorInfo | null }
  | { status: "refused"; client: null; error: ErrorInfo };

const LOADING: SessionState = { status: "loading", client: null, error: null };
const FORBIDDEN = 403;
/** The client asks for the client ID that its user had before a rename. */
const CLIENT_ID_OF_ANOTHER = 40012;
const AUTHENTICATION_FAILED = 80019;
const RETRY_MS = 15_000;
const FAREWELL_MS = 1000;

/**
 * The Ably client of one Clerk session, for `useSyncExternalStore`. It is made in an effect, so a server makes none, and an
 * effect that runs twice finds it there.
 */
export class AblySession {
  #settings: Settings;
  #state = LOADING;
  #client: Realtime | null = null;
  #clients = 0;
  #skipCache = false;
  #closing: ReturnType<typeof setTimeout> | undefined;
  #reauthorizing: ReturnType<typeof setTimeout> | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  readonly subscribe = (listener: () => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly state = () => this.#state;

  readonly stateOnServer = () => LOADING;

  /**
   * Opens the client, unless it is open. Returns what closes it, unless it is opened again at once. `rerender` reaches a
   * component that React keeps but hides, where no store is subscribed to.
   */
  open(rerender: () => void) {
    clearTimeout(this.#closing);
    if (!this.#client && this.#state.status !== "refused") this.#start();
    return () => {
      this.#closing = setTimeout(() => {
        void this.#stop();
        this.#set(LOADING);
        rerender();
      });
    };
  }

  /** Takes the newest settings. If the session's rights changed, gets a token for them, without a new connection. */
  configure(settings: Settings) {
    const before = this.#settings.auth;
    this.#settings = settings;
    if (!hasOtherRights(before, settings.auth)) return;
    // Clerk caches a session token for each organization: in the same one, it may still have the former role or plan.
    this.#skipCache ||= before.orgId === settings.auth.orgId;
    this.#authorize();
  }

  /** Tries again now, with a fresh session token. */
  readonly retry = () => {
    this.#skipCache = true;
    if (this.#client) {
      this.#authorize();
    } else if (this.#state.status === "refused") {
      this.#set(LOADING);
      this.#start();
    }
  };

  #set(state: SessionState) {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }

  #start() {
    const client = new Realtime({
      ...this.#settings.options,
      authCallback: (params, callback) => {
        this.#token(client, params).then(
          (token) => callback(null, token),
          (error: ErrorInfo) => callback(error, null),
        );
      },
    });
    this.#client = client;
    this.#clients += 1;
    client.connection.on("failed", ({ reason }) => {
      if (this.#client === client && reason) void this.#refuse(originOf(reason));
    });
  }

  #stop() {
    clearTimeout(this.#reauthorizing);
    const client = this.#client;
    this.#client = null;
    return client ? closed(client) : Promise.resolve();
  }

  async #token(client: Realtime, params: TokenParams): Promise<Token> {
    const isCurrent = () => this.#client === client;
    const { auth, url, timeoutMs } = this.#settings;
    const skipCache = this.#skipCache;
    this.#skipCache = false;
    try {
      const token = await requestToken(
        {
          url,
          timeoutMs,
          organization: () => auth.orgId,
          getToken: async (options) => {
            const sessionToken = await auth.getToken(skipCache ? { skipCache } : options);
            // By now it may be the token of the next session.
            return isCurrent() && sessionToken ? sessionToken : null;
          },
        },
        params,
      );
      if (isCurrent()) this.#set({ status: "ready", client, key: this.#clients, error: null });
      return token;
    } catch (thrown) {
      const error = thrown as ErrorInfo;
      if (isCurrent()) await this.#noteError(error);
      throw error;
    }
  }

  /** After a 403, resolves when the client is closed: ably-js would fail all that is under way in the children. */
  async #noteError(error: ErrorInfo) {
    if (error.statusCode !== FORBIDDEN) {
      this.#set({ ...this.#state, error });
      this.#report(error);
    } else if (error.code === CLIENT_ID_OF_ANOTHER && this.#state.status === "ready") {
      const ended = this.#stop();
      this.#set(LOADING);
      this.#start();
      this.#report(error);
      await ended;
    } else {
      await this.#refuse(error);
    }
  }

  #refuse(error: ErrorInfo) {
    const ended = this.#stop();
    this.#set({ status: "refused", client: null, error });
    this.#report(error);
    return ended;
  }

  /** Whatever the app's function throws is the app's, as an uncaught error. */
  #report(error: ErrorInfo) {
    queueMicrotask(() => this.#settings.onError?.(error));
  }

  #authorize() {
    const client = this.#client;
    if (!client) return;
    clearTimeout(this.#reauthorizing);
    client.auth.authorize().catch(() => {
      // While connected, ably-js keeps the former token and does not ask again.
      if (this.#client !== client || client.connection.state !== "connected") return;
      const pause = this.#settings.options?.disconnectedRetryTimeout ?? RETRY_MS;
      this.#reauthorizing = setTimeout(() => this.#authorize(), pause);
    });
  }
}

/** ably-js wraps an error of the token request. */
function originOf(reason: ErrorInfo) {
  return reason.code === AUTHENTICATION_FAILED && reason.cause ? reason.cause : reason;
}

/** Closes a client after its children have unmounted, and after Ably has confirmed what they did last. */
async function closed(client: Realtime) {
  await pause(0);
  // Ably answers in order, so the answer to a ping is the last one.
  await Promise.race([client.connection.ping(), pause(FAREWELL_MS)]).catch(() => undefined);
  client.close();
}

function pause(ms: number) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

function hasOtherRights(before: ClerkAuth, now: ClerkAuth) {
  if (before.orgId !== now.orgId || before.orgRole !== now.orgRole) return true;
  // Before Clerk has read a session token there are no claims, which is no change.
  if (!before.sessionClaims || !now.sessionClaims) return false;
  return planOf(before.sessionClaims) !== planOf(now.sessionClaims);
}

function planOf({ pla, fea }: { pla?: unknown; fea?: unknown }) {
  return JSON.stringify([pla, fea]);
}
