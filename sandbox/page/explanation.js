// Shows the output of the service's `explain` command. Unknown fields are ignored.

import { element, field } from "/dom.js";
import * as words from "/words.js";

const MOODS = { matched: "good", "not matched": "bad", unknown: "wait" };

/** Whether the service would issue a token, and the reason if not, as nodes. */
export function verdict({ issued, refusal }) {
  const why = issued ? null : element("span", {}, refusal?.message ?? "The service gives no reason.");
  return [element("span", { class: "pill", "data-mood": issued ? "good" : "bad" }, issued ? "A token" : "No token"), why].filter(Boolean);
}

/** The caller, the grant, and each rule with its reasons, as nodes. */
export function explanation(report) {
  return [element("dl", { class: "fields" }, ...fields(report)), ...rules(report.policy)];
}

function fields({ caller, client_id, policy, capability, ttl_ms, format, issued, refusal, session_token }) {
  const grant = policy?.outcome?.granted ?? {};
  const row = (name, value, gloss) => (value == null ? null : field(name, value, gloss));
  const nodes = (list) => element("ul", { class: "plain" }, ...list.map(line));
  const whole = issued ? "Everything the API key may do: the policy has no rules" : null;
  const narrowed = refusal?.reason === "policy-grants-nothing-asked" ? parse(policy?.granted) : null;
  return [
    row("caller", caller && nodes(who(caller))),
    row("session", session_token?.verified === false && session_token.reason ? session_token.reason : null, "The reason of the refusal"),
    row("clientId", client_id),
    row("status", refusal?.status_code, refusal && "HTTP status"),
    row("code", refusal?.code, refusal && "Ably’s error code"),
    row("capability", capability ? nodes(resources(capability)) : whole && document.createTextNode(whole)),
    row("granted", narrowed && nodes(resources(narrowed)), "Before applying the capability that the client asks for"),
    row("claims", grant.channel_claims && nodes(pairs(grant.channel_claims)), "Channel claims, which other clients can trust"),
    row("rates", grant.publish_rate && nodes(pairs(grant.publish_rate)), "Messages per second"),
    row("ttl", ttl_ms == null ? null : words.span(ttl_ms)),
    row("format", format),
  ].filter(Boolean);
}

function who({ user_id, session_id, organization, impersonator, agent }) {
  const role = [organization?.slug, organization?.role].filter(Boolean).join(", ");
  return [
    ["user", user_id],
    ["session", session_id],
    ["organization", organization ? `${organization.id}${role && ` (${role})`}` : "none"],
    ["impersonator", impersonator ? impersonator + (agent ? ", an agent" : "") : "none"],
  ];
}

const resources = (capability) => Object.entries(capability).map(([name, operations]) => [name, [operations].flat().join(", ")]);
const pairs = (object) => Object.entries(object).map(([name, value]) => [name, String(value)]);

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const line = ([name, value]) => element("li", {}, element("span", { class: "name" }, name), " ", element("span", { class: "of" }, value));

function rules(policy) {
  if (!policy) return [];
  const required = policy.require && element(
    "section",
    { class: "rules" },
    element("h4", {}, "Required of every session"),
    element("ul", { class: "reasons" }, reason(policy.require)),
  );
  const list = policy.rules?.length > 0 && element(
    "section",
    { class: "rules" },
    element("h4", {}, "Rules"),
    element("ol", { class: "plain", "data-testid": "rules" }, ...policy.rules.map(rule)),
  );
  return [required, list].filter(Boolean);
}

function rule({ name, verdict, when, dropped = [] }) {
  return element(
    "li",
    { class: "rule", "data-rule": name, "data-verdict": verdict },
    element("p", { class: "between" }, element("strong", {}, name), truth(verdict)),
    when ? element("ul", { class: "reasons" }, reason(when)) : element("p", { class: "hint" }, "For every session"),
    ...dropped.map(drop),
  );
}

function reason({ condition, truth: is, because, parts = [] }) {
  return element(
    "li",
    {},
    element("p", { class: "between" }, element("span", {}, condition, because ? element("span", { class: "because" }, `: ${because}`) : null), truth(is)),
    parts.length > 0 ? element("ul", { class: "reasons" }, ...parts.map(reason)) : null,
  );
}

const drop = ({ resource, placeholder, why, loses }) => element(
  "p",
  { class: "dropped" },
  element("code", {}, resource),
  ` is dropped because of ${placeholder}: ${words.unfit[why] ?? why}${loses === "rule" ? "; without it the rule grants nothing" : ""}`,
);

const truth = (verdict) => element("span", { class: "truth", "data-mood": MOODS[verdict] ?? "" }, verdict ?? "");
