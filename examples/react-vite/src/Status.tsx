import { useOrganization } from "@clerk/react";
import { useAbly, useConnectionStateListener } from "ably/react";
import { useAblyAuth } from "ably-clerk-auth/react";
import { useState } from "react";

/** The connection to Ably, as whom, and how often it got a token. */
export function Status() {
  const { connection, auth } = useAbly();
  const { error, retry } = useAblyAuth();
  const { organization } = useOrganization();
  const [state, setState] = useState(connection.state);
  const [tokens, setTokens] = useState<Date[]>([]);
  useConnectionStateListener(({ current }) => {
    setState(current);
    // Ably reports "connected" again after each renewal.
    if (current === "connected") setTokens((before) => [...before, new Date()]);
  });
  return (
    <section className="panel" aria-labelledby="status">
      <h2 id="status">Connection</h2>
      <dl className="facts">
        <div>
          <dt>State</dt>
          <dd>
            <span role="status" data-state={state}>
              {state}
            </span>
          </dd>
        </div>
        <div>
          <dt>Client ID</dt>
          <dd>{auth.clientId}</dd>
        </div>
        <div>
          <dt>Organization</dt>
          <dd>{organization?.name ?? "none"}</dd>
        </div>
        <div>
          <dt>Tokens</dt>
          <dd>
            {tokens.length}, last at {tokens.at(-1)?.toLocaleTimeString() ?? "…"}
          </dd>
        </div>
      </dl>
      {error && (
        <p role="alert" className="error">
          No new token: {error.message}{" "}
          <button className="button" type="button" onClick={retry}>
            Try again
          </button>
        </p>
      )}
    </section>
  );
}
