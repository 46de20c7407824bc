// Fetches the bundles of clerk-js and its components, without the packages' dependencies, and checks them against the
// committed hashes. Does nothing for what is here already.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const installed = join(here, "node_modules");
const bundles = JSON.parse(readFileSync(join(here, "bundles.json"), "utf8"));

for (const bundle of bundles) {
  const target = join(installed, bundle.package);
  const mark = join(target, "integrity");
  if (existsSync(mark) && readFileSync(mark, "utf8") === bundle.integrity) continue;
  mkdirSync(dirname(target), { recursive: true });
  // On the same file system, so that the package can be moved.
  const directory = mkdtempSync(join(installed, ".fetched-"));
  try {
    unpack(bundle, directory);
    writeFileSync(join(directory, "package", "integrity"), bundle.integrity);
    rmSync(target, { recursive: true, force: true });
    renameSync(join(directory, "package"), target);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function unpack({ package: name, version, integrity, files }, directory) {
  execFileSync("npm", ["pack", `${name}@${version}`, "--ignore-scripts", "--silent", "--pack-destination", directory], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const [tarball] = readdirSync(directory);
  const content = readFileSync(join(directory, tarball));
  const actual = `sha512-${createHash("sha512").update(content).digest("base64")}`;
  if (actual !== integrity) throw new Error(`${name}@${version} has the hash ${actual} instead of ${integrity}`);
  const wanted = new RegExp(`^package/(${files}|LICENSE)$`);
  const listed = execFileSync("tar", ["-tzf", tarball], { cwd: directory, encoding: "utf8" }).split("\n");
  const members = listed.filter((file) => wanted.test(file));
  if (!members.length) throw new Error(`${name}@${version} has none of the files`);
  execFileSync("tar", ["-xzf", tarball, ...members], { cwd: directory });
}
