// SPDX-License-Identifier: GPL-3.0-only
//
// What holds for all circuits: their public inputs, budgets, names, tags, and that documentation and code speak of the same
// checks.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { CIRCUITS, ROOT, figures, includeClosure, inspectionFindings } from '../compile.mjs';
import { Circuit, labelledSteps, loosened } from './lib/harness.mjs';
import { readSym, satisfied } from './lib/r1cs.mjs';
import { EMPTY_LEAF, mod } from './lib/reference.mjs';

const text = (file) => readFileSync(path.join(ROOT, file), 'utf8');

const STATEMENT = ['digest', 'alpha', 'value'];
const PUBLIC = {
  transact: STATEMENT,
  close: STATEMENT,
  claim: STATEMENT,
  insert: STATEMENT,
  ticket: [
    'root', 'stoppedRoot', 'payee', 'price', 'slotStart', 'slotEnd', 'count', 'minStreamed', 'message',
    'nf[0]', 'nf[1]', 'nf[2]', 'nf[3]',
  ],
};
const GREATEST_DOMAIN = { transact: 2 ** 15, close: 2 ** 15, claim: 2 ** 17, insert: 2 ** 15, ticket: 2 ** 14 };

/** Inputs and their numbers of values as docs/src/encodings.md lists them, all circuits' public inputs first. */
function documentedInputs() {
  const section = text('docs/src/encodings.md').split('## Circuit inputs')[1].split('\n## ')[0];
  const entries = section.split('\n- **').slice(1).map((entry) => {
    const [, name, list] = entry.split('\n\n')[0].replace(/\([^)]*\)/g, '').match(/^(\w+)\*\*: ([\s\S]*)$/);
    const inputs = list.trim().replace(/\.[\s\S]*$/, '').split(/[;,]\s*/).map((item) => item.trim());
    return [name, inputs.map((item) => {
      const [, input, shape] = item.match(/^(\w+)((?:\[\d+\])*)$/) ?? assert.fail(`${name}: cannot read ${JSON.stringify(item)}`);
      return { input, values: [...shape.matchAll(/\d+/g)].reduce((product, [n]) => product * Number(n), 1) };
    })];
  });
  return Object.fromEntries(entries);
}

for (const name of CIRCUITS) {
  describe(name, () => {
    test('has its public inputs in their order, none left out', async () => {
      const circuit = await Circuit.load(name);
      const { names } = readSym(text(`build/circuits/${name}.sym`));
      const { publicInputs, publicOutputs, wireToLabel } = circuit.shipped;
      assert.equal(publicOutputs, 0);
      assert.deepEqual(wireToLabel.slice(1, 1 + publicInputs).map((label) => names[label]), PUBLIC[name].map((input) => `main.${input}`));
    });

    test('binds each public input: changed in a valid witness, it violates the system', async () => {
      const circuit = await Circuit.load(name);
      const input = JSON.parse(text(`vectors/witness_${name}.json`)).cases[0].input;
      const witness = await circuit.accepts(input);
      for (let wire = 1; wire <= PUBLIC[name].length; wire++) {
        const changed = witness.with(wire, mod(witness[wire] + 1n));
        assert.ok(!satisfied(circuit.shipped, changed), PUBLIC[name][wire - 1]);
      }
    });

    test('takes the documented inputs', () => {
      const { names } = readSym(text(`build/circuits/${name}.sym`));
      const source = text(`circuits/${name}.circom`);
      const declared = [...source.matchAll(/^ {4}signal input (\w+)/gm)].map(([, input]) => input);
      const values = (input) => names.filter((signal) => signal === `main.${input}` || signal.startsWith(`main.${input}[`)).length;
      assert.deepEqual(declared.map((input) => ({ input, values: values(input) })), documentedInputs()[name]);
    });

    test('fits its domain', () => {
      assert.deepEqual(figures(name), JSON.parse(text('circuits/constraints.json'))[name]);
      assert.ok(figures(name).domain <= GREATEST_DOMAIN[name]);
    });
  });
}

describe('constants', () => {
  const constants = Object.fromEntries(
    [...text('circuits/lib/constants.circom').matchAll(/^function (\w+)\(\) \{ return (\d+); \}/gm)].map(([, name, value]) => [name, BigInt(value)]),
  );

  test('the tags are those of the documented table', () => {
    const rows = [...text('docs/src/encodings.md').split('## Hash tags')[1].split('\n## ')[0].matchAll(/^\| (\d+) \| (\w+) \|/gm)].map(([, tag, name]) => [name, BigInt(tag)]);
    // The payer secret is hashed in the wallet alone.
    const documented = Object.fromEntries(rows.filter(([name]) => name !== 'PS').map(([name, tag]) => [`TAG_${name}`, tag]));
    assert.deepEqual(Object.fromEntries(Object.entries(constants).filter(([name]) => name.startsWith('TAG_'))), documented);
  });

  test('the empty leaf is the hash of its name', () => {
    assert.equal(constants.EMPTY_LEAF, EMPTY_LEAF);
  });
});

describe('sources', () => {
  const own = CIRCUITS.flatMap((name) => includeClosure(`circuits/main/${name}.circom`)).filter((file) => file.startsWith('circuits/'));

  test('every constraint stands in a labelled step', () => {
    // Gadgets whose one check is named by the step that uses them.
    const gadgets = ['boolean', 'nonzero', 'range', 'min', 'max'].map((name) => `circuits/lib/${name}.circom`);
    for (const file of new Set(own)) {
      if (gadgets.includes(file)) continue;
      const lines = text(file).split('\n');
      const firstLabel = lines.findIndex((line) => /^\s*\/\/ [A-Z]+\d+: /.test(line));
      lines.forEach((line, index) => {
        if (line.includes('===')) assert.ok(firstLabel >= 0 && firstLabel < index, `${file}:${index + 1} has a check without a label`);
      });
    }
  });

  test('no label stands twice', () => {
    const labels = [...labelledSteps().values()].flat().map(({ label }) => label);
    assert.equal(new Set(labels).size, labels.length);
  });

  test('every file names its licence', () => {
    const files = readdirSync(path.join(ROOT, 'circuits'), { recursive: true }).filter((file) => /\.(circom|mjs)$/.test(file));
    for (const file of files) assert.match(text(`circuits/${file}`), /^\/\/ SPDX-License-Identifier: GPL-3\.0-only\n/, file);
  });

  test('a loosened source keeps its lines and loses its checks', () => {
    const source = 'template T() {\n  signal input a; // a === b\n  a *\n    a === 1;\n  signal b <== a;\n}\n';
    assert.equal(loosened(source), 'template T() {\n  signal input a;\n\n\n  signal b <== a;\n}\n');
  });

  test('a warning of the compiler about a template of ours counts, one about circomlib\'s own does not', () => {
    const ours = 'warning[CA01]: In template "Ticket()": Local signal x does not appear in any constraint';
    const theirs = 'warning[CA02]: In template "LessThan(40)": Array of subcomponent input/output signals n2b.out';
    assert.deepEqual(inspectionFindings(`${ours}\n${theirs}\n = For example: n2b.out[0]\n`), [ours]);
  });
});

describe('docs/src/circuits.md', () => {
  const page = existsSync(path.join(ROOT, 'docs/src/circuits.md')) ? text('docs/src/circuits.md') : '';
  const rows = [...page.matchAll(/^\| ([A-Z]+\d+) \| `([^`]+)` \|(.*)\|$/gm)].map(([, label, file, rest]) => ({ label, file, rest }));

  test('lists every labelled step once, with its file', () => {
    const files = new Set(own());
    const actual = [...files].flatMap((file) => [...text(file).matchAll(/^\s*\/\/ ([A-Z]+\d+): /gm)].map(([, label]) => `${label} ${file}`));
    assert.deepEqual(rows.map(({ label, file }) => `${label} circuits/${file}`).sort(), actual.sort());
  });

  test('names tests that exist', () => {
    const tests = readdirSync(path.join(ROOT, 'circuits/test')).filter((file) => file.endsWith('.test.mjs'))
      .map((file) => text(`circuits/test/${file}`)).join('\n').replace(/\\'/g, "'");
    for (const { label, rest } of rows) {
      const cited = [...rest.split('|').at(-1).matchAll(/"([^"]+)"/g)].map(([, name]) => name);
      assert.ok(cited.length > 0, `${label} has no test`);
      for (const name of cited) assert.ok(tests.includes(name), `${label}: no test is called ${JSON.stringify(name)}`);
    }
  });

  function own() {
    return CIRCUITS.flatMap((name) => includeClosure(`circuits/main/${name}.circom`)).filter((file) => file.startsWith('circuits/'));
  }
});
