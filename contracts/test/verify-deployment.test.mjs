import assert from "node:assert/strict";
import { test } from "node:test";
import { difference, split } from "../verify-deployment.mjs";

const references = { 12: [{ start: 1, length: 2 }, { start: 5, length: 2 }] };

test("code is compared without its immutables, which are told", () => {
  const built = split("0x60000060600000f3", references);
  const found = split("0x60abcd6060abcdf3", references);
  assert.equal(difference(built.code, found.code), -1);
  assert.deepEqual(found.immutables, { 12: "0xabcd" });
});

test("one byte beside the immutables is found at its place", () => {
  const built = split("0x60000060600000f3", references);
  const found = split("0x60abcd6061abcdf3", references);
  assert.equal(difference(built.code, found.code), 4);
});

test("no code, shorter and longer code differ", () => {
  const built = split("0x60000060600000f3", references).code;
  assert.equal(difference(built, split("0x", {}).code), 0);
  assert.equal(difference(built, built.slice(0, -2)), 7);
  assert.equal(difference(built, `${built}00`), 8);
});
