// Express, @clerk/express and ably-js. No log, limits, metrics or CORS.
import { clerkMiddleware, getAuth } from '@clerk/express';
import Ably from 'ably';
import express from 'express';

const { ABLY_API_KEY, CLERK_AUTHORIZED_PARTIES, PORT } = process.env;
const ably = new Ably.Rest({ key: ABLY_API_KEY });
const app = express();

app.use(clerkMiddleware({ authorizedParties: [CLERK_AUTHORIZED_PARTIES] }));
app.get('/api/ably', async (request, response) => {
  const { isAuthenticated, sessionClaims } = getAuth(request);
  if (!isAuthenticated) {
    response.sendStatus(401);
    return;
  }
  response.json(await ably.auth.createTokenRequest({ clientId: sessionClaims.username }));
});
app.listen(Number(PORT), '127.0.0.1');
