// A new user's first minutes: an empty project, the packed package, what `make dev APP=…` prints, and the documented code.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import * as nodeTest from "node:test";

import { startChromium } from "../../tests/sdk/support/chromium.js";
import { freePort } from "../../tests/sdk/support/processes.js";
import { SANDBOX } from "../../tests/sdk/support/sandbox.js";
import { serve } from "./support/example.js";
import { visit } from "./support/visitor.js";

const { test } = nodeTest;
const ROOT = join(import.meta.dirname, "../..");
const port = await freePort();
// It ends with the file, so that no page sees it stop.
const printed = await makeDev(nodeTest, `http://localhost:${port}`);
const browser = await startChromium(nodeTest);

test("a new Vite app with the documented code connects as the user who signs in", async (t) => {
  const [server] = printed.match(/^server: .*$/m);
  const files = {
    ...(await documentedFiles("### Vite")),
    ".env.local": variables(/^VITE_\w+=.*$/gm),
    "vite.config.ts": `import { defineConfig } from "vite";\nexport default defineConfig({ ${server} });\n`,
    "index.html":
      '<!doctype html><link rel="icon" href="data:," /><div id="root"></div><script type="module" src="/src/main.tsx"></script>',
  };
  await connectsAsAlice(t, "react-vite", files, "vite", ["--port", port]);
});

test("a new Next.js app with the documented code connects as the user who signs in", async (t) => {
  const [rewrites] = printed.match(/^async rewrites\(\) \{.*?^\},$/ms);
  const files = {
    ...(await documentedFiles("### Next.js")),
    ".env.local": variables(/^(NEXT_PUBLIC_\w+|CLERK_\w+|ABLY_CLERK_AUTH_URL)=.*$/gm),
    "next.config.ts": `export default { ${rewrites} };\n`,
    "public/favicon.ico": await readFile(join(ROOT, "examples/nextjs/public/favicon.ico")),
  };
  await connectsAsAlice(t, "nextjs", files, "next", ["dev", "--port", port]);
});

/** Serves a project with these files in the directory of an example, whose packages it uses, among them the packed one. */
async function connectsAsAlice(t, example, files, command, args) {
  const directory = await mkdtemp(join(ROOT, "examples", example, ".rehearsal-"));
  for (const [path, content] of Object.entries({ "package.json": '{ "private": true, "type": "module" }', ...files })) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), content);
  }
  const origin = await serve(t, { directory, port, command: `../node_modules/.bin/${command}`, args });
  t.after(() => rm(directory, { recursive: true }));
  const alice = await visit(t, browser, origin);
  await alice.signInAs("alice");
  await alice.page.getByText("Connected to Ably as alice", { exact: true }).waitFor();
  await alice.leave();
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
