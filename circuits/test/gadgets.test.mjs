// SPDX-License-Identifier: GPL-3.0-only
//
// The gadgets by themselves: against the reference at their edges, and against provers that compute their hints (`<--`)
// dishonestly and everything else to match.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Circuit } from './lib/harness.mjs';
import { KEY_MASK, PRIME, Rng, SUBGROUP_ORDER, StoppedList, Tree, hash, mul, seal } from './lib/reference.mjs';

const gadget = (name, options) => Circuit.load(`circuits/test/main/${name}.circom`, options);
const BITIFY = 'node_modules/circomlib/circuits/bitify.circom';
const COMPARATORS = 'node_modules/circomlib/circuits/comparators.circom';
const MONTGOMERY = 'node_modules/circomlib/circuits/montgomery.circom';
const BABYJUB = 'node_modules/circomlib/circuits/babyjub.circom';
const THERMOMETER = 'circuits/lib/thermometer.circom';
const BIT = 'out[i] <-- (in >> i) & 1;';

/** The dishonest prover's witness breaks the system at `signals`. */
async function caught(name, patches, input, signals) {
  const circuit = await gadget(name, { patches });
  await circuit.violates(await circuit.skippingChecks(input), signals);
}

describe('thermometer', () => {
  const flags = (hint) => ({ [THERMOMETER]: [['out[i] <-- i < count ? 1 : 0;', `out[i] <-- ${hint};`]] });

  test('flags of every count', async () => {
    const circuit = await gadget('thermometer');
    for (let count = 0; count <= 8; count++) {
      const witness = await circuit.accepts({ count: BigInt(count) });
      assert.deepEqual(witness.slice(1, 9), Array.from({ length: 8 }, (_, i) => (i < count ? 1n : 0n)));
    }
    await circuit.refuses({ count: 9n }, { step: 'TH3', signals: /^main\.count$/ });
    await circuit.refuses({ count: PRIME - 1n }, { step: 'TH3', signals: /^main\.count$/ });
  });

  test('a hole in the flags', () => caught('thermometer', flags('(i >= 1 && i <= count) ? 1 : 0'), { count: 5n }, /^main\.out\[1\]$/));
  test('one flag too few', () => caught('thermometer', flags('i + 1 < count ? 1 : 0'), { count: 5n }, /^main\.count$/));
  test('one flag too many', () => caught('thermometer', flags('i < count + 1 ? 1 : 0'), { count: 5n }, /^main\.count$/));
  test('a flag of 5', () => caught('thermometer', flags('i == 0 ? count : 0'), { count: 5n }, /^main\.Boolean\[0\]\.in$/));
  test('flags of -1 and 1 for a count of 0', () =>
    caught('thermometer', flags('i == 0 ? 1 : (i == 1 ? -1 : 0)'), { count: 0n }, /^main\.Boolean\[1\]\.in$/));
});

describe('absence from the stopped list', () => {
  // Bits of in + r instead of in where 254 bits are asked for: the second decomposition that Num2Bits alone would allow.
  const alias = {
    [BITIFY]: [
      [BIT, 'var t = (((in + 1) >> i) & 1) + ((-1 >> i) & 1) + carry; out[i] <-- n == 254 ? t % 2 : (in >> i) & 1; carry = t \\ 2;'],
      ['template Num2Bits(n) {', 'template Num2Bits(n) { var carry = 0;'],
    ],
  };

  test('a stopped tag under its second decomposition', async () => {
    const tag = 12345n;
    assert.ok(tag + PRIME < 1n << 254n);
    const other = (tag + PRIME) & KEY_MASK;
    const list = new StoppedList([{ stop: 1n, tag }]);
    const position = list.leaves.findIndex(({ low, next }) => low < other && other < next);
    assert.equal(list.leaves[position].low, tag, 'the other key is enclosed by a leaf of the list');
    const { low, next, listIndex, listPath } = list.at(position);
    const input = { root: list.root, tag, low, next, index: listIndex, path: listPath };
    await caught('absent', alias, input, /^main\.Num2Bits_strict\.aliasCheck\.compConstant\.out$/);
    const honest = await gadget('absent');
    await honest.refuses(input, { step: 'AB3', signals: /^main\.Range\.Num2Bits\.in$/ });
  });
});

describe('comparisons', () => {
  const edges = [0n, 1n, 2n, (1n << 39n) - 1n, 1n << 39n, (1n << 40n) - 2n, (1n << 40n) - 1n];

  test('min and max at all edges', async () => {
    const [min, max] = [await gadget('min'), await gadget('max')];
    for (const a of edges) {
      for (const b of edges) {
        assert.equal((await min.accepts({ a, b }))[1], a < b ? a : b);
        assert.equal((await max.accepts({ a, b }))[1], a < b ? b : a);
      }
    }
  });

  test('a comparison whose answer is turned around', () => caught(
    'max',
    { [BITIFY]: [[BIT, 'out[i] <-- i == n - 1 ? 1 - ((in >> i) & 1) : (in >> i) & 1;']] },
    { a: 5n, b: 9n },
    /^main\.LessThan\.n2b\.in$/,
  ));

  test('a nonzero number that is called zero', () => caught(
    'is_zero', { [COMPARATORS]: [['inv <-- in!=0 ? 1/in : 0;', 'inv <-- 0;']] }, { in: 7n }, /^main\.(in|out)$/,
  ));

  test('a zero that is called nonzero: the hint has no say', async () => {
    const circuit = await gadget('is_zero', { patches: { [COMPARATORS]: [['inv <-- in!=0 ? 1/in : 0;', 'inv <-- 5;']] } });
    const values = await circuit.skippingChecks({ in: 0n });
    assert.equal(values[1], 1n);
    assert.deepEqual(await circuit.violations(values), []);
  });
});

describe('merkle root', () => {
  test('every place of a tree of depth 3', async () => {
    const circuit = await gadget('merkle_root');
    const tree = new Tree(3);
    const rng = new Rng('merkle');
    for (let index = 0; index < 64; index++) tree.set(index, rng.fr());
    for (let index = 0n; index < 64n; index++) {
      const witness = await circuit.accepts({ leaf: tree.node(0, index), index, path: tree.path(index) });
      assert.equal(witness[1], tree.root, `place ${index}`);
    }
    await circuit.refuses({ leaf: 1n, index: 64n, path: tree.path(0) }, { step: 'MR1', signals: /^main\.Num2Bits\.in$/ });
    await circuit.refuses({ leaf: 1n, index: PRIME - 1n, path: tree.path(0) }, { step: 'MR1', signals: /^main\.Num2Bits\.in$/ });
  });

  test('digits of an index that are no bits', () => caught(
    'merkle_root',
    { [BITIFY]: [[BIT, 'out[i] <-- i == 0 ? in : 0;']] },
    { leaf: 1n, index: 2n, path: new Tree(3).path(0) },
    /^main\.Num2Bits\.out\[0\]$/,
  ));
});

describe('seal', () => {
  const rng = new Rng('seal');
  const { V, v } = rng.keys();
  const message = [rng.fr(), rng.fr(), rng.fr()];

  test('agrees with the reference at the edges of the scalar', async () => {
    const circuit = await gadget('seal');
    const scalars = [
      1n, 2n, 3n, 4n, 7n, 8n, (1n << 147n) - 1n, 1n << 147n, 1n << 148n, (1n << 148n) - 1n, (1n << 148n) + 1n, 1n << 248n, 1n << 249n,
      (1n << 249n) - 1n, (1n << 250n) - 2n, (1n << 250n) - 1n, ...Array.from({ length: 10 }, () => rng.esk()),
    ];
    for (const esk of scalars) {
      const { E, ct } = seal(esk, V, 1, message);
      const witness = await circuit.accepts({ esk, viewing: V, message });
      assert.deepEqual(witness.slice(1, 6), [...E, ...ct], `esk ${esk}`);
      assert.deepEqual(mul(esk, V), mul(v, E));
    }
  });

  test('seals to the generator itself', async () => {
    const circuit = await gadget('seal');
    const base = mul(1n);
    const { E, ct } = seal(9n, base, 1, message);
    const witness = await circuit.accepts({ esk: 9n, viewing: base, message });
    assert.deepEqual(witness.slice(1, 6), [...E, ...ct]);
  });

  const input = () => ({ esk: rng.esk(), viewing: V, message });
  const replaced = (file, text, replacement) => ({ [file]: [[text, replacement]] });

  test('another slope of a chord', () => caught(
    'seal',
    replaced(MONTGOMERY, 'lamda <-- (in2[1] - in1[1]) / (in2[0] - in1[0]);', 'lamda <-- (in2[1] - in1[1]) / (in2[0] - in1[0]) + 1;'),
    input(),
    /\.lamda$/,
  ));
  test('another slope of a tangent', () => caught(
    'seal',
    replaced(MONTGOMERY, 'lamda <-- (3*x1_2 + 2*A*in[0] + 1 ) / (2*B*in[1]);', 'lamda <-- -(3*x1_2 + 2*A*in[0] + 1 ) / (2*B*in[1]);'),
    input(),
    /\.lamda$/,
  ));
  test('another sum of two points', () => caught(
    'seal', replaced(BABYJUB, 'xout <-- (beta + gamma) / (1+ d*tau);', 'xout <-- -(beta + gamma) / (1+ d*tau);'), input(), /\.xout$/,
  ));
  test('a key for other scalar bits', () => caught(
    'seal', replaced(BITIFY, BIT, 'out[i] <-- ((in + 1) >> i) & 1;'), { ...input(), esk: 6n }, /^main\.Num2Bits\.in$/,
  ));
  test('bits that are none', () => caught(
    'seal', replaced(BITIFY, BIT, 'out[i] <-- i == 0 ? in : 0;'), { ...input(), esk: 6n }, /^main\.Num2Bits\.out\[0\]$/,
  ));

  test('the curve\'s additions have no exceptional points: a is a square, d and A - 2 are none', () => {
    const power = (base, exponent) => {
      let result = 1n;
      for (let b = base, e = exponent; e > 0n; b = (b * b) % PRIME, e >>= 1n) if (e & 1n) result = (result * b) % PRIME;
      return result;
    };
    const isSquare = (x) => power(x, (PRIME - 1n) / 2n) === 1n;
    assert.ok(isSquare(168700n));
    assert.ok(!isSquare(168696n));
    assert.ok(!isSquare(168698n - 2n));
    assert.ok(SUBGROUP_ORDER > 1n << 250n);
  });

  test('the owner of a note binds the viewing key', () => {
    const pk = rng.fr();
    assert.notEqual(hash.owner(pk, V), hash.owner(pk, rng.keys().V));
  });
});
