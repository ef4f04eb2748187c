/**
 * The messages of `/tributary/lease/1` (proto/tributary/v1/lease.proto), and nothing else of protobuf. What comes is measured before it is read,
 * and is understood whole or refused.
 * @module
 */
import { LeaseError, code } from "./errors.js";

export const PROTOCOL = "/tributary/lease/1";
/** Largest request and answer, bytes. */
export const MAX_MESSAGE_BYTES = 2048;

const VERSION = 1;
const MAX_SLOTS = 3;
const MAX_DESCRIPTION = 512;
const MAX_PEER_ID = 64;
const MAX_GRACE = 600;
/** Times are below 2^40 s. */
const MAX_TIME = 2 ** 40 - 1;
const MAX_U32 = 2 ** 32 - 1;
const SERVICE = /^[a-z0-9./-]{1,64}$/;
/** A length of a frame has at most 35 bits. */
const MAX_PREFIX_BYTES = 5;

const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/** @typedef {{ start: number, quota: number, used: number }} LeasedSlot Start in Unix seconds. */
/** @typedef {{ service: string, slots: LeasedSlot[], until: number, grace: number }} HeldLease Times in Unix seconds, grace in seconds. */
/** @typedef {{ status: number, description: string, lease?: HeldLease, now: number }} LeaseAnswer */

const malformed = (why) => new LeaseError(code.undecodable, `the lease response can't be decoded: ${why}`);

function inRange(field, value, min, max) {
  if (!(Number.isSafeInteger(value) && value >= min && value <= max)) {
    throw new LeaseError(code.range, `${field} is ${value}, allowed are ${min} to ${max}`);
  }
  return value;
}

function serviceId(field, text) {
  if (!SERVICE.test(text)) throw new LeaseError(code.invalid, `${field} is no service's id`);
  return text;
}

/**
 * The bytes of a PeerId written in base58, as PeerId's toString() gives it.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function peerIdBytes(text) {
  if (typeof text !== "string" || text.length === 0 || text.length > 2 * MAX_PEER_ID) {
    throw new LeaseError(code.invalid, "the PeerId is empty or too long");
  }
  const digits = [];
  for (const char of text) {
    let carry = BASE58.indexOf(char);
    if (carry < 0) throw new LeaseError(code.invalid, "the PeerId is not written in base58");
    for (let i = 0; i < digits.length; i += 1) {
      carry += digits[i] * 58;
      digits[i] = carry & 0xff;
      carry >>= 8;
    }
    while (carry > 0) {
      digits.push(carry & 0xff);
      carry >>= 8;
    }
  }
  for (const char of text) {
    if (char !== "1") break;
    digits.push(0);
  }
  inRange("peer_id", digits.length, 1, MAX_PEER_ID);
  return Uint8Array.from(digits.reverse());
}

// Writing.

function varint(value) {
  const out = [];
  let rest = value;
  for (; rest > 0x7f; rest = Math.floor(rest / 128)) out.push((rest % 128) | 0x80);
  out.push(rest);
  return out;
}

/** A field that is zero is left out, as proto3 has it. */
const number = (field, value) => (value === 0 ? [] : [...varint(field * 8), ...varint(value)]);
const bytes = (field, value) => (value.length === 0 ? [] : [...varint(field * 8 + 2), ...varint(value.length), ...value]);
const message = (field, value) => [...varint(field * 8 + 2), ...varint(value.length), ...value];
const utf8 = (text) => new TextEncoder().encode(text);

function request(field, body) {
  const encoded = Uint8Array.from([...number(1, VERSION), ...message(field, body)]);
  if (encoded.length > MAX_MESSAGE_BYTES) {
    throw new LeaseError(code.tooLarge, `the lease request has ${encoded.length} bytes, at most ${MAX_MESSAGE_BYTES} are allowed`);
  }
  return encoded;
}

/**
 * A request that buys quota for a slot.
 * @param {{ peerId: string, service: string, slotStart: number, quota: number, eligibilityProof: Uint8Array }} lease
 * @returns {Uint8Array}
 */
export function encodeBuy({ peerId, service, slotStart, quota, eligibilityProof }) {
  return request(2, [
    ...bytes(1, peerIdBytes(peerId)),
    ...bytes(2, utf8(serviceId("service", service))),
    ...number(3, inRange("slot_start", slotStart, 0, MAX_TIME)),
    ...number(4, inRange("quota", quota, 1, MAX_U32)),
    ...bytes(5, eligibilityProof),
  ]);
}

/**
 * A request that asks what the sender has of a service.
 * @param {string} service
 * @returns {Uint8Array}
 */
export const encodeQuery = (service) => request(3, bytes(1, utf8(serviceId("service", service))));

/**
 * A message with its length before it.
 * @param {Uint8Array} body
 * @returns {Uint8Array}
 */
export function frame(body) {
  const prefix = varint(body.length);
  const out = new Uint8Array(prefix.length + body.length);
  out.set(prefix);
  out.set(body, prefix.length);
  return out;
}

// Reading.

/**
 * Takes chunks until one frame is whole. Memory grows with what came, never with what was announced.
 */
export class FrameReader {
  #held = new Uint8Array(0);
  #limit;

  /** @param {number} [limit] Largest body, bytes. */
  constructor(limit = MAX_MESSAGE_BYTES) {
    this.#limit = limit;
  }

  /**
   * The frame's body once it is there; what follows it is not looked at.
   * @param {Uint8Array} chunk
   * @returns {Uint8Array | undefined}
   */
  push(chunk) {
    // Beyond a whole frame nothing is kept.
    const room = this.#limit + MAX_PREFIX_BYTES - this.#held.length;
    const kept = chunk.subarray(0, room);
    const held = new Uint8Array(this.#held.length + kept.length);
    held.set(this.#held);
    held.set(kept, this.#held.length);
    this.#held = held;
    let length = 0;
    for (let i = 0; i < held.length; i += 1) {
      if (i === MAX_PREFIX_BYTES) throw malformed("its length has too many bytes");
      length += (held[i] & 0x7f) * 128 ** i;
      if (held[i] >= 0x80) continue;
      if (length > this.#limit) {
        throw new LeaseError(code.tooLarge, `the lease response has ${length} bytes, at most ${this.#limit} are allowed`);
      }
      const body = held.subarray(i + 1, i + 1 + length);
      return body.length === length ? body : undefined;
    }
    return undefined;
  }
}

/** The fields of a message, in order. Unknown ones are passed over by the caller. */
function* fields(data) {
  let at = 0;
  const read = () => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (at >= data.length) throw malformed("it ends within a number");
      const byte = data[at];
      at += 1;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) {
        if (value >= 1n << 64n) throw malformed("a number has more than 64 bits");
        return value;
      }
    }
    throw malformed("a number has more than 10 bytes");
  };
  const take = (length) => {
    if (length > BigInt(data.length - at)) throw malformed("it ends within a field");
    const value = data.subarray(at, at + Number(length));
    at += Number(length);
    return value;
  };
  while (at < data.length) {
    const tag = read();
    const [field, type] = [tag >> 3n, Number(tag & 7n)];
    if (field === 0n || field >= 1n << 29n) throw malformed("a field's number is out of range");
    switch (type) {
      case 0: yield { field: Number(field), type, value: read() }; break;
      case 1: yield { field: Number(field), type, value: take(8n) }; break;
      case 2: yield { field: Number(field), type, value: take(read()) }; break;
      case 5: yield { field: Number(field), type, value: take(4n) }; break;
      default: throw malformed(`a field has type ${type}`);
    }
  }
}

/**
 * Reads a message: `numbers` and `parts` name its fields by number. A field that comes twice counts as it came last, a list as it came in all.
 */
function read(data, { numbers = {}, parts = {}, lists = {} }) {
  const out = {};
  for (const name of Object.values(numbers)) out[name] = 0n;
  for (const name of Object.values(lists)) out[name] = [];
  for (const { field, type, value } of fields(data)) {
    const wanted = numbers[field] === undefined ? 2 : 0;
    const name = numbers[field] ?? parts[field] ?? lists[field];
    if (name === undefined) continue;
    if (type !== wanted) throw malformed(`${name} has type ${type}`);
    if (lists[field] !== undefined) {
      if (out[name].length > MAX_SLOTS) throw new LeaseError(code.range, `more than ${MAX_SLOTS} slots are in a lease`);
      out[name].push(value);
    } else {
      out[name] = value;
    }
  }
  return out;
}

/** Larger numbers than a Number holds are out of every range here. */
const small = (field, value, min, max) => {
  if (value < BigInt(min) || value > BigInt(max)) {
    throw new LeaseError(code.range, `${field} is ${value}, allowed are ${min} to ${max}`);
  }
  return Number(value);
};

function text(field, data, max) {
  small(`${field}'s length`, BigInt(data.length), 0, max);
  let out;
  try {
    out = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw malformed(`${field} is no UTF-8`);
  }
  // It may end up on a terminal.
  if (/\p{Cc}/u.test(out)) throw new LeaseError(code.invalid, `${field} has control characters`);
  return out;
}

function readLease(data) {
  const { service = new Uint8Array(0), slots, until, grace } =
    read(data, { parts: { 1: "service" }, lists: { 2: "slots" }, numbers: { 3: "until", 4: "grace" } });
  small("the number of leased slots", BigInt(slots.length), 1, MAX_SLOTS);
  const leased = slots.map((slot) => {
    const { start, quota, used } = read(slot, { numbers: { 1: "start", 2: "quota", 3: "used" } });
    return {
      start: small("lease.slot_start", start, 0, MAX_TIME),
      quota: small("lease.quota", quota, 0, MAX_U32),
      used: small("lease.used", used, 0, MAX_U32),
    };
  });
  if (leased.some((slot, i) => i > 0 && slot.start <= leased[i - 1].start)) {
    throw new LeaseError(code.invalid, "the leased slots are not ascending");
  }
  return {
    service: serviceId("lease.service", text("lease.service", service, 64)),
    slots: leased,
    until: small("lease.until", until, 0, MAX_TIME),
    grace: small("lease.grace", grace, 0, MAX_GRACE),
  };
}

/**
 * Reads a provider's answer.
 * @param {Uint8Array} data
 * @returns {LeaseAnswer}
 */
export function decodeAnswer(data) {
  if (data.length > MAX_MESSAGE_BYTES) {
    throw new LeaseError(code.tooLarge, `the lease response has ${data.length} bytes, at most ${MAX_MESSAGE_BYTES} are allowed`);
  }
  const { version, status, lease, now } =
    read(data, { numbers: { 1: "version", 4: "now" }, parts: { 2: "status", 3: "lease" } });
  if (version !== BigInt(VERSION)) {
    throw new LeaseError(code.version, `the lease response has version ${version}, this program reads version ${VERSION}`);
  }
  if (status === undefined) throw new LeaseError(code.missing, "status is missing");
  const { code: number = 0n, description } =
    read(status, { numbers: { 1: "code" }, parts: { 2: "description" } });
  if (number === 0n) throw new LeaseError(code.missing, "status_code is missing");
  return {
    status: small("status_code", number, 1, MAX_U32),
    description: description === undefined ? "" : text("status_desc", description, MAX_DESCRIPTION),
    lease: lease === undefined ? undefined : readLease(lease),
    now: small("now", now, 0, MAX_TIME),
  };
}
