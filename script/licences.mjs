#!/usr/bin/env node
// Checks the licence of every Rust package that is linked into our programs against the ones we accept, and refuses sources other than the
// registry. GPL code may be used by the circuits' build (circomlib, snarkjs) and never linked.
import { execFileSync } from "node:child_process";

const ACCEPTED = new Set([
  "MIT", "MIT-0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "NCSA", "Zlib", "0BSD",
  "CC0-1.0", "Unlicense", "Unicode-3.0", "BSL-1.0", "MPL-2.0", "CDLA-Permissive-2.0", "OpenSSL",
]);
// Packages without a usable licence expression, each with the reason why it is accepted.
const REVIEWED = new Map();

const metadata = JSON.parse(
  execFileSync("cargo", ["metadata", "--format-version", "1"], { maxBuffer: 1 << 28 }),
);
const ours = new Set(metadata.workspace_members);

/** True when the SPDX expression can be satisfied by accepted licences. */
function satisfied(expression) {
  const tokens = expression.replaceAll("/", " OR ").match(/\(|\)|[^\s()]+/g) ?? [];
  let at = 0;
  const term = () => {
    if (tokens[at] === "(") {
      at += 1;
      const inner = alternatives();
      at += 1;
      return inner;
    }
    let name = tokens[at++];
    if (tokens[at] === "WITH") name = `${name} WITH ${tokens[at + 1]}`, (at += 2);
    return ACCEPTED.has(name) || ACCEPTED.has(name.split(" WITH ")[0]);
  };
  const all = () => {
    let ok = term();
    while (tokens[at] === "AND") (at += 1), (ok = term() && ok);
    return ok;
  };
  const alternatives = () => {
    let ok = all();
    while (tokens[at] === "OR") (at += 1), (ok = all() || ok);
    return ok;
  };
  return tokens.length > 0 && alternatives();
}

const refused = [];
for (const { id, name, version, license, source } of metadata.packages) {
  if (ours.has(id)) continue;
  if (!source?.startsWith("registry+")) refused.push(`${name} ${version}: not from the registry`);
  if (!satisfied(license ?? "") && !REVIEWED.has(name)) refused.push(`${name} ${version}: ${license ?? "no licence"}`);
}
if (refused.length > 0) {
  console.error(`licences refused:\n  ${refused.join("\n  ")}`);
  process.exit(1);
}
console.log(`licences of ${metadata.packages.length - ours.size} packages are accepted`);
