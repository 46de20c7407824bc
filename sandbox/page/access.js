// Who has access, and how it ends: sessions at Clerk, webhooks, and connections at Ably, as the stand-ins stream them.

import { byId, element } from "/dom.js";
import { clock, onEnding, roughly, short } from "/words.js";

const MOST_ENTRIES = 30;
const MOST_ENDINGS = 12;

let stage;
let users = [];
let sessions = [];
let webhooks = null;
let streamed = null;
let newest;

/**
 * Starts the panels. `here()` returns this page's session and connection, `signOut(id)` ends a session, and
 * `changed(sessions, users)` is called on every change at Clerk.
 */
export function start({ clerk, ably, here, signOut, changed }) {
  stage = { clerk, here, signOut, changed };
  const streams = [
    [`${clerk}/sandbox/webhooks/stream`, "webhooks", takeWebhooks],
    [`${ably}/sandbox/connections/stream`, "connections", (seen) => {
      streamed = seen;
      showConnections();
    }],
  ];
  let open = [];
  const listen = () => {
    open.forEach((stream) => stream.close());
    // A browser limits the connections to a server across its tabs.
    open = document.hidden ? [] : streams.map(([url, panel, take]) => {
      const stream = new EventSource(url);
      stream.onmessage = ({ data }) => take(JSON.parse(data));
      stream.onerror = () => showHint(panel, "The stand-in does not answer. Is the sandbox still running?");
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
    const [all, people] = await Promise.all(["sessions", "users"].map(async (what) => {
      return (await fetch(`${stage.clerk}/sandbox/${what}`)).json();
    }));
    if (last !== newest) return;
    sessions = all;
    users = people;
  } catch {
    newest = undefined;
    return;
  }
  showSessions();
  showWebhooks();
  showConnections();
  stage.changed(sessions, users);
}

// Sessions

function showSessions() {
  const active = sessions.filter(({ status }) => status === "active");
  const shown = users.filter((user) => user.banned || active.some((session) => session.user_id === user.id));
  showHint("sessions", active.length ? "" : "There are no active sessions.");
  fill("sessions", shown.map((user) => {
    const own = active.filter((session) => session.user_id === user.id);
    return element(
      "li",
      { "data-user": user.username ?? user.id },
      element("div", { class: "between" }, element("strong", {}, nameOf(user)), banButton(user)),
      own.length ? element("ul", { class: "plain" }, ...own.map((session) => sessionEntry(session, user))) : null,
    );
  }));
}

function banButton(user) {
  const [label, testId] = user.banned ? ["Lift the ban", "lift"] : ["Ban", "ban"];
  const name = user.username ?? user.id;
  const button = element(
    "button",
    { class: "quiet", type: "button", "data-testid": `${testId}-${name}`, "aria-label": `${label}: ${nameOf(user)}` },
    label,
  );
  button.addEventListener("click", () => act(button, () => change(user.id, { banned: !user.banned })));
  return button;
}

function sessionEntry({ id, created_at }, user) {
  const button = element(
    "button",
    { class: "quiet", type: "button", "data-session": id, "aria-label": `Sign out: ${nameOf(user)}, session ${short(id)}` },
    "Sign out",
  );
  button.addEventListener("click", () => act(button, () => stage.signOut(id)));
  return element(
    "li",
    { class: "between" },
    element(
      "span",
      {},
      element("code", { title: id }, short(id)),
      id === stage.here().sessionId ? element("span", { class: "tag" }, "this page") : null,
      element("span", { class: "note" }, `since ${clock(created_at)}`),
    ),
    button,
  );
}

async function act(button, does) {
  if (button.getAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true");
  try {
    await does();
  } catch (error) {
    showHint("sessions", `The change failed: ${error.message}`);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

async function change(user, changes) {
  const response = await fetch(`${stage.clerk}/sandbox/users`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user, ...changes }),
  });
  if (!response.ok) throw new Error((await response.json()).errors?.[0]?.long_message ?? response.statusText);
}

// Webhooks

function showWebhooks() {
  const { endpoints, events, attempts, flow, retry_schedule_ms: waits } = webhooks;
  const hint = endpoints.length === 0 ? "Off: the service runs without CLERK_WEBHOOK_SIGNING_SECRET."
    : flow === "paused" ? "Deliveries are paused."
    : events.length === 0 ? "No events yet." : "";
  showHint("webhooks", hint);
  fill("webhooks", events.slice(-MOST_ENTRIES).reverse().map((event) => {
    const last = attempts.findLast((attempt) => attempt.event_id === event.id);
    const { mood, text, state } = delivery(last, waits, endpoints);
    return element(
      "li",
      { "data-type": event.type, "data-state": state, "data-about": about(event) },
      element("div", { class: "between" }, element("code", {}, event.type), pill(mood, text)),
      element("span", { class: "note" }, about(event)),
      element("span", { class: "note" }, whenAnswered(event, last)),
    );
  }));
}

function delivery(last, waits, endpoints) {
  if (!last) return endpoints.length ? { mood: "wait", text: "sending", state: "under-way" } : { text: "not sent", state: "unsent" };
  const { answer, number } = last;
  const result = answer.status ?? (answer === "timed_out" ? "timeout" : "unreachable");
  if (answer.status >= 200 && answer.status < 300) return { mood: "good", text: `${result}`, state: "delivered" };
  const wait = waits[number - 1];
  const next = wait === undefined ? "given up" : `retry in ${roughly(wait)}`;
  return { mood: "bad", text: `${result}, ${next}`, state: wait === undefined ? "given-up" : "failed" };
}

function whenAnswered(event, last) {
  if (!last) return clock(event.timestamp);
  const took = `answered after ${roughly(Math.max(0, last.at - event.timestamp))}`;
  return `${clock(event.timestamp)} · attempt ${last.number} · ${took}`;
}

/** The user or session of an event, and its state. */
function about({ type, data }) {
  const kind = type.split(".")[0];
  if (kind === "session") return `${nameById(data.user_id)}, ${short(data.id)}`;
  if (kind === "organizationMembership") {
    return `${nameById(data.public_user_data?.user_id)} in ${data.organization?.slug}, ${data.role}`;
  }
  const states = ["banned", "deprovisioned"].filter((state) => data[state] === true);
  return [data.username ?? nameById(data.id), ...states].join(", ");
}

// Connections

function showConnections() {
  if (!streamed) return;
  const { connections, endings } = streamed;
  const count = connections.length;
  showHint("connections", count === 0 ? "No live connections." : `${count} live connection${count === 1 ? "" : "s"}.`);
  fill("connections", [
    ...connections.toReversed().map((each) => connectionEntry(each, {
      state: each.revokedFrom ? "revoked" : "live",
      mood: each.revokedFrom ? "wait" : "good",
      word: each.revokedFrom ? "asked for a new token" : "live",
      why: each.revokedFrom && `Its token is revoked at ${clock(each.revokedFrom)}`,
    })),
    ...endings.slice(-MOST_ENDINGS).reverse().map((each) => connectionEntry(each, {
      state: "ended",
      mood: each.code || each.revokedFrom ? "bad" : "",
      word: `ended ${clock(each.at)}`,
      why: onEnding(each),
    })),
  ]);
}

function connectionEntry({ connectionId, clientId, revocationKey }, { state, mood, word, why }) {
  const who = clientId ?? "anonymous";
  const isOwn = connectionId === stage.here().connectionId;
  const key = revocationKey
    ? ["revocation key ", element("code", { title: revocationKey }, short(revocationKey))]
    : ["no revocation key"];
  return element(
    "li",
    { "data-client": who, "data-state": state, "data-key": revocationKey },
    element(
      "div",
      { class: "between" },
      element("span", {}, element("strong", {}, who), isOwn ? element("span", { class: "tag" }, "this page") : null),
      pill(mood, word),
    ),
    element("span", { class: "note" }, ...key),
    why ? element("span", { class: "note" }, why) : null,
  );
}

// Shared by the panels

const pill = (mood, text) => element("span", { class: "pill", "data-mood": mood }, text);
const nameOf = (user) => [user.first_name, user.last_name].filter(Boolean).join(" ") || user.id;

function nameById(id) {
  const user = users.find((each) => each.id === id);
  return user?.username ?? (user ? nameOf(user) : short(id ?? "unknown"));
}

function showHint(panel, text) {
  const hint = byId(`${panel}-hint`);
  if (hint.textContent !== text) hint.textContent = text;
  hint.hidden = !text;
}

/** Replaces the entries of a list if they changed, and keeps the focus. */
function fill(panel, entries) {
  const list = byId(panel);
  const now = element("ul", {}, ...entries);
  if (list.innerHTML === now.innerHTML) return;
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("button") : null;
  list.replaceChildren(...now.childNodes);
  if (!focused) return;
  const same = [...list.querySelectorAll("button")].find((button) => {
    return button.dataset.session === focused.dataset.session && button.dataset.testid === focused.dataset.testid;
  });
  // If the button is gone, focus another button of the same user, or the title of the panel.
  const user = focused.closest("[data-user]").dataset.user;
  const near = list.querySelector(`[data-user="${CSS.escape(user)}"] button`);
  (same ?? near ?? byId(`${panel}-title`)).focus();
}
