// Node records and discv5 of the Rust node against @chainsafe/enr, @waku/enr and @chainsafe/discv5.
//
// The Rust node is `cargo build --workspace --example discover`; DISCOVER names it if it isn't in target/debug.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { Discv5 } from "@chainsafe/discv5";
import { ENR, SignableENR } from "@chainsafe/enr";
import { generateKeyPair } from "@libp2p/crypto/keys";
import { multiaddr } from "@multiformats/multiaddr";
import { EnrCreator, EnrDecoder } from "@waku/enr";
// The package doesn't export it.
import { EnrEncoder } from "./node_modules/@waku/enr/dist/encoder.js";

const PROGRAM = process.env.DISCOVER ?? new URL("../../../target/debug/examples/discover", import.meta.url).pathname;
const PATIENCE = 30_000;

const RS = Uint8Array.from([0, 73, 2, 0, 1, 0, 10]);
const RELAY_AND_STORE = Uint8Array.from([3]);

const stops = [];
after(() => Promise.all(stops.map((stop) => stop())));

/** Waits until `look` is true, looked at again at each event of `listen`. */
function until(what, listen, look) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE);
    const check = () => {
      if (look()) {
        clearTimeout(timer);
        resolve();
      }
    };
    listen(check);
    check();
  });
}

/** A running Rust node of cluster 73. */
async function rustNode(...records) {
  const child = spawn(PROGRAM, ["73", "1,10", ...records], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const lines = [];
  const listeners = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    listeners.forEach((listener) => listener());
  });
  stops.push(() => (child.stdin.end(), ended));
  const says = (what, look) => until(what, (check) => listeners.push(check), () => lines.some(look));
  await says("a record", (line) => line.startsWith("own "));
  const record = lines[0].slice("own ".length);
  return { record, enr: ENR.decodeTxt(record), finds: (nodeId) =>
    says(`finding ${nodeId}`, (line) => line.startsWith("found ") && ENR.decodeTxt(line.slice(6)).nodeId === nodeId) };
}

/** A running JavaScript node of the same network, that has Waku's protocol id by d5waku.mjs. */
async function jsNode(...records) {
  const privateKey = await generateKeyPair("secp256k1");
  const enr = SignableENR.createFromPrivateKey(privateKey, { waku2: RELAY_AND_STORE, rs: RS });
  const port = await freePort();
  enr.setLocationMultiaddr(multiaddr(`/ip4/127.0.0.1/udp/${port}`));
  const discv5 = Discv5.create({
    enr,
    privateKey,
    bindAddrs: { ip4: multiaddr(`/ip4/127.0.0.1/udp/${port}`) },
    config: { enrUpdate: false, lookupTimeout: 5000 },
  });
  const seen = new Set();
  const listeners = [];
  discv5.on("discovered", (found) => {
    seen.add(found.nodeId);
    listeners.forEach((listener) => listener());
  });
  records.forEach((record) => discv5.addEnr(record));
  await discv5.start();
  stops.push(() => discv5.stop());
  return { discv5, enr, record: enr.encodeTxt(), seen, listeners };
}

async function freePort() {
  const { createSocket } = await import("node:dgram");
  const socket = createSocket("udp4");
  await new Promise((resolve) => socket.bind(0, "127.0.0.1", resolve));
  const { port } = socket.address();
  await new Promise((resolve) => socket.close(resolve));
  return port;
}

test("@chainsafe/enr reads and verifies our record", async () => {
  const { record, enr } = await rustNode();
  assert.equal(enr.encodeTxt(), record);
  assert.equal(enr.keypairType, "secp256k1");
  assert.equal(enr.ip, "127.0.0.1");
  assert.ok(enr.udp > 0 && enr.tcp > 0);
  assert.deepEqual([...enr.kvs.get("waku2")], [1]);
  assert.deepEqual([...enr.kvs.get("rs")], [...RS]);
  assert.deepEqual([...enr.kvs.get("trb")], [1]);
  const bytes = enr.encode();
  assert.ok(bytes.length <= 300);
  bytes[bytes.length - 1] ^= 1;
  assert.throws(() => ENR.decode(bytes), "a forged record");
});

test("@waku/enr reads our record", async () => {
  const { record, enr } = await rustNode();
  const read = await EnrDecoder.fromString(record);
  assert.deepEqual(read.waku2, { ...read.waku2, relay: true, store: false, filter: false, lightPush: false });
  assert.deepEqual(read.shardInfo, { clusterId: 73, shards: [1, 10] });
  assert.equal(read.peerId.toString(), enr.peerId.toString());
  assert.equal(read.tcp, enr.tcp);
  assert.equal(read.peerInfo.multiaddrs[0].toString(), `/ip4/127.0.0.1/tcp/${enr.tcp}/p2p/${enr.peerId}`);
});

test("we read records of @waku/enr and @chainsafe/enr", async () => {
  const privateKey = await generateKeyPair("secp256k1");
  const waku = EnrCreator.fromPublicKey(privateKey.publicKey.raw, { rs: RS });
  waku.ip = "127.0.0.1";
  // Ports below 256 get a leading zero from these packages, which is no valid RLP number.
  waku.tcp = 30303;
  waku.udp = 9000;
  waku.waku2 = { relay: true, store: true, filter: false, lightPush: true };
  waku.multiaddrs = [multiaddr("/dns4/node.example/tcp/8000/wss")];
  const theirs = await EnrEncoder.toString(waku, privateKey.raw);
  const { nodeId } = ENR.decodeTxt(theirs);
  const otherKey = await generateKeyPair("secp256k1");
  const other = SignableENR.createFromPrivateKey(otherKey, { waku2: RELAY_AND_STORE, rs: RS });
  other.setLocationMultiaddr(multiaddr("/ip4/127.0.0.1/udp/9001"));
  // Configured records of the network count as found.
  const node = await rustNode(theirs, other.encodeTxt());
  await Promise.all([node.finds(nodeId), node.finds(other.nodeId)]);
});

test("a JavaScript node that knows nobody finds us", async () => {
  const js = await jsNode();
  const rust = await rustNode(js.record);
  // We came to it by its record, and it keeps us.
  const known = () => js.discv5.getKadValue(rust.enr.nodeId) !== undefined;
  await until("the JavaScript node's table", (check) => js.discv5.on("enrAdded", check), known);
});

test("nodes find each other, and the other kind, through one they know", async () => {
  // Two Rust nodes know only a JavaScript node.
  const js = await jsNode();
  const [a, b] = await Promise.all([rustNode(js.record), rustNode(js.record)]);
  await Promise.all([a.finds(b.enr.nodeId), b.finds(a.enr.nodeId)]);
  // Another JavaScript node knows only a Rust one.
  const second = await jsNode(a.record);
  const sees = (id) => until(`seeing ${id}`, (check) => second.listeners.push(check), () => second.seen.has(id));
  const lookups = (async () => {
    while (!second.seen.has(b.enr.nodeId) && second.discv5.isStarted()) await second.discv5.findRandomNode();
  })();
  await sees(b.enr.nodeId);
  await lookups;
  // The second Rust node was never told of it.
  await b.finds(second.enr.nodeId);
  assert.ok(second.discv5.findEnr(a.enr.nodeId), "it keeps the node that it began with");
});
