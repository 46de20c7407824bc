// The policy editor: explains its policy for the current session as you type, and puts it in force.

import { byId, element, pill, say, whileBusy } from "/dom.js";
import { explanation, verdict } from "/explanation.js";
import { ask } from "/requests.js";

const PAUSE_MS = 250;
const PARAMS = { capability: "param-capability", ttl: "param-ttl", clientId: "param-client-id" };

const editor = byId("policy");
let token;
let inForce = "";
let timer;
let asked = null;
let isReady = false;

/** Starts the editor with the policy in force. `sessionToken()` resolves to the session token, or null without a session. */
export async function start(sessionToken) {
  token = sessionToken;
  editor.addEventListener("input", () => {
    sayState();
    soon();
  });
  for (const id of Object.values(PARAMS)) byId(id).addEventListener("input", soon);
  byId("put-in-force").addEventListener("click", ({ target }) => whileBusy(target, putInForce));
  byId("restore").addEventListener("click", restore);
  try {
    inForce = (await ask("GET", "/policy")).policy;
  } catch (error) {
    say("policy-state", error.message, "bad");
    return;
  }
  editor.value = inForce;
  editor.disabled = false;
  sayState();
  isReady = true;
  await explain();
}

/** Explains again after a sign-in or sign-out. */
export function sessionChanged() {
  if (isReady) explain();
}

/** The filled-in token params, by Ably's names. */
export function params() {
  const filled = Object.entries(PARAMS).map(([name, id]) => [name, byId(id).value.trim()]);
  return Object.fromEntries(filled.filter(([, value]) => value));
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(explain, PAUSE_MS);
}

/** Explains the text in the editor. The answer to an outdated request is ignored. */
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
      byId("explanation").replaceChildren(element("p.trouble", error.message));
    }
  } finally {
    if (turn === asked) byId("explanation").removeAttribute("aria-busy");
  }
}

function show({ explanation: report, problems = [] }, isSignedIn) {
  showProblems(problems);
  const hint = problems.length ? "Fix the policy to see an explanation."
    : isSignedIn ? "The service gives no explanation for this session."
    : "Not signed in. Pick a user above to see what this policy gives them.";
  const count = problems.length === 1 ? "1 problem" : `${problems.length} problems`;
  showVerdict(report ? verdict(report) : problems.length ? [pill("bad", count)] : []);
  byId("explanation").replaceChildren(...(report ? explanation(report) : [element("p.hint", hint)]));
}

/** Replaces the verdict only if it changed, because screen readers announce it. */
function showVerdict(nodes) {
  const isNew = nodes.map((node) => node.textContent).join("") !== byId("verdict").textContent;
  if (isNew) byId("verdict").replaceChildren(...nodes);
}

function showProblems(problems) {
  editor.setAttribute("aria-invalid", problems.length > 0);
  byId("problems").replaceChildren(...problems.map(({ at, message }) => element("li", at && place(at), at && " ", message)));
  byId("problems").hidden = problems.length === 0;
}

function place({ line, column }) {
  const button = element("button.place", `Line ${line}, column ${column}`);
  button.addEventListener("click", () => goTo(line, column));
  return button;
}

function goTo(line, column) {
  const lines = editor.value.split("\n").slice(0, line);
  const text = lines.pop() ?? "";
  const before = lines.reduce((sum, each) => sum + each.length + 1, 0);
  // The service counts characters, a text area UTF-16 units.
  const start = before + [...text].slice(0, column - 1).join("").length;
  editor.focus();
  editor.setSelectionRange(start, before + text.length);
  const height = Number.parseFloat(getComputedStyle(editor).lineHeight);
  editor.scrollTop = Math.max(0, (line - 4) * height);
}

async function putInForce() {
  const policy = editor.value;
  say("policy-state", "Waiting for the service, which checks its file every second…");
  try {
    const verdict = await ask("PUT", "/policy", { policy });
    if (["in-force", "unknown"].includes(verdict.state)) inForce = policy;
    if (verdict.problems && editor.value === policy) showProblems(verdict.problems);
    say("policy-state", ...verdictInWords(verdict));
  } catch (error) {
    say("policy-state", error.message, "bad");
  }
}

function verdictInWords({ state, waiting = [] }) {
  switch (state) {
    case "in-force": {
      if (waiting.length === 0) return ["In force. The next token follows it.", "good"];
      const sections = waiting.map((section) => `[${section}]`).join(", ");
      return [`In force. Other changes in ${sections} need a restart of the service.`, "wait"];
    }
    case "invalid":
      return ["Not in force: the service rejects it for the reasons above. The previous policy stays.", "bad"];
    case "removes-rules":
      return ["Not in force: it has no rules. The service assumes a lost file and keeps the previous policy.", "bad"];
    case "unknown":
      return ["Written. The service’s log level hides the result; LOG_LEVEL=info shows it.", "wait"];
    default:
      return ["Not in force: the service rejects it; see its log. The previous policy stays.", "bad"];
  }
}

function restore() {
  editor.value = inForce;
  sayState();
  editor.focus();
  explain();
}

function sayState() {
  say("policy-state", editor.value === inForce ? "This is the policy in force." : "Edited; another policy is in force.");
}
