// SPDX-License-Identifier: GPL-3.0-only
//
// Loads circuits for tests in three forms:
//
// - as shipped: the witness program and the r1cs of build/circuits;
// - plain: the r1cs without simplification, in which every constraint still names the signals of its source line;
// - loose: the witness program of the same sources without their `===`, a prover that skips every check and
//   computes everything else as it should. What it computes is held against the plain and the shipped r1cs.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { CIRCUITS, ROOT, circom, includeClosure, inputsHash, isCurrent } from '../../compile.mjs';
import { readR1cs, readSym, satisfied, violated } from './r1cs.mjs';
import { WitnessError, runWitness } from './witness.mjs';

const CACHE = 'build/circuits-test';
const LIBRARY = 'node_modules/circomlib/circuits';

const absolute = (file) => path.join(ROOT, file);

/** A source without its comments (line numbers stay) and without its `===` statements. */
export function loosened(source) {
  if (!source.includes('===')) return source;
  return source
    .replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (comment) => comment.replace(/[^\n]/g, ''))
    .replace(/[^;{}]*===[^;]*;/g, (statement) => statement.replace(/[^\n]/g, ''));
}

/** Compiles once for each content: `build(folder)` fills a fresh folder, whose final path is returned. */
async function cached(key, build) {
  const folder = `${CACHE}/${key}`;
  if (existsSync(absolute(folder))) return folder;
  const temporary = `${folder}.${process.pid}`;
  rmSync(absolute(temporary), { recursive: true, force: true });
  mkdirSync(absolute(temporary), { recursive: true });
  try {
    await build(temporary);
    renameSync(absolute(temporary), absolute(folder));
  } catch (error) {
    rmSync(absolute(temporary), { recursive: true, force: true });
    if (!existsSync(absolute(folder))) throw error; // another process may have been first
  }
  return folder;
}

const baseName = (main) => path.basename(main, '.circom');

async function compiled(main, options, kind) {
  return cached(`${baseName(main)}-${kind}-${inputsHash(main, options).slice(0, 16)}`, (folder) =>
    circom(main, folder, options),
  );
}

/** `patches`: { file: [[text, replacement], ...] } for hints that a dishonest prover computes otherwise. */
async function compiledLoose(main, patches) {
  const options = ['--O0', '--wasm', '--sym'];
  const key = createHash('sha256')
    .update(inputsHash(main, options) + JSON.stringify(patches) + loosened.toString())
    .digest('hex');
  return cached(`${baseName(main)}-loose-${key.slice(0, 16)}`, async (folder) => {
    const sources = `${folder}/sources`;
    const pending = new Map(Object.entries(patches));
    for (const file of includeClosure(main)) {
      let source = loosened(readFileSync(absolute(file), 'utf8'));
      for (const [text, replacement] of pending.get(file) ?? []) {
        assert.equal(source.split(text).length, 2, `${file} has ${JSON.stringify(text)} exactly once`);
        source = source.replace(text, () => replacement);
      }
      pending.delete(file);
      const copy = absolute(`${sources}/${file}`);
      mkdirSync(path.dirname(copy), { recursive: true });
      writeFileSync(copy, source);
    }
    assert.deepEqual([...pending.keys()], [], 'files to patch that the circuit does not include');
    await circom(`${sources}/${main}`, folder, options, `${sources}/${LIBRARY}`);
    rmSync(absolute(sources), { recursive: true });
  });
}

// --- Labels: `// X1: ...` comments name the constraint steps of a template ---

function* circomFiles(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) {
      if (entry.name !== 'test') yield* circomFiles(path.join(folder, entry.name));
    } else if (entry.name.endsWith('.circom')) yield path.join(folder, entry.name);
  }
}

/** template -> labelled steps [{ label, line }] in order of their lines. */
export function labelledSteps() {
  const steps = new Map();
  for (const file of circomFiles(absolute('circuits'))) {
    const lines = readFileSync(file, 'utf8').split('\n');
    const templates = lines.flatMap((line) => line.match(/^template (\w+)/)?.[1] ?? []);
    if (templates.length === 0) continue;
    assert.equal(templates.length, 1, `${file} has one template`);
    const found = lines.flatMap((text, index) => {
      const label = text.match(/^\s*\/\/ ([A-Z]+\d+): /)?.[1];
      return label ? [{ label, line: index + 1 }] : [];
    });
    steps.set(templates[0], found);
  }
  return steps;
}

const STEPS = labelledSteps();

/** The labelled steps in a trace, outermost first: 'T4/VO1'. */
export function stepsOf(frames) {
  return frames
    .map(({ template, line }) => (STEPS.get(template) ?? []).filter((step) => step.line <= line).at(-1)?.label)
    .filter(Boolean)
    .reverse()
    .join('/');
}

/** A signal's name without the compiler's numbering of anonymous components. */
const plainName = (name) => name.replace(/(\w)_\d+_\d+(?=[.[])/g, '$1');

export class Circuit {
  /** `main`: a name in build/circuits, or the path of a test's main component. */
  static async load(main, { patches = {} } = {}) {
    const circuit = new Circuit();
    circuit.main = CIRCUITS.includes(main) ? `circuits/main/${main}.circom` : main;
    circuit.patches = patches;
    if (CIRCUITS.includes(main)) {
      circuit.shippedFiles = { r1cs: `build/circuits/${main}.r1cs`, wasm: `build/circuits/${main}.wasm`, sym: `build/circuits/${main}.sym` };
      assert.ok(isCurrent(main), `build/circuits/${main}.* are not of these sources; run: node circuits/compile.mjs ${main}`);
    } else {
      const folder = await compiled(main, ['--O2', '--r1cs', '--wasm', '--sym'], 'shipped');
      const name = baseName(main);
      circuit.shippedFiles = { r1cs: `${folder}/${name}.r1cs`, wasm: `${folder}/${name}_js/${name}.wasm`, sym: `${folder}/${name}.sym` };
    }
    circuit.module = await WebAssembly.compile(readFileSync(absolute(circuit.shippedFiles.wasm)));
    return circuit;
  }

  get shipped() {
    this.shippedSystem ??= readR1cs(readFileSync(absolute(this.shippedFiles.r1cs)));
    return this.shippedSystem;
  }

  async plain() {
    if (!this.plainSystem) {
      const name = baseName(this.main);
      const folder = await compiled(this.main, ['--O0', '--r1cs', '--sym'], 'plain');
      const r1cs = readR1cs(readFileSync(absolute(`${folder}/${name}.r1cs`)));
      const sym = readSym(readFileSync(absolute(`${folder}/${name}.sym`), 'utf8'));
      this.plainSystem = { r1cs, sym };
    }
    return this.plainSystem;
  }

  async loose() {
    if (!this.looseProgram) {
      const name = baseName(this.main);
      const folder = await compiledLoose(this.main, this.patches);
      const sym = readSym(readFileSync(absolute(`${folder}/${name}.sym`), 'utf8'));
      const { sym: plainSym } = await this.plain();
      assert.equal(sym.names.length, plainSym.names.length, 'the loose program has the circuit\'s signals');
      sym.names.forEach((signal, label) => {
        if (plainName(signal) !== plainName(plainSym.names[label])) {
          throw new Error(`signal ${label} of the loose program is ${signal}, not ${plainSym.names[label]}`);
        }
      });
      this.looseProgram = await WebAssembly.compile(readFileSync(absolute(`${folder}/${name}_js/${name}.wasm`)));
    }
    return this.looseProgram;
  }

  /** The shipped program's witness, which satisfies the shipped r1cs. */
  async accepts(input) {
    const witness = await runWitness(this.module, input);
    assert.equal(witness.length, this.shipped.wires);
    assert.deepEqual(violated(this.shipped, witness), []);
    return witness;
  }

  /** The shipped program refuses the input at `step` (labels from the outermost in, as 'T4/VO1'). */
  async refusedAt(input, step) {
    await assert.rejects(runWitness(this.module, input), (error) => {
      assert.ok(error instanceof WitnessError, String(error));
      assert.equal(stepsOf(error.frames), step, error.message);
      return true;
    });
  }

  /** What a prover that skips every check computes: values by label. */
  async skippingChecks(input) {
    return runWitness(await this.loose(), input);
  }

  /** The violated constraints of values by label, each as the sorted names of its signals. */
  async violations(values) {
    const { r1cs, sym } = await this.plain();
    const wires = r1cs.wireToLabel.map((label) => values[label]);
    return violated(r1cs, wires).map((index) =>
      [...new Set(r1cs.constraints[index].flat().map(([wire]) => plainName(sym.names[r1cs.wireToLabel[wire]])))]
        .filter((name) => name !== 'one')
        .sort(),
    );
  }

  /**
   * The circuit refuses the input: the witness program at `step`, and the r1cs whatever the witness program would say. Each
   * violated constraint has a signal that matches one of `signals`, and each of `signals` is met.
   */
  async refuses(input, { step, signals }) {
    await this.refusedAt(input, step);
    await this.violates(await this.skippingChecks(input), signals);
  }

  async violates(values, signals) {
    const patterns = [signals].flat();
    const named = await this.violations(values);
    const shown = named.slice(0, 5).map((names) => names.slice(0, 6).join(' ')).join('\n');
    assert.ok(named.length > 0, 'some constraint is violated');
    for (const names of named) {
      assert.ok(names.some((name) => patterns.some((pattern) => pattern.test(name))), `unexpected violation: ${names.slice(0, 8).join(' ')}`);
    }
    for (const pattern of patterns) {
      assert.ok(named.some((names) => names.some((name) => pattern.test(name))), `nothing violated at ${pattern}; violated:\n${shown}`);
    }
    const shippedWires = this.shipped.wireToLabel.map((label) => values[label]);
    assert.ok(!satisfied(this.shipped, shippedWires), 'the shipped r1cs is violated too');
  }
}
