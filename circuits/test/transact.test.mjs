// SPDX-License-Identifier: GPL-3.0-only

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { transact } from './lib/derive.mjs';
import { Pool } from './lib/fixtures.mjs';
import { Circuit } from './lib/harness.mjs';
import { PRIME, TAGS, mod, open, statement, streamMessage, valueMessage } from './lib/reference.mjs';

const U120 = 1n << 120n;
const RANGE_BITS = /\.Num2Bits\.in$/;

let circuit;
let pool;
let a;
let b;

before(async () => {
  circuit = await Circuit.load('transact');
  pool = new Pool('transact');
  a = pool.note(pool.alice, 1000n, 2n);
  b = pool.note(pool.alice, 77n, (1n << 32n) - 1n);
});

const deposit = (amount = 500n) =>
  pool.transact({ notes: [pool.dummy(), pool.dummy()], amountIn: amount, amount: [amount, 0n] });

const TERMS = { rate: 3n, start: 1_700_000_040n, end: 1_700_000_340n };
const DEPOSIT = 900n;

/** Opens a stream of 900 to bob from a and b, with change. */
const opening = (stream = TERMS, amount = [DEPOSIT, 1077n - DEPOSIT], rest = {}) =>
  pool.transact({ notes: [a, b], to: [pool.bob, pool.alice], amount, stream, ...rest });

/** Opens a stream whose deposit comes from outside, for terms that the pool's notes cannot pay. */
const openingFor = (stream, deposit) =>
  pool.transact({
    notes: [pool.dummy(), pool.dummy()],
    to: [pool.bob, pool.alice],
    amountIn: deposit,
    amount: [deposit, 0n],
    stream,
  });

describe('transact accepts', () => {
  test('a deposit with two dummies', async () => {
    await circuit.accepts(transact(deposit()).input);
  });

  test('a deposit of the greatest amount', async () => {
    await circuit.accepts(transact(deposit(U120 - 1n)).input);
  });

  test('nothing at all, dummies in and empty notes out', async () => {
    await circuit.accepts(transact(deposit(0n)).input);
  });

  test('a transfer of one note, the other input a dummy', async () => {
    const input = pool.transact({ notes: [a, pool.dummy()], to: [pool.bob, pool.alice], amount: [600n, 400n] });
    const { input: full, sealed, rho } = transact(input);
    await circuit.accepts(full);
    assert.deepEqual(open(pool.bob.v, 0, sealed[0]), valueMessage(600n, rho[0]));
    assert.deepEqual(open(pool.alice.v, 1, sealed[1]), valueMessage(400n, rho[1]));
  });

  test('a dummy before a real input', async () => {
    await circuit.accepts(transact(pool.transact({ notes: [pool.dummy(), b], amount: [70n, 7n] })).input);
  });

  test('a merge of two notes', async () => {
    await circuit.accepts(transact(pool.transact({ notes: [a, b], amount: [1077n, 0n] })).input);
  });

  test('a withdrawal', async () => {
    await circuit.accepts(transact(pool.transact({ notes: [a, b], amountOut: 1000n, amount: [0n, 77n] })).input);
  });

  test('the opening of a stream, whose payee can open the memo', async () => {
    const { input, sealed, rho, owner } = transact(opening());
    await circuit.accepts(input);
    const stream = { payee: owner[0], payerTag: input.payerTag, ...TERMS, rho: rho[0] };
    assert.deepEqual(open(pool.bob.v, 0, sealed[0]), streamMessage(stream));
  });

  test('a stream with the greatest rate, the greatest end and a deposit just below 2^120', async () => {
    const rate = (1n << 96n) - 1n;
    const end = (1n << 40n) - 1n;
    const duration = (1n << 24n) - 1n;
    await circuit.accepts(transact(openingFor({ rate, start: end - duration, end }, rate * duration)).input);
  });

  test('a stream of one second from second 0', async () => {
    await circuit.accepts(transact(openingFor({ rate: 1n, start: 0n, end: 1n }, 1n)).input);
  });
});

describe('transact refuses', () => {
  const refused = (name, make, expected) => test(name, async () => circuit.refuses(transact(make()).input, expected));

  refused('amount_in of 2^120', () => pool.transact({
    notes: [pool.dummy(), pool.dummy()], amountIn: U120, amount: [U120 / 2n, U120 / 2n],
  }), { step: 'T1', signals: /^main\.Range\.Num2Bits\.in$/ });

  refused('amount_in below 0 (r - 1), which would destroy money', () => pool.transact({
    notes: [a, b], amountIn: PRIME - 1n, amount: [1076n, 0n],
  }), { step: 'T1', signals: /^main\.Range\.Num2Bits\.in$/ });

  refused('amount_out below 0 (r - 5), which would make money', () => pool.transact({
    notes: [a, b], amountOut: PRIME - 5n, amount: [1077n, 5n],
  }), { step: 'T1', signals: /^main\.Range\.Num2Bits\.in$/ });

  refused('an input of 2^120, even from a note in the tree', () => {
    const big = pool.note(pool.alice, U120, 9n);
    return pool.transact({ notes: [big, pool.dummy()], amount: [U120 / 2n, U120 / 2n] });
  }, { step: 'T2/VI1', signals: /^main\.ValueInput\[0\]\.Range\.Num2Bits\.in$/ });

  refused('an input of amount r - 1', () => {
    const negative = pool.note(pool.alice, PRIME - 1n, 10n);
    return pool.transact({ notes: [a, negative], amount: [999n, 0n] });
  }, { step: 'T2/VI1', signals: /^main\.ValueInput\[1\]\.Range\.Num2Bits\.in$/ });

  refused('a note of another owner', () => pool.transact({
    notes: [{ ...a, sk: pool.bob.sk }, b], amount: [1077n, 0n],
  }), { step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/ });

  refused('a note under another viewing key', () => pool.transact({
    notes: [{ ...a, V: pool.bob.V }, b], amount: [1077n, 0n],
  }), { step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/ });

  refused('a note with a greater amount than its own', () => pool.transact({
    notes: [{ ...a, amount: 1001n }, b], amount: [1078n, 0n],
  }), { step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/ });

  refused('a dummy with money', () => pool.transact({
    notes: [{ ...pool.dummy(), amount: 1n }, b], amount: [78n, 0n],
  }), { step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/ });

  refused('the second input without a place in the tree', () => pool.transact({
    notes: [a, { ...pool.dummy(), amount: 1n }], amount: [1001n, 0n],
  }), { step: 'T2/VI3', signals: /^main\.ValueInput\[1\]\.noteRoot$/ });

  for (const level of [0, 7, 15]) {
    refused(`a wrong sibling at level ${level}`, () => {
      const input = opening();
      input.inPath = structuredClone(input.inPath);
      input.inPath[0][level][1] += 1n;
      return input;
    }, { step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/ });
  }

  refused('a note at another index', () => ({ ...opening(), inIndex: [3n, b.index] }), {
    step: 'T2/VI3', signals: /^main\.ValueInput\[0\]\.noteRoot$/,
  });

  refused('an index beyond 2^32 that names the same place', () => ({ ...opening(), inIndex: [2n + (1n << 32n), b.index] }), {
    step: 'T2/VI3/MR1', signals: /^main\.ValueInput\[0\]\.MerkleRoot\.Num2Bits\.in$/,
  });

  refused('another root', () => ({ ...opening(), root: pool.rng.fr() }), {
    step: 'T2/VI3', signals: /^main\.ValueInput\[[01]\]\.noteRoot$/,
  });

  refused('the same note twice', () => pool.transact({ notes: [a, a], amount: [2000n, 0n] }), {
    step: 'T3', signals: /^main\.NonZero\.in$/,
  });

  refused('the same dummy twice', () => {
    const dummy = pool.dummy();
    return pool.transact({ notes: [dummy, dummy], amountIn: 5n, amount: [5n, 0n] });
  }, { step: 'T3', signals: /^main\.NonZero\.in$/ });

  const output = (name) => new RegExp(`^main\\.Outputs\\.EitherOutput\\.${name}$`);

  refused('a kind of 2', () => ({ ...deposit(0n), outIsStream: 2n }), {
    step: 'T4/EO1',
    // the kind also enters the rate's inverse, the order of the times and, by its honest use in the statement, the memo
    signals: [output('Boolean\\.in'), output('rateInverse'), output('Range\\.Num2Bits\\.in'), /^main\.Statement\.(digest|value)$/],
  });

  refused('a value output of 2^120', () => pool.transact({
    notes: [pool.dummy(), pool.dummy()], amountIn: U120 - 1n, amount: [U120, PRIME - 1n],
  }), { step: 'T4/EO2', signals: [output('Range\\.Num2Bits\\.in'), /^main\.Outputs\.ValueOutput\.Range\.Num2Bits\.in$/] });

  refused('a second output below 0, with the first output greater for it', () => pool.transact({
    notes: [a, b], amount: [1078n, PRIME - 1n],
  }), { step: 'T4/VO1', signals: /^main\.Outputs\.ValueOutput\.Range\.Num2Bits\.in$/ });

  refused('a stream whose deposit is 2^120', () => pool.transact({
    notes: [pool.dummy(), pool.dummy()],
    to: [pool.bob, pool.alice],
    amountIn: U120 - 1n,
    amount: [U120, PRIME - 1n],
    stream: { rate: 1n << 95n, start: 0n, end: 1n << 25n },
  }), { step: 'T4/EO2', signals: [output('Range\\.Num2Bits\\.in'), /^main\.Outputs\.ValueOutput\.Range\.Num2Bits\.in$/] });

  refused('a rate of 2^96', () => openingFor({ rate: 1n << 96n, start: 0n, end: 1n }, 1n << 96n), {
    step: 'T4/EO3/ST1', signals: output('StreamTerms\\.Range\\.Num2Bits\\.in'),
  });

  refused('a start below 0 (r - 1)', () => openingFor({ rate: 7n, start: PRIME - 1n, end: 0n }, 7n), {
    step: 'T4/EO3/ST2', signals: output('StreamTerms\\.Range\\.Num2Bits\\.in'),
  });

  refused('an end of 2^40', () => openingFor({ rate: 7n, start: (1n << 40n) - 1n, end: 1n << 40n }, 7n), {
    step: 'T4/EO3/ST3', signals: output('StreamTerms\\.Range\\.Num2Bits\\.in'),
  });

  refused('a value note with a rate', () => ({ ...deposit(), rate: 5n }), {
    step: 'T4/EO4', signals: [output('rate'), output('rateInverse'), /^main\.Statement\.(digest|value)$/],
  });

  refused('a value note with a start and an end', () => ({ ...deposit(), start: 5n, end: 5n }), {
    step: 'T4/EO4', signals: [output('start'), output('end'), /^main\.Statement\.(digest|value)$/],
  });

  refused('a value note with an end', () => ({ ...deposit(), end: 5n }), {
    step: 'T4/EO4', signals: [output('end'), /^main\.Statement\.(digest|value)$/],
  });

  refused('a value note with a payer tag', () => ({ ...deposit(), payerTag: 5n }), {
    step: 'T4/EO4', signals: [output('payerTag'), /^main\.Statement\.(digest|value)$/],
  });

  refused('a stream of rate 0', () => openingFor({ rate: 0n, start: 1n, end: 2n }, 0n), {
    step: 'T4/EO5', signals: output('rateInverse'),
  });

  refused('a stream with start = end', () => openingFor({ rate: 1n, start: 60n, end: 60n }, 0n), {
    step: 'T4/EO6', signals: output('Range\\.Num2Bits\\.in'),
  });

  refused('a stream with start > end and a deposit below 0', () => openingFor({ rate: 1n, start: 60n, end: 59n }, PRIME - 1n), {
    step: 'T1', signals: [/^main\.Range\.Num2Bits\.in$/, output('Range\\.Num2Bits\\.in')],
  });

  refused('a stream with start > end and a deposit of 0', () => openingFor({ rate: 1n, start: 60n, end: 59n }, 0n), {
    step: 'T4/EO6', signals: [output('Range\\.Num2Bits\\.in'), output('deposit')],
  });

  refused('a stream that pays in less than its deposit', () => opening(TERMS, [DEPOSIT - 1n, 1078n - DEPOSIT]), {
    step: 'T4/EO7', signals: output('deposit'),
  });

  refused('a stream that pays in more than its deposit', () => opening(TERMS, [DEPOSIT + 1n, 1076n - DEPOSIT]), {
    step: 'T4/EO7', signals: output('deposit'),
  });

  for (const j of [0, 1]) {
    const seals = j === 0 ? 'main\\.Outputs\\.EitherOutput\\.Seal' : 'main\\.Outputs\\.ValueOutput\\.Seal';
    const step = j === 0 ? 'T4/EO9' : 'T4/VO2';

    refused(`esk_${j} of 2^250`, () => {
      const input = opening();
      input.outEsk[j] = 1n << 250n;
      return input;
    }, { step: `${step}/SE1`, signals: [new RegExp(`^${seals}\\.Num2Bits\\.in$`), /^main\.Statement\.(digest|value)$/] });

    refused(`esk_${j} of 0`, () => {
      const input = opening();
      input.outEsk[j] = 0n;
      return input;
    }, { step: `${step}/SE2`, signals: new RegExp(`^${seals}\\.NonZero\\.in$`) });
  }

  refused('one unit more out than in', () => pool.transact({ notes: [a, b], amount: [1077n, 1n] }), {
    step: 'T5', signals: /^main\.amountIn$/,
  });

  refused('one unit less out than in', () => pool.transact({ notes: [a, b], amount: [1076n, 0n] }), {
    step: 'T5', signals: /^main\.amountIn$/,
  });

  refused('money paid out of nothing', () => pool.transact({
    notes: [pool.dummy(), pool.dummy()], amountOut: 1n, amount: [0n, 0n],
  }), { step: 'T5', signals: /^main\.amountIn$/ });
});

describe('transact binds its statement', () => {
  const NAMES = [
    'root', 'ext', 'amount_in', 'amount_out', 'nf_0', 'nf_1', 'cm_0', 'cm_1', 'E_0.x', 'E_0.y', 'ct_0[0]', 'ct_0[1]', 'ct_0[2]',
    'E_1.x', 'E_1.y', 'ct_1[0]', 'ct_1[1]', 'ct_1[2]',
  ];

  test('a digest of another vector is refused', async () => {
    const { input } = transact(opening());
    await circuit.refuses({ ...input, digest: mod(input.digest + 1n) }, { step: 'T6/S1', signals: /^main\.Statement\.digest$/ });
  });

  test('a value of another vector is refused', async () => {
    const { input } = transact(opening());
    await circuit.refuses({ ...input, value: mod(input.value + 1n) }, { step: 'T6/S2', signals: /^main\.Statement\.value$/ });
  });

  NAMES.forEach((name, index) => {
    test(`another ${name} in the verifier's vector is refused, with its digest or with the prover's`, async () => {
      const change = (x) => x.map((element, n) => (n === index ? mod(element + 1n) : element));
      const { input, x } = transact(opening());
      await circuit.refusedAt(transact(input, change).input, 'T6/S1');
      const { alpha, value } = statement(TAGS.transact, change(x));
      await circuit.refusedAt({ ...input, alpha, value }, 'T6/S2');
    });
  });
});
