// SPDX-License-Identifier: GPL-3.0-only

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { ticket } from './lib/derive.mjs';
import { Pool } from './lib/fixtures.mjs';
import { Circuit } from './lib/harness.mjs';
import { KEY_MASK, PRIME, StoppedList, hash, mod } from './lib/reference.mjs';

const L = 60n;
const SLOT = 1_700_000_040n;
const RATE = 10n;
const PRICE = 100n; // six tickets a slot
const U40 = 1n << 40n;
const U96 = 1n << 96n;

let circuit;
let pool;
let s;
let list;

before(async () => {
  circuit = await Circuit.load('ticket');
  pool = new Pool('ticket');
  s = pool.stream({ payee: pool.bob.owner, rate: RATE, start: SLOT - L, end: SLOT + 2n * L, index: 6n });
  list = new StoppedList(Array.from({ length: 9 }, (_, n) => ({ stop: SLOT - BigInt(n % 3), tag: pool.rng.fr() })));
});

const honest = (rest = {}) =>
  pool.ticket({ stream: s, price: PRICE, slotStart: SLOT, slotEnd: SLOT + L, minStreamed: 0n, stopped: list, ...rest });

describe('ticket accepts', () => {
  const accepted = (name, make) => test(name, async () => {
    await circuit.accepts(ticket(make()).input);
  });

  for (const count of [1n, 2n, 3n, 4n]) {
    accepted(`${count} of the slot's first tickets`, () => honest({ count }));
    accepted(`the slot's last ${count}`, () => honest({ count, j: 6n - count }));
  }
  accepted('a price that is the whole slot', () => honest({ price: RATE * L }));
  accepted('the greatest j, of a great rate', () => {
    const rich = pool.stream({ payee: pool.bob.owner, rate: U96 - 1n, start: SLOT, end: SLOT + L, index: 70n });
    return honest({ stream: rich, price: 1n, j: (1n << 32n) - 1n, count: 4n });
  });
  accepted('the first slot of the stream', () => honest({ slotStart: SLOT - L, slotEnd: SLOT }));
  accepted('the last slot of the stream', () => honest({ slotStart: SLOT + L, slotEnd: SLOT + 2n * L }));
  accepted('min_streamed met to the unit', () => honest({ minStreamed: 2n * L * RATE }));
  accepted('an empty stopped list', () => honest({ stopped: new StoppedList() }));
  accepted('the last slot of time', () => {
    const late = pool.stream({ payee: pool.bob.owner, rate: RATE, start: U40 - 1n - L, end: U40 - 1n, index: 71n });
    return honest({ stream: late, slotStart: U40 - 1n - L, slotEnd: U40 - 1n });
  });
  accepted('a rating', () => honest({ price: 0n, minStreamed: 600n }));

  test('a stream beside others that are stopped, under keys just above and below its own', async () => {
    const near = new StoppedList([
      { stop: SLOT, tag: s.tag + 1n }, { stop: SLOT, tag: s.tag - 1n }, { stop: SLOT, tag: pool.rng.fr() },
    ]);
    const input = honest({ stopped: near });
    assert.equal(input.low, (s.tag & KEY_MASK) - 1n);
    assert.equal(input.next, (s.tag & KEY_MASK) + 1n);
    await circuit.accepts(ticket(input).input);
  });

  test('nullifiers that are all different, and the rating\'s the same in any slot', async () => {
    const { nf } = ticket(honest({ count: 4n }));
    assert.equal(new Set(nf).size, 4);
    const ratings = [honest({ price: 0n }), honest({ price: 0n, slotStart: SLOT + L, slotEnd: SLOT + 2n * L })].map(ticket);
    for (const { input } of ratings) await circuit.accepts(input);
    assert.deepEqual(ratings[0].nf, [hash.ticket(s.ps, s.cm, 0n, 0n), 0n, 0n, 0n]);
    assert.deepEqual(ratings[1].nf, ratings[0].nf);
  });
});

describe('ticket refuses', () => {
  const refused = (name, make, expected) => test(name, async () => circuit.refuses(ticket(make()).input, expected));
  const range = /^main\.Range\.Num2Bits\.in$/;
  const terms = /^main\.StreamTerms\.Range\.Num2Bits\.in$/;
  const noteRoot = /^main\.noteRoot$/;
  const absentRange = /^main\.Absent\.Range\.Num2Bits\.in$/;
  const leafRoot = /^main\.Absent\.leafRoot$/;
  const nullifier = (n) => new RegExp(`^main\\.nf\\[${n}\\]$`);

  describe('numbers out of range', () => {
    refused('a price of 2^96', () => {
      const rich = pool.stream({ payee: pool.bob.owner, rate: U96 - 1n, start: SLOT, end: SLOT + L, index: 72n });
      return honest({ stream: rich, price: U96 });
    }, { step: 'K1', signals: range });
    refused('a price below 0 (r - 1)', () => honest({ price: PRIME - 1n }), { step: 'K1', signals: range });
    refused('a slot that begins below 0', () => {
      const early = pool.stream({ payee: pool.bob.owner, rate: RATE, start: 0n, end: SLOT, index: 73n });
      return honest({ stream: early, slotStart: PRIME - 60n, slotEnd: 60n });
    }, { step: 'K1', signals: range });
    refused('a slot that ends at 2^40', () => honest({ slotStart: U40 - L, slotEnd: U40 }), { step: 'K1', signals: range });
    refused('a min_streamed below 0 (r - 1)', () => honest({ minStreamed: PRIME - 1n }), { step: 'K1', signals: range });
    refused('a min_streamed of 2^136', () => honest({ minStreamed: 1n << 136n }), { step: 'K1', signals: range });
    refused('j of r - 1: a ticket for nothing', () => honest({ j: PRIME - 1n }), { step: 'K1', signals: range });
    refused('j of r - 1 - count', () => honest({ j: PRIME - 5n, count: 4n }), { step: 'K1', signals: range });
    refused('j of 2^32', () => {
      const rich = pool.stream({ payee: pool.bob.owner, rate: U96 - 1n, start: SLOT, end: SLOT + L, index: 74n });
      return honest({ stream: rich, price: 1n, j: 1n << 32n });
    }, { step: 'K1', signals: range });
    refused('a rate of 2^96, even of a note in the tree', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: U96, start: SLOT, end: SLOT + L, index: 75n });
      return honest({ stream: forged });
    }, { step: 'K2/ST1', signals: terms });
    refused('a start below 0 (r - 1)', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: 1n, start: PRIME - 1n, end: SLOT + L, index: 76n });
      return honest({ stream: forged, price: 60n });
    }, { step: 'K2/ST2', signals: terms });
    refused('an end of 2^40', () => {
      const forged = pool.stream({ payee: pool.bob.owner, rate: RATE, start: SLOT, end: U40, index: 77n });
      return honest({ stream: forged, slotStart: U40 - 2n - L, slotEnd: U40 - 2n });
    }, { step: 'K2/ST3', signals: terms });
  });

  describe('streams that are not the prover\'s or not the payee\'s', () => {
    /** Changed inputs, with the list's leaf for the tag that they make. */
    const changed = (changes) => {
      const input = { ...honest(), ...changes };
      return { ...input, ...list.absence(ticket(input).tag) };
    };
    refused('the secret of another note', () => changed({ ps: pool.rng.fr() }), { step: 'K3', signals: noteRoot });
    refused('the payer tag as secret', () => changed({ ps: s.payerTag }), { step: 'K3', signals: noteRoot });
    refused('a stream to another payee', () => {
      const other = pool.stream({ payee: pool.alice.owner, rate: RATE, start: SLOT, end: SLOT + L, index: 78n });
      return { ...honest({ stream: other }), payee: pool.bob.owner };
    }, { step: 'K3', signals: noteRoot });
    refused('a greater rate than the note has', () => changed({ rate: RATE + 1n }), { step: 'K3', signals: noteRoot });
    refused('a stream that is not in the tree', () => changed({ rho: pool.rng.fr() }), { step: 'K3', signals: noteRoot });
    refused('a root that is not the tree\'s', () => ({ ...honest(), root: pool.rng.fr() }), { step: 'K3', signals: noteRoot });
    refused('a wrong sibling', () => {
      const input = structuredClone(honest());
      input.path[2][2] += 1n;
      return input;
    }, { step: 'K3', signals: noteRoot });
    refused('an index beyond 2^32', () => ({ ...honest(), index: s.index + (1n << 32n) }), {
      step: 'K3/MR1', signals: /^main\.MerkleRoot\.Num2Bits\.in$/,
    });
  });

  describe('a stopped stream', () => {
    let stopped;
    before(() => {
      stopped = new StoppedList([{ stop: SLOT, tag: s.tag }, ...Array.from({ length: 5 }, () => ({ stop: SLOT, tag: pool.rng.fr() }))]);
    });
    const key = () => s.tag & KEY_MASK;
    const under = (choose) => {
      const position = stopped.leaves.findIndex(choose);
      assert.ok(position >= 0);
      return { ...honest(), stoppedRoot: stopped.root, ...stopped.at(position) };
    };

    refused('with the leaf of its own key as low', () => under(({ low }) => low === key()), { step: 'K4/AB3', signals: absentRange });
    refused('with the leaf whose next is its own key', () => under(({ next }) => next === key()), { step: 'K4/AB3', signals: absentRange });
    refused('with a leaf below its key', () => under(({ next }) => next < key()), { step: 'K4/AB3', signals: absentRange });
    refused('with a leaf above its key', () => under(({ low }) => low > key()), { step: 'K4/AB3', signals: absentRange });
    refused('with a leaf that no list has', () => {
      const enclosing = honest();
      return { ...enclosing, stoppedRoot: stopped.root, low: key() - 1n, next: key() + 1n };
    }, { step: 'K4/AB4', signals: leafRoot });
    refused('with the list before it was stopped', () => ({ ...honest(), stoppedRoot: stopped.root }), { step: 'K4/AB4', signals: leafRoot });
    refused('with an empty leaf of the list', () => {
      const position = 200n;
      return { ...honest(), stoppedRoot: stopped.root, low: 0n, next: KEY_MASK, listIndex: position, listPath: stopped.tree.path(position) };
    }, { step: 'K4/AB4', signals: leafRoot });
    refused('with a wrong sibling', () => {
      const input = structuredClone(honest());
      input.listPath[0][0] += 1n;
      return input;
    }, { step: 'K4/AB4', signals: leafRoot });
    refused('with an index beyond 2^32', () => {
      const input = honest();
      return { ...input, listIndex: input.listIndex + (1n << 32n) };
    }, { step: 'K4/AB4/MR1', signals: /^main\.Absent\.MerkleRoot\.Num2Bits\.in$/ });

    // A list that no history makes, to show that the comparison itself cannot wrap.
    const forgedList = (low, next) => {
      const forged = new StoppedList();
      forged.put(0, low, next);
      return { ...honest(), stoppedRoot: forged.root, ...forged.at(0) };
    };
    refused('with a low of 2^248', () => forgedList(1n << 248n, KEY_MASK), { step: 'K4/AB2', signals: absentRange });
    refused('with a low below 0 (r - 1)', () => forgedList(PRIME - 1n, KEY_MASK), { step: 'K4/AB2', signals: absentRange });
    refused('with a next below 0 (r - 1)', () => forgedList(0n, PRIME - 1n), { step: 'K4/AB3', signals: absentRange });
  });

  test('a key that is a sentinel of the list is refused, not accepted', async () => {
    // No tag is known whose low bits are 0 or 2^248 - 1; the template alone shows it.
    const absent = await Circuit.load('circuits/test/main/absent.circom');
    const empty = new StoppedList();
    const input = (tag) => ({ root: empty.root, tag, low: 0n, next: KEY_MASK, index: 0n, path: empty.tree.path(0) });
    await absent.accepts(input(1n));
    await absent.accepts(input(KEY_MASK - 1n));
    await absent.accepts(input(PRIME - 1n));
    await absent.refuses(input(0n), { step: 'AB3', signals: /^main\.Range\.Num2Bits\.in$/ });
    await absent.refuses(input(KEY_MASK), { step: 'AB3', signals: /^main\.Range\.Num2Bits\.in$/ });
    await absent.refuses(input(1n << 248n), { step: 'AB3', signals: /^main\.Range\.Num2Bits\.in$/ });
  });

  describe('times', () => {
    refused('a slot that begins a second before the stream', () => honest({ slotStart: s.start - 1n, slotEnd: s.start + L - 1n }), { step: 'K5', signals: range });
    refused('a slot that ends a second after the stream', () => honest({ slotStart: s.end - L + 1n, slotEnd: s.end + 1n }), { step: 'K5', signals: range });
    refused('a slot without length', () => honest({ slotStart: SLOT, slotEnd: SLOT, price: 0n }), { step: 'K5', signals: range });
    refused('a slot that ends before it begins', () => honest({ slotStart: SLOT + L, slotEnd: SLOT, price: 0n }), { step: 'K5', signals: range });
  });

  describe('money', () => {
    refused('count of 0', () => honest({ count: 0n }), { step: 'K6/TH3', signals: [/^main\.Thermometer\.count$/, nullifier(0)] });
    refused('count of 5', () => honest({ count: 5n }), { step: 'K6/TH3', signals: /^main\.Thermometer\.count$/ });
    refused('count of r - 3', () => honest({ count: PRIME - 3n, j: 3n }), {
      step: 'K6/TH3', signals: [/^main\.Thermometer\.count$/, nullifier(1), nullifier(2), nullifier(3)],
    });
    refused('the ticket after the last', () => honest({ j: 6n }), { step: 'K7', signals: range });
    refused('four tickets where three are left', () => honest({ j: 3n, count: 4n }), { step: 'K7', signals: range });
    refused('a price of one unit more than the slot', () => honest({ price: RATE * L + 1n }), { step: 'K7', signals: range });
    refused('the greatest j at the greatest price', () => honest({ j: (1n << 32n) - 1n, price: U96 - 1n }), { step: 'K7', signals: range });
    refused('min_streamed missed by one unit', () => honest({ minStreamed: 2n * L * RATE + 1n }), { step: 'K8', signals: range });
    refused('the greatest min_streamed', () => honest({ minStreamed: (1n << 136n) - 1n }), { step: 'K8', signals: range });
  });

  describe('ratings', () => {
    refused('a rating with j = 1', () => honest({ price: 0n, j: 1n }), { step: 'K9', signals: /^main\.j$/ });
    refused('a rating with the greatest j', () => honest({ price: 0n, j: (1n << 32n) - 1n }), { step: 'K9', signals: /^main\.j$/ });
    refused('a rating with count = 2', () => honest({ price: 0n, count: 2n }), { step: 'K9', signals: /^main\.count$/ });
    test('a rating with the nullifier of a slot', async () => {
      const { input } = ticket(honest({ price: 0n }));
      const nf = [hash.ticket(s.ps, s.cm, SLOT, 0n), 0n, 0n, 0n];
      await circuit.refuses({ ...input, nf }, { step: 'K10', signals: nullifier(0) });
    });
    test('a ticket with the nullifier of a rating', async () => {
      const { input } = ticket(honest());
      const nf = [hash.ticket(s.ps, s.cm, 0n, 0n), 0n, 0n, 0n];
      await circuit.refuses({ ...input, nf }, { step: 'K10', signals: nullifier(0) });
    });
  });

  describe('nullifiers', () => {
    for (const n of [0, 1, 2, 3]) {
      test(`another nf_${n + 1} of four`, async () => {
        const { input, nf } = ticket(honest({ count: 4n }));
        const changed = nf.map((x, i) => (i === n ? mod(x + 1n) : x));
        await circuit.refuses({ ...input, nf: changed }, { step: 'K10', signals: nullifier(n) });
      });
    }
    for (const n of [1, 2, 3]) {
      test(`nf_${n + 1} of the next ticket where only ${n} are counted`, async () => {
        const { input, nf } = ticket(honest({ count: BigInt(n) }));
        nf[n] = hash.ticket(s.ps, s.cm, SLOT, BigInt(n));
        await circuit.refuses({ ...input, nf }, { step: 'K10', signals: nullifier(n) });
      });
      test(`nf_${n + 1} of 0 where ${n + 1} are counted`, async () => {
        const { input, nf } = ticket(honest({ count: BigInt(n + 1) }));
        nf[n] = 0n;
        await circuit.refuses({ ...input, nf }, { step: 'K10', signals: nullifier(n) });
      });
    }
    test('the nullifiers in another order', async () => {
      const { input, nf } = ticket(honest({ count: 2n }));
      await circuit.refuses({ ...input, nf: [nf[1], nf[0], 0n, 0n] }, { step: 'K10', signals: [nullifier(0), nullifier(1)] });
    });
    test('one nullifier twice', async () => {
      const { input, nf } = ticket(honest({ count: 2n }));
      await circuit.refuses({ ...input, nf: [nf[0], nf[0], 0n, 0n] }, { step: 'K10', signals: nullifier(1) });
    });
    test('the nullifier of another slot', async () => {
      const { input } = ticket(honest());
      await circuit.refuses({ ...input, nf: [hash.ticket(s.ps, s.cm, SLOT + L, 0n), 0n, 0n, 0n] }, { step: 'K10', signals: nullifier(0) });
    });
  });

  test('two streams with one secret have different tags and nullifiers', async () => {
    const twin = pool.stream({ payee: pool.bob.owner, rate: RATE, start: s.start, end: s.end, index: 79n, ps: s.ps });
    assert.notEqual(twin.tag, s.tag);
    const made = ticket(honest({ stream: twin }));
    assert.notEqual(made.nf[0], ticket(honest()).nf[0]);
    await circuit.accepts(made.input);
  });
});
