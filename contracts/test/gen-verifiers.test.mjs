// What the verifiers' generator refuses, from the development keys with one thing changed in each.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { keyHash, parseKey } from "../gen-verifiers.mjs";

const build = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "..", "build");
const read = (name) => JSON.parse(readFileSync(path.join(build, name), "utf8"));
const sound = () => read("circuits/transact.vkey.json");

const P = 21888242871839275222246405745257275088696311157297823662689037894645226208583n;
const GENERATOR = [
  [
    "10857046999023057135944570762232829481370756359578518086990519993285655852781",
    "11559732032986387107991004021392285783925812861821192530917403151452391805634",
  ],
  [
    "8495653923123431417604973247489272438418190587263600148770280649306958101930",
    "4082367875863433681332203403145435568316851327593401208105741076214120093531",
  ],
  ["1", "0"],
];

test("a sound key has the hash that the prover records", () => {
  assert.equal(keyHash(parseKey(sound())), read("keys.json").circuits.transact.vkey_hash);
});

const flaws = {
  "delta equals gamma": [(key) => (key.vk_delta_2 = key.vk_gamma_2), /delta equals gamma/],
  "delta is the generator": [
    (key) => {
      // gamma is the generator in most keys, so it has to be another point here.
      key.vk_gamma_2 = key.vk_beta_2;
      key.vk_delta_2 = GENERATOR;
    },
    /delta is the generator/,
  ],
  "an input too many": [(key) => key.IC.push(key.IC[0]), /public inputs instead of 3/],
  "another number of inputs": [(key) => (key.nPublic = 4), /has 4 public inputs/],
  "another curve": [(key) => (key.curve = "bls12381"), /isn't a Groth16 key over BN254/],
  "another system": [(key) => (key.protocol = "plonk"), /isn't a Groth16 key/],
  "a coordinate beyond the order": [
    (key) => (key.vk_alpha_1[0] = (BigInt(key.vk_alpha_1[0]) + P).toString()),
    /alpha\.x = \d+ isn't below/,
  ],
  "a coordinate that is no number": [(key) => (key.IC[2][1] = "0x10"), /IC_2\.y is no decimal number/],
  "a point of G1 off the curve": [(key) => (key.IC[3][0] = "5"), /IC_3 isn't on the curve/],
  "a point of G2 off the curve": [(key) => (key.vk_beta_2[1][1] = "5"), /beta isn't on the curve/],
  "the identity": [(key) => (key.vk_alpha_1 = ["0", "1", "0"]), /alpha is no affine point/],
  "the identity of G2": [(key) => (key.vk_gamma_2[2] = ["0", "0"]), /gamma is no affine point/],
};

for (const [name, [flaw, message]] of Object.entries(flaws)) {
  test(`refuses ${name}`, () => {
    const key = sound();
    flaw(key);
    assert.throws(() => parseKey(key), { message });
  });
}
