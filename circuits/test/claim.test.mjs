// SPDX-License-Identifier: GPL-3.0-only
//
// Every rule of a claim on two lanes, where the unsimplified system is small enough to look at; the shipped circuit of 16
// lanes for what depends on the number.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { claim } from './lib/derive.mjs';
import { Pool } from './lib/fixtures.mjs';
import { Circuit } from './lib/harness.mjs';
import { PRIME, TAGS, mod, open, statement, valueMessage } from './lib/reference.mjs';

const RATE = 10n;
const START = 1_700_000_040n;
const END = START + 600n;
const U40 = 1n << 40n;
const U96 = 1n << 96n;
const U120 = 1n << 120n;

let pool;
let s;
let t;

before(() => {
  pool = new Pool('claim');
  s = pool.stream({ payee: pool.bob.owner, rate: RATE, start: START, end: END, index: 6n });
  t = pool.stream({ payee: pool.bob.owner, rate: 7n, start: START + 60n, end: END + 60n, index: 130n });
});

describe('claim of 2', () => {
  let circuit;
  before(async () => {
    circuit = await Circuit.load('circuits/test/main/claim2.circom');
  });

  /** One lane of `stream` over t0 .. t1, the other inactive. */
  const one = (t0, t1, rest = {}) => pool.claim({ lanes: [{ stream: s, t0, t1 }, null], ...rest });
  const two = (rest = {}) =>
    pool.claim({ lanes: [{ stream: s, t0: START, t1: START + 100n }, { stream: t, t0: 0n, t1: START + 100n }], ...rest });

  describe('accepts', () => {
    const accepted = (name, make, paid) => test(name, async () => {
      const input = make();
      assert.equal(input.outAmount + input.amountOut + input.burn, paid);
      await circuit.accepts(claim(input).input);
    });

    accepted('a first claim of a running stream', () => one(0n, START + 100n), 100n * RATE);
    accepted('a repeated claim', () => one(START + 100n, START + 130n), 30n * RATE);
    accepted('a claim of everything after the end', () => one(0n, U40 - 1n), 600n * RATE);
    accepted('a window that crosses the end', () => one(END - 1n, END + 100n), RATE);
    accepted('a window from the end on: nothing', () => one(END, END + 5n), 0n);
    accepted('a window up to the start: nothing', () => one(0n, START), 0n);
    accepted('a window up to one second after the start', () => one(0n, START + 1n), RATE);
    accepted('a stream that starts in the future: nothing', () => one(0n, START - 100n), 0n);
    accepted('a window that is empty or backward: nothing (the contract refuses it)', () => one(START + 9n, START + 5n), 0n);
    accepted('two streams', () => two(), 100n * RATE + 40n * 7n);
    accepted('a withdrawal of all', () => two({ amountOut: 100n * RATE + 40n * 7n }), 100n * RATE + 40n * 7n);
    accepted('the same stream twice, one window after the other', () => pool.claim({
      lanes: [{ stream: s, t0: START, t1: START + 5n }, { stream: s, t0: START + 5n, t1: START + 9n }],
    }), 9n * RATE);
    accepted('a burn of 1 in 10000, rounded down', () => two({ burnBps: 1n }), 1280n);
    accepted('a burn of 250 in 10000 with a remainder', () => two({ burnBps: 333n }), 1280n);
    accepted('a burn of all', () => two({ burnBps: 10000n }), 1280n);
    accepted('a pay just below 2^120', () => {
      const rate = U96 - 1n;
      const great = pool.stream({ payee: pool.bob.owner, rate, start: U40 - (1n << 24n), end: U40 - 1n, index: 131n });
      return pool.claim({ lanes: [{ stream: great, t0: 0n, t1: U40 - 1n }, null] });
    }, (U96 - 1n) * ((1n << 24n) - 1n));

    test('and the payee can open its note', async () => {
      const { input, sealed, rho } = claim(two());
      await circuit.accepts(input);
      assert.deepEqual(open(pool.bob.v, 0, sealed), valueMessage(1280n, rho));
    });

    test('the payout of each window is that of its seconds, at all edges', async () => {
      const edges = [0n, START - 1n, START, START + 1n, END - 1n, END, END + 1n, U40 - 1n];
      for (const t0 of edges) {
        for (const t1 of edges) {
          let seconds = 0n;
          for (const [from, to] of [[START, END]]) {
            const low = t0 > from ? t0 : from;
            const high = t1 < to ? t1 : to;
            seconds = high > low ? high - low : 0n;
          }
          const input = one(t0, t1);
          assert.equal(input.outAmount, seconds * RATE);
          await circuit.refusedAt(claim({ ...input, outAmount: input.outAmount + 1n }).input, 'M7');
        }
      }
    });
  });

  describe('refuses', () => {
    const refused = (name, make, expected) => test(name, async () => circuit.refuses(claim(make()).input, expected));
    const lane = (n, name) => new RegExp(`^main\\.ClaimLane\\[${n}\\]\\.${name}$`);
    const range = /^main\.Range\.Num2Bits\.in$/;
    // The statement's honest use of a value that the circuit computes otherwise.
    const pays = /^main\.(outAmount|pay\[\d\])$/;

    refused('an amount_out below 0 (r - 1)', () => ({ ...two(), amountOut: PRIME - 1n, outAmount: 1281n }), { step: 'M1', signals: range });
    refused('an amount_out of 2^120', () => {
      const rate = U96 - 1n;
      const great = pool.stream({ payee: pool.bob.owner, rate, start: 0n, end: (1n << 24n) + 1n, index: 132n });
      return pool.claim({ lanes: [{ stream: great, t0: 0n, t1: END }, null], amountOut: U120 });
    }, { step: 'M1', signals: range });

    refused('another spending key', () => ({ ...two(), sk: pool.alice.sk }), {
      step: 'M3/CL4', signals: [lane(0, 'noteRoot'), lane(1, 'noteRoot')],
    });
    refused('another viewing key', () => ({ ...two(), v: pool.alice.V }), {
      step: 'M3/CL4', signals: [lane(0, 'noteRoot'), lane(1, 'noteRoot')],
    });
    refused("a stream of another payee's", () => {
      const foreign = pool.stream({ payee: pool.alice.owner, rate: RATE, start: START, end: END, index: 133n });
      return pool.claim({ lanes: [{ stream: s, t0: 0n, t1: END }, { stream: foreign, t0: 0n, t1: END }] });
    }, { step: 'M3/CL4', signals: lane(1, 'noteRoot') });

    refused('a flag of 2', () => {
      const input = two();
      return { ...input, active: [1n, 2n] };
    }, { step: 'M3/CL1', signals: [lane(1, 'Boolean\\.in'), lane(1, 'rate'), lane(1, 't1')] });
    refused('a flag that is half of a tag of its own choice', () => {
      const input = pool.claim({ lanes: [{ stream: s, t0: 0n, t1: END }, null] });
      return { ...input, active: [1n, PRIME - 1n] };
    }, { step: 'M3/CL1', signals: [lane(1, 'Boolean\\.in'), lane(1, 'noteRoot')] });

    refused('a rate of 2^96, even of a note in the tree', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: U96, start: START, end: END, index: 134n });
      return pool.claim({ lanes: [{ stream: forged, t0: START, t1: START + 1n }, null] });
    }, { step: 'M3/CL2/ST1', signals: lane(0, 'StreamTerms\\.Range\\.Num2Bits\\.in') });
    refused('a start below 0 (r - 1)', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: PRIME - 1n, end: END, index: 135n });
      return { ...pool.claim({ lanes: [{ stream: forged, t0: 5n, t1: 6n }, null] }), outAmount: 1n };
    }, { step: 'M3/CL2/ST2', signals: lane(0, 'StreamTerms\\.Range\\.Num2Bits\\.in') });
    refused('an end of 2^40', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: START, end: U40, index: 136n });
      return pool.claim({ lanes: [{ stream: forged, t0: START, t1: START + 1n }, null] });
    }, { step: 'M3/CL2/ST3', signals: lane(0, 'StreamTerms\\.Range\\.Num2Bits\\.in') });
    refused('a t0 below 0 (r - 1)', () => ({ ...one(START, START + 5n), t0: [PRIME - 1n, 0n] }), {
      step: 'M3/CL2', signals: [lane(0, 'Range\\.Num2Bits\\.in')],
    });
    refused('a t1 of 2^40', () => one(END - 1n, U40), { step: 'M3/CL2', signals: lane(0, 'Range\\.Num2Bits\\.in') });

    refused('an inactive lane with a rate', () => ({ ...one(START, START + 5n), rate: [RATE, 1n] }), { step: 'M3/CL3', signals: lane(1, 'rate') });
    refused('an inactive lane with t0', () => ({ ...one(START, START + 5n), t0: [START, 1n] }), { step: 'M3/CL3', signals: lane(1, 't0') });
    refused('an inactive lane with t1', () => ({ ...one(START, START + 5n), t1: [START + 5n, 1n] }), { step: 'M3/CL3', signals: lane(1, 't1') });
    refused('an inactive lane with money', () => {
      const input = pool.claim({ lanes: [{ stream: s, t0: START, t1: END }, { stream: s, t0: START, t1: END }] });
      return { ...input, active: [1n, 0n] };
    }, { step: 'M3/CL3', signals: [lane(1, 'rate'), lane(1, 't0'), lane(1, 't1')] });

    refused('a stream that is not in the tree', () => ({ ...two(), rho: [s.rho, pool.rng.fr()] }), { step: 'M3/CL4', signals: lane(1, 'noteRoot') });
    refused('a greater rate than the note has', () => ({ ...one(START, START + 10n), rate: [RATE + 1n, 0n], outAmount: 110n }), {
      step: 'M3/CL4', signals: lane(0, 'noteRoot'),
    });
    refused('a wrong sibling', () => {
      const input = structuredClone(two());
      input.path[1][15][0] += 1n;
      return input;
    }, { step: 'M3/CL4', signals: lane(1, 'noteRoot') });
    refused('another root', () => ({ ...one(START, END), root: pool.rng.fr() }), { step: 'M3/CL4', signals: lane(0, 'noteRoot') });
    refused('an index beyond 2^32', () => ({ ...one(START, END), index: [6n + (1n << 32n), 0n] }), {
      step: 'M3/CL4/MR1', signals: lane(0, 'MerkleRoot\\.Num2Bits\\.in'),
    });

    refused('a first lane that is inactive', () => pool.claim({ lanes: [null, { stream: s, t0: 0n, t1: END }] }), {
      step: 'M4', signals: /^main\.active\[0\]$/,
    });

    refused('a burn of 10001 in 10000', () => ({ ...two(), burnBps: 10001n, burn: 1280n, rem: 1280n, outAmount: 0n }), { step: 'M5', signals: range });
    refused('a burn_bps below 0 (r - 1), which would pay more', () => ({
      ...two(), burnBps: PRIME - 1n, burn: PRIME - 1n, rem: 10000n - 1280n, outAmount: 1281n,
    }), { step: 'M5', signals: range });
    refused('a burn_bps of 2^14', () => ({ ...two(), burnBps: 1n << 14n, burn: 2097n, rem: 1520n, outAmount: mod(1280n - 2097n) }), {
      step: 'M5', signals: [range, /^main\.ValueOutput\.Range\.Num2Bits\.in$/],
    });

    refused('a burn of one too few, the remainder greater for it', () => ({ ...two({ burnBps: 250n }), burn: 31n, rem: 10000n, outAmount: 1249n }), {
      step: 'M6', signals: range,
    });
    refused('a burn of one too many, the remainder below 0', () => ({ ...two({ burnBps: 250n }), burn: 33n, rem: PRIME - 10000n, outAmount: 1247n }), {
      step: 'M6', signals: range,
    });
    refused('a burn that is a quotient in the field', () => {
      // 1281 / 10000 has a remainder; in the field there is none, and the burn is some great element
      const inverse = (x) => { let y = 1n; for (let e = PRIME - 2n, b = x; e > 0n; e >>= 1n, b = mod(b * b)) if (e & 1n) y = mod(y * b); return y; };
      const burn = mod(1280n * 333n * inverse(10000n));
      return { ...two({ burnBps: 333n }), burn, rem: 0n, outAmount: mod(1280n - burn) };
    }, { step: 'M6', signals: [range, /^main\.ValueOutput\.Range\.Num2Bits\.in$/] });
    refused('another burn', () => ({ ...two({ burnBps: 250n }), burn: 0n, outAmount: 1280n }), { step: 'M6', signals: /^main\.burn$/ });

    refused('one unit more than accrued', () => ({ ...two(), outAmount: 1281n }), { step: 'M7', signals: pays });
    refused('one unit less than accrued', () => ({ ...two(), outAmount: 1279n }), { step: 'M7', signals: pays });
    refused('a second before the window', () => ({ ...one(START + 100n, START + 130n), outAmount: 310n }), { step: 'M7', signals: pays });
    refused('seconds before the start', () => ({ ...one(START - 100n, START + 130n), outAmount: 2300n }), { step: 'M7', signals: pays });
    refused('seconds after the end', () => ({ ...one(END - 10n, END + 10n), outAmount: 200n }), { step: 'M7', signals: pays });

    refused('a note below 0, with more paid out for it', () => ({ ...two(), amountOut: 1281n, outAmount: PRIME - 1n }), {
      step: 'M8/VO1', signals: /^main\.ValueOutput\.Range\.Num2Bits\.in$/,
    });
    refused('an esk of 0', () => ({ ...two(), outEsk: 0n }), { step: 'M8/VO2/SE2', signals: /^main\.ValueOutput\.Seal\.NonZero\.in$/ });
  });

  describe('binds its statement', () => {
    const NAMES = ['root', 'ext', 'amount_out', 'burn_bps', 'cm', 'E.x', 'E.y', 'ct[0]', 'ct[1]', 'ct[2]', 'tag_1', 't0_1', 't1_1', 'tag_2', 't0_2', 't1_2'];

    test('a digest of another vector is refused', async () => {
      const { input } = claim(two());
      await circuit.refuses({ ...input, digest: mod(input.digest + 1n) }, { step: 'M9/S1', signals: /^main\.Statement\.digest$/ });
    });

    test('a value of another vector is refused', async () => {
      const { input } = claim(two());
      await circuit.refuses({ ...input, value: mod(input.value + 1n) }, { step: 'M9/S2', signals: /^main\.Statement\.value$/ });
    });

    NAMES.forEach((name, index) => {
      test(`another ${name} in the verifier's vector is refused, with its digest or with the prover's`, async () => {
        const change = (x) => x.map((element, n) => (n === index ? mod(element + 1n) : element));
        const { input, x } = claim(two());
        assert.equal(x.length, NAMES.length);
        await circuit.refusedAt(claim(input, change).input, 'M9/S1');
        const { alpha, value } = statement(TAGS.claim, change(x));
        await circuit.refusedAt({ ...input, alpha, value }, 'M9/S2');
      });
    });

    test('an inactive lane cannot carry a tag', async () => {
      const withTag = (x) => x.map((element, n) => (n === 13 ? s.tag : element));
      await circuit.refusedAt(claim(one(START, END), withTag).input, 'M9/S1');
    });
  });
});

describe('claim of 16, as shipped', () => {
  let circuit;
  let streams;
  before(async () => {
    circuit = await Circuit.load('claim');
    streams = Array.from({ length: 16 }, (_, n) =>
      pool.stream({ payee: pool.bob.owner, rate: BigInt(n + 1), start: START + BigInt(60 * n), end: END + BigInt(60 * n), index: BigInt(1000 + 97 * n) }));
  });

  const NOW = START + 500n;
  const full = (rest = {}) => pool.claim({ lanes: streams.map((stream) => ({ stream, t0: 0n, t1: NOW })), burnBps: 100n, ...rest });
  /** Lanes 0, 3 and 15 are active. */
  const sparse = () => pool.claim({
    lanes: streams.map((stream, n) => ([0, 3, 15].includes(n) ? { stream, t0: stream.start + 10n, t1: stream.start + 30n } : null)),
  });

  test('accepts sixteen streams, some of them not yet started', async () => {
    const input = full();
    const expected = streams.reduce((sum, { rate, start }) => sum + (NOW > start ? rate * (NOW - start) : 0n), 0n);
    assert.equal(input.burn, expected / 100n);
    assert.equal(input.outAmount, expected - expected / 100n);
    await circuit.accepts(claim(input).input);
  });

  test('accepts inactive lanes anywhere but first', async () => {
    const input = sparse();
    assert.equal(input.outAmount, 20n * (1n + 4n + 16n));
    await circuit.accepts(claim(input).input);
  });

  test('refuses one unit more in all', async () => {
    const input = full();
    await circuit.refusedAt(claim({ ...input, outAmount: input.outAmount + 1n }).input, 'M7');
  });

  test('refuses a foreign stream in its last lane', async () => {
    const foreign = pool.stream({ payee: pool.alice.owner, rate: 1n, start: START, end: END, index: 4000n });
    const lanes = [...streams.slice(0, 15), foreign].map((stream) => ({ stream, t0: 0n, t1: NOW }));
    await circuit.refusedAt(claim(pool.claim({ lanes })).input, 'M3/CL4');
  });

  test('refuses money in an inactive lane', async () => {
    const input = full();
    input.active[15] = 0n;
    await circuit.refusedAt(claim(input).input, 'M3/CL3');
  });

  test('refuses an inactive first lane', async () => {
    const lanes = streams.map((stream, n) => (n === 0 ? null : { stream, t0: 0n, t1: NOW }));
    await circuit.refusedAt(claim(pool.claim({ lanes })).input, 'M4');
  });

  test('binds all 58 elements', async () => {
    const { input, x } = claim(sparse());
    assert.equal(x.length, 58);
    for (const index of [0, 3, 9, 10, 13, 14, 15, 55, 56, 57]) {
      const { alpha, value } = statement(TAGS.claim, x.map((element, n) => (n === index ? mod(element + 1n) : element)));
      await circuit.refusedAt({ ...input, alpha, value }, 'M9/S2');
    }
  });
});
