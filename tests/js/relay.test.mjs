// js relay (@waku/relay) and our relay in one mesh.
import assert from "node:assert/strict";
import { test } from "node:test";

import { CLUSTER, OurNode, PATIENCE, text, until, within } from "./node.mjs";

const { noise } = await import("@chainsafe/libp2p-noise");
const { identify } = await import("@libp2p/identify");
const { mplex } = await import("@libp2p/mplex");
const { webSockets } = await import("@libp2p/websockets");
const { all: everyAddress } = await import("@libp2p/websockets/filters");
const { createDecoder, createEncoder, wakuMetadata } = await import("@waku/core");
const { wakuGossipSub, wakuRelay } = await import("@waku/relay");
const { createLibp2p } = await import("libp2p");

const SHARD = 7;
const PUBSUB = `/waku/2/rs/${CLUSTER}/${SHARD}`;
const TOPIC = "/app/20/mesh/text";
const MESSAGES = 1000;

/** A node of @waku/relay that counts what it gets. */
async function jsRelay() {
  const libp2p = await createLibp2p({
    addresses: { listen: ["/ip4/127.0.0.1/tcp/0/ws"] },
    transports: [webSockets({ filter: everyAddress })],
    streamMuxers: [mplex()],
    connectionEncryption: [noise()],
    // The limits of a machine with other work to do: a handshake, and the answer to one of the pings (each 10 s).
    connectionManager: { minConnections: 0, inboundUpgradeTimeout: PATIENCE, dialTimeout: PATIENCE },
    connectionMonitor: { pingTimeout: { minTimeout: 8000 } },
    services: { identify: identify(), metadata: wakuMetadata([PUBSUB]), pubsub: wakuGossipSub() },
  });
  const relay = wakuRelay([PUBSUB])(libp2p);
  const received = [];
  relay.subscribeWithUnsubscribe([createDecoder(TOPIC, PUBSUB)], (message) => received.push(message.payload));
  return { libp2p, relay, received };
}

test("three of ours and three of theirs: each message at each node exactly once", async () => {
  const ours = [];
  const theirs = [];
  try {
    for (let i = 0; i < 3; i += 1) theirs.push(await jsRelay());
    const addresses = theirs.map(({ libp2p }) => libp2p.getMultiaddrs()[0].toString());
    // Everybody is connected with everybody; theirs are dialed by ours, and by each other.
    for (let i = 0; i < 3; i += 1) ours.push(await OurNode.start({ peers: [...addresses, ...ours.map((o) => o.tcp)] }));
    for (const [i, { libp2p }] of theirs.entries()) {
      for (const other of theirs.slice(0, i)) await libp2p.dial(other.libp2p.getMultiaddrs());
    }
    await Promise.all(ours.map((node) => node.mesh(SHARD, 4)));
    await Promise.all(theirs.map(({ relay }) => until("a mesh", () => relay.getMeshPeers(PUBSUB).length >= 3)));

    const encoder = createEncoder({ contentTopic: TOPIC, pubsubTopic: PUBSUB });
    const sent = Array.from({ length: MESSAGES }, (_, i) => `mesh ${i}`);
    // Ours count their own messages, theirs don't.
    const own = theirs.map(() => new Set());
    for (const [i, payload] of sent.entries()) {
      const from = i % 6;
      if (from < 3) {
        await ours[from].publish(TOPIC, payload);
      } else {
        const { successes } = await theirs[from - 3].relay.send(encoder, { payload: text(payload) });
        assert.ok(successes.length > 0, payload);
        own[from - 3].add(payload);
      }
    }
    const expected = theirs.map((_, i) => sent.filter((payload) => !own[i].has(payload)));
    await until("1,000 messages at each node", () =>
      ours.every((node) => node.received.length >= MESSAGES)
      && theirs.every((node, i) => node.received.length >= expected[i].length));
    // A second copy would come while these go round: one from each.
    for (const [i, node] of ours.entries()) await node.publish(TOPIC, `last ${i}`);
    const last = ours.map((_, i) => `last ${i}`);
    await until("the last messages", () =>
      ours.every((node) => node.received.length >= MESSAGES + 3)
      && theirs.every((node, i) => node.received.length >= expected[i].length + 3));
    for (const [i, { received }] of theirs.entries()) {
      const got = received.map((bytes) => Buffer.from(bytes).toString());
      assert.deepEqual(got.sort(), [...expected[i], ...last].sort());
    }
    const [hashes] = ours.map((node) => [...node.received].sort());
    assert.equal(new Set(hashes).size, MESSAGES + 3);
    for (const node of ours) assert.deepEqual([...node.received].sort(), hashes);
  } finally {
    // Ours first: they would dial theirs again, whose end would then wait for those connections.
    await Promise.all(ours.map((node) => node.stop()));
    await within("the end of their nodes", Promise.all(theirs.map(({ libp2p }) => libp2p.stop())));
  }
});
