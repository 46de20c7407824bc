// Shows the output of the service's `explain` command. Unknown fields are ignored.

import { element, field, pill } from "/dom.js";
import * as words from "/words.js";

const MOODS = { matched: "good", unknown: "wait" };

/** Whether the service would issue a token, and the reason if not, as nodes. */
export function verdict({ issued, refusal }) {
  if (issued) return [pill("good", "A token")];
  return [pill("bad", "No token"), element("span", refusal?.message ?? "The service gives no reason.")];
}

/** The caller, the grant, and each rule with its reasons, as nodes. */
export function explanation(report) {
  return [element("dl.fields", ...fields(report)), ...rules(report.policy ?? {})];
}

function fields({ caller, client_id, policy, capability, ttl_ms, format, issued, refusal, session_token }) {
  const { channel_claims, publish_rate } = policy?.outcome?.granted ?? {};
  const whole = issued ? document.createTextNode("Everything the API key may do: the policy has no rules") : null;
  const narrowed = refusal?.reason === "policy-grants-nothing-asked" ? JSON.parse(policy?.granted ?? null) : null;
  const row = (name, value, gloss) => (value == null ? null : field(name, value, gloss));
  return [
    row("caller", caller && list(who(caller))),
    row("session", session_token?.verified === false ? session_token.reason : null, "The reason of the refusal"),
    row("clientId", client_id),
    row("status", refusal?.status_code, "HTTP status"),
    row("code", refusal?.code, "Ably’s error code"),
    row("capability", list(capability) ?? whole),
    row("granted", list(narrowed), "Before applying the capability that the client asks for"),
    row("claims", list(channel_claims), "Channel claims, which other clients can trust"),
    row("rates", list(publish_rate), "Messages per second"),
    row("ttl", ttl_ms == null ? null : words.span(ttl_ms)),
    row("format", format),
  ];
}

const list = (object) => object && element("ul", ...Object.entries(object).map(([name, value]) => {
  return element("li", name, " ", element("span.of", [value].flat().join(", ")));
}));

function who({ user_id: user, session_id: session, organization, impersonator, agent }) {
  const role = [organization?.slug, organization?.role].filter(Boolean).join(", ");
  return {
    user,
    session,
    organization: organization ? `${organization.id}${role && ` (${role})`}` : "none",
    impersonator: impersonator ? impersonator + (agent ? ", an agent" : "") : "none",
  };
}

function rules({ require, rules = [] }) {
  const section = (title, list) => element("div.rules", element("h4", title), list);
  return [
    require && section("Required of every session", reasons([require])),
    rules.length > 0 && section("Rules", element("ol", { id: "rules" }, ...rules.map(rule))),
  ].filter(Boolean);
}

function rule({ name, verdict, when, dropped = [] }) {
  return element(
    "li.rule",
    { "data-rule": name, "data-verdict": verdict },
    element("p.between", element("strong", name), truth(verdict)),
    when ? reasons([when]) : element("p.hint", "For every session"),
    ...dropped.map(drop),
  );
}

const reasons = (conditions) => element("ul.reasons", ...conditions.map(({ condition, truth: is, because, parts = [] }) => element(
  "li",
  element("p.between", element("span", condition, because && element("span.because", `: ${because}`)), truth(is)),
  parts.length > 0 ? reasons(parts) : null,
)));

const drop = ({ resource, placeholder, why, loses }) => element(
  "p.dropped",
  element("code", resource),
  ` is dropped because of ${placeholder}: ${words.unfit[why] ?? why}${loses === "rule" ? "; without it the rule grants nothing" : ""}`,
);

const truth = (verdict = "") => element("span.truth", { "data-mood": MOODS[verdict] }, verdict);
