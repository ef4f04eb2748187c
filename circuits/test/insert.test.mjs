// SPDX-License-Identifier: GPL-3.0-only

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { insert } from './lib/derive.mjs';
import { Circuit } from './lib/harness.mjs';
import { EMPTY_LEAF, PRIME, Rng, TAGS, Tree, mod, statement } from './lib/reference.mjs';

let circuit;
const rng = new Rng('insert');
const queue = Array.from({ length: 64 * 3 + 40 }, () => rng.fr());

before(async () => {
  circuit = await Circuit.load('insert');
});

/** A tree that holds the queue's first `count` leaves. */
const trees = new Map();
function treeOf(count) {
  if (!trees.has(count)) {
    const tree = new Tree();
    queue.slice(0, count).forEach((leaf, index) => tree.set(index, leaf));
    trees.set(count, tree);
  }
  return trees.get(count);
}

/** Takes the tree from `from` leaves to `to` leaves, which lie in one batch. */
function batch(from, to) {
  const b = Math.floor(from / 64);
  const leaf = Array.from({ length: 64 }, (_, i) => (64 * b + i < to ? queue[64 * b + i] : 0n));
  return {
    oldRoot: treeOf(from).root,
    newRoot: treeOf(to).root,
    batchIndex: BigInt(b),
    k: BigInt(from - 64 * b),
    m: BigInt(to - 64 * b),
    leaf,
    path: treeOf(from).path(b, 3),
  };
}

/** A batch at any index of a tree that is otherwise empty but for a few leaves. */
function distant(b) {
  const before = new Tree();
  const after = new Tree();
  for (const index of [0n, 70n, 5000n]) [before, after].forEach((tree) => tree.set(index, queue[0]));
  after.set(64n * b, queue[1]);
  return {
    oldRoot: before.root, newRoot: after.root, batchIndex: b, k: 0n, m: 1n,
    leaf: Array.from({ length: 64 }, (_, i) => (i === 0 ? queue[1] : 0n)), path: before.path(b, 3),
  };
}

describe('insert accepts', () => {
  for (const [from, to] of [[0, 1], [0, 2], [0, 64], [1, 2], [1, 64], [5, 40], [62, 63], [63, 64], [64, 65], [100, 128], [128, 192], [192, 232]]) {
    test(`leaves ${from} to ${to}`, async () => {
      await circuit.accepts(insert(batch(from, to)).input);
    });
  }

  test('every number of leaves before and after, one step at a time', async () => {
    for (let from = 0; from < 64; from += 7) {
      await circuit.accepts(insert(batch(from, from + 1)).input);
    }
  });

  test('the last batch of the tree', async () => {
    await circuit.accepts(insert(distant((1n << 26n) - 1n)).input);
  });

  test('a batch whose index has every digit', async () => {
    await circuit.accepts(insert(distant(0b11_10_01_00_11_10_01_00_11_10_01_00_01n)).input);
  });
});

describe('insert refuses', () => {
  const refused = (name, make, expected) => test(name, async () => circuit.refuses(insert(make()).input, expected));
  const range = /^main\.Range\.Num2Bits\.in$/;
  const oldRoot = /^main\.oldRoot$/;
  const newRoot = /^main\.newRoot$/;

  refused('no new leaf (k = m)', () => ({ ...batch(5, 6), m: 5n, newRoot: treeOf(5).root, leaf: batch(0, 5).leaf }), { step: 'I2', signals: range });
  refused('fewer leaves than before (k > m)', () => ({
    ...batch(5, 40), k: 40n, m: 5n, oldRoot: treeOf(40).root, newRoot: treeOf(5).root, leaf: batch(0, 5).leaf,
  }), { step: 'I2', signals: [range, oldRoot] });
  refused('m of 65', () => ({ ...batch(63, 64), m: 65n }), { step: 'I1/TH3', signals: /^main\.Thermometer\.count$/ });
  refused('m below 0', () => ({ ...batch(0, 1), m: PRIME - 1n, leaf: batch(0, 1).leaf.map(() => 0n), newRoot: treeOf(0).root }), {
    step: 'I1/TH3', signals: [/^main\.Thermometer\.count$/, range],
  });
  refused('k below 0 (r - 1)', () => ({ ...batch(0, 1), k: PRIME - 1n }), { step: 'I1/TH3', signals: /^main\.Thermometer\.count$/ });
  refused('k of 64', () => ({ ...batch(64, 65), batchIndex: 0n, k: 64n, m: 65n }), {
    step: 'I1/TH3', signals: [/^main\.Thermometer\.count$/, oldRoot, newRoot],
  });

  for (const place of [5, 40, 63]) {
    refused(`a leaf at place ${place + 1} beyond m = 5`, () => {
      const input = batch(2, 5);
      input.leaf[place] = queue[place];
      return input;
    }, { step: 'I3', signals: [new RegExp(`^main\\.leaf\\[${place}\\]$`), newRoot] });
  }
  refused('the empty leaf spelled out beyond m', () => {
    const input = batch(2, 5);
    input.leaf[5] = EMPTY_LEAF;
    return input;
  }, { step: 'I3', signals: [/^main\.leaf\[5\]$/, newRoot] });

  refused('another old root', () => ({ ...batch(5, 40), oldRoot: rng.fr() }), { step: 'I4', signals: oldRoot });
  refused('another new root', () => ({ ...batch(5, 40), newRoot: rng.fr() }), { step: 'I4', signals: newRoot });
  refused('a new root with a leaf that is not in the batch', () => {
    const tree = new Tree();
    queue.slice(0, 40).forEach((leaf, index) => tree.set(index, leaf));
    tree.set(1000, rng.fr());
    return { ...batch(5, 40), newRoot: tree.root };
  }, { step: 'I4', signals: newRoot });
  refused('a new root that leaves out a leaf', () => ({ ...batch(5, 40), newRoot: treeOf(39).root }), { step: 'I4', signals: newRoot });
  refused('k of less than the batch held: its leaves would be overwritten', () => ({ ...batch(5, 40), k: 4n }), { step: 'I4', signals: oldRoot });
  refused('k of more than the batch held', () => ({ ...batch(5, 40), k: 6n }), { step: 'I4', signals: oldRoot });
  refused('a leaf in the place of one that is in the tree', () => {
    const input = batch(5, 40);
    input.leaf[2] = rng.fr();
    return input;
  }, { step: 'I4', signals: [oldRoot, newRoot] });
  refused('two leaves in each other\'s places', () => {
    const input = batch(5, 40);
    [input.leaf[10], input.leaf[11]] = [input.leaf[11], input.leaf[10]];
    return input;
  }, { step: 'I4', signals: newRoot });
  refused('a leaf of 0 in place of the last', () => {
    const input = batch(5, 40);
    input.leaf[39] = 0n;
    return input;
  }, { step: 'I4', signals: newRoot });
  refused('a wrong sibling', () => {
    const input = structuredClone(batch(100, 128));
    input.path[0][0] += 1n;
    return input;
  }, { step: 'I4', signals: [oldRoot, newRoot] });
  refused('another batch', () => ({ ...batch(100, 128), batchIndex: 2n }), { step: 'I4', signals: [oldRoot, newRoot] });
  refused('a batch index beyond 2^26 that names the same place', () => ({ ...batch(100, 128), batchIndex: 1n + (1n << 26n) }), {
    step: 'I4/MR1', signals: /^main\.MerkleRoot\.Num2Bits\.in$/,
  });
});

describe('insert binds its statement', () => {
  test('a digest of another vector is refused', async () => {
    const { input } = insert(batch(5, 40));
    await circuit.refuses({ ...input, digest: mod(input.digest + 1n) }, { step: 'I5/S1', signals: /^main\.Statement\.digest$/ });
  });

  test('a value of another vector is refused', async () => {
    const { input } = insert(batch(5, 40));
    await circuit.refuses({ ...input, value: mod(input.value + 1n) }, { step: 'I5/S2', signals: /^main\.Statement\.value$/ });
  });

  test("another element in the verifier's vector is refused, each of 69", async () => {
    const { input, x } = insert(batch(5, 40));
    assert.equal(x.length, 69);
    for (let index = 0; index < 69; index++) {
      const changed = x.map((element, n) => (n === index ? mod(element + 1n) : element));
      const { alpha, value } = statement(TAGS.insert, changed);
      await circuit.refusedAt({ ...input, alpha, value }, 'I5/S2');
    }
    const changed = x.map((element, n) => (n === 7 ? mod(element + 1n) : element));
    await circuit.refusedAt({ ...input, ...statement(TAGS.insert, changed) }, 'I5/S1');
  });
});
