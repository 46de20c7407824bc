// Two requests: to the service for a token in any format, and to Ably to exchange a token request.

import { decode } from "/jwt.js";

/**
 * `{ status, took, body, jwt }`: `body` if it is JSON, `jwt` if it is a JWT. Throws without an answer that this page may
 * read.
 */
export async function askService(authUrl, params) {
  const begun = performance.now();
  const url = new URL(authUrl);
  url.search = new URLSearchParams(params);
  const response = await fetch(url, { credentials: "include" });
  const text = await response.text();
  const took = performance.now() - begun;
  const isJwt = response.headers.get("content-type") === "application/jwt";
  return { status: response.status, took, body: parse(text), jwt: isJwt ? decode(text) : null };
}

/** The same for Ably's `requestToken`. */
export async function exchange(ably, tokenRequest) {
  const begun = performance.now();
  const response = await fetch(`${ably}/keys/${encodeURIComponent(tokenRequest.keyName)}/requestToken`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(tokenRequest),
  });
  const text = await response.text();
  return { status: response.status, took: performance.now() - begun, body: parse(text) };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
