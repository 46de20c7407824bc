/** Tokens of the ably-clerk-auth service for ably-js. */

import { ErrorInfo, type AuthOptions } from "ably";

import { requestToken, type AblyAuthOptions } from "./token.js";

export type { AblyAuthOptions, GetToken } from "./token.js";

export type AuthCallback = NonNullable<AuthOptions["authCallback"]>;

/** An `authCallback` that gets its tokens from the service, with a fresh Clerk session token each time. */
export function createAblyAuth(options: AblyAuthOptions): AuthCallback {
  return (params, callback) => {
    requestToken(options, params).then(
      (token) => callback(null, token),
      (error: ErrorInfo) => {
        callback(error, null);
        options.onError?.(error);
      },
    );
  };
}
