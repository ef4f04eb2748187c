// SPDX-License-Identifier: GPL-3.0-only
//
// Reads circom's r1cs files and checks assignments against them, with nothing of snarkjs or of the witness calculator.

export const PRIME = 21888242871839275222246405745257275088548364400416034343698204186575808495617n;

const mod = (x) => ((x % PRIME) + PRIME) % PRIME;

function sections(buffer) {
  if (buffer.toString('latin1', 0, 4) !== 'r1cs' || buffer.readUInt32LE(4) !== 1) {
    throw new Error('not an r1cs file of version 1');
  }
  const found = new Map();
  let offset = 12;
  for (let i = 0; i < buffer.readUInt32LE(8); i++) {
    const type = buffer.readUInt32LE(offset);
    const size = Number(buffer.readBigUInt64LE(offset + 4));
    found.set(type, buffer.subarray(offset + 12, offset + 12 + size));
    offset += 12 + size;
  }
  return found;
}

const littleEndian = (bytes) => BigInt('0x' + Buffer.from(bytes).reverse().toString('hex'));

function header(section) {
  const size = section.readUInt32LE(0);
  if (size !== 32 || littleEndian(section.subarray(4, 36)) !== PRIME) throw new Error('r1cs over another field');
  return {
    wires: section.readUInt32LE(36),
    publicOutputs: section.readUInt32LE(40),
    publicInputs: section.readUInt32LE(44),
    privateInputs: section.readUInt32LE(48),
    labels: Number(section.readBigUInt64LE(52)),
    constraints: section.readUInt32LE(60),
  };
}

/** Counts from an r1cs file: wires, public outputs and inputs, private inputs, labels, constraints. */
export function readR1csHeader(buffer) {
  return header(sections(buffer).get(1));
}

/** The whole system: counts, and each constraint as three lists of [wire, coefficient]. */
export function readR1cs(buffer) {
  const parts = sections(buffer);
  const counts = header(parts.get(1));
  const data = parts.get(2);
  let offset = 0;
  const combination = () => {
    const terms = new Array(data.readUInt32LE(offset));
    offset += 4;
    for (let i = 0; i < terms.length; i++) {
      const limb = (n) => data.readBigUInt64LE(offset + 4 + 8 * n);
      terms[i] = [data.readUInt32LE(offset), limb(0) | (limb(1) << 64n) | (limb(2) << 128n) | (limb(3) << 192n)];
      offset += 36;
    }
    return terms;
  };
  const constraints = Array.from({ length: counts.constraints }, () => [combination(), combination(), combination()]);
  const map = parts.get(3);
  const wireToLabel = Array.from({ length: counts.wires }, (_, i) => Number(map.readBigUInt64LE(8 * i)));
  return { ...counts, constraints, wireToLabel };
}

/** Signal names by label, and labels by name, from a sym file. Label 0 is the constant one. */
export function readSym(text) {
  const names = ['one'];
  const labels = new Map();
  for (const line of text.split('\n')) {
    if (!line) continue;
    const [label, , , name] = line.split(',');
    names[Number(label)] = name;
    labels.set(name, Number(label));
  }
  return { names, labels };
}

const MINUS_ONE = PRIME - 1n;

const evaluate = (terms, wires) => {
  let sum = 0n;
  for (const [wire, coefficient] of terms) {
    const value = wires[wire];
    if (value === 0n) continue;
    if (coefficient === 1n) sum += value;
    else if (coefficient === MINUS_ONE) sum -= value;
    else sum += coefficient * value;
  }
  return mod(sum);
};

const holds = ([a, b, c], wires) => mod(evaluate(a, wires) * evaluate(b, wires)) === evaluate(c, wires);

/** Indices of the constraints that an assignment of all wires (BigInt, wire 0 = 1) violates. */
export function violated(r1cs, wires) {
  const indices = [];
  r1cs.constraints.forEach((constraint, index) => {
    if (!holds(constraint, wires)) indices.push(index);
  });
  return indices;
}

/** Whether the assignment satisfies every constraint; stops at the first that it violates. */
export const satisfied = (r1cs, wires) => r1cs.constraints.every((constraint) => holds(constraint, wires));
