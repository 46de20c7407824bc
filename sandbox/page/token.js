// Two plain requests: the service for a token request, Ably for the token that it is worth.

/** `{ status, took, body }`, or throws when there was no answer that this page may read. */
export async function askService(authUrl) {
  const begun = performance.now();
  const response = await fetch(authUrl, { credentials: "include", headers: { accept: "application/json" } });
  const text = await response.text();
  const took = performance.now() - begun;
  return { status: response.status, took, body: parse(text), requestId: response.headers.get("x-request-id") };
}

/** The same of Ably's `requestToken`. */
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
