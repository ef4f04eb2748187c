// SPDX-License-Identifier: GPL-3.0-only

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { close } from './lib/derive.mjs';
import { Pool } from './lib/fixtures.mjs';
import { Circuit } from './lib/harness.mjs';
import { PRIME, TAGS, hash, mod, open, statement, streamMessage } from './lib/reference.mjs';

const RATE = 10n;
const START = 1_700_000_040n;
const END = START + 600n;
const U40 = 1n << 40n;
const U120 = 1n << 120n;

let circuit;
let pool;
let stream;
let note;

before(async () => {
  circuit = await Circuit.load('close');
  pool = new Pool('close');
  stream = pool.stream({ payee: pool.bob.owner, rate: RATE, start: START, end: END, index: 6n });
  note = pool.note(pool.alice, 50n, 40n);
});

/** Closes the stream at `stop` with a refund of `refund`, all of it into output 0. */
const closing = (stop, refund, rest = {}) => pool.close({ stream, stop, amount: [refund, 0n], ...rest });

describe('close accepts', () => {
  const accepted = (name, make) => test(name, async () => {
    await circuit.accepts(close(make()).input);
  });

  accepted('a stop in the middle', () => closing(START + 200n, 400n * RATE));
  accepted('a stop at second 0, before the start: the whole deposit comes back', () => closing(0n, 600n * RATE));
  accepted('a stop just before the start', () => closing(START - 1n, 600n * RATE));
  accepted('a stop at the start', () => closing(START, 600n * RATE));
  accepted('a stop one second after the start', () => closing(START + 1n, 599n * RATE));
  accepted('a stop one second before the end', () => closing(END - 1n, RATE));
  accepted('a stop at the end: nothing comes back', () => closing(END, 0n));
  accepted('a stop after the end', () => closing(END + 1n, 0n));
  accepted('the last stop there is', () => closing(U40 - 1n, 0n));
  accepted('a refund that is split, and partly paid out', () =>
    pool.close({ stream, stop: END - 100n, amountOut: 300n, amount: [500n, 200n] }));
  accepted('a note beside the stream', () => pool.close({ stream, stop: END - 100n, note, amount: [1000n, 50n] }));
  accepted('a stream of the greatest rate and end', () => {
    const rate = (1n << 96n) - 1n;
    const great = pool.stream({ payee: pool.bob.owner, rate, start: U40 - 1000n, end: U40 - 1n, index: 50n });
    return pool.close({ stream: great, stop: U40 - 1000n, amount: [rate * 999n, 0n] });
  });

  test('a close that opens another stream to the same payee in the same call', async () => {
    const stop = END - 300n;
    const terms = { rate: 20n, start: stop, end: stop + 150n };
    const made = close(pool.close({
      stream, stop, note, to: [pool.bob, pool.alice], amount: [3000n, 50n], reopen: terms,
    }));
    await circuit.accepts(made.input);
    const reopened = { payee: pool.bob.owner, payerTag: made.input.outPayerTag, ...terms, rho: made.rho[0] };
    assert.deepEqual(open(pool.bob.v, 0, made.sealed[0]), streamMessage(reopened));
    assert.equal(made.cm[0], hash.stream(reopened));
  });
});

describe('close refuses', () => {
  const refused = (name, make, expected) => test(name, async () => circuit.refuses(close(make()).input, expected));
  const range = /^main\.Range\.Num2Bits\.in$/;
  const terms = /^main\.StreamTerms\.Range\.Num2Bits\.in$/;
  const noteRoot = /^main\.noteRoot$/;

  refused('a stop of 2^40', () => closing(U40, 0n), { step: 'C1', signals: range });
  refused('a stop below 0 (r - 1)', () => closing(PRIME - 1n, 600n * RATE), {
    step: 'C1',
    // Max(r - 1, start) is computed as start: r - 1 + 2^40 - start has its top bit unset
    signals: range,
  });
  refused('an amount_out below 0 (r - 5), which would make money', () =>
    pool.close({ stream, stop: END, amountOut: PRIME - 5n, amount: [5n, 0n] }), { step: 'C1', signals: range });
  refused('an amount_out of 2^120', () => {
    const rate = (1n << 96n) - 1n;
    const great = pool.stream({ payee: pool.bob.owner, rate, start: 0n, end: (1n << 24n) + 1n, index: 51n });
    return pool.close({ stream: great, stop: 0n, amountOut: U120, amount: [rate * ((1n << 24n) + 1n) - U120, 0n] });
  }, { step: 'C1', signals: range });

  refused('a rate of 2^96, even of a note in the tree', () => {
    const forged = pool.stream({ payee: pool.bob.owner, rate: 1n << 96n, start: START, end: END, index: 52n });
    return pool.close({ stream: forged, stop: END - 1n, amount: [1n << 96n, 0n] });
  }, { step: 'C2/ST1', signals: terms });
  refused('a start of 2^40', () => {
    const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: U40, end: U40 + 5n, index: 53n });
    return pool.close({ stream: forged, stop: 0n, amount: [5n, 0n] });
  }, { step: 'C2/ST2', signals: terms });
  refused('an end of 2^40', () => {
    const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: U40 - 1n, end: U40, index: 54n });
    return pool.close({ stream: forged, stop: 0n, amount: [1n, 0n] });
  }, { step: 'C2/ST3', signals: terms });

  refused("another stream's secret", () => ({ ...closing(START, 600n * RATE), ps: pool.rng.fr() }), { step: 'C3', signals: noteRoot });
  refused('the payer tag as secret', () => ({ ...closing(START, 600n * RATE), ps: stream.payerTag }), { step: 'C3', signals: noteRoot });
  refused('another payee', () => ({ ...closing(START, 600n * RATE), payee: pool.alice.owner }), { step: 'C3', signals: noteRoot });
  refused('a greater rate', () => ({ ...closing(START, 600n * (RATE + 1n)), rate: RATE + 1n }), { step: 'C3', signals: noteRoot });
  refused('a later end', () => ({ ...closing(START, 601n * RATE), end: END + 1n }), { step: 'C3', signals: noteRoot });
  refused('a stream that is not in the tree', () => ({ ...closing(START, 600n * RATE), rho: pool.rng.fr() }), { step: 'C3', signals: noteRoot });
  refused('a wrong sibling', () => {
    const input = structuredClone(closing(START, 600n * RATE));
    input.path[3][2] += 1n;
    return input;
  }, { step: 'C3', signals: noteRoot });
  refused('another root', () => ({ ...closing(START, 600n * RATE), root: pool.rng.fr() }), { step: 'C3', signals: noteRoot });
  refused('an index beyond 2^32', () => ({ ...closing(START, 600n * RATE), index: 6n + (1n << 32n) }), {
    step: 'C3/MR1', signals: /^main\.MerkleRoot\.Num2Bits\.in$/,
  });
  refused('a value note as a stream', () => {
    const input = closing(START, 0n);
    return { ...input, index: note.index, path: pool.tree.path(note.index) };
  }, { step: 'C3', signals: [noteRoot, /^main\.refund$/] });

  refused('a stream with end < start, even of a note in the tree', () => {
    const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: END, end: START, index: 55n });
    return pool.close({ stream: forged, stop: START, amount: [0n, 0n] });
  }, { step: 'C5', signals: range });

  refused('a note of another owner', () => pool.close({
    stream, stop: END, note: { ...note, sk: pool.bob.sk }, amount: [50n, 0n],
  }), { step: 'C6/VI3', signals: /^main\.ValueInput\.noteRoot$/ });
  refused('a dummy with money', () => pool.close({
    stream, stop: END, note: { ...pool.dummy(), amount: 1n }, amount: [1n, 0n],
  }), { step: 'C6/VI3', signals: /^main\.ValueInput\.noteRoot$/ });
  refused('a dummy with an amount of r - 1', () => pool.close({
    stream, stop: END - 1n, note: { ...pool.dummy(), amount: PRIME - 1n }, amount: [RATE - 1n, 0n],
  }), { step: 'C6/VI1', signals: [/^main\.ValueInput\.Range\.Num2Bits\.in$/, /^main\.ValueInput\.noteRoot$/] });

  refused('an output below 0, with the other greater for it', () => pool.close({
    stream, stop: END - 1n, amount: [RATE + 1n, PRIME - 1n],
  }), { step: 'C7/VO1', signals: /^main\.Outputs\.ValueOutput\.Range\.Num2Bits\.in$/ });
  refused('a reopened stream with start = end', () => pool.close({
    stream, stop: END, to: [pool.bob, pool.alice], amount: [0n, 0n], reopen: { rate: 1n, start: END, end: END },
  }), { step: 'C7/EO6', signals: /^main\.Outputs\.EitherOutput\.Range\.Num2Bits\.in$/ });
  refused('a reopened stream with less than its deposit', () => pool.close({
    stream, stop: END - 100n, to: [pool.bob, pool.alice], amount: [1000n, 0n], reopen: { rate: RATE, start: END - 100n, end: END + 1n },
  }), { step: 'C7/EO7', signals: /^main\.Outputs\.EitherOutput\.deposit$/ });
  refused('an esk of 0', () => ({ ...closing(END, 0n), outEsk: [0n, 5n] }), {
    step: 'C7/EO9/SE2', signals: /^main\.Outputs\.EitherOutput\.Seal\.NonZero\.in$/,
  });

  const conservation = /^main\.refund$/;
  refused('a refund of one second too many in the middle', () => closing(START + 200n, 401n * RATE), { step: 'C8', signals: conservation });
  refused('a refund of one second too few', () => closing(START + 200n, 399n * RATE), { step: 'C8', signals: conservation });
  refused('a refund of more than the deposit when the stop is before the start', () => closing(START - 1n, 601n * RATE), { step: 'C8', signals: conservation });
  refused('a refund when the stop is at the end', () => closing(END, RATE), { step: 'C8', signals: conservation });
  refused('a refund below 0 when the stop is after the end', () => pool.close({
    stream, stop: END + 1n, note, amount: [50n - RATE, 0n],
  }), { step: 'C8', signals: conservation });
  refused('the refund beside an unspent note', () => pool.close({ stream, stop: END, note, amount: [51n, 0n] }), { step: 'C8', signals: conservation });
});

describe('close binds its statement', () => {
  const NAMES = [
    'root', 'ext', 'tag', 'stop', 'amount_out', 'nf_value', 'cm_0', 'cm_1', 'E_0.x', 'E_0.y', 'ct_0[0]', 'ct_0[1]', 'ct_0[2]',
    'E_1.x', 'E_1.y', 'ct_1[0]', 'ct_1[1]', 'ct_1[2]',
  ];

  test('a digest of another vector is refused', async () => {
    const { input } = close(closing(END, 0n));
    await circuit.refuses({ ...input, digest: mod(input.digest + 1n) }, { step: 'C9/S1', signals: /^main\.Statement\.digest$/ });
  });

  test('a value of another vector is refused', async () => {
    const { input } = close(closing(END, 0n));
    await circuit.refuses({ ...input, value: mod(input.value + 1n) }, { step: 'C9/S2', signals: /^main\.Statement\.value$/ });
  });

  test("the digest under another circuit's tag is refused", async () => {
    const { input, x } = close(closing(END, 0n));
    await circuit.refusedAt({ ...input, ...statement(TAGS.transact, x) }, 'C9/S1');
  });

  NAMES.forEach((name, index) => {
    test(`another ${name} in the verifier's vector is refused, with its digest or with the prover's`, async () => {
      const change = (x) => x.map((element, n) => (n === index ? mod(element + 1n) : element));
      const { input, x } = close(closing(START + 60n, 540n * RATE));
      await circuit.refusedAt(close(input, change).input, 'C9/S1');
      const { alpha, value } = statement(TAGS.close, change(x));
      await circuit.refusedAt({ ...input, alpha, value }, 'C9/S2');
    });
  });
});
