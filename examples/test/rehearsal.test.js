// A new user's first minutes: a new project, the packed package, what `make dev APP=…` prints, and the documented code.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import * as nodeTest from "node:test";
import { promisify } from "node:util";

import { startChromium } from "../../tests/sdk/support/chromium.js";
import { freePort } from "../../tests/sdk/support/processes.js";
import { SANDBOX } from "../../tests/sdk/support/sandbox.js";
import { serve } from "./support/example.js";
import { visit } from "./support/visitor.js";

const { test } = nodeTest;
const ROOT = join(import.meta.dirname, "../..");
const execute = promisify(execFile);
const environment = { ...process.env, NEXT_TELEMETRY_DISABLED: "1" };
const projects = await mkdtemp(join(tmpdir(), "rehearsal-"));
nodeTest.after(() => rm(projects, { recursive: true }));
const port = await freePort();
// It ends with the file, so that no page sees it stop.
const printed = await makeDev(nodeTest, `http://localhost:${port}`);
const browser = await startChromium(nodeTest);

test("a new Vite app with the documented code connects as the user who signs in", async (t) => {
  const [server] = printed.match(/^server: .*$/m);
  const documented = await documentedFiles("### Vite");
  const settings = {
    ".env.local": variables(/^VITE_\w+=.*$/gm),
    "vite.config.ts": `import { defineConfig } from "vite";\nexport default defineConfig({ ${server} });\n`,
    "index.html":
      '<!doctype html><link rel="icon" href="data:," /><div id="root"></div><script type="module" src="/src/main.tsx"></script>',
  };
  await connectsAsAlice(t, "react-vite", { documented, settings, command: "vite", args: ["--port", port] });
});

test("a new Next.js app with the documented code connects as the user who signs in", async (t) => {
  const [rewrites] = printed.match(/^async rewrites\(\) \{.*?^\},$/ms);
  const documented = await documentedFiles("### Next.js");
  const settings = {
    ".env.local": variables(/^(NEXT_PUBLIC_\w+|CLERK_\w+|ABLY_CLERK_AUTH_URL)=.*$/gm),
    "next.config.ts": `export default { ${rewrites} };\n`,
    "public/favicon.ico": await readFile(join(ROOT, "examples/nextjs/public/favicon.ico")),
  };
  await connectsAsAlice(t, "nextjs", { documented, settings, command: "next", args: ["dev", "--port", port] });
});

/** Installs, checks and serves a project with these files. Its directory is outside the repository. */
async function connectsAsAlice(t, example, { documented, settings, command, args }) {
  const directory = join(projects, example);
  await mkdir(directory);
  await pinVersions(directory, example);
  for (const [path, content] of Object.entries({ ...documented, ...settings })) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content);
  }
  const npm = (...args) => run("npm", args, directory);
  await npm("install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error", await packedFile());
  await npm("run", "--silent", "typecheck");
  await npm("exec", "--", "eslint", "--max-warnings=0", ...Object.keys(documented));

  const origin = await serve(t, { directory, environment, port, command: `node_modules/.bin/${command}`, args });
  const alice = await visit(t, browser, origin);
  await alice.signInAs("alice");
  await alice.page.getByText("Connected to Ably as alice", { exact: true }).waitFor();
  await alice.leave();
}

/** Gives a project the packages of an example, in the same versions, except for `ably-clerk-auth`; and its linters. */
async function pinVersions(directory, example) {
  for (const name of ["package.json", "package-lock.json"]) {
    const content = JSON.parse(await readFile(join(ROOT, "examples", example, name), "utf8"));
    delete (content.packages?.[""] ?? content).dependencies["ably-clerk-auth"];
    delete content.packages?.["node_modules/ably-clerk-auth"];
    await writeFile(join(directory, name), JSON.stringify(content));
  }
  for (const name of ["tsconfig.json", "eslint.config.js"]) {
    await copyFile(join(ROOT, "examples", example, name), join(directory, name));
  }
}

/** The file that README says to install. */
async function packedFile() {
  const [, path] = (await readFile(join(ROOT, "README.md"), "utf8")).match(/`npm install ably <checkout>\/(\S+)`/);
  return join(ROOT, path);
}

async function run(command, args, directory) {
  try {
    await execute(command, args, { cwd: directory, env: environment });
  } catch ({ stdout, stderr }) {
    throw new Error(`${command} ${args.join(" ")} failed:\n${stdout}${stderr}`);
  }
}

function variables(pattern) {
  return `${printed.match(pattern).join("\n")}\n`;
}

/** Runs the sandbox for an app at `origin`, as `make dev APP=…` does. Returns what it prints. */
async function makeDev(context, origin) {
  const ports = ["page", "service", "clerk", "ably"].flatMap((part) => [`--${part}-port`, "0"]);
  const sandbox = spawn(SANDBOX, ["dev", "--app", origin, ...ports], { env: {}, stdio: ["ignore", "pipe", "ignore"] });
  const ended = once(sandbox, "close");
  context.after(async () => {
    sandbox.kill();
    await ended;
  });
  let printed = "";
  for await (const text of sandbox.stdout.setEncoding("utf8").iterator({ destroyOnReturn: false })) {
    printed += text;
    if (printed.includes("Ctrl-C")) break;
  }
  sandbox.stdout.resume();
  return printed;
}

/** The files in a section of docs/sandbox.md: code blocks that begin with their path. */
async function documentedFiles(heading) {
  const page = await readFile(join(ROOT, "docs/sandbox.md"), "utf8");
  const [, section] = page.split(`\n${heading}\n`);
  const [text] = section.split("\n### ");
  return Object.fromEntries([...text.matchAll(/^```\w+\n\/\/ (\S+)\n(.*?)^```$/gms)].map(([, path, code]) => [path, code]));
}
