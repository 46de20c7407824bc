// Stands for a Clerk SDK: `useAuth()`, and what a test changes behind it.

import { useSyncExternalStore } from "react";
import type { ClerkAuth } from "ably-clerk-auth/react";

interface Session {
  user: string;
  sessionId: string;
  orgId: string | null;
  orgRole: string | null;
  sessionClaims: { pla?: string };
}

let state: "loading" | Session | null = "loading";
let auth = authOf(state);
let cached: { key: string; token: string } | undefined;
const listeners = new Set<() => void>();

export const tokenRequests: boolean[] = [];

async function getToken({ skipCache = false } = {}): Promise<string | null> {
  tokenRequests.push(skipCache);
  if (state === null || state === "loading") return null;
  const { user, orgId } = state;
  const key = `${user} ${orgId}`;
  if (skipCache || cached?.key !== key) {
    const o = orgId === null ? null : { id: orgId, slg: orgId.slice(4), rol: "member" };
    const query = new URLSearchParams({ user, claims: JSON.stringify({ o }) });
    cached = { key, token: await (await fetch(`/session-token?${query}`)).text() };
  }
  return cached.token;
}

function authOf(now: typeof state): ClerkAuth {
  if (now === "loading") {
    const nothing = { sessionId: undefined, orgId: undefined, sessionClaims: undefined };
    return { isLoaded: false, isSignedIn: undefined, ...nothing, getToken };
  }
  if (now === null) return { isLoaded: true, isSignedIn: false, sessionId: null, orgId: null, sessionClaims: null, getToken };
  const { sessionId, orgId, orgRole, sessionClaims } = now;
  return { isLoaded: true, isSignedIn: true, sessionId, orgId, orgRole, sessionClaims, getToken };
}

export function setClerk(now: "loading" | (Partial<Session> & { user: string }) | null) {
  const isSession = now !== null && now !== "loading";
  state = isSession ? { sessionId: `sess_${now.user}`, orgId: null, orgRole: null, sessionClaims: {}, ...now } : now;
  auth = authOf(state);
  for (const listener of listeners) listener();
}

export const currentUser = () => (state === null || state === "loading" ? null : state.user);

export function useAuth(): ClerkAuth {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => auth,
    () => auth,
  );
}
