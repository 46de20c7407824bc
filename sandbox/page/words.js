// The meaning of the fields of each protocol.

const DAY_MS = 24 * 3600 * 1000;

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const seconds = (s) => (typeof s === "number" ? clock(s * 1000) : undefined);

export const nameOf = (user) => [user.first_name, user.last_name].filter(Boolean).join(" ") || user.id;

/** A note on a user. */
export function noteOn({ banned, username, organization }) {
  if (banned) return "Banned: the service refuses this user";
  if (!username) return "Has no username to use as a client ID";
  if (!organization) return "A user without special properties";
  return `${organization.role} of ${organization.slug}, plan ${organization.plan ?? "none"}`;
}

export const claims = {
  sub: () => "The user",
  sid: () => "The session",
  azp: () => "Authorized party: the page that asked Clerk for this token",
  o: () => "Organization: id, slug, role, and permissions as a bitmap per feature",
  fea: () => "Features, of the organization (o), the user (u) or both (ou)",
  pla: () => "Billing plans",
  iss: () => "Issuer: this instance’s Frontend API",
  iat: (s) => `Issued at ${seconds(s)}`,
  exp: (s) => `Expires at ${seconds(s)}; the page renews it before`,
  nbf: () => "Not valid before; ten seconds early, for slow clocks",
  sts: () => "Session status",
  fva: () => "Minutes since the first and second factor; -1 means never",
  jti: () => "The id of this token",
  v: () => "Version of the claims",
};

const signingKey = () => "The API key that signs; its secret stays in the service";
const clientId = () => "The client ID of the connection; the browser cannot change it";

export const tokenRequest = {
  keyName: signingKey,
  clientId,
  timestamp: (ms) => `${clock(ms)}; Ably accepts it for two minutes`,
  nonce: () => "Limits the request to one exchange",
  ttl: (ms) => (ms === undefined ? "Absent: Ably’s default, a token of 60 minutes" : `The token expires after ${span(ms)}`),
  capability: (text) => (text === undefined ? "Absent: everything the API key may do" : "The operations allowed on each channel"),
  mac: () => "HMAC-SHA256 over all fields above",
};

/** The header and the claims of an Ably JWT. */
export const jwt = {
  typ: () => "Header: token type",
  alg: () => "Header: HMAC-SHA256, with the secret of the API key",
  kid: () => `Header: ${signingKey()}`,
  iat: (s) => `Issued at ${seconds(s)}`,
  exp: (s, { iat }) => `Expires at ${seconds(s)}, after ${span((s - iat) * 1000)}`,
  "x-ably-clientId": clientId,
  "x-ably-capability": () => "The operations allowed on each channel, within the capability of the key",
  "x-ably-revocation-key": () => "The Clerk session, with which the token can be revoked",
};

export const tokenDetails = {
  token: () => "Opens a connection; only Ably can read it",
  keyName: signingKey,
  clientId,
  issued: clock,
  expires: (ms, { issued }) => `${clock(ms)}, after ${span(ms - issued)}`,
  capability: () => "What both the request and the key allow",
};

/** Why the session of this page ended. */
export function onEnd(how, user) {
  if (user?.banned && how !== "signed-out") return `Clerk ended the session: ${user.username ?? user.id} is banned.`;
  return {
    "signed-out": "You signed out.",
    ended: "The session was signed out elsewhere.",
    removed: "The session was signed out elsewhere.",
    revoked: "An administrator revoked the session.",
  }[how] ?? "Clerk ended the session.";
}

/** Why a connection ended. */
export function onEnding({ code, revokedFrom }) {
  if (code === 40141) return "Ably ended it: token revoked (40141)";
  if (code) return `Ably ended it (${code})`;
  return revokedFrom ? "The client gave up: its token is revoked, and the service refused a new one" : "The client left";
}

/** The start and the end of an id. */
export const short = (id) => (id.length > 18 ? `${id.slice(0, 9)}…${id.slice(-5)}` : id);

/** Why a placeholder cannot be filled. */
export const unfit = {
  missing: "the session does not have this value",
  empty: "the value is empty",
  forbidden: "the value has a character that is not allowed",
};

/** How an Ably SDK reacts to a refusal. */
export function sdkReaction(status, code) {
  if (status === 403 || code === 40102 || code === 40171) return "Gives up: the connection state is failed.";
  return "Stays disconnected and retries: first after 12 to 15 seconds, later after 24 to 30.";
}

export function span(ms) {
  if (ms % DAY_MS === 0) return `${ms / DAY_MS} d`;
  return ms % 60_000 === 0 ? `${ms / 60_000} min` : `${ms / 1000} s`;
}

/** A rounded duration. */
export function roughly(ms) {
  const [size, unit] = [[3_600_000, "h"], [60_000, "min"], [1000, "s"]].find(([each]) => ms >= each) ?? [1, "ms"];
  return `${Math.round(ms / size)} ${unit}`;
}
