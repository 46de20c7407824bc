// The results of Clerk's own `useAuth()`, of its current React SDK and of the one before, fit. Only type-checked.

import { useAuth as useFormerAuth } from "@clerk/clerk-react";
import { useAuth } from "@clerk/react";
import { createAblyAuth } from "ably-clerk-auth";
import { AblyClerkProvider } from "ably-clerk-auth/react";

export function Current() {
  return <AblyClerkProvider auth={useAuth()} url="/api/ably" options={{ echoMessages: false }} />;
}

export function Former() {
  return <AblyClerkProvider auth={useFormerAuth()} url="/api/ably" />;
}

export function WithoutProvider() {
  const { getToken } = useAuth();
  return createAblyAuth({ url: "/api/ably", getToken }).length;
}
