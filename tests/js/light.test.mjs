// A stock js-waku light node against our node.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { CLUSTER, OurNode, PATIENCE, SHARDS, folder, string, text, until, within } from "./node.mjs";

const { createLightNode, Protocols } = await import("@waku/sdk");

const TOPIC = "/app/20/sometopic/someencoding"; // shard 7
const ALL = [Protocols.LightPush, Protocols.Filter, Protocols.Store];
const ONCE = { autoRetry: false };

async function light(node, settings = {}) {
  const js = await createLightNode({
    defaultBootstrap: false,
    bootstrapPeers: [node.websocket],
    numPeersToUse: 1,
    discovery: { dns: false, peerExchange: false, peerCache: false },
    networkConfig: { clusterId: CLUSTER, numShardsInCluster: SHARDS },
    libp2p: { filterMultiaddrs: false, hideWebSocketInfo: true },
    ...settings,
  });
  await js.start();
  return js;
}

/** With a limit of its own js-waku would leave a timer behind that keeps the process alive. */
const peersOf = (js, protocols) => within("waitForPeers", js.waitForPeers(protocols));

const of = (js, contentTopic) => ({
  encoder: js.createEncoder({ contentTopic }),
  decoder: js.createDecoder({ contentTopic }),
});

/** Two of our nodes in one mesh; the first serves. */
async function pair(archive, settings = {}) {
  const served = await OurNode.start({ archive, ...settings });
  const other = await OurNode.start({ peers: [served.tcp] });
  await Promise.all([served.mesh(7, 1), other.mesh(7, 1)]);
  return { served, other };
}

let home, served, other, js, sent;

before(async () => {
  home = await folder();
  ({ served, other } = await pair(`${home.path}/archive.sqlite`));
  js = await light(served);
  await peersOf(js, ALL);
}, { timeout: 2 * PATIENCE });

after(async () => {
  await js?.stop();
  await Promise.all([served?.stop(), other?.stop()]);
  await home?.remove();
});

test("peers are found and know each other's network", async () => {
  const peers = await js.getConnectedPeers();
  assert.deepEqual(peers.map((peer) => peer.id.toString()), [served.peerId]);
  const protocols = peers[0].protocols;
  for (const id of ["/vac/waku/lightpush/3.0.0", "/vac/waku/lightpush/2.0.0-beta1", "/vac/waku/store-query/3.0.0",
    "/vac/waku/filter-subscribe/2.0.0-beta1", "/vac/waku/metadata/1.0.0", "/vac/waku/relay/2.0.0", "/ipfs/ping/1.0.0"]) {
    assert.ok(protocols.includes(id), `${id} is not among ${protocols}`);
  }
  const { shardInfo, error } = await js.libp2p.services.metadata.query(peers[0].id);
  assert.equal(error, null);
  assert.deepEqual(shardInfo, { clusterId: CLUSTER, shards: [0, 1, 2, 3, 4, 5, 6, 7] });
  assert.ok(await js.libp2p.services.ping.ping(peers[0].id) >= 0);
});

test("lightpush reaches relay, versions 3 and 2", async () => {
  const { encoder } = of(js, TOPIC);
  const seen = other.received.length;
  for (const useLegacy of [false, true]) {
    const result = await js.lightPush.send(encoder, { payload: text(`push ${useLegacy}`) }, { ...ONCE, useLegacy });
    assert.deepEqual(result.failures, []);
    assert.deepEqual(result.successes.map(String), [served.peerId]);
  }
  await until("relayed", () => other.received.length === seen + 2);
});

test("a large message is pushed, relayed and filtered", async () => {
  const { encoder, decoder } = of(js, "/app/20/large/bytes");
  const got = [];
  assert.ok(await js.filter.subscribe([decoder], (message) => got.push(message)));
  const payload = new Uint8Array(140 * 1024).map((_, i) => i % 251);
  const result = await js.lightPush.send(encoder, { payload }, ONCE);
  assert.deepEqual(result.failures, []);
  await until("filtered", () => got.length > 0);
  assert.deepEqual(got[0].payload, payload);
  assert.ok(await js.filter.unsubscribe([decoder]));
});

test("filter: 500 messages on one subscription, none lost", async () => {
  const topic = "/app/20/filter/text";
  const { decoder } = of(js, topic);
  const got = [];
  assert.ok(await js.filter.subscribe([decoder], (message) => got.push(string(message.payload))));
  const wanted = Array.from({ length: 500 }, (_, i) => `message ${i}`);
  for (const [i, payload] of wanted.entries()) await (i % 2 ? served : other).publish(topic, payload);
  await until("500 pushes", () => got.length >= 500);
  assert.deepEqual([...got].sort(), [...wanted].sort());
  // Topics of others are not pushed, and after the end nothing is: what is pushed after them shows that they were not.
  await served.publish("/app/20/other/text", "other");
  assert.ok(await js.filter.unsubscribe([decoder]));
  await served.publish(topic, "late");
  const marker = of(js, "/app/20/marker/text");
  assert.ok(await js.filter.subscribe([marker.decoder], (message) => got.push(string(message.payload))));
  await served.publish("/app/20/marker/text", "marker");
  await until("the marker", () => got.includes("marker"));
  assert.equal(got.length, 501);
  assert.ok(await js.filter.unsubscribe([marker.decoder]));
});

/** 1,000 messages in the archive, in its order. */
async function archived() {
  if (sent) return sent;
  sent = [];
  for (let i = 0; i < 1000; i += 1) {
    const topic = i % 4 === 3 ? "/app/20/store-b/text" : "/app/20/store-a/text";
    sent.push({ topic, payload: `stored ${i}`, hash: await served.publish(topic, `stored ${i}`) });
  }
  await served.flush();
  return sent;
}

async function query(decoders, options, client = js) {
  const got = [];
  await client.store.queryWithOrderedCallback(decoders, (message) => { got.push(message); }, options);
  return got;
}
const payloads = (messages) => messages.map((message) => string(message.payload));

test("store: all of 1,000 messages, in pages, both ways", async () => {
  const all = await archived();
  const decoders = ["/app/20/store-a/text", "/app/20/store-b/text"].map((topic) => of(js, topic).decoder);
  assert.deepEqual(payloads(await query(decoders)), all.map((m) => m.payload));
  for (const paginationLimit of [7, 100]) {
    const pages = [];
    for await (const page of js.store.queryGenerator(decoders, { paginationLimit })) pages.push(await Promise.all(page));
    assert.equal(pages.length, Math.ceil(1000 / paginationLimit));
    assert.ok(pages.slice(0, -1).every((page) => page.length === paginationLimit));
    assert.deepEqual(pages.flatMap(payloads), all.map((m) => m.payload));
  }
  const backward = [];
  const options = { paginationForward: false, paginationLimit: 64 };
  for await (const page of js.store.queryGenerator(decoders, options)) backward.unshift(...await Promise.all(page));
  assert.deepEqual(payloads(backward), all.map((m) => m.payload));
});

test("store: content topics", async () => {
  const all = await archived();
  for (const topic of ["/app/20/store-a/text", "/app/20/store-b/text"]) {
    const { decoder } = of(js, topic);
    const wanted = all.filter((m) => m.topic === topic).map((m) => m.payload);
    assert.deepEqual(payloads(await query([decoder], { paginationLimit: 100 })), wanted);
  }
  assert.deepEqual(await query([of(js, "/app/20/nobody/text").decoder]), []);
});

test("store: times", async () => {
  await archived();
  const { decoder } = of(js, "/app/20/store-a/text");
  const all = await query([decoder], { paginationLimit: 100 });
  const at = (i) => all[i].timestamp.getTime();
  for (const [from, to] of [[0, all.length - 1], [100, 300], [700, 740]]) {
    // A Date has milliseconds; the end one later so that it is beyond the message.
    const [timeStart, timeEnd] = [new Date(at(from)), new Date(at(to) + 1)];
    const inside = (m) => m.timestamp >= timeStart && m.timestamp < timeEnd;
    const got = payloads(await query([decoder], { timeStart, timeEnd, paginationLimit: 100 }));
    assert.deepEqual(got, payloads(all.filter(inside)));
    assert.ok(got.length > to - from);
  }
  assert.deepEqual(payloads(await query([decoder], { timeStart: new Date(at(500)), paginationLimit: 100 })),
    payloads(all.filter((m) => m.timestamp.getTime() >= at(500))));
  assert.deepEqual(payloads(await query([decoder], { timeEnd: new Date(at(20)), paginationLimit: 100 })),
    payloads(all.filter((m) => m.timestamp.getTime() < at(20))));
  assert.deepEqual(await query([decoder], { timeStart: new Date(1000), timeEnd: new Date(2000) }), []);
});

test("store: cursors", async () => {
  const all = await archived();
  const decoders = ["/app/20/store-a/text", "/app/20/store-b/text"].map((topic) => of(js, topic).decoder);
  const [first] = await query([decoders[0]], { paginationLimit: 100, messageHashes: undefined });
  assert.equal(js.store.createCursor(first).length, 32);
  for (const i of [0, 499, 998, 999]) {
    const paginationCursor = Buffer.from(all[i].hash, "hex");
    const later = await query(decoders, { paginationCursor, paginationLimit: 100 });
    assert.deepEqual(payloads(later), all.slice(i + 1).map((m) => m.payload));
  }
  const paginationCursor = Buffer.from(all[50].hash, "hex");
  const earlier = await query(decoders, { paginationCursor, paginationForward: false, paginationLimit: 100 });
  assert.deepEqual(payloads(earlier), all.slice(0, 50).map((m) => m.payload));
});

test("store: by hash, and presence", async () => {
  const all = await archived();
  const decoders = ["/app/20/store-a/text", "/app/20/store-b/text"].map((topic) => of(js, topic).decoder);
  const some = [3, 4, 500].map((i) => all[i]);
  const messageHashes = some.map((m) => Buffer.from(m.hash, "hex"));
  const got = await query(decoders, { messageHashes });
  assert.deepEqual(payloads(got), some.map((m) => m.payload));
  assert.deepEqual(got.map((m) => m.hashStr), some.map((m) => m.hash));
  const missing = [Buffer.alloc(32, 1)];
  assert.deepEqual(await query(decoders, { messageHashes: missing }), []);
  // Presence: entries without messages, one for each that is there.
  const pages = [];
  const present = { messageHashes: [...messageHashes, ...missing], includeData: false };
  for await (const page of js.store.queryGenerator(decoders, present)) pages.push(await Promise.all(page));
  assert.deepEqual(pages, [[undefined, undefined, undefined]]);
});

test("store: stopping early, and the other callback", async () => {
  const all = await archived();
  const { decoder } = of(js, "/app/20/store-a/text");
  let seen = 0;
  await js.store.queryWithOrderedCallback([decoder], () => { seen += 1; return true; }, { paginationLimit: 10 });
  // js-waku takes what the callback says at the end of a page.
  assert.equal(seen, 10);
  const got = [];
  await js.store.queryWithPromiseCallback([decoder], async (message) => { got.push(await message); });
  assert.deepEqual(new Set(payloads(got)), new Set(all.filter((m) => m.topic.includes("-a/")).map((m) => m.payload)));
});

test("store: what is wrong is refused with a reason", async () => {
  await archived();
  const { decoder } = of(js, "/app/20/store-a/text");
  await assert.rejects(query([decoder], { paginationCursor: Buffer.alloc(32, 9) }), /status code: 400, description: .+/);
  await assert.rejects(query([decoder], { paginationCursor: Buffer.alloc(3, 9) }), /status code: 400, description: .+/);
  const messageHashes = [Buffer.alloc(5)];
  await assert.rejects(query([decoder], { messageHashes }), /status code: 400, description: .+/);
  // The connection and the peer stay usable.
  assert.equal((await query([of(js, "/app/20/store-b/text").decoder])).length, 250);
});

test("lightpush: what can't be relayed is refused, and the connection stays", async () => {
  const { encoder } = of(js, TOPIC);
  const refused = async (payload, using = encoder) => {
    const { successes, failures } = await js.lightPush.send(using, payload, ONCE);
    assert.deepEqual(successes, []);
    return failures.map((failure) => failure.error);
  };
  // Larger than the network's messages, below js-waku's own limit of 1 MiB.
  assert.deepEqual(await refused({ payload: new Uint8Array(200 * 1024) }), ["Remote peer rejected"]);
  assert.deepEqual(await refused({ payload: new Uint8Array(900 * 1024) }), ["Remote peer rejected"]);
  const old = new Date(Date.now() - 60_000);
  assert.deepEqual(await refused({ payload: text("old"), timestamp: old }), ["Remote peer rejected"]);
  const result = await js.lightPush.send(encoder, { payload: text("fine") }, ONCE);
  assert.deepEqual(result.failures, []);
});

test("a shard that isn't relayed", async () => {
  const narrow = await OurNode.start({ relayed: [7] });
  const client = await light(narrow);
  try {
    await peersOf(client, [Protocols.LightPush, Protocols.Filter]);
    const elsewhere = of(client, "/app/22/sometopic/text"); // shard 2
    const result = await client.lightPush.send(elsewhere.encoder, { payload: text("m") }, ONCE);
    assert.deepEqual(result.failures.map((failure) => failure.error), ["No peer available"]);
    // Past js-waku's own check the node itself refuses.
    const peer = (await client.getConnectedPeers())[0].id;
    const pushed = await client.lightPush.protocol.send(elsewhere.encoder, { payload: text("m") }, peer);
    assert.equal(pushed.failure.error, "Remote peer rejected");
    const filter = client.filter.protocol;
    const topic = elsewhere.encoder.pubsubTopic;
    assert.equal((await filter.subscribe(topic, peer, ["/app/22/sometopic/text"])).failure.error, "Remote peer rejected");
    // A ping without a subscription.
    assert.equal((await filter.ping(peer)).failure.error, "Remote peer rejected");
    // Nobody relays for a node that is alone: 505.
    const alone = await client.lightPush.send(of(client, TOPIC).encoder, { payload: text("m") }, ONCE);
    assert.deepEqual(alone.failures.map((failure) => failure.error), ["Remote peer rejected"]);
  } finally {
    await client.stop();
    await narrow.stop();
  }
});

test("another network's node is not used", async () => {
  const networkConfig = { clusterId: CLUSTER + 1, numShardsInCluster: SHARDS };
  const stranger = await light(served, { networkConfig, bootstrapPeers: [] });
  const events = [];
  for (const name of ["peer:connect", "peer:disconnect"]) {
    stranger.libp2p.addEventListener(name, (event) => events.push(`${name} ${event.detail}`));
  }
  try {
    // The node may hang up while js-waku still asks what it serves.
    await stranger.dial(served.websocket).catch(() => {});
    await until("the node to hang up", () => events.length >= 2);
    assert.deepEqual(events.slice(0, 2), [`peer:connect ${served.peerId}`, `peer:disconnect ${served.peerId}`]);
    const { successes } = await stranger.lightPush.send(of(stranger, TOPIC).encoder, { payload: text("m") }, ONCE);
    assert.deepEqual(successes, []);
  } finally {
    await stranger.stop();
  }
});

test("after a restart of the node the client goes on by itself", async (t) => {
  const { path, remove } = await folder();
  t.after(remove);
  let node = await OurNode.start({ archive: `${path}/archive.sqlite` });
  const neighbour = await OurNode.start({ peers: [node.tcp] });
  const client = await light(node);
  try {
    await peersOf(client, ALL);
    const { encoder, decoder } = of(client, "/app/20/restart/text");
    const got = [];
    assert.ok(await client.filter.subscribe([decoder], (message) => got.push(string(message.payload))));
    await neighbour.mesh(7, 1);
    await neighbour.publish("/app/20/restart/text", "before");
    await until("a push", () => got.includes("before"));
    await node.flush();
    node = await node.restart();
    await until("the connection", async () => (await client.getConnectedPeers()).length === 1);
    await node.mesh(7, 1);
    await peersOf(client, ALL);
    // Its subscription comes back without its doing.
    await until("a push", async () => {
      await neighbour.publish("/app/20/restart/text", `after ${Date.now()}`);
      return got.some((payload) => payload.startsWith("after"));
    });
    const seen = neighbour.received.length;
    const pushed = await client.lightPush.send(encoder, { payload: text("pushed after") }, ONCE);
    assert.deepEqual(pushed.failures, []);
    assert.deepEqual(pushed.successes.map(String), [node.peerId]);
    await until("relayed", () => neighbour.received.length > seen);
    await node.flush();
    const stored = payloads(await query([decoder], { paginationLimit: 100 }, client));
    assert.equal(stored[0], "before");
    assert.equal(stored.at(-1), "pushed after");
    assert.ok(await client.filter.unsubscribe([decoder]));
  } finally {
    await client.stop();
    await Promise.all([node.stop(), neighbour.stop()]);
  }
});

test("a client that connects again and again can always push", async () => {
  const client = await light(served);
  const { encoder } = of(client, TOPIC);
  try {
    for (let i = 0; i < 20; i += 1) {
      await peersOf(client, [Protocols.LightPush]);
      const { failures } = await client.lightPush.send(encoder, { payload: text(`again ${i}`) }, ONCE);
      assert.deepEqual(failures, [], `connection ${i}`);
      const [peer] = await client.getConnectedPeers();
      await client.libp2p.hangUp(peer.id);
      await client.dial(served.websocket);
    }
  } finally {
    await client.stop();
  }
});

test("peer exchange: js-waku learns of another node of ours, and uses it", async () => {
  const known = await OurNode.start({ records: [] });
  const unknown = await OurNode.start({ records: [known.record] });
  await known.found(unknown.peerId);
  const client = await light(known, { numPeersToUse: 2, discovery: { dns: false, peerExchange: true, peerCache: false } });
  try {
    const connected = async () => (await client.getConnectedPeers()).map((peer) => peer.id.toString());
    await until("a connection with the other node", async () => (await connected()).includes(unknown.peerId));
    assert.deepEqual(new Set(await connected()), new Set([known.peerId, unknown.peerId]));
    await known.stop();
    await until("the end of the first connection", async () => (await connected()).length === 1);
    const other = await OurNode.start({ peers: [unknown.tcp] });
    await Promise.all([unknown.mesh(7, 1), other.mesh(7, 1)]);
    const { encoder } = of(client, TOPIC);
    await until("a push", async () => {
      const { successes } = await client.lightPush.send(encoder, { payload: text("found") }, ONCE);
      return successes.map(String).includes(unknown.peerId);
    });
    await other.stop();
  } finally {
    await client.stop();
    await Promise.all([known.stop(), unknown.stop()]);
  }
});
