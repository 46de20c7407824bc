// Programs that a test starts beside the sandbox: a Redis, and another replica of the service. Each ends with its test,
// and on Linux with this process, killed included.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { until } from "./clients.js";
import { ask, REPLICA, SANDBOX, WITHOUT_RULES } from "./sandbox.js";

/** Starts `redis-server`, empty and on a free port. */
export async function startRedis(t) {
  const directory = await temporaryDirectory(t, "redis-test-");
  const start = async (attempts) => {
    const port = await freePort();
    const redis = run(t, "redis-server", ["--bind", "127.0.0.1", "--port", String(port), "--save", ""], directory);
    try {
      await untilReady(redis, "Redis", async () => (await command(port, "PING")) === "+PONG");
      return port;
    } catch (error) {
      // Another may take a free port before Redis does.
      if (attempts === 1) throw error;
      return start(attempts - 1);
    }
  };
  const port = await start(5);
  return { url: `redis://127.0.0.1:${port}`, command: (...words) => command(port, ...words) };
}

/** Starts one more service between the sandbox's stand-ins, with the settings that the sandbox gives its own. */
export async function startReplica(t, sandbox, settings) {
  const directory = await temporaryDirectory(t, "replica-test-");
  await writeFile(join(directory, "ably-clerk-auth.toml"), WITHOUT_RULES);
  const replica = run(t, REPLICA, [], directory, {
    ABLY_API_KEY: sandbox.api_key,
    ABLY_REST_URL: sandbox.ably,
    CLERK_PUBLISHABLE_KEY: sandbox.publishable_key,
    CLERK_SECRET_KEY: sandbox.secret_key,
    CLERK_API_URL: sandbox.clerk,
    CLERK_AUTHORIZED_PARTIES: sandbox.page,
    SERVER_HOST: "127.0.0.1",
    SERVER_PORT: "0",
    ADMIN_PORT: "0",
    LOG_FORMAT: "json",
    LOG_LEVEL: process.env.LOG_LEVEL ?? "info",
    ...settings,
  });
  const address = () => replica.log.map(asJson).find(({ message }) => message === "listening")?.address;
  await untilReady(replica, "the other replica", async () => {
    return address() && (await fetch(`http://${address()}/readyz`)).ok;
  });
  const authUrl = `http://${address()}/api/ably`;
  return { authUrl, ask: (request) => ask(authUrl, request) };
}

/** On Linux, the sandbox's executable sees to it that a program ends with its parent. */
function run(t, program, args, cwd, env = {}) {
  const tied = [SANDBOX, "tied-to-parent", String(process.pid), program];
  const [executable, ...more] = process.platform === "linux" ? tied : [program];
  const child = spawn(executable, [...more, ...args], {
    cwd,
    env: { PATH: process.env.PATH, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const running = { log: [], ended: once(child, "close") };
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      running.log.push(line);
      if (process.env.SANDBOX_LOG) console.error(line);
    });
  }
  t.after(async () => {
    child.kill();
    await running.ended;
  });
  return running;
}

async function untilReady({ log, ended }, what, isReady) {
  const end = ended.then(([code, signal]) => {
    throw new Error(`${what} ended with ${code ?? signal}:\n${log.slice(-40).join("\n")}`);
  });
  await Promise.race([until(`${what} to be ready`, () => isReady().catch(() => false)), end]);
}

async function temporaryDirectory(t, prefix) {
  const directory = await mkdtemp(join(tmpdir(), prefix));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await once(server.close(), "close");
  return port;
}

/** The first line of what Redis answers. */
async function command(port, ...words) {
  const socket = connect(port, "127.0.0.1");
  try {
    const strings = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    socket.write(`*${words.length}\r\n${strings.join("")}`);
    const [line] = await once(createInterface({ input: socket }), "line");
    return line;
  } finally {
    socket.destroy();
  }
}

function asJson(line) {
  try {
    return JSON.parse(line);
  } catch {
    return {};
  }
}
