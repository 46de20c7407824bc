// The policy editor: explains the policy in it as one writes, for the session that is signed in, and puts it in force.

import { byId, element } from "/dom.js";
import { explanation, verdict } from "/explanation.js";

const PAUSE_MS = 250;
const PARAMS = { capability: "param-capability", ttl: "param-ttl", clientId: "param-client-id" };

const editor = byId("policy");
let token = async () => null;
let inForce = "";
let timer;
let asked = null;
let isReady = false;

/** Starts the editor with the policy in force; `freshToken()` gives the session token, or null without a session. */
export async function start(freshToken) {
  token = freshToken;
  editor.addEventListener("input", () => {
    byId("policy-state").textContent = stateOf(editor.value);
    byId("policy-state").dataset.mood = "";
    soon();
  });
  for (const id of Object.values(PARAMS)) byId(id).addEventListener("input", soon);
  byId("put-in-force").addEventListener("click", putInForce);
  byId("restore").addEventListener("click", restore);
  try {
    inForce = (await ask("GET", "/policy")).policy;
  } catch (error) {
    say(error.message, "bad");
    return;
  }
  editor.value = inForce;
  editor.disabled = false;
  byId("policy-state").textContent = stateOf(inForce);
  isReady = true;
  await explain();
}

/** Explains anew, since somebody else is signed in, or nobody. */
export function sessionChanged() {
  if (isReady) explain();
}

/** What the client is to ask for, by the names of Ably's token params; only what is filled in. */
export function params() {
  const filled = Object.entries(PARAMS).map(([name, id]) => [name, byId(id).value.trim()]);
  return Object.fromEntries(filled.filter(([, value]) => value));
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(explain, PAUSE_MS);
}

/** Explains what is in the editor now. An answer that comes when another was asked for is for nobody. */
async function explain() {
  clearTimeout(timer);
  asked?.abort();
  const turn = asked = new AbortController();
  byId("explanation").setAttribute("aria-busy", "true");
  try {
    const sessionToken = await token();
    if (turn !== asked) return;
    const question = { policy: editor.value, session_token: sessionToken, params: params() };
    const answer = await ask("POST", "/explain", question, turn.signal);
    if (turn === asked) show(answer, Boolean(sessionToken));
  } catch (error) {
    if (turn === asked) {
      showVerdict([]);
      byId("explanation").replaceChildren(element("p", { class: "trouble" }, error.message));
    }
  } finally {
    if (turn === asked) byId("explanation").removeAttribute("aria-busy");
  }
}

function show({ explanation: told, problems = [] }, isSignedIn) {
  showProblems(problems);
  const hint = problems.length ? "Nothing to explain before the policy can be read."
    : isSignedIn ? "The service does not say anything of this session."
    : "Nobody is signed in. Pick a user above to see what this policy gives them.";
  const count = problems.length === 1 ? "1 problem" : `${problems.length} problems`;
  showVerdict(told ? verdict(told) : problems.length ? [element("span", { class: "pill", "data-mood": "bad" }, count)] : []);
  byId("explanation").replaceChildren(...(told ? explanation(told) : [element("p", { class: "hint" }, hint)]));
}

/** Replaced only by another one, since it is read out. */
function showVerdict(nodes) {
  const said = byId("verdict");
  const isNews = nodes.map((node) => node.textContent).join("") !== said.textContent;
  if (isNews) said.replaceChildren(...nodes);
}

function showProblems(problems) {
  editor.setAttribute("aria-invalid", String(problems.length > 0));
  byId("problems").replaceChildren(...problems.map(({ at, message }) => element(
    "li",
    {},
    at ? place(at) : null,
    at ? " " : null,
    message,
  )));
  byId("problems").hidden = problems.length === 0;
}

function place({ line, column }) {
  const button = element("button", { type: "button", class: "place" }, `Line ${line}, column ${column}`);
  button.addEventListener("click", () => goTo(line, column));
  return button;
}

function goTo(line, column) {
  const lines = editor.value.split("\n").slice(0, line);
  const text = lines.pop() ?? "";
  const before = lines.reduce((sum, each) => sum + each.length + 1, 0);
  // The service counts characters, and a text area UTF-16 units.
  const start = before + [...text].slice(0, column - 1).join("").length;
  editor.focus();
  editor.setSelectionRange(start, before + text.length);
  const height = Number.parseFloat(getComputedStyle(editor).lineHeight);
  editor.scrollTop = Math.max(0, (line - 4) * height);
}

async function putInForce() {
  const button = byId("put-in-force");
  if (button.getAttribute("aria-busy")) return;
  const policy = editor.value;
  button.setAttribute("aria-busy", "true");
  say("Waiting for the service, which looks at its file every second…", "");
  try {
    const verdict = await ask("PUT", "/policy", { policy });
    if (["in-force", "untold"].includes(verdict.state)) inForce = policy;
    if (verdict.problems && editor.value === policy) showProblems(verdict.problems);
    say(...verdictInWords(verdict));
  } catch (error) {
    say(error.message, "bad");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

function verdictInWords({ state, waiting = [] }) {
  switch (state) {
    case "in-force": {
      if (waiting.length === 0) return ["In force. The next token follows it.", "good"];
      const sections = waiting.map((section) => `[${section}]`).join(", ");
      return [`In force, save what else changed in ${sections}: that would take a restart of the service.`, "wait"];
    }
    case "broken":
      return ["Not in force: the service refuses it, for the reasons above. The policy before stays.", "bad"];
    case "takes-policy-away":
      return ["Not in force: it has no rules. The service takes that for a lost file, and keeps the policy before.", "bad"];
    case "untold":
      return ["Written. The service’s log does not say whether it took it; LOG_LEVEL=info would.", "wait"];
    default:
      return ["Not in force: the service refuses it, and its log says why. The policy before stays.", "bad"];
  }
}

function restore() {
  editor.value = inForce;
  say(stateOf(inForce), "");
  editor.focus();
  explain();
}

const stateOf = (policy) => (policy === inForce ? "This is the policy in force." : "Edited; another policy is in force.");

function say(text, mood) {
  byId("policy-state").textContent = text;
  byId("policy-state").dataset.mood = mood;
}

async function ask(method, path, body, signal) {
  const options = body && { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { method, signal, ...options });
  } catch (error) {
    throw signal?.aborted ? error : new Error("The sandbox does not answer. Is it still running?");
  }
  const answer = await response.json();
  if (response.ok) return answer;
  throw new Error(answer.error ?? `The sandbox answered ${response.status}.`);
}
