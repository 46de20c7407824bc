import { OrganizationSwitcher, Show, SignIn, useAuth, UserButton } from "@clerk/react";
import type { ErrorInfo } from "ably";
import { AblyClerkProvider, useAblyAuth, type AblyOptions } from "ably-clerk-auth/react";

import { Rooms } from "./Rooms";
import { Status } from "./Status";

/** Unset in production, where ably-js finds Ably by itself. */
const ablyOptions = JSON.parse(import.meta.env.VITE_ABLY_OPTIONS ?? "{}") as AblyOptions;

export function App() {
  return (
    <>
      <header className="top">
        <h1>Chat</h1>
        <Show when="signed-in">
          <OrganizationSwitcher />
          <UserButton />
        </Show>
      </header>
      <main className="content">
        <AblyClerkProvider
          auth={useAuth()}
          url="/api/ably"
          options={ablyOptions}
          loading={<Loading />}
          signedOut={<SignedOut />}
          refused={(state) => <Refused {...state} />}
        >
          <Status />
          <Rooms />
        </AblyClerkProvider>
      </main>
    </>
  );
}

function Loading() {
  const { error, retry } = useAblyAuth();
  if (error) return <Problem title="Not connected yet" error={error} retry={retry} />;
  return <p role="status">Connecting …</p>;
}

function SignedOut() {
  return (
    <section className="signed-out">
      <p role="status">You are signed out, so there is no connection to Ably.</p>
      <SignIn routing="hash" />
    </section>
  );
}

function Refused({ error, retry }: { error: ErrorInfo; retry: () => void }) {
  return <Problem title="You have no access" error={error} retry={retry} />;
}

function Problem({ title, error, retry }: { title: string; error: ErrorInfo; retry: () => void }) {
  const requestId = error.detail?.["requestId"];
  return (
    <section className="panel problem" role="alert">
      <h2>{title}</h2>
      <p>{error.message}</p>
      {requestId && <p className="muted">Request {requestId}</p>}
      <button className="button" type="button" onClick={retry}>
        Try again
      </button>
    </section>
  );
}
