// SPDX-License-Identifier: GPL-3.0-only
//
// Which signals of a system are determined by its inputs? Starting from the inputs, a signal is added when some constraint leaves
// it no second value, by these rules only:
//
// - product: it is the one unknown of a constraint in which nothing but constants multiply it;
// - binary: the unknowns of a linear constraint are booleans with coefficients c * 2^i, i distinct, that sum to less than r;
// - thermometer: the unknowns of a linear constraint are booleans with one coefficient, and x_(i+1) * (1 - x_i) = 0 links
//   all of them into a chain;
// - zero: in * out = 0 and in * inv = 1 - out with `in` known determine out (circomlib's IsZero);
// - strict: the 254 bits of a Num2Bits_strict, whose alias check is audited by itself;
// - quotient: it is the one unknown and is multiplied by a known factor. Its value is determined only where the factor is not
//   0, so these signals are reported: each kind needs an argument.
//
// What cannot be reached is reported as undetermined.

import { PRIME } from './r1cs.mjs';

const isPowerOfTwo = (x) => x > 0n && (x & (x - 1n)) === 0n;

function inverse(x) {
  let [a, b, u, v] = [x % PRIME, PRIME, 1n, 0n];
  while (a !== 0n) {
    const q = b / a;
    [a, b] = [b - q * a, a];
    [u, v] = [v - q * u, u];
  }
  return ((v % PRIME) + PRIME) % PRIME;
}

/** `names[wire]`: the signal's name. `inputs`: wires of the system's inputs. `strictBits`: groups of wires { in, bits }. */
export function determine(r1cs, names, inputs, strictBits = []) {
  const known = new Uint8Array(r1cs.wires);
  const boolean = new Uint8Array(r1cs.wires);
  const quotients = [];
  const uses = Array.from({ length: r1cs.wires }, () => []);

  const system = r1cs.constraints.map(([a, b, c]) => {
    const constant = (terms) => terms.every(([wire]) => wire === 0);
    const wires = [...new Set([a, b, c].flatMap((terms) => terms.map(([wire]) => wire)))].filter((wire) => wire !== 0);
    if (!constant(a) && !constant(b)) return { a, b, c, wires, linear: null, homogeneous: false };
    // One factor is a constant: fold everything into one linear combination.
    const [factor, other] = constant(a) ? [a, b] : [b, a];
    const scale = factor.reduce((sum, [, coefficient]) => sum + coefficient, 0n);
    const linear = new Map();
    for (const [wire, coefficient] of other) linear.set(wire, (linear.get(wire) ?? 0n) + scale * coefficient);
    for (const [wire, coefficient] of c) linear.set(wire, (linear.get(wire) ?? 0n) - coefficient);
    for (const [wire, coefficient] of linear) {
      const reduced = ((coefficient % PRIME) + PRIME) % PRIME;
      if (reduced === 0n) linear.delete(wire);
      else linear.set(wire, reduced);
    }
    const homogeneous = !linear.delete(0);
    return { a, b, c, wires: [...linear.keys()], linear, homogeneous };
  });
  system.forEach(({ wires }, index) => wires.forEach((wire) => uses[wire].push(index)));

  // Booleans: x * (x - 1) = 0 in any of its spellings.
  for (const { a, b, c, wires, linear } of system) {
    if (linear || wires.length !== 1 || c.length !== 0) continue;
    const at = (terms, x) => terms.reduce((sum, [wire, k]) => (sum + k * (wire === 0 ? 1n : x)) % PRIME, 0n);
    const product = (x) => (at(a, x) * at(b, x)) % PRIME;
    if (product(0n) === 0n && product(1n) === 0n) boolean[wires[0]] = 1;
  }
  // What equals a boolean is one.
  for (let found = true; found; ) {
    found = false;
    for (const { wires, linear, homogeneous } of system) {
      if (!linear || !homogeneous || wires.length !== 2) continue;
      const [x, y] = wires;
      if (boolean[x] === boolean[y] || linear.get(x) + linear.get(y) !== PRIME) continue;
      boolean[x] = boolean[y] = 1;
      found = true;
    }
  }

  // Links of thermometers: x * (1 - y) = 0, kept as x -> y.
  const above = new Map();
  // IsZero: in * out = 0 beside in * inv = 1 - out.
  const zeroProducts = new Map();
  const single = (terms) => terms.length === 1 && terms[0][0] !== 0 && terms[0][0];
  for (const { a, b, c, linear } of system) {
    if (linear || c.length !== 0) continue;
    for (const [x, y] of [[a, b], [b, a]]) {
      const wire = single(x);
      if (!wire) continue;
      if (single(y)) {
        if (!zeroProducts.has(wire)) zeroProducts.set(wire, []);
        zeroProducts.get(wire).push(single(y));
      }
      if (y.length === 2) {
        const one = y.find(([w]) => w === 0)?.[1];
        const other = y.find(([w]) => w !== 0);
        if (one !== undefined && other && (one + other[1]) % PRIME === 0n) {
          if (!above.has(wire)) above.set(wire, []);
          above.get(wire).push(other[0]);
        }
      }
    }
  }

  const unknowns = (constraint) => constraint.wires.filter((wire) => !known[wire]);
  const queue = [];
  const learn = (wire) => {
    if (known[wire]) return;
    known[wire] = 1;
    queue.push(wire);
  };
  known[0] = 1;
  inputs.forEach(learn);

  function binary(linear, wires) {
    if (!wires.every((wire) => boolean[wire])) return false;
    for (const base of [linear.get(wires[0]), PRIME - linear.get(wires[0])]) {
      for (const unit of [1n, base]) {
        const scale = inverse(unit);
        const weights = wires.map((wire) => (linear.get(wire) * scale) % PRIME);
        for (const signed of [weights, weights.map((w) => PRIME - w)]) {
          const sum = signed.reduce((total, w) => total + w, 0n);
          if (signed.every(isPowerOfTwo) && new Set(signed).size === signed.length && sum < PRIME) return true;
        }
      }
    }
    return false;
  }

  function thermometer(linear, wires) {
    if (wires.length < 2 || !wires.every((wire) => boolean[wire])) return false;
    if (new Set(wires.map((wire) => linear.get(wire))).size !== 1) return false;
    const members = new Set(wires);
    const links = wires.map((wire) => (above.get(wire) ?? []).filter((other) => members.has(other)));
    const tops = wires.filter((_, i) => links[i].length === 0);
    if (tops.length !== 1 || links.some((link) => link.length > 1)) return false;
    // One top, one link each and as many targets as links: a single chain.
    const targets = links.flat();
    return new Set(targets).size === targets.length && targets.length === wires.length - 1;
  }

  function visit(index) {
    const constraint = system[index];
    const wires = unknowns(constraint);
    if (wires.length === 0) return;
    const { a, b, linear } = constraint;
    if (linear) {
      if (wires.length === 1 || binary(linear, wires) || thermometer(linear, wires)) wires.forEach(learn);
      return;
    }
    const within = (terms) => terms.some(([wire]) => wires.includes(wire));
    if (!within(a) && !within(b)) {
      if (wires.length === 1) learn(wires[0]);
      return;
    }
    // IsZero: the known factor `in`, with out and inv unknown.
    if (wires.length === 2 && constraint.c.length > 0) {
      for (const factor of [a, b]) {
        const input = single(factor);
        if (!input || !known[input]) continue;
        const other = single(factor === a ? b : a);
        const out = wires.find((wire) => wire !== other);
        if (other && out !== undefined && zeroProducts.get(input)?.includes(out)) learn(out);
      }
      return;
    }
  }

  function drain() {
    while (queue.length > 0) for (const index of uses[queue.pop()]) visit(index);
  }

  system.forEach((_, index) => visit(index));
  for (;;) {
    drain();
    const before = quotients.length;
    for (const { in: input, bits } of strictBits) if (known[input]) bits.forEach(learn);
    drain();
    for (const constraint of system) {
      if (constraint.linear) continue;
      const wires = unknowns(constraint);
      if (wires.length !== 1) continue;
      const [wire] = wires;
      const within = (terms) => terms.some(([w]) => w === wire);
      if (within(constraint.a) !== within(constraint.b)) {
        quotients.push(wire);
        learn(wire);
        drain();
      }
    }
    if (quotients.length === before) break;
  }
  const undetermined = [];
  for (let wire = 0; wire < r1cs.wires; wire++) if (!known[wire]) undetermined.push(names[wire]);
  return { quotients: quotients.map((wire) => names[wire]), undetermined };
}
