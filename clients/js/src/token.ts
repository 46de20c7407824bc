import { ErrorInfo, type TokenDetails, type TokenParams, type TokenRequest } from "ably";

/** `getToken` of Clerk's `useAuth()`, or `(options) => clerk.session?.getToken(options)`. */
export type GetToken = (options?: { skipCache?: boolean }) => Promise<string | null> | null | undefined;

export interface AblyAuthOptions {
  /** The service's token endpoint. In a browser it may be relative, such as `/api/ably`. */
  url: string;
  getToken: GetToken;
  /**
   * The organization that the token is for: its ID, or null for none. With `undefined`, it is the session's active one.
   * `createAblyAuth` calls this for each token.
   */
  organization?: (() => string | null | undefined) | undefined;
  /** How long a token may take, in milliseconds. Keep it below ably-js's own limit of 10 seconds. Default: 8000. */
  timeoutMs?: number | undefined;
  /** Called with each error. */
  onError?: ((error: ErrorInfo) => void) | undefined;
}

export type Token = TokenRequest | TokenDetails | string;

const UNAUTHORIZED = 401;
const FORBIDDEN = 403;
/** Ably's code for a failed authCallback. */
const CALLBACK_FAILED = 40170;

/** Gets a token from the service. Every failure is an `ErrorInfo`. */
export async function requestToken(options: AblyAuthOptions, params: TokenParams): Promise<Token> {
  const { url, timeoutMs = 8000 } = options;
  const deadline = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(failure(`${url} gave no token within ${timeoutMs} ms.`));
      deadline.abort();
    }, timeoutMs);
  });
  try {
    return await Promise.race([askWithFreshToken(options, params, deadline.signal), tooLate]);
  } catch (error) {
    throw error instanceof ErrorInfo ? error : failure(`${url} is unreachable: ${messageOf(error)}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks again, once, if the service rejects a session token that Clerk's SDK had cached. */
async function askWithFreshToken(options: AblyAuthOptions, params: TokenParams, signal: AbortSignal): Promise<Token> {
  const address = withParams(options, params);
  const response = await ask(address, await sessionToken(options), signal);
  if (response.status !== UNAUTHORIZED) return tokenIn(response, options.url);
  return tokenIn(await ask(address, await sessionToken(options, { skipCache: true }), signal), options.url);
}

async function sessionToken({ getToken }: AblyAuthOptions, options?: { skipCache: boolean }): Promise<string> {
  let token;
  try {
    token = await getToken(options);
  } catch (error) {
    throw failure(`Clerk's getToken() failed: ${messageOf(error)}`);
  }
  if (!token) throw new ErrorInfo("The user is not signed in: getToken() returned no session token.", 40101, UNAUTHORIZED);
  return token;
}

function ask(address: string, token: string, signal: AbortSignal): Promise<Response> {
  // A redirect leads to a sign-in page, or would take the session token elsewhere.
  return fetch(address, { headers: { authorization: `Bearer ${token}` }, cache: "no-store", redirect: "manual", signal });
}

function withParams({ url, organization }: AblyAuthOptions, params: TokenParams): string {
  const active = organization?.();
  const all = { ...params, organization: active === null ? "none" : active };
  // React Native's URLSearchParams is incomplete.
  const query = Object.entries(all)
    .filter(([, value]) => value != null)
    .map(([name, value]) => `${name}=${encodeURIComponent(typeof value === "object" ? JSON.stringify(value) : String(value))}`);
  return url + (url.includes("?") ? "&" : "?") + query.join("&");
}

async function tokenIn(response: Response, url: string): Promise<Token> {
  const type = response.headers.get("content-type") ?? "";
  if (response.ok && type.startsWith("application/jwt")) return response.text();
  const body: unknown = type.startsWith("application/json") ? await response.json().catch(() => null) : null;
  if (response.ok && isToken(body)) return body;

  const error = errorIn(response, body, url);
  const requestId = response.headers.get("x-request-id");
  // Early versions of ably-js 2 do not take it in the constructor.
  if (requestId) error.detail = { requestId };
  throw error;
}

function errorIn(response: Response, body: unknown, url: string): ErrorInfo {
  const { ok, status, type } = response;
  if (!ok && isAblyError(body)) return new ErrorInfo(body.error.message, body.error.code, body.error.statusCode);
  // A browser hides the status of a redirect.
  if (type === "opaqueredirect" || (status >= 300 && status < 400)) {
    return failure(`${url} answered with a redirect. Exclude it from what redirects to the sign-in page.`);
  }
  if (ok) return failure(`${url} answered ${status} without an Ably token.`);
  return failure(`${url} answered ${status} without an Ably error.`, status);
}

function failure(message: string, status = UNAUTHORIZED): ErrorInfo {
  return new ErrorInfo(message, status === FORBIDDEN ? 40300 : CALLBACK_FAILED, status);
}

function isToken(body: unknown): body is TokenRequest | TokenDetails {
  return isObject(body) && (typeof body.keyName === "string" || typeof body.token === "string");
}

function isAblyError(body: unknown): body is { error: { message: string; code: number; statusCode: number } } {
  if (!isObject(body) || !isObject(body.error)) return false;
  const { message, code, statusCode } = body.error;
  return typeof message === "string" && typeof code === "number" && typeof statusCode === "number";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
