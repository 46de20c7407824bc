// Who has access, and how it ends: sessions at Clerk, webhooks, and connections at Ably, as the stand-ins stream them.

import { byId, element, pill, say, whileBusy } from "/dom.js";
import { ask } from "/requests.js";
import { clock, nameOf, onEnding, roughly, short } from "/words.js";

const MOST_ENTRIES = 20;

let stage;
let users = [];
let sessions = [];
let webhooks = null;
let streamed = null;
let newest;

/** Starts the panels. `here()` returns this page's session and connection; `changed(sessions, users)` learns of changes. */
export function start(options) {
  stage = options;
  const streams = [["webhooks", stage.clerk, takeWebhooks], ["connections", stage.ably, takeConnections]];
  let open = [];
  const listen = () => {
    open.forEach((stream) => stream.close());
    // A browser limits the connections to a server across its tabs.
    open = document.hidden ? [] : streams.map(([panel, at, take]) => {
      const stream = new EventSource(`${at}/sandbox/${panel}/stream`);
      stream.onmessage = ({ data }) => take(JSON.parse(data));
      stream.onerror = () => say(`${panel}-hint`, "The stand-in does not answer. Is the sandbox still running?");
      return stream;
    });
  };
  document.addEventListener("visibilitychange", listen);
  listen();
}

/** Updates what belongs to this page. */
export function show() {
  if (!stage) return;
  showSessions();
  showConnections();
}

async function takeWebhooks(seen) {
  webhooks = seen;
  showWebhooks();
  // Every change at Clerk causes an event.
  const last = seen.events.at(-1)?.id ?? null;
  if (last === newest) return;
  newest = last;
  try {
    const read = (what) => ask("GET", `${stage.clerk}/sandbox/${what}`);
    const [all, people] = await Promise.all([read("sessions"), read("users")]);
    if (last !== newest) return;
    sessions = all;
    users = people;
  } catch {
    newest = undefined;
    return;
  }
  show();
  showWebhooks();
  stage.changed(sessions, users);
}

// Sessions

function showSessions() {
  const active = sessions.filter(({ status }) => status === "active");
  const sessionsOf = (user) => active.filter((session) => session.user_id === user.id);
  say("sessions-hint", active.length ? "" : "There are no active sessions.");
  fill("sessions", users.filter((user) => user.banned || sessionsOf(user).length).map((user) => element(
    "li",
    { "data-user": user.id },
    element("div.between", element("strong", nameOf(user)), banButton(user)),
    element("ul", ...sessionsOf(user).map((session) => sessionEntry(session, user))),
  )));
}

function banButton(user) {
  const [label, action] = user.banned ? ["Lift the ban", "lift"] : ["Ban", "ban"];
  const change = { user: user.id, banned: !user.banned };
  return button(label, nameOf(user), `${action}-${user.username ?? user.id}`, () => ask("POST", `${stage.clerk}/sandbox/users`, change));
}

function sessionEntry({ id, created_at }, user) {
  return element(
    "li.between",
    element("span", element("code", { title: id }, short(id)), tag(id === stage.here().sessionId), note(`since ${clock(created_at)}`)),
    button("Sign out", `${nameOf(user)}, session ${short(id)}`, `end-${id}`, () => stage.signOut(id)),
  );
}

/** A button that is busy until `act` is done. */
function button(label, of, id, act) {
  const made = element("button.quiet", { id, "aria-label": `${label}: ${of}` }, label);
  const failed = ({ message }) => say("sessions-hint", `The change failed: ${message}`);
  made.addEventListener("click", () => whileBusy(made, () => act().catch(failed)));
  return made;
}

// Webhooks

function showWebhooks() {
  const { endpoints, events, attempts, flow, retry_schedule_ms: waits } = webhooks;
  say("webhooks-hint", endpoints.length === 0 ? "Off: the service runs without CLERK_WEBHOOK_SIGNING_SECRET."
    : flow === "paused" ? "Deliveries are paused."
    : events.length === 0 ? "No events yet." : "");
  fill("webhooks", events.slice(-MOST_ENTRIES).reverse().map((event) => {
    const last = attempts.findLast((attempt) => attempt.event_id === event.id);
    const [state, mood, text] = delivery(last, waits, endpoints);
    return element(
      "li",
      { "data-type": event.type, "data-state": state, "data-about": about(event) },
      element("div.between", element("code", event.type), pill(mood, text)),
      note(about(event)),
      note(whenAnswered(event, last)),
    );
  }));
}

function delivery(last, waits, endpoints) {
  if (!last) return endpoints.length ? ["under-way", "wait", "sending"] : ["unsent", "", "not sent"];
  const { answer, number } = last;
  const result = answer.status ?? (answer === "timed_out" ? "timeout" : "unreachable");
  if (answer.status >= 200 && answer.status < 300) return ["delivered", "good", result];
  const wait = waits[number - 1];
  return wait === undefined ? ["given-up", "bad", `${result}, given up`] : ["failed", "bad", `${result}, retry in ${roughly(wait)}`];
}

function whenAnswered({ timestamp }, last) {
  if (!last) return clock(timestamp);
  return `${clock(timestamp)} · attempt ${last.number} · answered after ${roughly(Math.max(0, last.at - timestamp))}`;
}

/** The user or session of an event, and its state. */
function about({ type, data }) {
  const kind = type.split(".")[0];
  if (kind === "session") return `${nameById(data.user_id)}, ${short(data.id)}`;
  if (kind === "organizationMembership") {
    return `${nameById(data.public_user_data?.user_id)} in ${data.organization?.slug}, ${data.role}`;
  }
  const states = ["banned", "deprovisioned"].filter((state) => data[state]);
  return [data.username ?? nameById(data.id), ...states].join(", ");
}

function nameById(id) {
  const user = users.find((each) => each.id === id);
  return user?.username ?? (user ? nameOf(user) : short(id ?? "unknown"));
}

// Connections

function takeConnections(seen) {
  streamed = seen;
  showConnections();
}

function showConnections() {
  if (!streamed) return;
  const { connections, endings } = streamed;
  const count = connections.length;
  say("connections-hint", count === 0 ? "No live connections." : `${count} live connection${count === 1 ? "" : "s"}.`);
  fill("connections", [
    ...connections.toReversed().map((each) => (each.revokedFrom
      ? connectionEntry(each, "revoked", "wait", "asked for a new token", `Its token is revoked at ${clock(each.revokedFrom)}`)
      : connectionEntry(each, "live", "good", "live"))),
    ...endings.slice(-MOST_ENTRIES).reverse().map((each) => {
      return connectionEntry(each, "ended", each.code || each.revokedFrom ? "bad" : "", `ended ${clock(each.at)}`, onEnding(each));
    }),
  ]);
}

function connectionEntry({ connectionId, clientId, revocationKey: key }, state, mood, word, why) {
  const who = clientId ?? "anonymous";
  const isOwn = connectionId === stage.here().connectionId;
  return element(
    "li",
    { "data-client": who, "data-state": state, "data-key": key },
    element("div.between", element("span", element("strong", who), tag(isOwn)), pill(mood, word)),
    key ? note("revocation key ", element("code", { title: key }, short(key))) : note("no revocation key"),
    why && note(why),
  );
}

// Shared by the panels

const note = (...children) => element("span.note", ...children);
const tag = (isOwn) => (isOwn ? element("span.tag", "this page") : null);

/** Replaces the entries of a list if they changed, and keeps the focus. */
function fill(panel, entries) {
  const list = byId(panel);
  const now = element("ul", ...entries);
  if (list.innerHTML === now.innerHTML) return;
  const focused = list.querySelector(":focus");
  list.replaceChildren(...now.childNodes);
  if (!focused) return;
  // If the button is gone, focus another button of the same user, or the title of the panel.
  const user = focused.closest("[data-user]").dataset.user;
  (byId(focused.id) ?? list.querySelector(`[data-user="${user}"] button`) ?? byId(`${panel}-title`)).focus();
}
