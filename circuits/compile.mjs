// SPDX-License-Identifier: GPL-3.0-only
//
// Compiles the circuits into build/circuits/<name>.{r1cs,wasm,sym} and holds them to the golden figures in
// circuits/constraints.json. A circuit whose sources (with everything they include), compiler and options are unchanged
// is skipped. Usage, from anywhere:
//
//   node circuits/compile.mjs [--update] [--force] [name ...]
//
// --update rewrites the golden figures, --force compiles even what is unchanged.

import { createHash } from 'node:crypto';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { readR1csHeader } from './test/lib/r1cs.mjs';

export const CIRCUITS = ['transact', 'close', 'claim', 'insert', 'ticket'];

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const LIBRARY = 'node_modules/circomlib/circuits';
const COMPILER = 'node_modules/circom2';
const OUT = 'build/circuits';
const GOLDEN = path.join(ROOT, 'circuits/constraints.json');
const SUFFIXES = ['r1cs', 'wasm', 'sym'];

// Signals that circomlib's own templates leave unread: the surplus bits of a comparison, and the doubled base of a
// multiplication's last segment. The compiler's inspection may report these templates and no others.
const INSPECTION_KNOWN = ['CompConstant', 'LessThan', 'EscalarMulFix', 'EscalarMulAny'];

const sha256 = (data) => createHash('sha256').update(data).digest('hex');

/** Paths (relative to the repository) of `main` and of everything that it includes, sorted. */
export function includeClosure(main) {
  const seen = new Set();
  const visit = (file) => {
    const relative = path.relative(ROOT, file);
    if (seen.has(relative)) return;
    seen.add(relative);
    for (const [, target] of readFileSync(file, 'utf8').matchAll(/^\s*include\s+"([^"]+)"/gm)) {
      const candidates = [path.resolve(path.dirname(file), target), path.resolve(ROOT, LIBRARY, target)];
      const found = candidates.find(existsSync);
      if (!found) throw new Error(`${relative} includes ${target}, which is in none of: ${candidates.join(', ')}`);
      visit(found);
    }
  };
  visit(path.resolve(ROOT, main));
  return [...seen].sort();
}

/**
 * Runs the compiler from the repository's root (its WebAssembly sandbox sees nothing outside) and returns its output.
 * All paths are relative to the root.
 */
export function circom(main, out, options, library = LIBRARY) {
  mkdirSync(path.join(ROOT, out), { recursive: true });
  const args = [path.join(COMPILER, 'cli.js'), main, ...options, '-o', out, '-l', library];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', reject);
    child.on('close', (code) => {
      const plain = output.replace(/\x1b\[[0-9;]*m/g, '');
      if (code === 0 && plain.includes('Everything went okay')) resolve(plain);
      else reject(new Error(`circom failed on ${main} (exit code ${code}):\n${plain}`));
    });
  });
}

/** Warnings of the compiler's inspection about templates of ours. */
export function inspectionFindings(output) {
  return output
    .split('\n')
    .filter((line) => /^\s*(warning|error)\[/.test(line))
    .filter((line) => !INSPECTION_KNOWN.some((name) => line.includes(`In template "${name}(`)));
}

/** Hash of everything that the compilation of `main` reads, with the compiler's version and options. */
export function inputsHash(main, options) {
  const hash = createHash('sha256');
  hash.update(readFileSync(path.join(ROOT, COMPILER, 'package.json')));
  hash.update(JSON.stringify(options));
  for (const file of includeClosure(main)) {
    hash.update(`${file}\0${sha256(readFileSync(path.join(ROOT, file)))}\0`);
  }
  return hash.digest('hex');
}

const artefact = (name, suffix) => path.join(ROOT, OUT, `${name}.${suffix}`);
const outputsHash = (name) => sha256(SUFFIXES.map((suffix) => sha256(readFileSync(artefact(name, suffix)))).join());

const OPTIONS = ['--r1cs', '--wasm', '--sym', '--O2', '--inspect'];
const mainOf = (name) => `circuits/main/${name}.circom`;

/** Whether the artefacts on disk are those of the sources on disk. */
export function isCurrent(name, inputs = inputsHash(mainOf(name), OPTIONS)) {
  const stamp = artefact(name, 'stamp.json');
  if (![stamp, ...SUFFIXES.map((suffix) => artefact(name, suffix))].every(existsSync)) return false;
  try {
    const recorded = JSON.parse(readFileSync(stamp, 'utf8'));
    return recorded.inputs === inputs && recorded.outputs === outputsHash(name);
  } catch {
    return false;
  }
}

async function compile(name, force) {
  const inputs = inputsHash(mainOf(name), OPTIONS);
  if (!force && isCurrent(name, inputs)) return { seconds: 0, skipped: true };

  const started = process.hrtime.bigint();
  const temporary = `${OUT}/.${name}-${process.pid}`;
  try {
    const findings = inspectionFindings(await circom(mainOf(name), temporary, OPTIONS));
    if (findings.length > 0) throw new Error(`the inspection of ${name} found:\n${findings.join('\n')}`);
    rmSync(artefact(name, 'stamp.json'), { force: true });
    renameSync(path.join(ROOT, temporary, `${name}.r1cs`), artefact(name, 'r1cs'));
    renameSync(path.join(ROOT, temporary, `${name}.sym`), artefact(name, 'sym'));
    renameSync(path.join(ROOT, temporary, `${name}_js`, `${name}.wasm`), artefact(name, 'wasm'));
    writeFileSync(artefact(name, 'stamp.json'), JSON.stringify({ inputs, outputs: outputsHash(name) }) + '\n');
  } finally {
    rmSync(path.join(ROOT, temporary), { recursive: true, force: true });
  }
  return { seconds: Number(process.hrtime.bigint() - started) / 1e9, skipped: false };
}

/** Figures of a compiled circuit: constraints, public inputs and the size of its evaluation domain. */
export function figures(name) {
  const header = readR1csHeader(readFileSync(artefact(name, 'r1cs')));
  const publicInputs = header.publicInputs + header.publicOutputs;
  let domain = 1;
  while (domain < header.constraints + publicInputs + 1) domain *= 2;
  return { constraints: header.constraints, publicInputs, domain };
}

async function main(args) {
  const update = args.includes('--update');
  const force = args.includes('--force');
  const named = args.filter((arg) => !arg.startsWith('--'));
  const unknown = [
    ...named.filter((name) => !CIRCUITS.includes(name)),
    ...args.filter((arg) => arg.startsWith('--') && !['--update', '--force'].includes(arg)),
  ];
  if (unknown.length > 0) throw new Error(`unknown argument: ${unknown.join(', ')}; circuits are ${CIRCUITS.join(', ')}`);
  const names = named.length > 0 ? CIRCUITS.filter((name) => named.includes(name)) : CIRCUITS;

  const golden = existsSync(GOLDEN) ? JSON.parse(readFileSync(GOLDEN, 'utf8')) : {};
  const mismatches = [];
  for (const name of names) {
    const { seconds, skipped } = await compile(name, force);
    const now = figures(name);
    const how = skipped ? 'unchanged' : `compiled in ${seconds.toFixed(1)} s`;
    console.log(
      `${name}: ${now.constraints} constraints, ${now.publicInputs} public inputs, domain ${now.domain} (${how})`,
    );
    if (update) golden[name] = now;
    else if (JSON.stringify(golden[name]) !== JSON.stringify(now)) {
      mismatches.push(`${name}: ${JSON.stringify(now)}, golden ${JSON.stringify(golden[name])}`);
    }
  }
  if (update) {
    const ordered = Object.fromEntries(CIRCUITS.filter((name) => golden[name]).map((name) => [name, golden[name]]));
    writeFileSync(GOLDEN, JSON.stringify(ordered, null, 2) + '\n');
  }
  if (mismatches.length > 0) {
    throw new Error(
      `figures differ from circuits/constraints.json:\n  ${mismatches.join('\n  ')}\n` +
        'If the change is meant, run: node circuits/compile.mjs --update',
    );
  }
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(`compile: ${error.message}`);
    process.exitCode = 1;
  });
}
