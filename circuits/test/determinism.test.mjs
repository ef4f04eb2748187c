// SPDX-License-Identifier: GPL-3.0-only
//
// No signal of any circuit has a second value for the same inputs; digest, value and a ticket's nullifiers follow from the others. The
// exceptions are quotients, whose denominators
// docs/src/circuits.md ("Soundness arguments") shows to be nonzero, or whose value nothing reads.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { determine } from './lib/determinism.mjs';
import { Circuit } from './lib/harness.mjs';

const CIRCUITS = {
  transact: 'transact',
  close: 'close',
  'claim of 2': 'circuits/test/main/claim2.circom',
  insert: 'insert',
  ticket: 'ticket',
};

/** The only kinds of quotients, by the template's own names, with the section of the argument. */
const QUOTIENTS = {
  NonZero: /\.NonZero\.inverse$/, // its product is 1
  'rate inverse': /\.EitherOutput\.rateInverse$/, // free at rate 0, read by nothing else
  IsZero: /\.(IsZero|zeropoint)\.inv$/, // free at 0, read by nothing else
  'chord and tangent slopes': /\.EscalarMul(Fix|Any)\..*\.lamda$/,
  'Edwards addition': /\.EscalarMul(Fix|Any)\.(.*\.)?(xout|yout)$/,
  'change of model': /\.EscalarMul(Fix|Any)\.(.*\.)?(e2m|m2e|cm2e)(\[\d+\])?\.out\[[01]\]$/,
};

const unexplained = (quotients) =>
  quotients.filter((signal) => !Object.values(QUOTIENTS).some((pattern) => pattern.test(signal)));

const plainName = (name) => name.replace(/(\w)_\d+_\d+(?=[.[])/g, '$1');

/** The system of a circuit, with names by wire, and what the analysis needs to know about it. */
async function analysed(main) {
  const circuit = await Circuit.load(main);
  const { r1cs, sym } = await circuit.plain();
  const names = r1cs.wireToLabel.map((label) => plainName(sym.names[label]));
  const count = r1cs.publicInputs + r1cs.privateInputs;
  const all = Array.from({ length: count }, (_, i) => i + 1);
  all.forEach((wire) => assert.match(names[wire], /^main\.[^.]+$/, 'inputs come first'));
  // What the other inputs must determine.
  const inputs = all.filter((wire) => !/^main\.(digest|value|nf\[\d\])$/.test(names[wire]));
  const wireOf = new Map(names.map((name, wire) => [name, wire]));
  const strictBits = names.flatMap((name, wire) => {
    const prefix = name.match(/^(.*\.Num2Bits_strict)\.in$/)?.[1];
    if (!prefix) return [];
    assert.ok(wireOf.has(`${prefix}.aliasCheck.compConstant.out`));
    return [{ in: wire, bits: Array.from({ length: 254 }, (_, i) => wireOf.get(`${prefix}.n2b.out[${i}]`)) }];
  });
  return { r1cs, names, inputs, strictBits };
}

describe('every signal is determined by the inputs', () => {
  for (const [name, main] of Object.entries(CIRCUITS)) {
    test(name, async () => {
      const { r1cs, names, inputs, strictBits } = await analysed(main);
      const { quotients, undetermined } = determine(r1cs, names, inputs, strictBits);
      assert.deepEqual(undetermined, []);
      assert.deepEqual(unexplained(quotients), []);
    });
  }
});

describe('the analysis finds what a missing constraint leaves open', () => {
  const without = async (main, missing) => {
    const { r1cs, names, inputs, strictBits } = await analysed(main);
    const constraints = r1cs.constraints.filter(([a, b, c]) => {
      const used = new Set([a, b, c].flat().map(([wire]) => names[wire]));
      used.delete('one');
      return !missing([...used], { a, b, c });
    });
    assert.ok(constraints.length < r1cs.constraints.length, 'some constraint was taken away');
    const { quotients, undetermined } = determine({ ...r1cs, constraints }, names, inputs, strictBits);
    return [...undetermined, ...unexplained(quotients)];
  };

  test('a bit that need not be a boolean', async () => {
    const open = await without('insert', (used) => used.length === 1 && used[0] === 'main.MerkleRoot.Num2Bits.out[3]');
    assert.ok(open.includes('main.MerkleRoot.Num2Bits.out[3]'));
  });

  test('a flag that need not be a boolean', async () => {
    const open = await without('insert', (used) => used.length === 1 && used[0] === 'main.Thermometer.Boolean[9].in');
    assert.ok(open.some((name) => name.startsWith('main.Thermometer.out')));
  });

  test('flags in any order', async () => {
    const open = await without('insert', (used) => used.length === 2 && used.every((name) => /^main\.Thermometer\.out\[(8|9)\]$/.test(name)));
    assert.ok(open.some((name) => name.startsWith('main.Thermometer.out')));
  });

  test('flags that need not count', async () => {
    const open = await without('insert', (used) => used.includes('main.Thermometer.count'));
    assert.ok(open.some((name) => name.startsWith('main.Thermometer.out')));
  });

  test('a decomposition that need not sum to its number', async () => {
    const open = await without('ticket', (used) => used.includes('main.Range.Num2Bits.in') && used.includes('main.Range.Num2Bits.out[5]'));
    assert.ok(open.some((name) => name.startsWith('main.Range.Num2Bits.out')));
  });

  test('a comparison with zero that may say no', async () => {
    const open = await without('ticket', (used, { c }) => c.length === 0 && used.includes('main.IsZero.in') && used.includes('main.IsZero.out'));
    assert.ok(open.includes('main.isRating') || open.includes('main.IsZero.out'), open.join());
  });
});
