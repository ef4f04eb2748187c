// Holds the code of a deployed pool and its verifiers against the code built here.
//
//   node contracts/verify-deployment.mjs --rpc-url URL --manifest FILE
//
// The verifiers must be the same to the byte; the pool too, but for its immutable values, which it prints. Build first: `forge build`. The key
// that a verifier holds is part of its code, so code made from other keys differs.
import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "..");

/** The contracts of a manifest: name in it, artefact. */
const CONTRACTS = [
  ["pool", "StreamPool"],
  ["verifiers.transact", "TransactVerifier"],
  ["verifiers.close", "CloseVerifier"],
  ["verifiers.claim", "ClaimVerifier"],
  ["verifiers.insert", "InsertVerifier"],
];

/** A byte string without the places of immutables, and what stands in them. */
export function split(code, references) {
  const bytes = Buffer.from(code.replace(/^0x/, ""), "hex");
  const immutables = {};
  for (const [id, places] of Object.entries(references ?? {})) {
    for (const { start, length } of places) {
      immutables[id] = `0x${bytes.subarray(start, start + length).toString("hex")}`;
      bytes.fill(0, start, start + length);
    }
  }
  return { code: bytes.toString("hex"), immutables };
}

/** Where two strings of hexadecimal digits differ first, in bytes; -1 if nowhere. */
export function difference(a, b) {
  if (a === b) return -1;
  let at = 0;
  while (a.slice(at, at + 2) === b.slice(at, at + 2)) at += 2;
  return at / 2;
}

async function main() {
  const { values } = parseArgs({ options: { "rpc-url": { type: "string" }, manifest: { type: "string" } } });
  if (!values["rpc-url"] || !values.manifest) throw new Error("usage: verify-deployment.mjs --rpc-url URL --manifest FILE");
  const manifest = JSON.parse(readFileSync(values.manifest, "utf8"));
  const call = async (method, params) => {
    const response = await fetch(values["rpc-url"], {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    });
    const { result, error } = await response.json();
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  };
  for (const [name, contract] of CONTRACTS) {
    const address = name.split(".").reduce((value, key) => value[key], manifest);
    const artefact = JSON.parse(readFileSync(path.join(root, `contracts/out/${contract}.sol/${contract}.json`), "utf8"));
    const { object, immutableReferences } = artefact.deployedBytecode;
    const built = split(object, immutableReferences);
    const found = split(await call("eth_getCode", [address, "latest"]), immutableReferences);
    const at = difference(built.code, found.code);
    if (at >= 0) {
      throw new Error(
        `the code of ${name} at ${address} (${found.code.length / 2} bytes) is not ${contract} as built here ` +
          `(${built.code.length / 2} bytes); they differ from byte ${at} on`,
      );
    }
    console.log(`${name} at ${address} is ${contract}, ${found.code.length / 2} bytes`);
    for (const value of new Set(Object.values(found.immutables))) console.log(`  immutable ${value}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((error) => {
    console.error(`error: ${error.message}`);
    process.exit(1);
  });
}
