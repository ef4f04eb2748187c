// What our node answers to wrong requests, each with its status.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { CLUSTER, OurNode, PATIENCE, SHARDS, folder, within } from "./node.mjs";
import { ask, fields, newId, protobuf, status } from "./wire.mjs";

const { createLightNode, Protocols } = await import("@waku/sdk");

const LIGHTPUSH = "/vac/waku/lightpush/3.0.0";
const FILTER = "/vac/waku/filter-subscribe/2.0.0-beta1";
const STORE = "/vac/waku/store-query/3.0.0";
const TOPIC = "/app/20/sometopic/someencoding"; // shard 7
const PUBSUB = `/waku/2/rs/${CLUSTER}/7`;

let home, node, neighbour, client, peer;

before(async () => {
  home = await folder();
  // Of the network's shards it relays one.
  node = await OurNode.start({ relayed: [7], archive: `${home.path}/archive.sqlite` });
  client = await createLightNode({
    defaultBootstrap: false,
    bootstrapPeers: [node.websocket],
    discovery: { dns: false, peerExchange: false, peerCache: false },
    networkConfig: { clusterId: CLUSTER, numShardsInCluster: SHARDS },
    libp2p: { filterMultiaddrs: false, hideWebSocketInfo: true },
  });
  await client.start();
  await within("waitForPeers", client.waitForPeers([Protocols.LightPush, Protocols.Filter, Protocols.Store]));
  [{ id: peer }] = await client.getConnectedPeers();
}, { timeout: 2 * PATIENCE });

after(async () => {
  await client?.stop();
  await Promise.all([node?.stop(), neighbour?.stop()]);
  await home?.remove();
});

/** A message of this moment, unless its fields are others. */
const message = ({ payload = newId(), topic = TOPIC, at = Date.now() } = {}) =>
  protobuf([1, payload], [2, topic], [10, BigInt(at) * 2_000_000n]);
const push = ({ id = newId(), shard = PUBSUB, ...rest } = {}) => protobuf([1, id], [20, shard], [21, message(rest)]);

async function refused(protocol, request, code, words, length) {
  const answer = await status(client, peer, protocol, request, length);
  assert.equal(answer.code, code, `${answer.code} ${answer.words}`);
  assert.match(answer.words, words);
}

test("lightpush without a peer that relays", async () => {
  await refused(LIGHTPUSH, push(), 505, /./);
});

test("lightpush", async () => {
  neighbour = await OurNode.start({ peers: [node.tcp] });
  await Promise.all([node.mesh(7, 1), neighbour.mesh(7, 1)]);
  const id = newId();
  const fine = push({ id });
  assert.deepEqual(await status(client, peer, LIGHTPUSH, fine).then(({ code, id }) => ({ code, id })), { code: 200, id });
  await refused(LIGHTPUSH, fine, 420, /./);
  await refused(LIGHTPUSH, Buffer.from("not a protobuf"), 400, /protobuf/);
  await refused(LIGHTPUSH, push({ id: "" }), 400, /request_id/);
  await refused(LIGHTPUSH, protobuf([1, newId()], [20, PUBSUB]), 400, /message/);
  // A shard that this node doesn't relay, one of another network, and none at all.
  await refused(LIGHTPUSH, push({ shard: `/waku/2/rs/${CLUSTER}/2`, topic: "/app/22/sometopic/text" }), 421, /./);
  await refused(LIGHTPUSH, push({ shard: `/waku/2/rs/${CLUSTER + 1}/7` }), 421, /./);
  await refused(LIGHTPUSH, push({ shard: "no topic" }), 421, /./);
  await refused(LIGHTPUSH, push({ at: Date.now() - 60_000 }), 420, /timestamp|old|time/i);
  await refused(LIGHTPUSH, push({ at: Date.now() + 60_000 }), 420, /timestamp|future|time/i);
  await refused(LIGHTPUSH, push({ payload: Buffer.alloc(200 * 1024) }), 413, /./);
  // Refused at its length, before it is there.
  await refused(LIGHTPUSH, push(), 413, /./, 1 << 30);
});

test("filter", async () => {
  const PING = 0, SUBSCRIBE = 1, UNSUBSCRIBE = 2, UNSUBSCRIBE_ALL = 3;
  const request = (kind, shard, topics, id = newId()) =>
    protobuf([1, id], [2, kind], ...(shard ? [[10, shard]] : []), ...topics.map((topic) => [11, topic]));
  await refused(FILTER, request(PING, PUBSUB, []), 404, /no subscriptions/);
  await refused(FILTER, request(UNSUBSCRIBE, PUBSUB, [TOPIC]), 404, /no subscriptions/);
  await refused(FILTER, request(UNSUBSCRIBE_ALL, PUBSUB, []), 404, /no subscriptions/);
  await refused(FILTER, request(SUBSCRIBE, PUBSUB, []), 400, /content_topics/);
  await refused(FILTER, request(SUBSCRIBE, undefined, [TOPIC]), 400, /pubsub_topic/);
  await refused(FILTER, request(SUBSCRIBE, "no topic", [TOPIC]), 400, /./);
  await refused(FILTER, request(SUBSCRIBE, `/waku/2/rs/${CLUSTER}/2`, [TOPIC]), 400, /doesn't relay/);
  await refused(FILTER, request(SUBSCRIBE, `/waku/2/rs/${CLUSTER + 1}/7`, [TOPIC]), 400, /doesn't relay/);
  await refused(FILTER, request(SUBSCRIBE, PUBSUB, Array(101).fill(TOPIC)), 400, /101 content topics/);
  await refused(FILTER, request(9, PUBSUB, [TOPIC]), 400, /filter_subscribe_type/);
  await refused(FILTER, request(SUBSCRIBE, PUBSUB, [TOPIC], ""), 400, /request_id/);
  await refused(FILTER, Buffer.from("not a protobuf"), 400, /protobuf/);
  await refused(FILTER, request(PING, PUBSUB, []), 400, /bytes/, 1 << 30);
});

test("store", async () => {
  const request = (...rest) => protobuf([1, newId()], [2, 1], ...rest);
  const topics = [[10, PUBSUB], [11, TOPIC]];
  const hash = Buffer.alloc(32, 7);
  await refused(STORE, request(...topics, [51, hash]), 400, /cursor/);
  await refused(STORE, request(...topics, [51, Buffer.alloc(32)]), 400, /cursor/);
  await refused(STORE, request(...topics, [51, Buffer.alloc(31, 7)]), 400, /cursor/);
  await refused(STORE, request([20, Buffer.alloc(5)]), 400, /message_hashes/);
  await refused(STORE, request(...topics, [20, hash]), 400, /not both/);
  await refused(STORE, request([11, TOPIC]), 400, /set together/);
  await refused(STORE, request([10, PUBSUB]), 400, /set together/);
  await refused(STORE, request([10, "no topic"], [11, TOPIC]), 400, /./);
  await refused(STORE, protobuf([1, ""], [2, 1], ...topics), 400, /request_id/);
  await refused(STORE, Buffer.from("not a protobuf"), 400, /protobuf/);
  await refused(STORE, request(...topics), 400, /bytes/, 1 << 30);
  // More than a page may have is no error: the page has 100.
  for (let i = 0; i < 120; i += 1) await node.publish(TOPIC, `page ${i}`);
  await node.flush();
  for (const limit of [101, 5000, 2n ** 63n]) {
    const { 10: [code], 20: entries, 51: [cursor] } = fields(await ask(client, peer, STORE, request(...topics, [52, 1], [53, limit])));
    assert.deepEqual([code, entries.length, cursor.length], [200, 100, 32]);
  }
});
