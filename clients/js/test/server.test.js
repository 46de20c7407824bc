// On a server: the React tree renders, and nothing connects.

import assert from "node:assert/strict";
import { test } from "node:test";

import { AblyClerkProvider, useAblyAuth } from "ably-clerk-auth/react";
import { createElement } from "react";
import { renderToString } from "react-dom/server";

const signedIn = { isLoaded: true, isSignedIn: true, sessionId: "sess_1", orgId: null };
const signedOut = { isLoaded: true, isSignedIn: false, sessionId: null, orgId: null };
const notLoaded = { isLoaded: false, isSignedIn: undefined, sessionId: undefined, orgId: undefined };

for (const [what, auth, rendered] of [
  ["a signed-in user", signedIn, "loading"],
  ["a signed-out user", signedOut, "signed-out"],
  ["a Clerk that has not loaded", notLoaded, "loading"],
]) {
  test(`a server renders "${rendered}" for ${what}, and asks for no token`, async (t) => {
    const getToken = t.mock.fn(() => Promise.resolve("token"));
    t.mock.method(globalThis, "fetch", () => assert.fail("a request on the server"));
    const Status = () => useAblyAuth().status;
    const status = createElement(Status);
    const element = createElement(AblyClerkProvider, {
      auth: { ...auth, getToken },
      url: "/api/ably",
      loading: status,
      signedOut: status,
      children: "children",
    });
    assert.equal(renderToString(element), rendered);
    await new Promise(setImmediate);
    assert.equal(getToken.mock.callCount(), 0);
  });
}

test("useAblyAuth() outside the provider says what is missing", () => {
  const Status = () => useAblyAuth().status;
  assert.throws(() => renderToString(createElement(Status)), /needs an <AblyClerkProvider> around it/);
});
