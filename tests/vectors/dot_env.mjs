// Asks Node what it reads from texts, and writes the answers to dot_env.json. Node 22.23, 24.21 and 26.10 answer alike:
//
//   node dot_env.mjs >dot_env.json
//
// Left out are texts that Node reads as no author means them: a value of blanks takes the next line, `export NAME=` without
// a value keeps the word in its name, a line without a name loses its `=`, and after a quoted value an indented `#` starts
// a name.
import { parseEnv } from "node:util";

const written = [
  "A=1", "A = x y ", "export A=1", "export  A=1", "export=1", 'A="a\nb"', 'A="a\\nb"', "A='a\\nb'", "A=`a'\"b`",
  'A="b" # c', 'A="b" c', 'A="b"c', "A=b # c", "A=b#c", "# c\nA=1", "#A=1", " # A=1\nB=2", "no assignment\nA=1",
  "no\n\nassignment\n\nA=1", "A", "A\nB=2", "A=\nB=2", "A=\n\nB=2", 'A="x\nB=2', "A='x", 'A=""', "A=''", "A==b=",
  "A=1\r\nB=2\r\n", "A=1\nA=2", "A=a,\tb, c", "\tA=1\n  B=2", 'A="a#b"', "A=#c", "A='it''s'", 'A="a\\"b"', 'A=x"y"',
  "A=$B\nB=1", "A=${B}", "A B=1", "A-B=1", "A=1\n\n\n#x\nB=2", 'A="1\n2" # c\nB=3', "A=' x '", "A='x' ", "A=\t'x'",
  "A=x\t\n B=1", "A='a\nb'", "A=`a\nb`", 'A="a\n\nb"\nB=1', "A=a\\nb", "A:1\nB=2", "A=\n'x'", "A=\u00e9 \u00a0",
  "NEXT_PUBLIC_APP_NAME=My App\nCLERK_AUTHORIZED_PARTIES=https://a.example, https://b.example\n",
  'CLERK_JWT_KEY="-----BEGIN PUBLIC KEY-----\nAAAA\nBBBB\n-----END PUBLIC KEY-----"\nTOKEN_TTL=5m\n',
];

// Made up, by a generator that gives the same texts each time.
let state = 1;
const pick = (list) => list[(state = (state * 48271) % 2147483647) % list.length];
const pieces = [" ", "\t", "\n", "\n", "=", "=", "#", '"', '"', "'", "`", "A", "B", "\\n", "export ", "x", "\r\n", "\nA="];
const madeUp = Array.from({ length: 2000 }, () => Array.from({ length: pick([4, 8, 12, 20]) }, () => pick(pieces)).join(""));

const isOdd = (text) =>
  /=[ \t]+(\n|$)|=\s+$/.test(text) || /export[ \t]+[^\n]*=(\n|$)/.test(text) || /(^|\n)[ \t]*(export[ \t]*)?=/.test(text) ||
  /["'`][^\n]*\n[ \t]+#/.test(text) || /^\s+$/.test(text);
const texts = [...written, ...madeUp.map((text) => text.trim()).filter((text) => text.includes("="))];
const vectors = [...new Set(texts)].filter((text) => !isOdd(text.replaceAll("\r", "")))
  .map((text) => JSON.stringify({ text, variables: { ...parseEnv(text) } }));
console.log(`[\n${vectors.slice(0, 400).join(",\n")}\n]`);
