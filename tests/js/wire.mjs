// Requests byte by byte over a js-waku client's own connection: js-waku itself checks much before it sends, and tells its
// user no status.
import { randomUUID } from "node:crypto";

function varint(value) {
  const bytes = [];
  let rest = BigInt(value);
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Buffer.from([...bytes, Number(rest)]);
}

/** A protobuf message of [field number, integer, string or bytes]. */
export function protobuf(...fields) {
  return Buffer.concat(fields.map(([number, value]) => {
    if (typeof value === "number" || typeof value === "bigint") return Buffer.concat([varint(number << 3), varint(value)]);
    const bytes = Buffer.from(value);
    return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes]);
  }));
}

function read(bytes, at) {
  let value = 0n;
  for (let shift = 0n; ; shift += 7n) {
    const byte = bytes[at++];
    value |= BigInt(byte & 127) << shift;
    if (byte < 128) return [Number(value), at];
  }
}

/** What one-field-once responses say: field number to value. Those of Store, Filter and lightpush have the id in field 1,
 * the status in 10 and its description in 11. */
export function fields(bytes) {
  const found = {};
  for (let at = 0; at < bytes.length;) {
    let tag, value;
    [tag, at] = read(bytes, at);
    [value, at] = read(bytes, at);
    if ((tag & 7) === 2) {
      [value, at] = [bytes.subarray(at, at + value), at + value];
    }
    (found[tag >> 3] ??= []).push(value);
  }
  return found;
}

/** Sends one framed request, and returns the answer without its length. */
export async function ask(client, peer, protocol, request, length = request.length) {
  const stream = await client.libp2p.dialProtocol(peer, protocol);
  const sent = stream.sink([Buffer.concat([varint(length), request])]).catch(() => {});
  const chunks = [];
  for await (const chunk of stream.source) chunks.push(Buffer.from(chunk.subarray()));
  await sent;
  const [expected, at] = read(Buffer.concat(chunks), 0);
  const answer = Buffer.concat(chunks).subarray(at);
  if (answer.length !== expected) throw new Error(`an answer of ${answer.length} bytes instead of ${expected}`);
  return answer;
}

/** The status of the answer, which has to come with words and with the request's id. */
export async function status(client, peer, protocol, request, length) {
  const { 1: [id] = [""], 10: [code], 11: [words] = [] } = fields(await ask(client, peer, protocol, request, length));
  if (code !== 200 && !words?.length) throw new Error(`status ${code} without words`);
  return { code, id: id.toString(), words: words?.toString() };
}

export const newId = () => randomUUID();
