// Decodes JWTs without verifying them.

/** The header and the claims of a JWT; null for anything else. */
export function decode(jwt) {
  try {
    const [header, claims] = jwt.split(".").map(part);
    return { header, claims };
  } catch {
    return null;
  }
}

function part(base64url, position) {
  // The third part is the signature, not JSON.
  if (position > 1) return null;
  const base64 = base64url.replaceAll("-", "+").replaceAll("_", "/");
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))));
}
