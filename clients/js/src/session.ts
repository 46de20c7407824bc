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

/** What decides the rights of a token. The plan is undefined before Clerk has read a session token. */
interface Rights extends Pick<ClerkAuth, "orgId" | "orgRole"> {
  plan: string | undefined;
}

const LOADING: SessionState = { status: "loading", client: null, error: null };
const FORBIDDEN = 403;
/** The client asks for the client ID that its user had before a rename. */
const CLIENT_ID_MISMATCH = 40012;
const AUTHENTICATION_FAILED = 80019;
const RETRY_MS = 15_000;
const FAREWELL_MS = 1000;

/**
 * The Ably client of one Clerk session, for `useSyncExternalStore`. It is made in an effect, so a server makes none, and an
 * effect that runs twice finds it there.
 */
export class AblySession {
  #settings: Settings;
  #rights: Rights;
  #state = LOADING;
  #client: Realtime | null = null;
  #clients = 0;
  #requests = 0;
  #skipCache = false;
  #closing: ReturnType<typeof setTimeout> | undefined;
  #reauthorizing: ReturnType<typeof setTimeout> | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#rights = rightsOf(settings.auth);
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

  /** Takes the newest settings. If the session's rights changed, gets a token for them: while connected, on the same connection. */
  configure(settings: Settings) {
    const before = this.#rights;
    const now = rightsOf(settings.auth);
    const isSameOrganization = before.orgId === now.orgId;
    // Clerk can be without claims for a moment.
    if (isSameOrganization) now.plan ??= before.plan;
    this.#settings = settings;
    this.#rights = now;
    const isSamePlan = !before.plan || before.plan === now.plan;
    if (isSameOrganization && before.orgRole === now.orgRole && isSamePlan) return;
    // Clerk caches a session token for each organization: in the same one, it may still have the former role or plan.
    this.#skipCache ||= isSameOrganization;
    this.#renew();
  }

  /** Tries again now, with a fresh session token. */
  readonly retry = () => {
    this.#skipCache = true;
    this.#renew();
  };

  #renew() {
    if (this.#client) {
      this.#authorize(this.#client);
    } else if (this.#state.status === "refused") {
      this.#set(LOADING);
      this.#start();
    }
  }

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
    // ably-js drops the answer to an earlier request.
    const request = ++this.#requests;
    const isCurrent = () => this.#client === client && this.#requests === request;
    const { auth, url, timeoutMs } = this.#settings;
    const skipCache = this.#skipCache;
    try {
      const token = await requestToken(
        {
          url,
          timeoutMs,
          organization: () => auth.orgId,
          getToken: async (options) => {
            const sessionToken = await auth.getToken(skipCache ? { skipCache } : options);
            // By now it may be the token of the next session.
            return this.#client === client && sessionToken ? sessionToken : null;
          },
        },
        params,
      );
      if (isCurrent()) {
        if (skipCache) this.#skipCache = false;
        this.#set({ status: "ready", client, key: this.#clients, error: null });
      }
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
    } else if (error.code === CLIENT_ID_MISMATCH && this.#state.status === "ready") {
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

  /** An exception in `onError` becomes an uncaught error. */
  #report(error: ErrorInfo) {
    queueMicrotask(() => this.#settings.onError?.(error));
  }

  #authorize(client: Realtime) {
    clearTimeout(this.#reauthorizing);
    client.auth.authorize().catch(() => {
      // While connected, ably-js keeps the former token and does not ask again.
      if (this.#client !== client || client.connection.state !== "connected") return;
      const pause = this.#settings.options?.disconnectedRetryTimeout ?? RETRY_MS;
      clearTimeout(this.#reauthorizing);
      this.#reauthorizing = setTimeout(() => this.#authorize(client), pause);
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

function rightsOf({ orgId, orgRole, sessionClaims }: ClerkAuth): Rights {
  const { pla, fea }: { pla?: unknown; fea?: unknown } = sessionClaims ?? {};
  return { orgId, orgRole, plan: sessionClaims ? JSON.stringify([pla, fea]) : undefined };
}
