// The policy editor of the sandbox's page: the service's own explanation while one writes, and a policy put in force.

import assert from "node:assert/strict";
import * as nodeTest from "node:test";

import { openWindow, startChromium } from "./support/chromium.js";
import { fieldOf, openDevPage, shows, signIn } from "./support/dev_page.js";
import { bearer, startSandbox } from "./support/sandbox.js";

const { test } = nodeTest;
const chromium = await startChromium(nodeTest);

const RULE = `[[grants]]
name = "all read"
capability = { "news" = ["subscribe"] }
`;
const ADMINS = `${RULE}
[[grants]]
name = "admins"
when = { any = [{ role = "admin" }, { claim = { "metadata.tier" = "gold" } }] }
capability = { "org:{org_id}:*" = ["*"], "own:{username}" = ["publish"] }
ttl = "7m"
`;

/** Asks the page's server as the page does. */
async function askPage(sandbox, method, path, body) {
  const headers = { "content-type": "application/json", origin: sandbox.page };
  const response = await fetch(sandbox.page + path, { method, headers, body: JSON.stringify(body) });
  assert.equal(response.status, 200);
  return response.json();
}

/** A page with the editor in it and a user signed in. */
async function openEditor(t, sandbox, user) {
  const page = await openDevPage(await openWindow(t, chromium), sandbox);
  if (user) await signIn(page, user);
  return page;
}

const write = (page, policy) => page.locator("#policy").fill(policy);
const rule = (page, name) => page.locator("#rules").locator(`[data-rule="${name}"]`);

async function getToken(page) {
  await page.locator("#get-token").click();
  await page.locator("#step-request:is([data-state=done], [data-state=failed])").waitFor();
  await page.locator("#step-token:is([data-state=done], [data-state=failed]), #refusal:not([hidden])").first().waitFor();
}

test("the page's server has the service explain a policy for a session, and say what is wrong with it", async (t) => {
  const sandbox = await startSandbox(t);
  const session_token = await sandbox.sessionToken("carol");
  const ask = (question) => askPage(sandbox, "POST", "/explain", { session_token, ...question });

  const { explanation, problems } = await ask({ policy: ADMINS });
  assert.deepEqual(problems, []);
  assert.equal(explanation.issued, true);
  assert.equal(explanation.caller.user_id, "user_2sandbox00000000000000Carol");
  assert.deepEqual(explanation.policy.rules.map(({ name, verdict }) => [name, verdict]), [
    ["all read", "matched"],
    ["admins", "matched"],
  ]);
  assert.deepEqual(explanation.capability, { news: ["subscribe"], "org:org_2sandbox000000000000000Acme:*": ["*"] });
  assert.deepEqual([explanation.ttl_ms, explanation.format], [7 * 60_000, "token_request"]);

  const narrowed = await ask({ policy: ADMINS, params: { capability: '{"news":["*"]}', ttl: "60000" } });
  assert.deepEqual([narrowed.explanation.capability, narrowed.explanation.ttl_ms], [{ news: ["subscribe"] }, 60_000]);

  const broken = await ask({ policy: `${RULE}nam = "x"\n[token]\nttl = "x"` });
  assert.equal(broken.explanation, null);
  const [placed, setting] = broken.problems.toSorted((a, b) => Boolean(b.at) - Boolean(a.at));
  assert.deepEqual(placed.at, { line: 4, column: 1 });
  assert.match(placed.message, /unknown key "nam"/);
  assert.equal(setting.at, null);
  assert.match(setting.message, /TOKEN_TTL/);
});

test("the policy is explained as one writes: who it is, which rules match and why, and what comes of it", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: null }), "Carol Lindqvist");
  await shows(page, "verdict", "A token");
  assert.match(await page.locator("#policy").inputValue(), /own inbox/);
  await rule(page, "own inbox").waitFor();

  await write(page, ADMINS);
  await rule(page, "admins").and(page.locator("[data-verdict=matched]")).waitFor();
  const reasons = await rule(page, "admins").innerText();
  for (const reason of [/role is org:admin: it is so\s+matched/, /no such claim\s+unknown/, /own:\{username\} is dropped/]) {
    assert.match(reasons, reason);
  }
  assert.match(await fieldOf(page, "explanation", "caller"), /user_2sandbox\w+Carol.*org_2sandbox\w+Acme \(acme, org:admin\)/);
  const capability = await fieldOf(page, "explanation", "capability");
  assert.equal(capability, "news subscribeorg:org_2sandbox000000000000000Acme:* *");
  assert.equal(await fieldOf(page, "explanation", "ttl"), "7 min");
  assert.equal(await fieldOf(page, "explanation", "format"), "token_request");

  await write(page, ADMINS.replace('"admin"', '"guest"'));
  await rule(page, "admins").and(page.locator("[data-verdict=unknown]")).waitFor();
  assert.equal(await fieldOf(page, "explanation", "capability"), "news subscribe");

  await page.locator("#param-capability").fill('{"elsewhere":["publish"]}');
  await shows(page, "verdict", "No token");
  await shows(page, "explanation", "40160");
});

test("another user is explained at once, and nobody is told that nobody is signed in", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: ADMINS }));
  await shows(page, "explanation", "Not signed in");
  await signIn(page, "Carol Lindqvist");
  await rule(page, "admins").and(page.locator("[data-verdict=matched]")).waitFor();
  await signIn(page, "Bob Okafor");
  await rule(page, "admins").and(page.locator("[data-verdict=unknown]")).waitFor();
  assert.match(await fieldOf(page, "explanation", "caller"), /user_2sandbox\w+Bob/);
  await page.locator("#sign-out").click();
  await shows(page, "explanation", "Not signed in");
});

test("a policy that is put in force decides the next token, and none before", async (t) => {
  const sandbox = await startSandbox(t, { policy: RULE });
  const page = await openEditor(t, sandbox, "Carol Lindqvist");
  await shows(page, "policy-state", "This is the policy in force");
  await write(page, ADMINS);
  await shows(page, "policy-state", "Edited");
  await getToken(page);
  assert.equal(await fieldOf(page, "token-request", "capability"), '{"news":["subscribe"]}');

  await page.locator("#put-in-force").click();
  await shows(page, "policy-state", "In force. The next token follows it.");
  await getToken(page);
  const capability = '{"news":["subscribe"],"org:org_2sandbox000000000000000Acme:*":["*"]}';
  assert.equal(await fieldOf(page, "token-request", "capability"), capability);
  assert.equal(await fieldOf(page, "token-details", "capability"), capability);
  assert.equal(await fieldOf(page, "token-request", "ttl"), String(7 * 60_000));
  const { body } = await sandbox.ask({ headers: bearer(await sandbox.sessionToken("carol")) });
  assert.equal(body.capability, capability, "it is the service that changed, and not the page");

  await page.reload();
  await page.locator("html[data-ready]").waitFor();
  assert.equal(await page.locator("#policy").inputValue(), ADMINS);
});

test("what the client asks for counts in the explanation and in the token", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: ADMINS }), "Carol Lindqvist");
  await page.locator("#param-capability").fill('{"news":["*"]}');
  await page.locator("#param-ttl").fill("60000");
  await page.locator("#explanation").locator("[data-field=ttl]", { hasText: "1 min" }).waitFor();
  assert.equal(await fieldOf(page, "explanation", "capability"), "news subscribe");
  await getToken(page);
  assert.equal(await fieldOf(page, "token-request", "capability"), '{"news":["subscribe"]}');
  assert.equal(await fieldOf(page, "token-request", "ttl"), "60000");
});

test("a mistake is shown with its place, leads there, and cannot be put in force", async (t) => {
  const sandbox = await startSandbox(t, { policy: RULE });
  const page = await openEditor(t, sandbox, "Carol Lindqvist");
  const editor = page.locator("#policy");
  await write(page, ADMINS.replace("role", "rol"));
  await shows(page, "problems", 'unknown condition "rol"');
  assert.equal(await editor.getAttribute("aria-invalid"), "true");
  assert.doesNotMatch(await page.locator("#problems").innerText(), /\/|tmp/);
  await page.getByRole("button", { name: "Line 7, column 19" }).click();
  const selected = await editor.evaluate((area) => area.value.slice(area.selectionStart, area.selectionEnd));
  assert.match(selected, /^rol = "admin"/);
  assert.ok(await editor.evaluate((area) => area === document.activeElement));

  await page.locator("#put-in-force").click();
  await shows(page, "policy-state", "Not in force");
  await getToken(page);
  assert.equal(await fieldOf(page, "token-request", "capability"), '{"news":["subscribe"]}');

  await page.locator("#restore").click();
  await shows(page, "policy-state", "This is the policy in force");
  await page.locator("#problems").waitFor({ state: "hidden" });
  await rule(page, "all read").waitFor();
});

test("what the service does not take, or not before a restart, is said", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: RULE }), "Carol Lindqvist");
  const put = async (policy) => {
    await write(page, policy);
    await page.locator("#put-in-force").click();
  };
  await put('[token]\ncapability = "key"\n');
  await shows(page, "policy-state", "Not in force: it has no rules");
  // Once more: the file is the same, and the service does not look again.
  await page.locator("#put-in-force").click();
  await shows(page, "policy-state", "Not in force: it has no rules");
  await put(`${RULE}[token]\nttl = "5m"\n`);
  await shows(page, "policy-state", "Other changes in [token] need a restart");
  await put(ADMINS);
  await shows(page, "policy-state", "In force. The next token follows it.");
});

test("a service that keeps silent about its policy is not said to have taken it", async (t) => {
  const sandbox = await startSandbox(t, { policy: RULE, settings: { LOG_LEVEL: "error" } });
  const page = await openEditor(t, sandbox, "Carol Lindqvist");
  await write(page, ADMINS);
  await page.locator("#put-in-force").click();
  await shows(page, "policy-state", "log level hides the result");
});

test("an answer that comes late does not replace a newer one", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: RULE }), "Carol Lindqvist");
  await rule(page, "all read").waitFor();
  let release;
  const held = new Promise((resolve) => (release = resolve));
  let arrived;
  const late = new Promise((resolve) => (arrived = resolve));
  await page.route("**/explain", async (route) => {
    const isFirst = route.request().postDataJSON().policy.includes("the first");
    if (!isFirst) return route.continue();
    const response = await route.fetch();
    arrived();
    await held;
    // The page may have given it up.
    await route.fulfill({ response }).catch(() => {});
  });
  await write(page, RULE.replace("all read", "the first"));
  await late;
  await write(page, RULE.replace("all read", "the second"));
  await rule(page, "the second").waitFor();
  release();
  await page.unrouteAll({ behavior: "wait" });
  await rule(page, "the second").waitFor();
  assert.equal(await rule(page, "the first").count(), 0);
});

test("the editor has a name, and the keyboard leads in and out of it", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: RULE }), "Carol Lindqvist");
  const editor = page.getByRole("textbox", { name: "Rules, in TOML" });
  await editor.focus();
  await page.keyboard.press("Tab");
  const putInForce = page.getByRole("button", { name: "Put in force" });
  assert.ok(await putInForce.evaluate((button) => button === document.activeElement));
  await page.keyboard.press("Shift+Tab");
  assert.ok(await editor.evaluate((area) => area === document.activeElement));
});

test("the page's channel is closed to a token that the policy does not give it, and the page says so", async (t) => {
  const page = await openEditor(t, await startSandbox(t, { policy: RULE }), "Carol Lindqvist");
  await page.locator("#get-token").click();
  await shows(page, "connection-state", "connected");
  await shows(page, "connection-reason", "chat:lobby");
});

test("with JWTs the page shows header and claims, not the signature, and connects", async (t) => {
  const sandbox = await startSandbox(t, { policy: null, settings: { TOKEN_FORMAT: "jwt" } });
  const page = await openEditor(t, sandbox, "Alice Moreau");
  await shows(page, "verdict", "A token");
  assert.equal(await fieldOf(page, "explanation", "format"), "jwt");
  const answer = page.waitForResponse((response) => response.url().startsWith(sandbox.authUrl.replace("127.0.0.1", "localhost")));
  await page.locator("#get-token").click();
  const jwt = await (await answer).text();
  await shows(page, "connection-state", "connected");
  assert.equal(await page.locator("#client-id").textContent(), "alice");
  const field = (name) => fieldOf(page, "jwt", name);
  assert.equal(await field("alg"), "HS256");
  assert.equal(await field("kid"), sandbox.api_key.split(":")[0]);
  assert.equal(await field("x-ably-clientId"), "alice");
  assert.match(await field("x-ably-capability"), /chat:\*/);
  await shows(page, "jwt", "after 60 min");
  const signature = jwt.split(".")[2];
  assert.ok(signature.length > 40 && !(await page.locator("body").innerText()).includes(signature));
  const { ably } = await sandbox.calls();
  assert.equal(ably.request_token, 0, "there is nothing to exchange");
});

test("with token details the page shows the token, when it was issued and when it expires, and connects", async (t) => {
  const sandbox = await startSandbox(t, { policy: null, settings: { TOKEN_FORMAT: "token_details" } });
  const page = await openEditor(t, sandbox, "Alice Moreau");
  await page.locator("#get-token").click();
  await shows(page, "connection-state", "connected");
  const [issued, expires] = await Promise.all(["issued", "expires"].map((name) => fieldOf(page, "token-details", name)));
  assert.equal(Number(expires) - Number(issued), 60 * 60_000);
  assert.equal(await fieldOf(page, "token-details", "clientId"), "alice");
  assert.equal(await page.locator("#token-request").isVisible(), false);
  assert.equal(await page.locator("#refusal").isVisible(), false);
});
