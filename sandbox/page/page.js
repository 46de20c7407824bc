// The steps from left to right: user, session, request, token request, token, connection.

import { byId, element, field, mark, say } from "/dom.js";
import { Session } from "/session.js";
import { ask, askService, exchange } from "/requests.js";
import * as connection from "/connection.js";
import * as access from "/access.js";
import * as policy from "/policy.js";
import * as words from "/words.js";

const config = await ask("GET", "/config.json");
// With the page's host name, so that the browser sends the cookies.
const authUrl = `http://${location.hostname}:${config.service_port}/api/ably`;

const initialTexts = ["request-name", "request-state", "token-state", "connection-state", "client-id"]
  .map((id) => [id, byId(id).textContent]);
const session = new Session({ clerk: config.clerk, suffix: config.cookie_suffix, changed: showSession });
let users = [];
let shownSession = null;
let live = null;
let asking = 0;

say("auth-url", authUrl);
say("curl", `curl -sH "Authorization: Bearer $(curl -sd user=alice ${config.clerk}/sandbox/session-tokens)" ${authUrl}`);
const other = `http://${location.hostname === "localhost" ? "127.0.0.1" : "localhost"}:${location.port}`;
byId("other-host").href = other;
say("other-host", other);

byId("sign-out").addEventListener("click", signOut);
byId("get-token").addEventListener("click", getToken);
byId("message-form").addEventListener("submit", send);
setInterval(showLife, 1000);

const hasRoom = matchMedia("(min-width: 1040px)");
hasRoom.addEventListener("change", fold);
fold();

await showUsers();
await session.restore();
access.start({
  clerk: config.clerk,
  ably: config.ably,
  here: () => ({ sessionId: session.id, connectionId: live?.id() }),
  signOut: (id) => (id === session.id ? signOut() : session.end(id)),
  changed: updateFromClerk,
});
await policy.start(async () => {
  await session.freshen();
  return session.token;
});
connection.available().then((isAvailable) => (byId("ably-js-missing").hidden = isAvailable));
document.documentElement.dataset.ready = "";

/** On a small screen, folds everything that is not needed to take the steps. */
function fold() {
  for (const details of document.querySelectorAll("details")) details.open = hasRoom.matches;
}

// Step 1

async function showUsers() {
  try {
    users = await ask("GET", `${config.clerk}/sandbox/users`);
  } catch (error) {
    say("session-hint", error.message);
  }
  byId("users").append(...users.map((user) => {
    const input = element("input", { type: "radio", name: "user", value: user.id });
    input.addEventListener("change", () => signIn(user.id));
    return element(
      "label.user",
      { id: `user-${user.username ?? user.id}` },
      input,
      element("strong", words.nameOf(user)),
      element("code", user.username ?? "–"),
      element("span.note", words.noteOn(user)),
    );
  }));
}

async function signIn(user) {
  mark("user", "active");
  try {
    await session.signIn(user);
  } catch (error) {
    mark("user", "failed");
    say("sign-in-state", `Signing in failed: ${error.message}`);
  }
}

/** Applies changes at Clerk. */
function updateFromClerk(sessions, changedUsers) {
  users = changedUsers;
  for (const user of users) {
    const note = document.querySelector(`#users input[value="${CSS.escape(user.id)}"] ~ .note`);
    if (note) note.textContent = words.noteOn(user);
  }
  session.update(sessions);
}

// Step 2

async function signOut() {
  const hadFocus = document.activeElement === byId("sign-out");
  const done = session.signOut();
  // The button is hidden now, so move the focus.
  if (hadFocus) document.querySelector("#users input")?.focus();
  await done;
}

function showSession({ id, claims, over }) {
  const user = users.find((each) => each.id === claims?.sub);
  say("sign-in-state", id ? `Signed in as ${user ? words.nameOf(user) : claims.sub}` : "Not signed in.");
  byId("session").hidden = !id;
  byId("session-hint").hidden = Boolean(id);
  byId("sign-out").hidden = !id;
  for (const step of ["user", "session"]) mark(step, id ? "done" : "idle");
  for (const input of document.querySelectorAll("#users input")) input.checked = input.value === claims?.sub;
  if (id) byId("claims").replaceChildren(...rows(Object.keys(words.claims).filter((name) => name in claims), words.claims, claims));
  showLife();
  if (shownSession === id) return;
  shownSession = id;
  // The service ends the connections of an ended session, not this page.
  if (id || !live) startOver();
  if (!id) say("session-hint", reasonOfEnd(over));
  policy.sessionChanged();
}

function reasonOfEnd({ how, user }) {
  const why = words.onEnd(how, users.find(({ id }) => id === user));
  return live ? `${why} The last session token stays in the cookie until it expires, to show how the service answers it.` : why;
}

function showLife() {
  if (!session.claims) return;
  const left = Math.max(0, Math.ceil(session.secondsLeft()));
  byId("life").max = session.claims.exp - session.claims.iat;
  byId("life").value = left;
  say("life-text", `Token expires in ${left} s`);
}

// Steps 3 to 6

function startOver() {
  asking += 1;
  live?.close();
  live = null;
  if (!session.id) session.eraseCookies();
  for (const step of ["ask", "request", "token", "connection"]) mark(step, "idle");
  for (const id of ["answer", "token-request", "jwt", "refusal", "token", "connection"]) byId(id).hidden = true;
  byId("messages").replaceChildren();
  for (const [id, text] of initialTexts) say(id, text);
  say("connection-reason");
  byId("connection-hint").hidden = false;
}

async function getToken() {
  startOver();
  const turn = asking;
  const isCurrent = () => turn === asking;
  mark("ask", "active");
  await session.freshen();
  if (!isCurrent()) return;
  const answer = await showAnswer(isCurrent);
  if (!isCurrent()) return;
  if (answer) await showToken(answer, isCurrent);
  if (isCurrent()) await connect(isCurrent);
}

/** Shows the service's answer in any token format, and returns it unless it is a refusal. */
async function showAnswer(isCurrent) {
  mark("request", "active");
  const answer = await askService(authUrl, policy.params()).catch(() => null);
  if (!isCurrent()) return null;
  mark("ask", answer ? "done" : "failed");
  if (!answer) {
    mark("request", "failed");
    say("request-state", "The service did not answer, or CORS hides its answer. See its log.");
    return null;
  }
  const { status, took, body, jwt } = answer;
  say("request-state", `Status ${status}, in ${took} ms`);
  if (status !== 200 || !(jwt || body?.keyName)) {
    showRefusal(status, body?.error);
    return null;
  }
  if (jwt) {
    say("request-name", "The JWT");
    showFields("jwt", words.jwt, { ...jwt.header, ...jwt.claims });
  } else if (body.token) {
    say("request-name", "The token details");
    say("request-state", `${byId("request-state").textContent}. The service exchanged a token request at Ably itself.`);
  } else {
    showFields("token-request", words.tokenRequest, body);
  }
  mark("request", "done");
  return answer;
}

function showRefusal(status, error = {}) {
  say("request-name", "A refusal");
  mark("request", "failed");
  const rows = [
    field("status", error.statusCode ?? status, "HTTP status"),
    field("code", error.code, "Ably’s error code"),
    field("href", error.href, "Where Ably explains the code"),
    field("an SDK", document.createTextNode(words.sdkReaction(status, error.code))),
  ];
  byId("refusal").replaceChildren(
    element("p", error.message ?? "The answer has no message."),
    element("dl.fields", ...rows),
  );
  byId("refusal").hidden = false;
  say("token-state", "No token request to exchange.");
}

async function showToken({ body, jwt }, isCurrent) {
  mark("token", "active");
  if (jwt) {
    say("token-state", "The JWT is the token. Ably checks its signature when the connection opens.");
  } else if (body.token) {
    say("token-state", "Ably issued it to the service.");
    showFields("token-details", words.tokenDetails, body);
  } else {
    const answer = await exchange(config.ably, body).catch(() => null);
    if (!isCurrent()) return;
    if (!answer?.body?.token) {
      const error = answer?.body?.error;
      say("token-state", error ? `${error.message} (${error.code})` : "The Ably stand-in did not answer.");
      mark("token", "failed");
      return;
    }
    say("token-state", `Status ${answer.status}, in ${answer.took} ms`);
    showFields("token-details", words.tokenDetails, answer.body);
  }
  mark("token", "done");
}

/** Shows all explained fields, including absent ones, and then the others. */
function showFields(id, glosses, values) {
  const list = byId(id);
  list.replaceChildren(...rows(Object.keys(glosses), glosses, values));
  list.hidden = list.closest("details").hidden = false;
}

function rows(first, glosses, values) {
  const names = new Set([...first, ...Object.keys(values)]);
  return [...names].map((name) => field(name, values[name], glosses[name]?.(values[name], values)));
}

const MOODS = { connected: "good", failed: "bad", connecting: "wait", disconnected: "wait", suspended: "wait" };

async function connect(isCurrent) {
  if (!(await connection.available()) || !isCurrent()) return;
  byId("connection-hint").hidden = true;
  byId("connection").hidden = false;
  live = connection.open({
    authUrl,
    params: policy.params(),
    ably: config.ably,
    changed: showConnection,
    received: showMessage,
    refused: showChannelRefusal,
  });
}

function showConnection(state, reason, client) {
  const isConnected = state === "connected";
  say("connection-state", state, MOODS[state]);
  say("client-id", client.auth.clientId ?? "–");
  mark("connection", isConnected ? "done" : state === "failed" ? "failed" : "active");
  byId("talk").hidden = !isConnected;
  access.show();
  say("connection-reason", isConnected ? "" : reason?.cause?.message ?? reason?.message, MOODS[state]);
}

async function send(event) {
  event.preventDefault();
  const input = byId("message-input");
  const text = input.value.trim();
  if (!text || !live) return;
  input.value = "";
  await live.publish(text).catch(showChannelRefusal);
}

function showChannelRefusal({ message }) {
  say("connection-reason", `${connection.CHANNEL}: ${message}`, "bad");
}

function showMessage({ clientId, data, timestamp }) {
  const time = new Date(timestamp ?? Date.now());
  const list = byId("messages");
  list.append(element(
    "p",
    element("strong", clientId ?? "anonymous"),
    element("span", typeof data === "string" ? data : JSON.stringify(data)),
    element("time", { datetime: time.toISOString() }, words.clock(time)),
  ));
  while (list.children.length > 50) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}
