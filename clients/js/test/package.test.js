// The packed package, and the code of the docs that uses it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, "../../..");
const PACKAGE = join(import.meta.dirname, "..");
const INSTALLED = join(import.meta.dirname, "node_modules/ably-clerk-auth");
const DOCUMENTED = join(import.meta.dirname, "documented");
// Those of docs/sandbox.md are checked in examples/test/rehearsal.test.js, with the types of Vite and Next.js.
const DOCS = ["README.md", "docs/connect.md", "clients/js/README.md"];

/** Bundles a program that imports the package: what an app's bundler makes of it, without the peers. */
async function bundled(program) {
  const { outputFiles } = await build({
    stdin: { contents: program, resolveDir: import.meta.dirname },
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    external: ["ably", "ably/react", "react", "react/jsx-runtime"],
    logLevel: "error",
  });
  return outputFiles[0].text;
}

test("the package has the build, its README and its licence, and no dependency", async () => {
  const files = (await readdir(INSTALLED, { recursive: true, withFileTypes: true })).filter((file) => file.isFile());
  const names = files.map(({ name }) => name).sort();
  const modules = ["index", "react", "session", "token"].flatMap((name) => [`${name}.d.ts`, `${name}.js`]);
  assert.deepEqual(names, ["LICENSE", "README.md", ...modules, "package.json"].sort());
  const manifest = JSON.parse(await readFile(join(INSTALLED, "package.json"), "utf8"));
  assert.equal(manifest.dependencies, undefined);
  assert.deepEqual(manifest.peerDependencies, { ably: ">=2", react: ">=18" });
  assert.equal(await readFile(join(INSTALLED, "LICENSE"), "utf8"), await readFile(join(ROOT, "LICENSE"), "utf8"));
});

test("all of it is under 3 KB, minified and gzipped", async (t) => {
  const program = await bundled('export * from "ably-clerk-auth"; export * from "ably-clerk-auth/react";');
  const { length } = gzipSync(program, { level: 9 });
  t.diagnostic(`${length} bytes`);
  assert.ok(length < 3000, `${length} bytes`);
});

test("an app that imports the package and uses nothing of it has nothing of it", async () => {
  assert.equal(await bundled('import "ably-clerk-auth"; import { AblyClerkProvider } from "ably-clerk-auth/react";'), "");
});

test("without React, nothing of React is imported", async () => {
  const program = await bundled('export { createAblyAuth } from "ably-clerk-auth";');
  assert.match(program, /from"ably"/);
  assert.doesNotMatch(program, /react/);
});

test("the React entry is a client module for frameworks with server components", async () => {
  assert.match(await readFile(join(INSTALLED, "dist/react.js"), "utf8"), /^"use client";/);
});

test("the documented code type-checks in strict mode and passes the linters", async () => {
  await rm(DOCUMENTED, { recursive: true, force: true });
  await mkdir(DOCUMENTED);
  after(() => rm(DOCUMENTED, { recursive: true }));
  let count = 0;
  for (const path of DOCS) {
    const text = await readFile(join(ROOT, path), "utf8");
    const blocks = [...text.matchAll(/^```tsx?\n(.*?)^```$/gms)].map(([, code]) => code);
    const ours = blocks.filter((code) => code.includes('from "ably-clerk-auth'));
    assert.notEqual(ours.length, 0, `${path} has no code that uses the package`);
    const javascript = [...text.matchAll(/^```(js|jsx|javascript)\n(.*?)^```$/gms)].filter(([, , code]) => code.includes("ably-clerk-auth\""));
    assert.deepEqual(javascript, [], `${path} has code that uses the package and is not checked: make it ts or tsx`);
    for (const code of ours) {
      count += 1;
      await writeFile(join(DOCUMENTED, `${path.replaceAll(/\W/g, "_")}_${count}.tsx`), code);
    }
  }
  for (const command of [["tsc", "--noEmit"], ["eslint", "--max-warnings=0", "test/documented"]]) {
    await run("npx", ["--no-install", ...command], { cwd: PACKAGE }).catch(({ stdout, stderr }) => {
      assert.fail(`${command.join(" ")}:\n${stdout}${stderr}`);
    });
  }
});
