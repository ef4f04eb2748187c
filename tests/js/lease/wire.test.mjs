// The messages of leases and the table of refusals, against what the Rust programs write (crates/market/tests/market/vectors.json).
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { REFUSALS } from "../../../js/lease/src/errors.js";
import { FrameReader, MAX_MESSAGE_BYTES, decodeAnswer, encodeBuy, encodeQuery, frame, peerIdBytes } from "../../../js/lease/src/wire.js";

const vectors = JSON.parse(await readFile(new URL("../../../crates/market/tests/market/vectors.json", import.meta.url)));
const { lease } = vectors;
const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));
const buy = { peerId: lease.peer_id, service: lease.service, slotStart: lease.slot_start, quota: lease.quota, eligibilityProof: bytes(lease.eligibility_proof) };
const refused = (wanted, body) => assert.throws(body, ({ name, code }) => name === "LeaseError" && code === wanted, wanted);
/** A length-delimited field. */
const field = (number, body) => [number * 8 + 2, ...frame(Uint8Array.from(body))];
const OK = field(2, [0x08, 0xc8, 0x01]);
const answer = (...parts) => Uint8Array.from([0x08, 1, ...parts.flat(), 0x20, 5]);

test("requests have the bytes that the Rust programs write", () => {
  assert.equal(hex(encodeBuy(buy)), lease.buy);
  assert.equal(hex(encodeQuery(lease.service)), lease.query);
});

test("answers are read as the Rust programs wrote them", () => {
  const start = lease.slot_start;
  assert.deepEqual(decodeAnswer(bytes(lease.response)), {
    status: 200,
    description: "OK",
    lease: {
      service: "filter",
      slots: [{ start, quota: 10, used: 4 }, { start: start + 60, quota: 20, used: 0 }],
      until: start + 135,
      grace: 15,
    },
    now: start + 5,
  });
  const { status, description, lease: held, now } = decodeAnswer(bytes(lease.refused));
  assert.deepEqual([status, held, now], [40307, undefined, start + 5]);
  assert.match(description, /^full: all 75 leases are given/);
});

test("every refusal has the name, code and remedy that it has in Rust", () => {
  const { tickets, terms } = lease.refusals;
  assert.equal(REFUSALS.size, tickets.length + terms.length);
  for (const { status, ...rest } of tickets) assert.deepEqual(REFUSALS.get(status), rest, `${status}`);
  for (const { status, reason, code } of terms) {
    const known = REFUSALS.get(status);
    assert.deepEqual([known.reason, known.code], [reason, code], `${status}`);
  }
});

test("requests out of range are not made", () => {
  refused("TRB-M008", () => encodeQuery("Filter"));
  refused("TRB-M008", () => encodeQuery(""));
  refused("TRB-M008", () => encodeBuy({ ...buy, peerId: "0OIl" }));
  refused("TRB-M007", () => encodeBuy({ ...buy, quota: 0 }));
  refused("TRB-M007", () => encodeBuy({ ...buy, quota: 2 ** 32 }));
  refused("TRB-M007", () => encodeBuy({ ...buy, slotStart: 1.5 }));
  refused("TRB-M001", () => encodeBuy({ ...buy, eligibilityProof: new Uint8Array(2048) }));
  assert.equal(peerIdBytes(lease.peer_id).length, 38);
});

test("answers that are not what they must be are refused by their own codes", () => {
  assert.equal(decodeAnswer(answer(OK)).status, 200);
  // Fields that this version doesn't know are passed over.
  assert.equal(decodeAnswer(answer(OK, field(9, [1, 2, 3]), [0x50, 7])).status, 200);
  refused("TRB-M001", () => decodeAnswer(new Uint8Array(MAX_MESSAGE_BYTES + 1)));
  refused("TRB-M003", () => decodeAnswer(new Uint8Array(0)));
  refused("TRB-M003", () => decodeAnswer(Uint8Array.from([0x08, 2, ...OK])));
  refused("TRB-M004", () => decodeAnswer(answer()));
  refused("TRB-M004", () => decodeAnswer(answer(field(2, []))));
  refused("TRB-M007", () => decodeAnswer(answer(field(2, [0x08, ...Array(9).fill(0xff), 0x01]))));
  refused("TRB-M007", () => decodeAnswer(answer(OK, field(3, field(1, [0x66])))));
  refused("TRB-M008", () => decodeAnswer(answer(field(2, [0x08, 0xc8, 0x01, ...field(2, [0x1b, 0x5b])]))));
  refused("TRB-M002", () => decodeAnswer(answer(field(2, [0x08, 0xc8, 0x01, ...field(2, [0xff])]))));
  refused("TRB-M002", () => decodeAnswer(answer([0x10, 5])));
  const slot = (start) => field(2, [0x08, start, 0x10, 1]);
  const held = (...slots) => answer(OK, field(3, [...field(1, [0x66]), ...slots.flat(), 0x18, 9]));
  assert.deepEqual(decodeAnswer(held(slot(1), slot(2))).lease.slots.map(({ start }) => start), [1, 2]);
  refused("TRB-M008", () => decodeAnswer(held(slot(2), slot(1))));
  refused("TRB-M008", () => decodeAnswer(held(slot(1), slot(1))));
  refused("TRB-M007", () => decodeAnswer(held(slot(1), slot(2), slot(3), slot(4))));
  refused("TRB-M007", () => decodeAnswer(held(...Array.from({ length: 40 }, (_, i) => slot(i + 1)))));
});

test("whatever is cut off or changed is read or refused, nothing else", () => {
  const whole = bytes(lease.response);
  let read = 0;
  const tried = (data) => {
    try {
      decodeAnswer(data);
      read += 1;
    } catch (error) {
      assert.equal(error.name, "LeaseError", error.stack);
    }
  };
  for (let length = 0; length < whole.length; length += 1) tried(whole.subarray(0, length));
  for (let at = 0; at < whole.length; at += 1) {
    for (let value = 0; value < 256; value += 1) {
      const changed = whole.slice();
      changed[at] = value;
      tried(changed);
    }
  }
  assert.ok(read > whole.length, "each byte as it is, at least");
});

test("a frame is read from any pieces, and no more than it may have", () => {
  const body = bytes(lease.response);
  const framed = frame(body);
  const reader = new FrameReader();
  for (const byte of framed.subarray(0, -1)) assert.equal(reader.push(Uint8Array.of(byte)), undefined);
  assert.deepEqual(reader.push(framed.subarray(-1)), body);
  assert.deepEqual(new FrameReader().push(Uint8Array.from([...framed, 1, 2, 3])), body);
  assert.deepEqual(new FrameReader().push(frame(new Uint8Array(MAX_MESSAGE_BYTES)))?.length, MAX_MESSAGE_BYTES);
  refused("TRB-M001", () => new FrameReader().push(frame(new Uint8Array(MAX_MESSAGE_BYTES + 1))));
  refused("TRB-M001", () => new FrameReader().push(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0x7f)));
  refused("TRB-M002", () => new FrameReader().push(new Uint8Array(6).fill(0x80)));
});
