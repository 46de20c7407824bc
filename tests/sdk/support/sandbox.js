// The sandbox as a child process: both stand-ins, the dev page, and the service's real binary between them.

import "./loopback_only.js";

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
/** Cargo's target directory. */
export const TARGET = resolve(ROOT, process.env.CARGO_TARGET_DIR || "target");
/** The sandbox's executable. */
export const SANDBOX = resolve(process.env.SANDBOX || `${TARGET}/debug/sandbox`);
/** The service's, which is beside it. */
export const REPLICA = join(dirname(SANDBOX), "ably-clerk-auth");
/** What is not about policy is tested with the whole capability of the API key. */
export const WITHOUT_RULES = '[token]\ncapability = "key"\n';

/**
 * Starts a sandbox for a test, or for a whole file: `context` is the test's, or the module `node:test` itself. It is
 * stopped when the test or the file ends, however it ends; were this process killed, the end of its standard input
 * would stop it. `settings` are variables of the service, `origins` further origins whose pages may use it, `app` the
 * origin of an app that gets settings, `policy` the service's TOML file (null: the one that `make dev` starts with).
 */
export async function startSandbox(context, { settings = {}, origins = [], app, policy = WITHOUT_RULES } = {}) {
  if (!existsSync(SANDBOX)) {
    throw new Error(`There is no sandbox at ${SANDBOX}: cargo build -p ably-clerk-auth -p sandbox, or set SANDBOX.`);
  }
  const ports = ["page", "service", "clerk", "ably"].flatMap((part) => [`--${part}-port`, "0"]);
  const directory = await mkdtemp(join(tmpdir(), "sandbox-test-"));
  context.after(() => rm(directory, { recursive: true }));
  const policyFile = join(directory, "policy.toml");
  if (policy !== null) await writeFile(policyFile, policy);
  const more = [
    ...(policy === null ? [] : ["--policy", policyFile]),
    ...(app ? ["--app", app] : []),
    ...origins.flatMap((origin) => ["--allow-origin", origin]),
    ...Object.entries(settings).flatMap(([name, value]) => ["--set", `${name}=${value}`]),
  ];
  const child = spawn(SANDBOX, ["dev", "--json", ...ports, ...more], {
    // Real keys in the surroundings are none of the sandbox's business: it would refuse to start.
    env: { LOG_FORMAT: "pretty", LOG_LEVEL: process.env.LOG_LEVEL ?? "info" },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const log = [];
  createInterface({ input: child.stderr }).on("line", (line) => {
    log.push(line);
    if (process.env.SANDBOX_LOG) console.error(line);
  });
  const ended = once(child, "close");
  const failed = (why) => new Error(`${why}. The sandbox's log:\n${log.slice(-40).join("\n")}`);
  context.after(async () => {
    child.stdin.end();
    const [code, signal] = await ended;
    if (code !== 0) throw failed(`the sandbox ended with ${code ?? signal}`);
  });

  const firstLine = once(createInterface({ input: child.stdout }), "line");
  const line = await Promise.race([firstLine, ended.then(() => null)]);
  if (!line) throw failed("the sandbox did not start");
  return new Sandbox(JSON.parse(line[0]));
}

/** A running sandbox. Its fields are those of the line that `sandbox dev --json` prints. */
class Sandbox {
  constructor(ready) {
    Object.assign(this, ready);
    this.authUrl = ready.auth_url;
  }

  /** A session token as Clerk mints it; `claims` are laid over the usual ones. */
  async sessionToken(user, claims = {}) {
    const response = await this.#post(this.clerk, "/sandbox/session-tokens", { user, claims });
    return response.text();
  }

  /** Signs in as a browser does on the dev page, or a page of `origin`: the values of Clerk's cookies by name. */
  async signIn(user, origin = this.page) {
    const response = await this.#post(this.clerk, "/v1/client/sign_ins", { user }, { origin });
    const { cookies } = await response.json();
    const { suffix, ...values } = cookies;
    return values;
  }

  /** Changes a user, as an administrator does in Clerk's dashboard. */
  async changeUser(user, changes) {
    await this.#post(this.clerk, "/sandbox/users", { user, ...changes });
  }

  /** Makes Clerk fail from now on; `{ kind: "none" }` ends it. */
  async setOutage(outage) {
    await this.#post(this.clerk, "/sandbox/outage", outage);
  }

  /** How often each route of both stand-ins was called. */
  async calls() {
    const [clerk, ably] = await Promise.all([this.clerk, this.ably].map((at) => json(`${at}/sandbox/calls`)));
    return { clerk, ably };
  }

  /** Changes the API key, as in Ably's dashboard: `revocableTokens`, and `reauthMarginMs` to be less patient than Ably. */
  async changeKey(settings) {
    await this.#post(this.ably, "/sandbox/key", settings);
  }

  /** Ends a session, as its user does by signing out. */
  async signOut(sessionId) {
    await this.#post(this.clerk, `/v1/client/sessions/${sessionId}/end`, {});
  }

  /** All sessions, newest first. */
  sessions() {
    return json(`${this.clerk}/sandbox/sessions`);
  }

  /** Has Clerk send its webhooks there, signed with this secret. */
  async sendWebhooks(url, secret) {
    await this.#post(this.clerk, "/sandbox/webhooks", { endpoints: [{ url, signing_secrets: [secret] }] });
  }

  /** Makes Ably's REST side fail from now on, or with a `route` only that; `{ kind: "none" }` ends it. */
  async setAblyOutage(outage) {
    await this.#post(this.ably, "/sandbox/outage", outage);
  }

  /** Changes how webhooks are sent: `endpoints`, `retry_schedule_ms`, `flow`. */
  async changeWebhooks(settings) {
    await this.#post(this.clerk, "/sandbox/webhooks", settings);
  }

  /** How webhooks are sent, the events and the attempts. */
  webhooks() {
    return json(`${this.clerk}/sandbox/webhooks`);
  }

  /** The calls of `revokeTokens` that Ably got. */
  revocations() {
    return json(`${this.ably}/sandbox/revocations`);
  }

  /** The connections that the Ably stand-in has now. */
  connections() {
    return json(`${this.ably}/sandbox/connections`);
  }

  /** Sets how long a dropped connection to Ably can be resumed. */
  async setConnectionStateTtl(stateTtlMs) {
    await this.#post(this.ably, "/sandbox/connections", { stateTtlMs });
  }

  /** Drops a connection to Ably, as a broken network does, unless it has ended. */
  async dropConnection(connectionId) {
    const path = `/sandbox/connections/${connectionId}`;
    const { ok, status } = await fetch(this.ably + path, { method: "DELETE" });
    if (!ok && status !== 404) throw new Error(`${path} answered ${status}`);
  }

  /** One request to the service without any SDK. */
  ask(request) {
    return ask(this.authUrl, request);
  }

  async #post(base, path, body, headers = {}) {
    const response = await fetch(base + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${path} answered ${response.status}: ${await response.text()}`);
    return response;
  }
}

/** One request to a service without any SDK: its status, headers, and body, parsed if it is JSON. */
export async function ask(authUrl, { method = "GET", params = {}, headers = {} } = {}) {
  const form = new URLSearchParams(params);
  const url = method === "POST" ? authUrl : `${authUrl}?${form}`;
  const response = await fetch(url, { method, headers, body: method === "POST" ? form : undefined });
  const isJson = response.headers.get("content-type") === "application/json";
  const body = await (isJson ? response.json() : response.text());
  return { status: response.status, headers: response.headers, body };
}

async function json(url) {
  return (await fetch(url)).json();
}

/** The demo user who has no username to be called by. */
export const NOOR = "user_2sandbox000000000000000Noor";

/** The header of a request with this session token. */
export const bearer = (token) => ({ authorization: `Bearer ${token}` });

/** The header of a request with these cookies. */
export const cookies = (values) => ({
  cookie: Object.entries(values).map(([name, value]) => `${name}=${value}`).join("; "),
});
