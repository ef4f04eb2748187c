// What tests, fixtures and benchmarks ask of snarkjs, an implementation independent of ours. Usage:
//
//   node snarkjs.mjs verify JOBS     JOBS: [{ vkey, publics, proof }], writes [true, false, ...]
//   node snarkjs.mjs prove JOBS      JOBS: [{ inputs, wasm, zkey }], writes [{ proof, publicSignals }, ...]
//   node snarkjs.mjs time JOBS       JOBS: [{ inputs, wasm, zkey, runs }], writes [[milliseconds, ...], ...], warm
//   node snarkjs.mjs key ZKEY        writes what the key is for and whether it calls itself INSECURE
//   node snarkjs.mjs contribute OLD NEW VKEY   writes the zkey NEW, which is OLD with a contribution, and its verifying key
//
// JOBS is a file with JSON; the answer goes to standard output as JSON.

import { readFileSync, writeFileSync } from 'node:fs';
import * as snarkjs from 'snarkjs';

const [command, file, ...rest] = process.argv.slice(2);
const jobs = ['key', 'contribute'].includes(command) ? null : JSON.parse(readFileSync(file, 'utf8'));
const answers = [];

if (command === 'verify') {
  for (const { vkey, publics, proof } of jobs) {
    answers.push(await snarkjs.groth16.verify(JSON.parse(readFileSync(vkey, 'utf8')), publics, proof));
  }
} else if (command === 'prove') {
  for (const { inputs, wasm, zkey } of jobs) answers.push(await snarkjs.groth16.fullProve(inputs, wasm, zkey));
} else if (command === 'time') {
  for (const { inputs, wasm, zkey, runs } of jobs) {
    // The files are given as memory, so that neither side reads the disk.
    const [program, key] = [wasm, zkey].map((path) => ({ type: 'mem', data: new Uint8Array(readFileSync(path)) }));
    const times = [];
    for (let i = -2; i < runs; i++) {
      const started = process.hrtime.bigint();
      await snarkjs.groth16.fullProve(inputs, program, key);
      const elapsed = Number(process.hrtime.bigint() - started) / 1e6;
      if (i >= 0) times.push(elapsed);
    }
    answers.push(times);
  }
} else if (command === 'key') {
  const key = await snarkjs.zKey.exportJson(file);
  answers.push({ nPublic: key.nPublic, domainSize: key.domainSize, protocol: key.protocol });
  const bytes = readFileSync(file);
  answers.push(bytes.includes('INSECURE development key'));
} else if (command === 'contribute') {
  const [contributed, vkey] = rest;
  await snarkjs.zKey.contribute(file, contributed, 'a contributor', 'entropy of a test');
  writeFileSync(vkey, JSON.stringify(await snarkjs.zKey.exportVerificationKey(contributed)));
  answers.push(true);
} else {
  throw new Error(`unknown command ${command}`);
}

process.stdout.write(JSON.stringify(answers));
// snarkjs keeps its workers running.
process.exit(0);
