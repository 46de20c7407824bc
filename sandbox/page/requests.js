// Requests to the service, to Ably, to Clerk and to the sandbox.

import { decode } from "/jwt.js";

/** `{ status, took, body, jwt }`, of a token in any format. Throws without an answer that this page may read. */
export function askService(authUrl, params) {
  const url = new URL(authUrl);
  url.search = new URLSearchParams(params);
  return request(url, { credentials: "include" });
}

/** The same for Ably's `requestToken`. */
export function exchange(ably, tokenRequest) {
  const url = `${ably}/keys/${encodeURIComponent(tokenRequest.keyName)}/requestToken`;
  return request(url, { method: "POST", body: tokenRequest });
}

/** The answer of Clerk or the sandbox. Throws what the answer says is wrong. */
export async function ask(method, url, body, signal) {
  const { status, body: answer } = await request(url, { method, body, signal });
  if (status < 300) return answer;
  const message = answer?.errors?.[0]?.long_message ?? answer?.error ?? `The answer was ${status}.`;
  throw Object.assign(new Error(message), { status });
}

async function request(url, { body, ...options }) {
  const json = body && { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const begun = performance.now();
  const response = await fetch(url, { ...options, ...json }).catch((error) => {
    throw options.signal?.aborted ? error : new Error("The sandbox does not answer. Is it still running?");
  });
  const text = await response.text();
  const took = Math.round(performance.now() - begun);
  const jwt = response.headers.get("content-type") === "application/jwt" ? decode(text) : null;
  return { status: response.status, took, body: parse(text), jwt };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
