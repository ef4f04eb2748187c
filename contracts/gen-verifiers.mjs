// Writes one Solidity verifier for each on-chain circuit from its verifying key.
//
//   node contracts/gen-verifiers.mjs [--keys build] [--out contracts/src/verifiers/generated]
//
// Reads <keys>/circuits/<name>.vkey.json (snarkjs' form) and <keys>/keys.json (which says whether a key is a development key), and
// refuses keys that can't be right: a file that keys.json doesn't describe, a key for another number of public inputs,
// coordinates out of range, points off the curve, delta equal to gamma or to the generator of G2.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "..");
const { keccak_256 } = createRequire(path.join(root, "package.json"))("@noble/hashes/sha3");

/** The on-chain circuits and their hash tags. */
const CIRCUITS = { transact: 21, close: 22, claim: 23, insert: 24 };

const P = 21888242871839275222246405745257275088696311157297823662689037894645226208583n;
const mod = (x) => ((x % P) + P) % P;

/** Fp2 as [real, imaginary], i^2 = -1. */
const fp2 = {
  add: ([a, b], [c, d]) => [mod(a + c), mod(b + d)],
  mul: ([a, b], [c, d]) => [mod(a * c - b * d), mod(a * d + b * c)],
  equal: ([a, b], [c, d]) => a === c && b === d,
};

/** b of the twist y^2 = x^3 + 3 / (9 + i). */
const TWIST_B = [
  19485874751759354771024239261021720505790618469301721065564631296452457478373n,
  266929791119991161246907387137283842545076965332900288569378510910307636690n,
];

const G2_GENERATOR = [
  [
    10857046999023057135944570762232829481370756359578518086990519993285655852781n,
    11559732032986387107991004021392285783925812861821192530917403151452391805634n,
  ],
  [
    8495653923123431417604973247489272438418190587263600148770280649306958101930n,
    4082367875863433681332203403145435568316851327593401208105741076214120093531n,
  ],
];

class KeyError extends Error {}

function coordinate(text, what) {
  if (typeof text !== "string" || !/^[0-9]{1,78}$/.test(text)) throw new KeyError(`${what} is no decimal number`);
  const value = BigInt(text);
  if (value >= P) throw new KeyError(`${what} = ${value} isn't below the base field's order`);
  return value;
}

function g1(json, what) {
  if (!Array.isArray(json) || json.length !== 3 || json[2] !== "1") throw new KeyError(`${what} is no affine point of G1`);
  const [x, y] = [coordinate(json[0], `${what}.x`), coordinate(json[1], `${what}.y`)];
  if (mod(y * y) !== mod(x * x * x + 3n)) throw new KeyError(`${what} isn't on the curve`);
  return [x, y];
}

function g2(json, what) {
  const affine = Array.isArray(json) && json.length === 3 && json[2][0] === "1" && json[2][1] === "0";
  if (!affine) throw new KeyError(`${what} is no affine point of G2`);
  const [x, y] = ["x", "y"].map((name, i) => json[i].map((c, j) => coordinate(c, `${what}.${name}.c${j}`)));
  if (!fp2.equal(fp2.mul(y, y), fp2.add(fp2.mul(fp2.mul(x, x), x), TWIST_B))) throw new KeyError(`${what} isn't on the curve`);
  return [x, y];
}

const samePoint = (a, b) => fp2.equal(a[0], b[0]) && fp2.equal(a[1], b[1]);
const word = (value) => value.toString(16).padStart(64, "0");
const g1Words = ([x, y]) => [word(x), word(y)];
/** On the wire the imaginary part comes first (EIP-197). */
const g2Words = ([x, y]) => [word(x[1]), word(x[0]), word(y[1]), word(y[0])];

/** The points of a key, named, in the order of the wire. */
export function parseKey(json) {
  if (json.protocol !== "groth16" || json.curve !== "bn128") throw new KeyError("it isn't a Groth16 key over BN254");
  if (json.nPublic !== 3 || json.IC?.length !== 4) throw new KeyError(`it has ${json.nPublic} public inputs instead of 3`);
  const key = {
    alpha: g1(json.vk_alpha_1, "alpha"),
    beta: g2(json.vk_beta_2, "beta"),
    gamma: g2(json.vk_gamma_2, "gamma"),
    delta: g2(json.vk_delta_2, "delta"),
    ic: json.IC.map((point, i) => g1(point, `IC_${i}`)),
  };
  if (samePoint(key.delta, key.gamma)) throw new KeyError("delta equals gamma: anybody can forge proofs");
  if (samePoint(key.delta, G2_GENERATOR)) throw new KeyError("delta is the generator: nobody contributed, anybody can forge proofs");
  return [
    ["alpha", g1Words(key.alpha)],
    ["beta", g2Words(key.beta)],
    ["gamma", g2Words(key.gamma)],
    ["delta", g2Words(key.delta)],
    ...key.ic.map((point, i) => [`IC_${i}`, g1Words(point)]),
  ];
}

/** The verifying-key hash of docs/src/encodings.md. */
export const keyHash = (points) => `0x${Buffer.from(keccak_256(Buffer.from(points.flatMap(([, words]) => words).join(""), "hex"))).toString("hex")}`;

function source(name, tag, points, development) {
  const contract = `${name[0].toUpperCase()}${name.slice(1)}Verifier`;
  const warning = development
    ? "\n/// INSECURE: this key comes from the public development setup. Anybody can forge proofs for it."
    : "";
  const literals = points.flatMap(([, words]) => words.map((w) => `hex"${w}"`));
  return `// SPDX-License-Identifier: MIT OR Apache-2.0
// Generated by contracts/gen-verifiers.mjs from the verifying key of circuit ${name}.
pragma solidity 0.8.37;

import {IGroth16Verifier} from "../../interfaces/IGroth16Verifier.sol";
import {Groth16Verifier} from "../Groth16Verifier.sol";

/// @title ${contract}
/// @notice Verifies proofs of circuit ${name}. Key ${keyHash(points)}.${warning}
contract ${contract} is Groth16Verifier {
    /// @dev alpha, beta, gamma, delta, IC_0..IC_3; G1 as x, y; G2 as x.c1, x.c0, y.c1, y.c0.
    bytes private constant KEY = ${literals.join("\n        ")};

    /// @notice The verifying key.
    /// @return key The points on the wire.
    function _key() internal pure override returns (bytes memory key) {
        key = KEY;
    }

    /// @inheritdoc IGroth16Verifier
    function circuit() external pure override returns (uint256 tag) {
        tag = ${tag};
    }

    /// @inheritdoc IGroth16Verifier
    function isDevelopmentKey() external pure override returns (bool development) {
        development = ${development};
    }
}
`;
}

function option(name, fallback) {
  const at = process.argv.indexOf(name);
  if (at < 0) return path.join(root, fallback);
  const value = process.argv[at + 1];
  if (!value) throw new KeyError(`${name} needs a folder`);
  return path.resolve(value);
}

function read(file) {
  if (!existsSync(file)) throw new KeyError(`${file} is missing; make the keys first (script/setup does)`);
  return readFileSync(file);
}

function main() {
  const keys = option("--keys", "build");
  const out = option("--out", "contracts/src/verifiers/generated");
  const records = JSON.parse(read(path.join(keys, "keys.json"))).circuits;
  mkdirSync(out, { recursive: true });
  for (const [name, tag] of Object.entries(CIRCUITS)) {
    const file = path.join(keys, "circuits", `${name}.vkey.json`);
    const bytes = read(file);
    const record = records[name];
    if (!record) throw new KeyError(`keys.json has no entry for ${name}`);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    if (sha256 !== record.vkey_sha256) {
      throw new KeyError(`${file} has SHA-256 ${sha256}, keys.json says ${record.vkey_sha256}; make the keys again`);
    }
    if (typeof record.development !== "boolean") throw new KeyError(`keys.json doesn't say whether ${name} is a development key`);
    let points;
    try {
      points = parseKey(JSON.parse(bytes));
    } catch (error) {
      throw new KeyError(`${file}: ${error.message}`);
    }
    if (keyHash(points) !== record.vkey_hash) {
      throw new KeyError(`${file} has key hash ${keyHash(points)}, keys.json says ${record.vkey_hash}; make the keys again`);
    }
    const target = path.join(out, `${name[0].toUpperCase()}${name.slice(1)}Verifier.sol`);
    const text = source(name, tag, points, record.development);
    // An unchanged file keeps its age, so that forge needn't compile it again.
    if (existsSync(target) && readFileSync(target, "utf8") === text) continue;
    writeFileSync(target, text);
    process.stdout.write(`${path.relative(root, target)}: ${record.development ? "development" : "production"} key ${keyHash(points)}\n`);
  }
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    main();
  } catch (error) {
    if (!(error instanceof KeyError)) throw error;
    process.stderr.write(`gen-verifiers: ${error.message}\n`);
    process.exit(1);
  }
}
