"use client";

import { useAuth } from "@clerk/nextjs";
import type { ErrorInfo } from "ably";
import { AblyClerkProvider, useAblyAuth, type AblyOptions } from "ably-clerk-auth/react";
import type { ReactNode } from "react";

/** Unset in production, where ably-js finds Ably by itself. */
const ablyOptions = JSON.parse(process.env.NEXT_PUBLIC_ABLY_OPTIONS ?? "{}") as AblyOptions;

/** What is inside has an Ably client for the signed-in user. */
export function Realtime({ children }: { children: ReactNode }) {
  return (
    <AblyClerkProvider
      auth={useAuth()}
      url="/api/ably"
      options={ablyOptions}
      loading={<Loading />}
      signedOut={<p role="status">You are signed out.</p>}
      refused={(state) => <Problem title="You have no access" {...state} />}
    >
      {children}
    </AblyClerkProvider>
  );
}

function Loading() {
  const { error, retry } = useAblyAuth();
  if (error) return <Problem title="Not connected yet" error={error} retry={retry} />;
  return <p role="status">Connecting …</p>;
}

function Problem({ title, error, retry }: { title: string; error: ErrorInfo; retry: () => void }) {
  return (
    <section className="panel problem" role="alert">
      <h2>{title}</h2>
      <p>{error.message}</p>
      <button className="button" type="button" onClick={retry}>
        Try again
      </button>
    </section>
  );
}
