// Reads vectors.json with Node's own cryptography, from what docs/src/market.md says and nothing else.
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs';

const vectors = JSON.parse(fs.readFileSync(new URL('vectors.json', import.meta.url)));
const bytes = (hex) => Buffer.from(hex, 'hex');
const sha256 = (data) => crypto.createHash('sha256').update(data).digest();
const hkdf = (ikm, info, length) =>
  Buffer.from(crypto.hkdfSync('sha256', ikm, Buffer.from('tributary.sealed.v1'), info, length));
const publicKey = (prefix, raw) =>
  crypto.createPublicKey({ key: Buffer.concat([bytes(prefix), raw]), format: 'der', type: 'spki' });

// HChaCha20 (draft-irtf-cfrg-xchacha section 2.2), which Node lacks.
function hchacha20(key, nonce) {
  const state = new Uint32Array(16);
  state.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  for (let i = 0; i < 8; i += 1) state[4 + i] = key.readUInt32LE(4 * i);
  for (let i = 0; i < 4; i += 1) state[12 + i] = nonce.readUInt32LE(4 * i);
  const rotated = (value, by) => (value << by) | (value >>> (32 - by));
  const quarter = (a, b, c, d) => {
    for (const [first, second] of [[16, 12], [8, 7]]) {
      state[a] += state[b];
      state[d] = rotated(state[d] ^ state[a], first);
      state[c] += state[d];
      state[b] = rotated(state[b] ^ state[c], second);
    }
  };
  for (let round = 0; round < 10; round += 1) {
    for (let i = 0; i < 4; i += 1) quarter(i, 4 + i, 8 + i, 12 + i);
    for (let i = 0; i < 4; i += 1) quarter(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4));
  }
  const out = Buffer.alloc(32);
  [0, 1, 2, 3, 12, 13, 14, 15].forEach((word, i) => out.writeUInt32LE(state[word], 4 * i));
  return out;
}

// The sealed box.
const { sealed } = vectors;
const secret = hkdf(bytes(sealed.identity_secret), Buffer.from('node identity'), 32);
const pkcs8 = Buffer.concat([bytes('302e020100300506032b656e04220420'), secret]);
const privateKey = crypto.createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' });
const recipient = crypto.createPublicKey(privateKey).export({ format: 'der', type: 'spki' }).subarray(12);
assert.equal(recipient.toString('hex'), sealed.public_key);
assert.equal(`/tributary/1/request-${sha256(recipient).toString('hex').slice(0, 32)}/proto`, sealed.request_topic);

const box = bytes(sealed.box);
assert.equal(box[0], 1);
const ephemeral = box.subarray(1, 33);
const shared = crypto.diffieHellman({ privateKey, publicKey: publicKey('302a300506032b656e032100', ephemeral) });
const okm = hkdf(shared, Buffer.concat([ephemeral, recipient, sha256(bytes(sealed.context))]), 56);
const nonce = okm.subarray(32);
const decipher = crypto.createDecipheriv(
  'chacha20-poly1305',
  hchacha20(okm.subarray(0, 32), nonce.subarray(0, 16)),
  Buffer.concat([Buffer.alloc(4), nonce.subarray(16)]),
  { authTagLength: 16 },
);
decipher.setAAD(box.subarray(0, 33), { plaintextLength: box.length - 49 });
decipher.setAuthTag(box.subarray(-16));
const padded = Buffer.concat([decipher.update(box.subarray(33, -16)), decipher.final()]);
const end = 4 + padded.readUInt32BE(0);
assert.deepEqual(padded.subarray(4, end), bytes(sealed.message));
assert.equal(padded.length, 1024);
assert(padded.subarray(end).every((byte) => byte === 0));

// A message's fields by number: bytes, or numbers below 2^53.
function fieldsOf(message) {
  const fields = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at];
      at += 1;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return Number(value);
    }
  };
  while (at < message.length) {
    const tag = varint();
    if ((tag & 7) === 0) {
      fields.set(tag >> 3, varint());
      continue;
    }
    assert.equal(tag & 7, 2);
    const length = varint();
    fields.set(tag >> 3, message.subarray(at, at + length));
    at += length;
  }
  return fields;
}
const delimited = (data) => {
  const prefix = [];
  let rest = data.length;
  for (; rest > 0x7f; rest >>= 7) prefix.push((rest & 0x7f) | 0x80);
  return Buffer.concat([Buffer.from([...prefix, rest]), data]);
};
// A signed envelope's type and payload, once its signature holds.
function open(envelope) {
  const fields = fieldsOf(envelope);
  const [key, type, payload, signature] = [1, 2, 3, 5].map((field) => fields.get(field));
  const covered = Buffer.concat([Buffer.from('tributary.v1'), type, payload].map(delimited));
  // libp2p's encoding of an Ed25519 key: 08 01 12 20, then the key.
  assert(crypto.verify(null, covered, publicKey('302a300506032b6570032100', key.subarray(4)), signature));
  return [type.toString(), payload];
}

// The signed offer.
const [type, payload] = open(bytes(vectors.offer.envelope));
assert.equal(type, '/tributary/offer/1');
assert.equal(sha256(payload).toString('hex'), vectors.offer.offer_id);

// Negotiation: what a quote promises, and each refusal's number.
const refusals = { price_too_high: 6, load: 12, too_many_rounds: 14, malformed: 1 };
for (const { case: name, request, answer } of vectors.negotiation.answers) {
  const [kind, message] = open(bytes(answer));
  const [asked, told] = [name === 'malformed' ? new Map() : fieldsOf(bytes(request)), fieldsOf(message)];
  assert.equal(told.get(1), 1);
  assert.deepEqual(told.get(2)?.toString('hex'), asked.get(2)?.toString('hex'), name);
  if (name === 'quote') {
    assert.equal(kind, '/tributary/quote/1');
    assert.equal(told.get(4).toString('hex'), vectors.offer.offer_id);
    assert.deepEqual([told.get(10), told.get(11), told.get(15)], [asked.get(6), asked.get(8), vectors.negotiation.now]);
  } else {
    assert.equal(kind, '/tributary/refusal/1');
    assert.equal(told.get(3), refusals[name], name);
  }
}

// The terms hash.
const { terms } = vectors;
const service = Buffer.from(terms.service);
const numbers = Buffer.alloc(24);
numbers.writeUInt32BE(terms.rate_class, 0);
numbers.writeBigUInt64BE(BigInt(terms.duration), 4);
numbers.writeBigUInt64BE(BigInt(terms.start_deadline), 12);
numbers.writeUInt32BE(terms.load_cap, 20);
const length = Buffer.from([service.length >> 8, service.length & 0xff]);
const termsBytes = Buffer.concat([Buffer.from('tributary.terms.v1'), bytes(terms.offer_id), length, service, numbers]);
assert.equal(sha256(termsBytes).toString('hex'), terms.hash);

// What a lease's ticket signs, and the request that carries it.
const { lease } = vectors;
const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const number = [...lease.peer_id].reduce((sum, digit) => sum * 58n + BigInt(alphabet.indexOf(digit)), 0n);
// A PeerId of an Ed25519 key has 38 bytes, the first of them zero.
const peer = bytes(number.toString(16).padStart(76, '0'));
const leased = Buffer.from(lease.service);
const u16 = (value) => Buffer.from([value >> 8, value & 0xff]);
const slotAndQuota = Buffer.alloc(12);
slotAndQuota.writeBigUInt64BE(BigInt(lease.slot_start), 0);
slotAndQuota.writeUInt32BE(lease.quota, 8);
const leaseParts = [u16(peer.length), peer, u16(leased.length), leased, slotAndQuota];
assert.equal(Buffer.concat([Buffer.from('tributary.lease.v1'), ...leaseParts]).toString('hex'), lease.signed);
const uvarint = (value) => {
  const out = [];
  for (let rest = BigInt(value); ; rest >>= 7n) {
    out.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    if (rest <= 0x7fn) return Buffer.from(out);
  }
};
const field = (tag, data) => Buffer.concat([uvarint((tag << 3) | 2), uvarint(data.length), data]);
const numeric = (tag, value) => Buffer.concat([uvarint(tag << 3), uvarint(value)]);
const buy = Buffer.concat([
  field(1, peer),
  field(2, leased),
  numeric(3, lease.slot_start),
  numeric(4, lease.quota),
  field(5, bytes(lease.eligibility_proof)),
]);
assert.equal(Buffer.concat([numeric(1, 1), field(2, buy)]).toString('hex'), lease.buy);
assert.equal(Buffer.concat([numeric(1, 1), field(3, field(1, leased))]).toString('hex'), lease.query);
