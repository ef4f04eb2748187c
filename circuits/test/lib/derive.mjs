// SPDX-License-Identifier: GPL-3.0-only
//
// From a circuit's private inputs to all its inputs: computes what the statement says, whatever the inputs are, so that a
// wrong input reaches the one constraint that must refuse it.

import { TAGS, hash, mod, mul, seal, statement, streamMessage, valueMessage } from './reference.mjs';

/** Nullifier of the value note in an input. */
function nullifier({ sk, V, amount, rho }) {
  return hash.nf(sk, hash.value(amount, hash.owner(hash.pk(sk), V), rho));
}

/** cm, E, ct of both outputs of a transact or a close. `terms` are those of output 0, all 0 for a value note. */
function outputs(nf0, i, terms) {
  const owner = [0, 1].map((j) => hash.owner(i.outPk[j], i.outV[j]));
  const rho = [0, 1].map((j) => hash.rho(nf0, j, i.outR[j]));
  const stream = { payee: owner[0], ...terms, rho: rho[0] };
  const message = [
    i.outIsStream === 1n ? streamMessage(stream) : valueMessage(i.outAmount[0], rho[0]),
    valueMessage(i.outAmount[1], rho[1]),
  ];
  const cm = [
    i.outIsStream === 1n ? hash.stream(stream) : hash.value(i.outAmount[0], owner[0], rho[0]),
    hash.value(i.outAmount[1], owner[1], rho[1]),
  ];
  const sealed = [0, 1].map((j) => seal(i.outEsk[j], i.outV[j], j, message[j]));
  return { cm, owner, rho, sealed, words: sealed.flatMap(({ E, ct }) => [...E, ...ct]) };
}

const finish = (tag, i, x, edit) => {
  const claimed = edit(x.map((element) => mod(element)));
  return { input: { ...i, ...statement(tag, claimed) }, x: claimed };
};

const same = (x) => x;

export function transact(i, edit = same) {
  const nf = [0, 1].map((n) => nullifier({ sk: i.inSk[n], V: i.inV[n], amount: i.inAmount[n], rho: i.inRho[n] }));
  const out = outputs(nf[0], i, { payerTag: i.payerTag, rate: i.rate, start: i.start, end: i.end });
  const x = [i.root, i.ext, i.amountIn, i.amountOut, ...nf, ...out.cm, ...out.words];
  return { ...finish(TAGS.transact, i, x, edit), nf, ...out };
}

export function close(i, edit = same) {
  const payerTag = hash.payer(i.ps);
  const cm = hash.stream({ payee: i.payee, payerTag, rate: i.rate, start: i.start, end: i.end, rho: i.rho });
  const tag = hash.rec(cm, payerTag);
  const nf = nullifier({ sk: i.inSk, V: i.inV, amount: i.inAmount, rho: i.inRho });
  const out = outputs(nf, i, { payerTag: i.outPayerTag, rate: i.outRate, start: i.outStart, end: i.outEnd });
  const x = [i.root, i.ext, tag, i.stop, i.amountOut, nf, ...out.cm, ...out.words];
  return { ...finish(TAGS.close, i, x, edit), nf, tag, ...out };
}

export function claim(i, edit = same) {
  const payee = hash.owner(hash.pk(i.sk), i.v);
  const tags = i.active.map((active, n) => {
    const stream = { payee, payerTag: i.payerTag[n], rate: i.rate[n], start: i.start[n], end: i.end[n], rho: i.rho[n] };
    return mod(active * hash.rec(hash.stream(stream), i.payerTag[n]));
  });
  const rho = hash.rhoClaim(tags[0], i.t0[0], i.outR);
  const cm = hash.value(i.outAmount, payee, rho);
  const { E, ct } = seal(i.outEsk, i.v, 0, valueMessage(i.outAmount, rho));
  const lanes = tags.flatMap((tag, n) => [tag, i.t0[n], i.t1[n]]);
  const x = [i.root, i.ext, i.amountOut, i.burnBps, cm, ...E, ...ct, ...lanes];
  return { ...finish(TAGS.claim, i, x, edit), tags, cm, rho, sealed: { E, ct } };
}

export function insert(i, edit = same) {
  return finish(TAGS.insert, i, [i.oldRoot, i.newRoot, i.batchIndex, i.k, i.m, ...i.leaf], edit);
}

/** Nullifiers of a ticket's inputs; a rating's has slot and j 0. */
export function ticket(i) {
  const payerTag = hash.payer(i.ps);
  const cm = hash.stream({ payee: i.payee, payerTag, rate: i.rate, start: i.start, end: i.end, rho: i.rho });
  const slot = i.price === 0n ? 0n : i.slotStart;
  const nf = [0n, 1n, 2n, 3n].map((n) => (n < i.count ? hash.ticket(i.ps, cm, slot, mod(i.j + n)) : 0n));
  return { input: { ...i, nf }, nf, cm, tag: hash.rec(cm, payerTag) };
}

export { mul };
