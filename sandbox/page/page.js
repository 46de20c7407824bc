// The steps from left to right: user, session, request, token request, token, connection.

import { byId, element, field, mark } from "/dom.js";
import { Session } from "/session.js";
import { askService, exchange } from "/token.js";
import * as connection from "/connection.js";
import * as access from "/access.js";
import * as policy from "/policy.js";
import * as words from "/words.js";

const config = await (await fetch("/config.json")).json();
// With the page's host name, so that the browser sends the cookies.
const authUrl = `http://${location.hostname}:${config.service_port}/api/ably`;

const hints = ["request-state", "token-state", "connection-hint"].map((id) => [id, byId(id).cloneNode(true)]);
const session = new Session({ clerk: config.clerk, suffix: config.cookie_suffix, changed: showSession });
let users = [];
let shownUser = null;
let live = null;
let asking = 0;

byId("auth-url").textContent = authUrl;
byId("message-input").setAttribute("aria-label", `Message to the channel ${connection.CHANNEL}`);
byId("curl").textContent = `curl -sH "Authorization: Bearer $(curl -sd user=alice ${config.clerk}/sandbox/session-tokens)" ${authUrl}`;
const other = new URL(location.href);
other.hostname = location.hostname === "localhost" ? "127.0.0.1" : "localhost";
byId("other-host").href = other.href;
byId("other-host").textContent = other.origin;

for (const step of ["user", "session", "ask", "request", "token", "connection"]) mark(step, "idle");
byId("sign-out").addEventListener("click", signOut);
byId("get-token").addEventListener("click", getToken);
byId("message-form").addEventListener("submit", send);
setInterval(showLife, 1000);

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
connection.available().then((isAvailable) => isAvailable || explainMissingAblyJs());
document.documentElement.dataset.ready = "";

// Step 1

async function showUsers() {
  try {
    users = await (await fetch(`${config.clerk}/sandbox/users`)).json();
  } catch {
    byId("users").replaceChildren(element("p", { class: "trouble" }, "The Clerk stand-in does not answer. Is the sandbox still running?"));
    return;
  }
  byId("users").replaceChildren(...users.map((user) => {
    const name = [user.first_name, user.last_name].filter(Boolean).join(" ") || user.id;
    const initials = name.split(" ").map((word) => word[0]).join("").slice(0, 2);
    const input = element("input", { type: "radio", name: "user", value: user.id });
    input.addEventListener("change", () => signIn(user.id));
    return element(
      "label",
      { class: "user", "data-testid": `user-${user.username ?? user.id}` },
      input,
      element("span", { class: "initials", "aria-hidden": "true" }, initials),
      element("span", { class: "name" }, name),
      element("span", { class: "username" }, user.username ?? "–"),
      element("span", { class: "note" }, words.noteOn(user)),
    );
  }));
}

async function signIn(user) {
  mark("user", "active");
  try {
    await session.signIn(user);
  } catch (error) {
    mark("user", "failed");
    byId("sign-in-state").textContent = `Signing in failed: ${error.message}`;
  }
}

/** Applies changes at Clerk. */
function updateFromClerk(sessions, changedUsers) {
  users = changedUsers;
  for (const user of users) {
    const note = document.querySelector(`#users input[value="${CSS.escape(user.id)}"] ~ .note`);
    if (note && note.textContent !== words.noteOn(user)) note.textContent = words.noteOn(user);
  }
  session.update(sessions);
}

// Step 2

async function signOut() {
  const button = byId("sign-out");
  const hadFocus = document.activeElement === button;
  const done = session.signOut();
  // The button is hidden now, so move the focus.
  if (hadFocus) document.querySelector("#users input")?.focus();
  await done;
}

function showSession({ id, claims, over }) {
  const user = users.find((each) => each.id === claims?.sub);
  const name = user ? [user.first_name, user.last_name].filter(Boolean).join(" ") : claims?.sub;
  const state = id ? `Signed in as ${name}` : "Not signed in.";
  // A renewal does not change the text, which screen readers would repeat.
  if (byId("sign-in-state").textContent !== state) byId("sign-in-state").textContent = state;
  byId("session").hidden = !id;
  byId("session-hint").hidden = Boolean(id);
  byId("sign-out").hidden = !id;
  mark("user", id ? "done" : "idle");
  mark("session", id ? "done" : "idle");
  for (const input of document.querySelectorAll("#users input")) input.checked = input.value === claims?.sub;
  if (id) {
    const order = Object.keys(words.claims);
    const rank = (claim) => (order.includes(claim) ? order.indexOf(claim) : order.length);
    const rows = Object.entries(claims).sort(([a], [b]) => rank(a) - rank(b));
    byId("claims").replaceChildren(...rows.map(([claim, value]) => field(claim, value, words.claims[claim]?.(value))));
  }
  showLife();
  if (shownUser === id) return;
  shownUser = id;
  // The service ends the connections of an ended session, not this page.
  if (id || !live) startOver();
  if (!id) byId("session-hint").textContent = reasonOfEnd(over);
  policy.sessionChanged();
}

function reasonOfEnd({ how, user }) {
  const why = words.onEnd({ how, user: users.find(({ id }) => id === user) });
  const rest = live ? " The last session token stays in the cookie until it expires, to show how the service answers it." : "";
  return why + rest;
}

function showLife() {
  if (!session.claims) return;
  const left = Math.max(0, Math.ceil(session.secondsLeft()));
  const life = byId("life");
  life.max = session.claims.exp - session.claims.iat;
  life.value = Math.min(left, life.max);
  byId("life-text").textContent = `Token expires in ${left} s`;
}

// Steps 3 to 6

function startOver() {
  asking += 1;
  live?.close();
  live = null;
  if (!session.id) session.eraseCookies();
  for (const step of ["ask", "request", "token", "connection"]) mark(step, "idle");
  for (const id of ["token-request", "jwt", "refusal", "token-details", "connection", "connection-reason"]) byId(id).hidden = true;
  byId("messages").replaceChildren();
  byId("request-name").textContent = "The token request";
  byId("connection-state").textContent = "initialized";
  byId("client-id").textContent = "–";
  for (const [id, hint] of hints) {
    byId(id).replaceChildren(...hint.cloneNode(true).childNodes);
    byId(id).hidden = false;
  }
  byId("get-token").removeAttribute("aria-busy");
  connection.available().then((isAvailable) => isAvailable || explainMissingAblyJs());
}

async function getToken() {
  if (byId("get-token").getAttribute("aria-busy")) return;
  startOver();
  const turn = asking;
  const isCurrent = () => turn === asking;
  byId("get-token").setAttribute("aria-busy", "true");
  mark("ask", "active");
  await session.freshen();
  if (!isCurrent()) return;
  try {
    const answer = await showAnswer(isCurrent);
    if (!isCurrent()) return;
    if (answer) await showToken(answer, isCurrent);
    if (isCurrent()) await connect(isCurrent);
  } finally {
    if (isCurrent()) byId("get-token").removeAttribute("aria-busy");
  }
}

/** Shows the service's answer in any token format, and returns it unless it is a refusal. */
async function showAnswer(isCurrent) {
  mark("request", "active");
  let answer;
  try {
    answer = await askService(authUrl, policy.params());
  } catch {
    if (!isCurrent()) return null;
    mark("ask", "failed");
    mark("request", "failed");
    byId("request-state").textContent = "The service did not answer, or CORS hides its answer. See its log.";
    return null;
  }
  if (!isCurrent()) return null;
  mark("ask", "done");
  const { status, took, body, jwt } = answer;
  byId("request-state").textContent = `Status ${status}, in ${Math.round(took)} ms`;
  const isToken = status === 200 && (jwt || body?.keyName);
  if (!isToken) {
    showRefusal(status, body?.error);
    return null;
  }
  if (jwt) {
    byId("request-name").textContent = "The JWT";
    showFields("jwt", words.jwt, { ...jwt.header, ...jwt.claims });
  } else if (body.token) {
    byId("request-name").textContent = "The token details";
    byId("request-state").textContent += ". The service exchanged a token request at Ably itself.";
  } else {
    showFields("token-request", words.tokenRequest, body);
  }
  mark("request", "done");
  return answer;
}

function showRefusal(status, error = {}) {
  byId("request-name").textContent = "A refusal";
  mark("request", "failed");
  const rows = [
    field("status", error.statusCode ?? status, "HTTP status"),
    field("code", error.code, "Ably’s error code"),
    field("href", error.href, "Where Ably explains the code"),
    field("an SDK", document.createTextNode(words.sdkReaction(status, error.code))),
  ];
  byId("refusal").replaceChildren(
    element("p", {}, error.message ?? "The answer has no message."),
    element("dl", { class: "fields" }, ...rows),
  );
  byId("refusal").hidden = false;
  byId("token-state").textContent = "No token request to exchange.";
}

async function showToken({ body, jwt }, isCurrent) {
  mark("token", "active");
  if (jwt) {
    byId("token-state").textContent = "The JWT is the token. Ably checks its signature when the connection opens.";
    mark("token", "done");
    return;
  }
  if (body.token) {
    byId("token-state").textContent = "Ably issued it to the service.";
    showFields("token-details", words.tokenDetails, body);
    mark("token", "done");
    return;
  }
  let answer;
  try {
    answer = await exchange(config.ably, body);
  } catch {
    answer = null;
  }
  if (!isCurrent()) return;
  if (answer && answer.status < 300 && answer.body?.token) {
    byId("token-state").textContent = `Status ${answer.status}, in ${Math.round(answer.took)} ms`;
    showFields("token-details", words.tokenDetails, answer.body);
    mark("token", "done");
  } else {
    const error = answer?.body?.error;
    byId("token-state").textContent = error ? `${error.message} (${error.code})` : "The Ably stand-in did not answer.";
    mark("token", "failed");
  }
}

/** Shows all explained fields, including absent ones, and then the others. */
function showFields(id, glosses, values) {
  const names = [...new Set([...Object.keys(glosses), ...Object.keys(values)])];
  byId(id).replaceChildren(...names.map((name) => field(name, values[name], glosses[name]?.(values[name], values))));
  byId(id).hidden = false;
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
  byId("connection-state").textContent = state;
  byId("connection-state").dataset.mood = MOODS[state] ?? "";
  byId("client-id").textContent = client.auth.clientId ?? "–";
  mark("connection", isConnected ? "done" : state === "failed" ? "failed" : "active");
  for (const id of ["message-input", "message-send"]) byId(id).disabled = !isConnected;
  byId("talk").hidden = !isConnected;
  const why = reason?.cause?.message ?? reason?.message;
  access.show();
  byId("connection-reason").textContent = why ?? "";
  byId("connection-reason").hidden = isConnected || !why;
  byId("connection-reason").dataset.mood = MOODS[state] ?? "";
}

function explainMissingAblyJs() {
  byId("connection-hint").replaceChildren(
    "The live connection needs ably-js, which is not installed. With Node installed, ",
    element("code", {}, "make dev"),
    " installs it. Or run ",
    element("code", {}, "npm ci"),
    " in ",
    element("code", {}, "sandbox/page"),
    " and reload.",
  );
  byId("step-connection").dataset.unavailable = "";
}

async function send(event) {
  event.preventDefault();
  const input = byId("message-input");
  const text = input.value.trim();
  if (!text || !live) return;
  input.value = "";
  try {
    await live.publish(text);
  } catch (error) {
    showChannelRefusal(error);
  }
}

function showChannelRefusal({ message }) {
  byId("connection-reason").textContent = `${connection.CHANNEL}: ${message}`;
  byId("connection-reason").dataset.mood = "bad";
  byId("connection-reason").hidden = false;
}

function showMessage({ clientId, data, timestamp }) {
  const time = new Date(timestamp ?? Date.now());
  const list = byId("messages");
  list.append(element(
    "li",
    {},
    element("span", { class: "who" }, clientId ?? "anonymous"),
    element("span", { class: "what" }, typeof data === "string" ? data : JSON.stringify(data)),
    element("time", { datetime: time.toISOString() }, time.toLocaleTimeString([], { hour12: false })),
  ));
  while (list.children.length > 50) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}
