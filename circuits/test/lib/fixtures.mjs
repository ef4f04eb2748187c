// SPDX-License-Identifier: GPL-3.0-only
//
// A small pool for tests: a tree with notes of several owners at scattered places, and the private inputs of honest
// transactions over it.

import { Rng, StoppedList, Tree, hash } from './reference.mjs';

const ZERO_PATH = (depth) => Array.from({ length: depth }, () => [0n, 0n, 0n]);

export class Pool {
  constructor(seed) {
    this.rng = new Rng(seed);
    this.tree = new Tree();
    this.alice = this.rng.keys();
    this.bob = this.rng.keys();
    // Neighbours, so that paths have siblings that are not empty.
    for (const index of [0n, 1n, 5n, 17n, 300n]) this.tree.set(index, this.rng.fr());
  }

  /** A value note in the tree. */
  note(keys, amount, index) {
    const rho = this.rng.fr();
    this.tree.set(index, hash.value(amount, keys.owner, rho));
    return { sk: keys.sk, V: keys.V, amount, rho, index };
  }

  /** A note of amount 0 that is in no tree. */
  dummy() {
    const { sk, V } = this.rng.keys();
    return { sk, V, amount: 0n, rho: this.rng.fr(), index: null };
  }

  /** A stream note in the tree. */
  stream({ payee, rate, start, end, index, ps = this.rng.fr() }) {
    const payerTag = hash.payer(ps);
    const rho = this.rng.fr();
    const cm = hash.stream({ payee, payerTag, rate, start, end, rho });
    this.tree.set(index, cm);
    return { payee, ps, payerTag, rate, start, end, rho, index, cm, tag: hash.rec(cm, payerTag) };
  }

  pathOf(index) {
    return index === null ? ZERO_PATH(16) : this.tree.path(index);
  }

  outputs({ isStream = 0n, to, amount }) {
    return {
      outIsStream: isStream,
      outPk: to.map(({ pk }) => pk),
      outV: to.map(({ V }) => V),
      outAmount: amount,
      outR: [this.rng.fr(), this.rng.fr()],
      outEsk: [this.rng.esk(), this.rng.esk()],
    };
  }

  transact({ notes, amountIn = 0n, amountOut = 0n, to = [this.alice, this.alice], amount, stream }) {
    return {
      root: this.tree.root,
      ext: this.rng.fr(),
      amountIn,
      amountOut,
      inSk: notes.map((n) => n.sk),
      inV: notes.map((n) => n.V),
      inAmount: notes.map((n) => n.amount),
      inRho: notes.map((n) => n.rho),
      inIndex: notes.map((n) => n.index ?? 0n),
      inPath: notes.map((n) => this.pathOf(n.index)),
      ...this.outputs({ isStream: stream ? 1n : 0n, to, amount }),
      rate: stream?.rate ?? 0n,
      start: stream?.start ?? 0n,
      end: stream?.end ?? 0n,
      payerTag: stream ? hash.payer(this.rng.fr()) : 0n,
    };
  }

  close({ stream, stop, note = this.dummy(), amountOut = 0n, to = [this.alice, this.alice], amount, reopen }) {
    return {
      root: this.tree.root,
      ext: this.rng.fr(),
      stop,
      amountOut,
      payee: stream.payee,
      ps: stream.ps,
      rate: stream.rate,
      start: stream.start,
      end: stream.end,
      rho: stream.rho,
      index: stream.index,
      path: this.pathOf(stream.index),
      inSk: note.sk,
      inV: note.V,
      inAmount: note.amount,
      inRho: note.rho,
      inIndex: note.index ?? 0n,
      inPath: this.pathOf(note.index),
      ...this.outputs({ isStream: reopen ? 1n : 0n, to, amount }),
      outRate: reopen?.rate ?? 0n,
      outStart: reopen?.start ?? 0n,
      outEnd: reopen?.end ?? 0n,
      outPayerTag: reopen ? hash.payer(this.rng.fr()) : 0n,
    };
  }

  /** `lanes`: [{ stream, t0, t1 }] or null for an inactive lane; the note takes all that is not paid out. */
  claim({ keys = this.bob, lanes, burnBps = 0n, amountOut = 0n }) {
    const of = (field, otherwise = 0n) => lanes.map((lane) => (lane ? lane.stream[field] : otherwise));
    const sum = lanes.reduce((total, lane) => {
      if (!lane) return total;
      const { rate, start, end } = lane.stream;
      const from = lane.t0 > start ? lane.t0 : start;
      const to = lane.t1 < end ? lane.t1 : end;
      return to > from ? total + rate * (to - from) : total;
    }, 0n);
    const burn = (sum * burnBps) / 10000n;
    return {
      root: this.tree.root,
      ext: this.rng.fr(),
      amountOut,
      burnBps,
      sk: keys.sk,
      v: keys.V,
      active: lanes.map((lane) => (lane ? 1n : 0n)),
      payerTag: of('payerTag'),
      rate: of('rate'),
      start: of('start'),
      end: of('end'),
      rho: of('rho'),
      index: of('index'),
      path: lanes.map((lane) => this.pathOf(lane ? lane.stream.index : null)),
      t0: lanes.map((lane) => lane?.t0 ?? 0n),
      t1: lanes.map((lane) => lane?.t1 ?? 0n),
      burn,
      rem: (sum * burnBps) % 10000n,
      outAmount: sum - burn - amountOut,
      outR: this.rng.fr(),
      outEsk: this.rng.esk(),
    };
  }

  ticket({ stream, price, slotStart, slotEnd, count = 1n, minStreamed = 0n, j = 0n, stopped = new StoppedList() }) {
    return {
      root: this.tree.root,
      stoppedRoot: stopped.root,
      payee: stream.payee,
      price,
      slotStart,
      slotEnd,
      count,
      minStreamed,
      message: this.rng.fr(),
      ps: stream.ps,
      rate: stream.rate,
      start: stream.start,
      end: stream.end,
      rho: stream.rho,
      index: stream.index,
      path: this.pathOf(stream.index),
      ...stopped.absence(stream.tag),
      j,
    };
  }
}
