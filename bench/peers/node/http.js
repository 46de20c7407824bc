// Node's own HTTP server, @clerk/backend and ably-js. No log, limits, metrics or CORS.
import { createServer } from 'node:http';
import { verifyToken } from '@clerk/backend';
import Ably from 'ably';

const { ABLY_API_KEY, CLERK_AUTHORIZED_PARTIES, CLERK_JWT_KEY, PORT } = process.env;
const ably = new Ably.Rest({ key: ABLY_API_KEY });
const options = { jwtKey: CLERK_JWT_KEY, authorizedParties: [CLERK_AUTHORIZED_PARTIES] };

createServer(async (request, response) => {
  try {
    const token = request.headers.authorization?.replace('Bearer ', '');
    const claims = await verifyToken(token, options);
    const tokenRequest = await ably.auth.createTokenRequest({ clientId: claims.username });
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(tokenRequest));
  } catch {
    response.statusCode = 401;
    response.end();
  }
}).listen(Number(PORT), '127.0.0.1');
