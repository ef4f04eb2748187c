// Checks that the contracts' specification, code and tests name the same things.
//
// 1. Every check that a source labels (`// E1: ...`) has its row in docs/src/contract.md, and every row its label; the tests that a row
//    names exist; every error of libraries/Errors.sol is in a row.
// 2. Every branch of the .tree files under contracts/test has its test function, and every test function its branch.
//
// A branch's test is named after its conditions: `test_RevertWhen_TheRootIsUnknown` for "when the root is unknown" with "it should
// revert …", `test_WhenSomethingComesIn` otherwise, `test_RevertGiven_X_WhenY` for nested ones, and with `_ItShould…` appended where a
// condition has several outcomes.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const contracts = path.dirname(fileURLToPath(import.meta.url));
const root = path.join(contracts, "test");

const camel = (text) =>
  text
    .replace(/'/g, "")
    .split(/[^A-Za-z0-9]+/)
    .filter(Boolean)
    .map((word) => word[0].toUpperCase() + word.slice(1))
    .join("");

/** Reads a tree as nested { text, children }. */
function parse(text) {
  const [title, ...lines] = text.trimEnd().split("\n");
  const tree = { text: title.trim(), children: [] };
  const stack = [tree];
  for (const line of lines) {
    const match = /^((?:│   |    )*)(?:├── |└── )(.+)$/.exec(line);
    if (!match) throw new Error(`not a branch: ${line}`);
    const depth = match[1].length / 4 + 1;
    const node = { text: match[2], children: [] };
    stack.length = depth;
    stack[depth - 1].children.push(node);
    stack[depth] = node;
  }
  return tree;
}

/** The names of the tests that a tree asks for. */
function names(node, conditions = []) {
  const outcomes = node.children.filter((child) => child.text.startsWith("it "));
  const nested = node.children.filter((child) => !child.text.startsWith("it "));
  const own = outcomes.map((outcome) => {
    const revert = outcome.text.startsWith("it should revert");
    const [first, ...rest] = conditions.map(([kind, text]) => [camel(kind), camel(text)]);
    const head = `test_${revert ? "Revert" : ""}${first[0]}${revert ? "_" : ""}${first[1]}`;
    const tail = outcomes.length > 1 ? `_${camel(outcome.text.split(",")[0])}` : "";
    return head + rest.map(([kind, text]) => `_${kind}${text}`).join("") + tail;
  });
  return own.concat(
    nested.flatMap((child) => {
      const match = /^(given|when) (.+)$/.exec(child.text);
      if (!match || child.children.length === 0) throw new Error(`neither condition nor outcome: ${child.text}`);
      return names(child, [...conditions, [match[1], match[2]]]);
    }),
  );
}

let failures = 0;
let checked = 0;
const complain = (message) => {
  failures += 1;
  process.stderr.write(`${message}\n`);
};

for (const entry of readdirSync(root, { recursive: true }).sort()) {
  if (!entry.endsWith(".tree")) continue;
  const file = path.join(root, entry);
  const source = readFileSync(file.replace(/\.tree$/, ".t.sol"), "utf8");
  let wanted;
  try {
    const tree = parse(readFileSync(file, "utf8"));
    if (!source.includes(`contract ${tree.text} `)) complain(`${entry}: no contract ${tree.text}`);
    wanted = names(tree);
  } catch (error) {
    complain(`${entry}: ${error.message}`);
    continue;
  }
  const found = [...source.matchAll(/function (test_\w+)\(/g)].map((match) => match[1]);
  checked += wanted.length;
  for (const name of wanted) if (!found.includes(name)) complain(`${entry}: no test ${name}`);
  for (const name of found) if (!wanted.includes(name)) complain(`${entry}: no branch for ${name}`);
}
/** Every file below a folder with this ending, as text, by name. */
const sources = (folder, ending) =>
  readdirSync(folder, { recursive: true })
    .filter((entry) => entry.endsWith(ending) && !entry.includes("generated"))
    .map((entry) => [entry, readFileSync(path.join(folder, entry), "utf8")]);

const code = [...sources(path.join(contracts, "src"), ".sol"), ...sources(path.join(contracts, "script"), ".sol")];
const labels = new Map();
for (const [file, text] of code) {
  for (const [, id] of text.matchAll(/\/\/ ([A-Z][0-9]+): /g)) labels.set(id, path.basename(file, ".sol").replace(".s", ""));
}
const tests = new Set(sources(root, ".t.sol").flatMap(([, text]) => [...text.matchAll(/function ((?:test|invariant)\w*)\(/g)].map((m) => m[1])));
const rows = new Map();
const page = readFileSync(path.join(contracts, "..", "docs", "src", "contract.md"), "utf8");
for (const line of page.split("\n")) {
  const match = /^\| ([A-Z][0-9]+) \| (\w+) \| .* \| (.+) \|$/.exec(line);
  if (!match) continue;
  const [, id, file, testCell] = match;
  if (rows.has(id)) complain(`contract.md: ${id} comes twice`);
  rows.set(id, file);
  const named = [...testCell.matchAll(/`(\w+)`/g)].map((m) => m[1]);
  if (named.length === 0) complain(`contract.md: ${id} names no test`);
  for (const name of named) if (!tests.has(name)) complain(`contract.md: ${id} names ${name}, which is no test`);
}
for (const [id, file] of labels) if (rows.get(id) !== file) complain(`contract.md: no row for ${id} of ${file}`);
for (const [id, file] of rows) if (labels.get(id) !== file) complain(`contract.md: ${id} isn't labelled in ${file}`);
const errors = [...readFileSync(path.join(contracts, "src", "libraries", "Errors.sol"), "utf8").matchAll(/error StreamPool_(\w+)\(/g)];
for (const [, name] of errors) if (!page.includes(`\`${name}\``)) complain(`contract.md: no row for the error ${name}`);

if (checked === 0) complain("no trees found");
if (failures > 0) process.exit(1);
process.stdout.write(`${rows.size} checks and ${checked} branches, each with its test\n`);
