// SPDX-License-Identifier: GPL-3.0-only
//
// The shared vectors (vectors/README.md) against this folder's reference, and the witnesses among them against the circuits.

import assert from 'node:assert/strict';
import { createHash, hkdfSync, pbkdf2Sync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { ROOT } from '../compile.mjs';
import * as derive from './lib/derive.mjs';
import { Circuit } from './lib/harness.mjs';
import {
  BASE8, EMPTY_LEAF, PRIME, SUBGROUP_ORDER, StoppedList, TAGS, Tree, emptySubtree, hash, horner, keccak, mod, mul, open, poseidon,
  seal, sponge, statementKeccak, streamMessage, valueMessage, word,
} from './lib/reference.mjs';

const read = (name) => JSON.parse(readFileSync(path.join(ROOT, 'vectors', `${name}.json`), 'utf8'));
const bytes = (hex) => Buffer.from(hex.slice(2), 'hex');
const WORD = /^0x[0-9a-f]{64}$/;

/** Turns every 32-byte hexadecimal string inside into a BigInt. */
function numbers(value) {
  if (Array.isArray(value)) return value.map(numbers);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, numbers(v)]));
  return typeof value === 'string' && WORD.test(value) ? BigInt(value) : value;
}

const flat = (tree, index, level = 0) => tree.path(index, level).flat();

describe('poseidon.json', () => {
  const vectors = numbers(read('poseidon'));

  test('plain hashes of 1 to 12 inputs', () => {
    assert.equal(vectors.circomlib.length, 12);
    for (const { inputs, output } of vectors.circomlib) assert.equal(poseidon(...inputs), output);
  });

  test('every tagged hash, with its padding', () => {
    const call = {
      1: hash.pk,
      2: (pk, x, y) => hash.owner(pk, [x, y]),
      3: hash.rho,
      4: hash.value,
      5: hash.nf,
      6: (payee, payerTag, rate, start, end, rho) => hash.stream({ payee, payerTag, rate, start, end, rho }),
      7: hash.payer,
      8: hash.ps,
      9: hash.rec,
      10: (x, y, n) => hash.seal([x, y], n),
      11: hash.rhoClaim,
      12: hash.list,
      13: hash.ticket,
    };
    assert.deepEqual(vectors.tags.map(({ tag }) => Number(tag)), Object.keys(call).map(Number));
    for (const { tag, args, inputs, output } of vectors.tags) {
      assert.equal(call[tag](...args), output);
      assert.equal(poseidon(...inputs), output);
      assert.notEqual(inputs.length, 4);
    }
  });

  test('tree node', () => {
    assert.equal(poseidon(...vectors.node.children), vectors.node.output);
  });

  test('sponges', () => {
    assert.deepEqual(vectors.sponges.map(({ tag, x }) => [Number(tag), x.length]), [[21, 18], [22, 18], [23, 58], [24, 69]]);
    for (const { tag, x, digest } of vectors.sponges) assert.equal(sponge(tag, x), digest);
  });
});

describe('babyjub.json', () => {
  const vectors = numbers(read('babyjub'));
  const compressed = ([x, y]) => y + (x > (PRIME - 1n) / 2n ? 1n << 255n : 0n);

  test('generator and order', () => {
    assert.deepEqual(vectors.base8, BASE8);
    assert.equal(vectors.order, SUBGROUP_ORDER);
    assert.deepEqual(mul(SUBGROUP_ORDER), [0n, 1n]);
  });

  test('multiples of the generator, compressed', () => {
    for (const { scalar, point, compressed: expected } of vectors.multiples) {
      assert.deepEqual(mul(scalar), point);
      assert.equal(compressed(point), expected);
    }
  });

  test('points outside the subgroup', () => {
    for (const { point, compressed: expected } of vectors.outside_subgroup) {
      const [x, y] = point;
      assert.equal(mod(168700n * x * x + y * y), mod(1n + 168696n * x * x * y * y), 'on the curve');
      assert.notDeepEqual(mul(SUBGROUP_ORDER, point), [0n, 1n]);
      assert.equal(compressed(point), expected);
    }
  });
});

describe('keys.json', () => {
  const raw = read('keys');
  const seed = bytes(raw.seed);

  test('seed of the mnemonic', () => {
    assert.deepEqual(pbkdf2Sync(raw.mnemonic, 'mnemonic', 2048, 64, 'sha512'), seed);
  });

  raw.accounts.forEach((text, n) => {
    test(`keys of account ${n}`, () => {
      const account = numbers(text);
      const scope = Buffer.concat([word(account.chain_id), bytes(text.pool), word(account.account).subarray(28)]);
      const derived = (label) => Buffer.from(hkdfSync('sha512', seed, 'tributary.v1', Buffer.concat([Buffer.from(label), scope]), 64));
      const wide = (label) => BigInt('0x' + derived(label).toString('hex'));
      assert.equal(wide('spend') % PRIME, account.sk);
      assert.equal(wide('payer') % PRIME, account.k);
      assert.equal(wide('view') % SUBGROUP_ORDER, account.v);
      assert.equal('0x' + derived('memo').subarray(0, 32).toString('hex'), text.memo_key);
      assert.equal(hash.pk(account.sk), account.pk);
      assert.deepEqual(mul(account.v), account.V);
      assert.equal(hash.owner(account.pk, account.V), account.owner);
      assert.deepEqual(bytes(text.address_bytes), Buffer.concat([Buffer.from([1]), word(account.pk), bytes(text.V_compressed)]));
    });
  });
});

describe('notes.json', () => {
  const vectors = numbers(read('notes'));

  test('value notes and nullifiers', () => {
    for (const { sk, V, amount, rho, owner, cm, nf } of vectors.values) {
      assert.equal(hash.owner(hash.pk(sk), V), owner);
      assert.equal(hash.value(amount, owner, rho), cm);
      assert.equal(hash.nf(sk, cm), nf);
    }
  });

  test('streams, their tags, refunds and payouts', () => {
    const min = (a, b) => (a < b ? a : b);
    const max = (a, b) => (a > b ? a : b);
    for (const s of vectors.streams) {
      assert.equal(hash.ps(s.k, s.nf_0), s.ps);
      assert.equal(hash.payer(s.ps), s.payer_tag);
      assert.equal(hash.stream({ ...s, payerTag: s.payer_tag }), s.cm);
      assert.equal(hash.rec(s.cm, s.payer_tag), s.tag);
      assert.equal(s.rate * (s.end - s.start), s.deposit);
      for (const { stop, refund } of s.refunds) assert.equal(s.rate * (s.end - min(max(stop, s.start), s.end)), refund);
      for (const { t0, t1, pay } of s.payouts) assert.equal(s.rate * max(0n, min(t1, s.end) - max(t0, s.start)), pay);
    }
  });

  test('output seeds', () => {
    for (const { nf_0, j, r, rho } of vectors.output_seeds) assert.equal(hash.rho(nf_0, j, r), rho);
    const { tag_1, t0_1, r, rho } = vectors.claim_seed;
    assert.equal(hash.rhoClaim(tag_1, t0_1, r), rho);
  });
});

describe('memos.json', () => {
  const vectors = numbers(read('memos'));

  test('sealed memos, sealed and opened', () => {
    assert.ok(vectors.sealed.some(({ kind }) => kind === 0n) && vectors.sealed.some(({ kind }) => kind === 1n));
    for (const m of vectors.sealed) {
      const j = Number(m.j);
      assert.deepEqual(mul(m.v), m.V);
      assert.deepEqual(mul(m.esk, m.V), m.K);
      assert.deepEqual(seal(m.esk, m.V, j, m.message), { E: m.E, ct: m.ct });
      assert.deepEqual(open(m.v, j, m), m.message);
      const [first, rho, payerTag] = m.message;
      if (m.kind === 0n) {
        const amount = first / 2n;
        assert.deepEqual(valueMessage(amount, rho), m.message);
        assert.equal(hash.value(amount, m.owner, rho), m.cm);
      } else {
        const field = (from, bits) => (first >> from) & ((1n << bits) - 1n);
        const stream = { payee: m.owner, payerTag, rate: field(1n, 96n), start: field(97n, 40n), end: field(137n, 40n), rho };
        assert.deepEqual(streamMessage(stream), m.message);
        assert.equal(hash.stream(stream), m.cm);
      }
    }
  });

  test("what a payer's memo restores", () => {
    const p = vectors.payer;
    const payerTag = hash.payer(hash.ps(p.k, p.nf_0));
    const cm = hash.stream({ payee: p.payee, payerTag, rate: p.rate, start: p.start, end: p.end, rho: hash.rho(p.nf_0, 0, p.r_0) });
    assert.equal(cm, p.cm_0);
    assert.equal(hash.rec(cm, payerTag), p.tag);
    assert.equal(bytes(p.memo).length, 128);
  });
});

test('external.json', () => {
  for (const text of read('external').cases) {
    const memo = bytes(text.memo);
    const padded = Buffer.concat([memo, Buffer.alloc((32 - (memo.length % 32)) % 32)]);
    const encoded = Buffer.concat([
      ...[text.chain_id, text.pool, text.operation, text.recipient, text.relayer, text.fee, text.deadline].map((x) => word(BigInt(x))),
      word(text.may_drop_outputs ? 1 : 0),
      word(9 * 32),
      word(memo.length),
      padded,
    ]);
    assert.equal(keccak(encoded) % PRIME, BigInt(text.ext));
  }
});

test('statements.json', () => {
  const { cases } = numbers(read('statements'));
  assert.deepEqual([...new Set(cases.map(({ circuit }) => circuit))].sort(), Object.keys(TAGS).sort());
  for (const { circuit, x, digest, binding_hash, alpha, value } of cases) {
    assert.equal(sponge(TAGS[circuit], x), digest);
    assert.equal(statementKeccak(TAGS[circuit], digest, x), binding_hash);
    assert.equal(binding_hash % PRIME, alpha);
    assert.equal(horner(x, alpha), value);
  }
});

describe('tree.json', () => {
  const vectors = numbers(read('tree'));
  const leaves = vectors.leaf_0_to_299;
  const tree = new Tree();
  const roots = [tree.root];
  const at = new Map();
  leaves.forEach((leaf, index) => {
    for (const { index: place, size, path } of vectors.paths) {
      if (Number(size) === index) at.set(path, flat(tree, place));
    }
    for (const { from, batch_index, path } of vectors.insertions) {
      if (Number(from) === index) at.set(path, flat(tree, batch_index, 3));
    }
    tree.set(index, leaf);
    roots.push(tree.root);
  });

  test('empty subtrees', () => {
    assert.equal(vectors.empty_leaf, EMPTY_LEAF);
    vectors.empty_roots.forEach((root, height) => assert.equal(emptySubtree(height), root));
  });

  test('roots', () => {
    for (const { size, root } of vectors.roots) assert.equal(roots[Number(size)], root);
  });

  test('paths', () => {
    for (const { index, size, leaf, path, root } of vectors.paths) {
      assert.equal(leaves[Number(index)], leaf);
      assert.equal(roots[Number(size)], root);
      assert.deepEqual(at.get(path) ?? flat(tree, index), path);
    }
  });

  test('insertions', () => {
    for (const { batch_index, from, k, m, leaves: added, old_root, new_root, path } of vectors.insertions) {
      assert.equal(batch_index * 64n + k, from);
      assert.deepEqual(leaves.slice(Number(batch_index) * 64, Number(batch_index * 64n + m)), added);
      assert.equal(roots[Number(from)], old_root);
      assert.equal(roots[Number(batch_index * 64n + m)], new_root);
      assert.deepEqual(at.get(path), path);
    }
  });
});

test('stopped.json', () => {
  const { stops, tags, lists } = numbers(read('stopped'));
  for (const { slot_end, root, leaves, absent } of lists) {
    const list = new StoppedList(stops.map((stop, n) => ({ stop, tag: tags[n] })).filter(({ stop }) => stop < slot_end));
    assert.equal(list.root, root);
    assert.equal(BigInt(list.leaves.length), leaves);
    for (const { tag, low, next, index, path } of absent) {
      const shown = list.absence(tag);
      assert.deepEqual([shown.low, shown.next, shown.listIndex, shown.listPath.flat()], [low, next, index, path]);
    }
  }
});

describe('tickets.json', () => {
  const text = read('tickets');
  const vectors = numbers(text);

  test('nullifiers', () => {
    for (const { ps, cm, slot_start, j, nf } of vectors.nullifiers) assert.equal(hash.ticket(ps, cm, slot_start, j), nf);
  });

  test('messages', () => {
    const { ephemeral_key, provider, peer_id, slot_start, message } = text.message;
    assert.equal('0x' + createHash('sha256').update(bytes(peer_id)).digest('hex'), provider);
    const packed = [Buffer.from('tributary.ticket.v1'), bytes(ephemeral_key), bytes(provider), bytes(slot_start).subarray(24)];
    assert.equal(keccak(Buffer.concat(packed)) % PRIME, BigInt(message));
    const rating = text.rating_message;
    assert.equal('0x' + createHash('sha256').update(bytes(rating.rating)).digest('hex'), rating.sha256);
    assert.equal(keccak(Buffer.concat([Buffer.from('tributary.rating.v1'), bytes(rating.sha256)])) % PRIME, BigInt(rating.message));
  });
});

describe('witnesses', () => {
  for (const name of ['transact', 'close', 'claim', 'insert', 'ticket']) {
    test(`witness_${name}.json: the circuit accepts each case, and the reference makes the same public inputs`, async () => {
      const circuit = await Circuit.load(name);
      const { cases } = read(`witness_${name}`);
      assert.ok(cases.length > 0);
      for (const { input: text, public: expected } of cases) {
        const integers = (value) => (Array.isArray(value) ? value.map(integers) : BigInt(value));
        const input = Object.fromEntries(Object.entries(text).map(([key, value]) => [key, integers(value)]));
        const { input: own } = derive[name](input);
        const publics = name === 'ticket' ? ['nf'] : ['digest', 'alpha', 'value'];
        for (const key of publics) assert.deepEqual(own[key], input[key], key);
        const witness = await circuit.accepts(input);
        if (name === 'ticket') assert.deepEqual(witness.slice(1, 14), expected.map(BigInt));
        else assert.deepEqual(witness.slice(1, 4), [input.digest, input.alpha, input.value]);
      }
    });
  }
});
