// What the fields of each protocol mean, in a line each.

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const seconds = (s) => (typeof s === "number" ? clock(s * 1000) : undefined);
const day = 24 * 3600 * 1000;

/** What is worth knowing of a user before signing in as them. */
export function noteOn(user) {
  if (user.banned) return "Banned, and refused by the service";
  if (!user.username) return "Has no username to become a client ID";
  const { organization } = user;
  if (!organization) return "A user like most";
  return `${organization.role} of ${organization.slug}, plan ${organization.plan ?? "none"}`;
}

export const claims = {
  sub: () => "The user",
  sid: () => "The session",
  azp: () => "Authorized party: the page that asked Clerk for this token",
  o: () => "Organization: id, slug, role, and permissions as one bitmap a feature",
  fea: () => "Features, of the organization (o), the user (u) or both (ou)",
  pla: () => "Billing plans",
  iss: () => "Issuer: this instance’s Frontend API",
  iat: (s) => `Issued at ${seconds(s)}`,
  exp: (s) => `Expires at ${seconds(s)}; the page asks for the next one before`,
  nbf: () => "Not valid before; ten seconds early, for clocks that lag",
  sts: () => "Session status",
  fva: () => "Minutes since the first and second factor; -1 is never",
  jti: () => "This token’s own id",
  v: () => "Version of the claims",
};

export const tokenRequest = {
  keyName: () => "The API key that signs; its secret stays with the service",
  clientId: () => "Who the connection will be, whatever the browser claims",
  timestamp: (ms) => `${clock(ms)}; Ably takes it for two minutes`,
  nonce: () => "Makes the request good for one exchange only",
  ttl: (ms) => (ms === undefined ? "Ably’s default: a token of 60 minutes" : `The token lives ${span(ms)}`),
  capability: (text) => (text === undefined ? "Absent means all that the API key itself may do" : "What each channel may be used for"),
  mac: () => "HMAC-SHA256 over all of the above",
};

/** Of the header and of the claims of an Ably JWT, by their own names. */
export const jwt = {
  typ: () => "Header: what it is",
  alg: () => "Header: HMAC-SHA256, with the secret of the API key",
  kid: () => "Header: the API key that signs; its secret stays with the service",
  iat: (s) => `Issued at ${seconds(s)}`,
  exp: (s, all) => `Expires at ${seconds(s)}, after ${span((s - all.iat) * 1000)}`,
  "x-ably-clientId": () => "Who the connection will be, whatever the browser claims",
  "x-ably-capability": () => "What each channel may be used for; Ably cuts it down to the key’s own",
  "x-ably-revocation-key": () => "The Clerk session, by which Ably can revoke the token",
};

export const tokenDetails = {
  token: () => "What opens a connection; Ably alone can read it",
  keyName: () => "The key that vouched for it",
  clientId: () => "Fixed for every connection made with it",
  issued: (ms) => clock(ms),
  expires: (ms, all) => `${clock(ms)}, after ${span(ms - all.issued)}`,
  capability: () => "What the request and the key both allow",
};

/** Why this page has no session any more. */
export function onEnd({ how, user }) {
  if (user?.banned && how !== "signed-out") return `Clerk has ended the session: ${user.username ?? user.id} is banned.`;
  return {
    "signed-out": "You signed out here.",
    ended: "The session was signed out from elsewhere.",
    removed: "The session was signed out from elsewhere.",
    revoked: "An administrator has revoked the session.",
  }[how] ?? "Clerk has ended the session.";
}

/** How a connection that is no more came to its end. */
export function onEnding({ code, revokedFrom }) {
  if (code === 40141) return "Ably ended it: the token is revoked (40141)";
  if (code) return `Ably ended it (${code})`;
  return revokedFrom ? "The client gave up: its token is revoked, and the service refused it another" : "The client left";
}

/** The start and the end of an id, which tell those on one page apart. */
export const short = (id) => (id.length > 18 ? `${id.slice(0, 9)}…${id.slice(-5)}` : id);

/** Why a placeholder cannot be filled. */
export const unfit = {
  missing: "the session has no such value",
  empty: "the value is empty",
  forbidden: "the value has a character that is not allowed",
};

/** What an Ably SDK does with a refusal of this status and code. */
export function sdkReaction(status, code) {
  if (status === 403 || code === 40102 || code === 40171) {
    return "Gives up: the connection is failed for good.";
  }
  return "Stays disconnected. It asks again after 12 to 15 seconds first, rising to 24 to 30.";
}

export function span(ms) {
  if (ms % day === 0) return `${ms / day} d`;
  return ms % 60_000 === 0 ? `${ms / 60_000} min` : `${ms / 1000} s`;
}

/** A span that nobody needs to the millisecond, unless it has few of them. */
export function roughly(ms) {
  const [size, unit] = [[3_600_000, "h"], [60_000, "min"], [1000, "s"]].find(([each]) => ms >= each) ?? [1, "ms"];
  return `${Math.round(ms / size)} ${unit}`;
}
