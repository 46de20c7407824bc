"use client";

import { useOrganization } from "@clerk/nextjs";
import { useAbly, useConnectionStateListener } from "ably/react";
import { useState } from "react";

/** The connection to Ably, and as whom. */
export function Status() {
  const { connection, auth } = useAbly();
  const { organization } = useOrganization();
  const [state, setState] = useState(connection.state);
  const [tokens, setTokens] = useState(0);
  useConnectionStateListener(({ current }) => {
    setState(current);
    // Ably reports "connected" again after each renewal.
    if (current === "connected") setTokens((before) => before + 1);
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
          <dd>{tokens}</dd>
        </div>
      </dl>
    </section>
  );
}
