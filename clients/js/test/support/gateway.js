// What stands before the service in a user's app: it serves the app's page and passes /api/ably on, until a test lets it
// answer by itself.

import { once } from "node:events";
import { createServer } from "node:http";

/** Answers that are not the service's own. */
export const html = (status) => ({ status, type: "text/html", body: `<h1>${status}</h1>` });
export const json = (status, body) => ({ status, type: "application/json", body: JSON.stringify(body) });
export const redirect = (location) => ({ status: 307, type: "text/plain", body: "", headers: { location } });
/** No answer at all. */
export const SILENCE = "silence";

export async function startGateway(context, sandbox, files = {}) {
  const gateway = {
    /** The sandbox whose service and session tokens it passes on. */
    sandbox,
    /** The requests for tokens: their params and their session token. */
    requests: [],
    /** The paths of all requests. */
    paths: [],
    /** The answer instead of the service's, or a function of the request that returns one, or nothing to pass it on. */
    answer: undefined,
  };
  const server = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    gateway.paths.push(pathname);
    if (pathname === "/session-token") {
      const claims = JSON.parse(searchParams.get("claims") ?? "{}");
      return response.end(await gateway.sandbox.sessionToken(searchParams.get("user"), claims));
    }
    if (pathname !== "/api/ably") {
      const [type, body] = files[pathname] ?? [];
      return response.writeHead(type ? 200 : 404, { "content-type": type ?? "text/plain" }).end(body);
    }
    const { authorization } = request.headers;
    const seen = { params: Object.fromEntries(searchParams), authorization };
    gateway.requests.push(seen);
    const own = typeof gateway.answer === "function" ? await gateway.answer(seen) : gateway.answer;
    if (own === SILENCE) return;
    const { status, type, body, headers } = own ?? (await passedOn(gateway.sandbox, searchParams, authorization));
    response.writeHead(status, { "content-type": type, ...headers }).end(body);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  context.after(() => {
    server.close();
    server.closeAllConnections();
  });
  gateway.origin = `http://127.0.0.1:${server.address().port}`;
  gateway.url = `${gateway.origin}/api/ably`;
  return gateway;
}

async function passedOn(sandbox, params, authorization) {
  const answer = await fetch(`${sandbox.authUrl}?${params}`, { headers: authorization ? { authorization } : {} });
  const headers = { "x-request-id": answer.headers.get("x-request-id") };
  return { status: answer.status, type: answer.headers.get("content-type"), body: await answer.text(), headers };
}
