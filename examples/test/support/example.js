// An example: installed, built and served with the settings that `make dev APP=…` prints for it.

import "../../../tests/sdk/support/loopback_only.js";

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

import { freePort } from "../../../tests/sdk/support/processes.js";
import { startSandbox } from "../../../tests/sdk/support/sandbox.js";

const ROOT = join(import.meta.dirname, "../../..");
const execute = promisify(execFile);
/** Rules of the sandbox. In one organization tokens are short, so that renewals happen. */
const POLICY = `${await readFile(join(ROOT, "sandbox/policy.toml"), "utf8")}
[[grants]]
name = "short tokens"
when = { organization = "globex" }
capability = { "chat:*" = ["subscribe"] }
ttl = "5s"
`;

/** An example, and the sandbox that it is to use. `framework` is the name of its settings in the sandbox's output. */
export async function prepareExample(context, name, framework) {
  const port = await freePort();
  const devPort = await freePort();
  const sandbox = await startSandbox(context, {
    app: `http://localhost:${port}`,
    origins: [`http://localhost:${devPort}`],
    policy: POLICY,
    settings: { CLERK_USER_CACHE_TTL: "1ms", LIMITS_TOKENS_PER_MINUTE: "0" },
  });
  const { origin: service } = new URL(sandbox.authUrl);
  const addresses = { CLERK_URL: sandbox.clerk, ABLY_CLERK_AUTH_URL: service };
  const environment = { ...process.env, NEXT_TELEMETRY_DISABLED: "1", ...addresses, ...sandbox.app[framework] };
  return new Example({ name, sandbox, environment, port, devPort });
}

/** Tests of an example's source. */
export function testSource({ test }, example) {
  test("the example installs the packed package, whatever it contains", async () => {
    const lock = JSON.parse(await readFile(join(ROOT, "examples", example.name, "package-lock.json"), "utf8"));
    const { resolved, integrity } = lock.packages["node_modules/ably-clerk-auth"];
    assert.equal(resolved, "file:../ably-clerk-auth.tgz");
    assert.equal(integrity, undefined, "npm wrote the file's hash into package-lock.json: remove this line");
  });

  for (const script of ["typecheck", "lint"]) {
    test(`the example passes ${script}`, () => example.run(script));
  }
}

/** The connections to Ably that this user has now. */
export async function connectionsOf(sandbox, user) {
  return (await sandbox.connections()).filter(({ clientId }) => clientId === user);
}

class Example {
  #environment;
  #directory;

  constructor({ name, sandbox, environment, port, devPort }) {
    this.#environment = environment;
    this.#directory = join(ROOT, "examples", name);
    Object.assign(this, { name, sandbox, port, devPort });
  }

  /** Runs one of the example's npm scripts to its end. */
  async run(script) {
    try {
      await execute("npm", ["run", "--silent", script], { cwd: this.#directory, env: this.#environment });
    } catch ({ stdout, stderr }) {
      throw new Error(`npm run ${script} failed:\n${stdout}${stderr}`);
    }
  }

  /** Starts a server of the example: `command` is that of a package in its `node_modules`. Returns its origin. */
  serve(context, port, command, args, settings = {}) {
    const path = join("node_modules/.bin", command);
    return serve(context, { directory: this.#directory, environment: { ...this.#environment, ...settings }, port, command: path, args });
  }
}

/** Starts a server of a project until `context` ends: `command` is a path from `directory`. Returns the server's origin. */
export async function serve(context, { directory, environment = process.env, port, command, args }) {
  const server = spawn(join(directory, command), args, {
    cwd: directory,
    // Colours, which Vite also has in CI, would cut the address that the server prints.
    env: { ...environment, NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = once(server, "close");
  context.after(async () => {
    server.kill();
    await ended;
  });
  const log = [];
  const ready = new Promise((resolve) => {
    for (const output of [server.stdout, server.stderr]) {
      createInterface({ input: output }).on("line", (line) => {
        log.push(line);
        if (line.includes(`:${port}`)) resolve();
      });
    }
  });
  const failed = ended.then(() => {
    throw new Error(`${command} ${args.join(" ")} ended:\n${log.join("\n")}`);
  });
  await Promise.race([ready, failed]);
  failed.catch(() => undefined);
  return `http://localhost:${port}`;
}
