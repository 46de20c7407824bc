// A door before the service's `authUrl`, for tests of what happens when the service changes its mind about a client.

import { once } from "node:events";
import { createServer } from "node:http";

const WORDS = { 401: 40101, 403: 40300 };

/** Starts a door that lets every request through to the service, until it is told to refuse. */
export async function startGate(context, sandbox) {
  const gate = { asked: 0, refuseWith: null };
  const server = createServer(async (request, response) => {
    gate.asked += 1;
    const { status, type, body } = gate.refuseWith ? refusal(gate.refuseWith) : await forwarded(sandbox, request);
    response.writeHead(status, { "content-type": type }).end(body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => server.close().closeAllConnections());
  gate.authUrl = `http://127.0.0.1:${server.address().port}/`;
  return gate;
}

async function forwarded(sandbox, { url, headers }) {
  const { authorization } = headers;
  const answer = await fetch(sandbox.authUrl + new URL(url, sandbox.authUrl).search, { headers: { authorization } });
  return { status: answer.status, type: answer.headers.get("content-type"), body: await answer.text() };
}

function refusal(status) {
  const code = WORDS[status];
  const error = { code, statusCode: status, message: "refused at the door", href: `https://help.ably.io/error/${code}` };
  return { status, type: "application/json", body: JSON.stringify({ error }) };
}
