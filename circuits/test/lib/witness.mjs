// SPDX-License-Identifier: GPL-3.0-only
//
// Runs the compiler's WebAssembly witness programs: each run in an instance of its own, so that an error's trace is that run's.

import { PRIME } from './r1cs.mjs';

/** A witness program refused its inputs. `frames` is the trace, innermost first: [{ template, line }]. */
export class WitnessError extends Error {
  constructor(code, trace) {
    super(`witness program failed (code ${code}):\n${trace}`);
    this.code = code;
    this.frames = [...trace.matchAll(/Error in template (\w+?)_\d+ line: (\d+)/g)].map(([, template, line]) => ({
      template,
      line: Number(line),
    }));
  }
}

/** 64-bit FNV-1a of a signal's name, as [upper, lower] 32 bits. */
function nameHash(name) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(name)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return [Number(hash >> 32n), Number(hash & 0xffffffffn)];
}

/** Runs `module` on `input` (signal name -> nested arrays of integers) and returns all values of its witness. */
export async function runWitness(module, input) {
  let trace = '';
  let exports;
  const message = () => {
    let text = '';
    for (let c = exports.getMessageChar(); c !== 0; c = exports.getMessageChar()) text += String.fromCharCode(c);
    return text;
  };
  const instance = await WebAssembly.instantiate(module, {
    runtime: {
      exceptionHandler: (code) => {
        throw new WitnessError(code, trace);
      },
      printErrorMessage: () => (trace += `${message()}\n`),
      writeBufferMessage: () => message(),
      showSharedRWMemory: () => {},
    },
  });
  exports = instance.exports;
  exports.init(1);
  const limbs = exports.getFieldNumLen32();
  let given = 0;
  for (const [name, nested] of Object.entries(input)) {
    const [upper, lower] = nameHash(name);
    const values = [nested].flat(Infinity).map(BigInt);
    const size = exports.getInputSignalSize(upper, lower);
    if (size !== values.length) throw new Error(`input ${name} has ${values.length} values, the circuit takes ${size}`);
    values.forEach((value, position) => {
      if (value < 0n || value >= PRIME) throw new Error(`input ${name}[${position}] is not canonical: ${value}`);
      for (let i = 0; i < limbs; i++) {
        exports.writeSharedRWMemory(i, Number((value >> BigInt(32 * i)) & 0xffffffffn));
      }
      exports.setInputSignal(upper, lower, position);
      given++;
    });
  }
  if (given !== exports.getInputSize()) throw new Error(`${given} input values given, the circuit takes ${exports.getInputSize()}`);
  return Array.from({ length: exports.getWitnessSize() }, (_, index) => {
    exports.getWitness(index);
    let value = 0n;
    for (let i = limbs - 1; i >= 0; i--) value = (value << 32n) | BigInt(exports.readSharedRWMemory(i) >>> 0);
    return value;
  });
}
