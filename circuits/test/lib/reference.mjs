// SPDX-License-Identifier: GPL-3.0-only
//
// The protocol's values in plain JavaScript (BigInt), from docs/src/encodings.md and with circomlibjs's Poseidon and BabyJubjub.
// It shares nothing with the circuits, nor with the Rust and Solidity code.

import { createHash } from 'node:crypto';
import { buildBabyjub, buildPoseidon } from 'circomlibjs';
import sha3 from 'js-sha3';
import { PRIME } from './r1cs.mjs';

export { PRIME };
export const SUBGROUP_ORDER = 2736030358979909402780800718157159386076813972158567259200215660948447373041n;

const engine = await buildPoseidon();
const curve = await buildBabyjub();

export const mod = (x) => ((x % PRIME) + PRIME) % PRIME;
export const keccak = (bytes) => BigInt('0x' + sha3.keccak256(bytes));
export const word = (x) => Buffer.from(BigInt(x).toString(16).padStart(64, '0'), 'hex');

/** circomlib's Poseidon over exactly these inputs. */
export const poseidon = (...inputs) => engine.F.toObject(engine(inputs.map((x) => engine.F.e(mod(BigInt(x))))));

export const EMPTY_LEAF = keccak('tributary.empty.leaf') % PRIME;

export const hash = {
  pk: (sk) => poseidon(1, sk),
  owner: (pk, V) => poseidon(2, pk, V[0], V[1], 0),
  rho: (nf0, j, r) => poseidon(3, nf0, j, r, 0),
  value: (amount, owner, rho) => poseidon(4, amount, owner, rho, 0),
  nf: (sk, cm) => poseidon(5, sk, cm),
  stream: (s) => poseidon(6, s.payee, s.payerTag, s.rate, s.start, s.end, s.rho),
  payer: (ps) => poseidon(7, ps),
  ps: (k, nf0) => poseidon(8, k, nf0),
  rec: (cm, payerTag) => poseidon(9, cm, payerTag),
  seal: (K, n) => poseidon(10, K[0], K[1], n, 0),
  rhoClaim: (tag1, t01, r) => poseidon(11, tag1, t01, r, 0),
  list: (low, next) => poseidon(12, low, next),
  ticket: (ps, cm, slotStart, j) => poseidon(13, ps, cm, slotStart, j),
};

// --- Curve ---

const toPoint = (P) => P.map((c) => curve.F.e(c));
const fromPoint = (P) => P.map((c) => curve.F.toObject(c));
export const BASE8 = fromPoint(curve.Base8);
export const mul = (scalar, P = BASE8) => fromPoint(curve.mulPointEscalar(toPoint(P), scalar));

// --- Sealed memos ---

export const valueMessage = (amount, rho) => [2n * amount, rho, 0n];
export const streamMessage = (s) => [
  1n + 2n * s.rate + (1n << 97n) * s.start + (1n << 137n) * s.end,
  s.rho,
  s.payerTag,
];

/** { E, ct } of a message under the viewing key V, for output j. */
export function seal(esk, V, j, message) {
  const K = mul(esk, V);
  return { E: mul(esk), ct: message.map((m, i) => mod(m + hash.seal(K, 3 * j + i))) };
}

/** The message of a sealed memo, opened with the viewing scalar v. */
export function open(v, j, { E, ct }) {
  const K = mul(v, E);
  return ct.map((c, i) => mod(c - hash.seal(K, 3 * j + i)));
}

// --- Statements ---

export const TAGS = { transact: 21, close: 22, claim: 23, insert: 24 };

export function sponge(tag, x) {
  let state = BigInt(tag);
  for (let i = 0; i < x.length; i += 11) {
    state = poseidon(state, ...Array.from({ length: 11 }, (_, n) => x[i + n] ?? 0n));
  }
  return state;
}

/** keccak256 of a statement's packed words before reduction: also the EIP-3009 nonce of a deposit. */
export const statementKeccak = (tag, digest, x) => keccak(Buffer.concat([tag, digest, ...x].map(word)));

export const horner = (x, alpha) => x.reduce((sum, element) => mod(sum * alpha + element), 0n);

/** The three public inputs of a statement. */
export function statement(tag, x) {
  const digest = sponge(tag, x);
  const alpha = statementKeccak(tag, digest, x) % PRIME;
  return { digest, alpha, value: horner(x, alpha) };
}

// --- Trees ---

const emptySubtrees = [EMPTY_LEAF];
export function emptySubtree(height) {
  for (let h = emptySubtrees.length; h <= height; h++) {
    const below = emptySubtrees[h - 1];
    emptySubtrees.push(poseidon(below, below, below, below));
  }
  return emptySubtrees[height];
}

/** A sparse 4-ary tree. */
export class Tree {
  constructor(depth = 16) {
    this.depth = depth;
    this.levels = Array.from({ length: depth + 1 }, () => new Map());
  }

  node(level, index) {
    return this.levels[level].get(index) ?? emptySubtree(level);
  }

  set(index, leaf) {
    let at = BigInt(index);
    this.levels[0].set(at, leaf);
    for (let level = 0; level < this.depth; level++) {
      at >>= 2n;
      const children = [0n, 1n, 2n, 3n].map((c) => this.node(level, 4n * at + c));
      this.levels[level + 1].set(at, poseidon(...children));
    }
  }

  get root() {
    return this.node(this.depth, 0n);
  }

  /** The siblings from `level` up, in child order, own place left out. `index` counts nodes of that level. */
  path(index, level = 0) {
    const path = [];
    for (let at = BigInt(index), l = level; l < this.depth; l++, at >>= 2n) {
      path.push([0n, 1n, 2n, 3n].filter((c) => c !== (at & 3n)).map((c) => this.node(l, (at & ~3n) + c)));
    }
    return path;
  }
}

export const KEY_MASK = (1n << 248n) - 1n;

/** The stopped list of a slot: tags stopped before its end, appended in order of (stop, tag). */
export class StoppedList {
  constructor(records = []) {
    this.tree = new Tree();
    this.leaves = [];
    this.put(0, 0n, KEY_MASK);
    const order = [...records].sort((a, b) => (a.stop !== b.stop ? (a.stop < b.stop ? -1 : 1) : a.tag < b.tag ? -1 : 1));
    for (const { tag } of order) this.append(tag & KEY_MASK);
  }

  put(position, low, next) {
    this.leaves[position] = { low, next };
    this.tree.set(position, hash.list(low, next));
  }

  append(key) {
    if (key === 0n || key === KEY_MASK || this.leaves.some(({ low }) => low === key)) return;
    const position = this.leaves.findIndex(({ low, next }) => low < key && key < next);
    const { low, next } = this.leaves[position];
    this.put(position, low, key);
    this.put(this.leaves.length, key, next);
  }

  get root() {
    return this.tree.root;
  }

  /** The leaf that encloses a tag, with its place: what a ticket shows. */
  absence(tag) {
    const key = tag & KEY_MASK;
    const position = this.leaves.findIndex(({ low, next }) => low < key && key < next);
    if (position < 0) throw new Error(`tag ${tag} is stopped`);
    return this.at(position);
  }

  at(position) {
    const { low, next } = this.leaves[position];
    return { low, next, listIndex: BigInt(position), listPath: this.tree.path(position) };
  }
}

// --- Randomness that repeats ---

/** A deterministic stream of field elements, scalars and integers for a test's fixtures. */
export class Rng {
  constructor(seed) {
    this.seed = seed;
    this.count = 0;
  }

  bits(n) {
    let value = 0n;
    for (let i = 0; i < n; i += 256) {
      value = (value << 256n) | BigInt('0x' + createHash('sha256').update(`${this.seed}/${this.count++}`).digest('hex'));
    }
    return value & ((1n << BigInt(n)) - 1n);
  }

  fr() {
    return this.bits(512) % PRIME;
  }

  /** A scalar in 1 .. 2^250 - 1. */
  esk() {
    return this.bits(250) || 1n;
  }

  keys() {
    const sk = this.fr();
    const v = (this.bits(512) % (SUBGROUP_ORDER - 1n)) + 1n;
    const V = mul(v);
    const pk = hash.pk(sk);
    return { sk, pk, v, V, owner: hash.owner(pk, V) };
  }
}
