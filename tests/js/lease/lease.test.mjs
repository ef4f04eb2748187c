// A stock js-waku light node leases Filter with @tributary/lease: real chain, pool, proofs, provider, wallet.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { request } from "node:http";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { LeaseError, buyLease } from "../../../js/lease/src/index.js";
import { CLUSTER, SHARDS, string, text, until, within } from "../node.mjs";

const { createLightNode, Protocols } = await import("@waku/sdk");

/** Making a market takes proofs and transactions. */
const SETUP_LIMIT = 300_000;
/** As in market.sh. */
const [SLOT, MAX_TOTAL] = [12, 10];
/** Between two messages, ms. */
const PACE = 250;
/** Messages in a row that show that deliveries have ended. */
const AFTER = 10;

let child, ended, market, url, token;
/** Proofs handed out so far, of one ticket each. */
const proofs = new Set();
const counting = async (...request) => {
  const answer = await fetch(...request);
  if (answer.status === 200) proofs.add((await answer.clone().json()).eligibility_proof);
  return answer;
};

before(async () => {
  child = spawn("bash", [fileURLToPath(new URL("market.sh", import.meta.url))], { stdio: ["pipe", "pipe", "pipe"] });
  const said = [];
  child.stderr.on("data", (data) => said.push(data));
  ended = new Promise((resolve) => child.once("exit", resolve));
  const line = new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", resolve);
    ended.then(() => reject(new Error(`no market: ${Buffer.concat(said)}`)));
  });
  market = JSON.parse(await within("the market", line, SETUP_LIMIT));
  ({ url } = market.tickets);
  token = await readFile(market.tickets.token_file, "utf8");
}, { timeout: SETUP_LIMIT });

after(async () => {
  child?.stdin.end();
  await within("the market's end", ended);
});

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

const websocket = ({ addresses }) => addresses.find((address) => address.includes("/ws"));

async function light(t, address) {
  const js = await createLightNode({
    defaultBootstrap: false,
    bootstrapPeers: [address],
    numPeersToUse: 1,
    discovery: { dns: false, peerExchange: false, peerCache: false },
    networkConfig: { clusterId: CLUSTER, numShardsInCluster: SHARDS },
    libp2p: { filterMultiaddrs: false, hideWebSocketInfo: true },
  });
  t.after(async () => {
    // Stopped alone, js-waku would go on pinging and keep the process alive.
    js.filter.unsubscribeAll();
    await js.stop();
  });
  await js.start();
  await within("waitForPeers", js.waitForPeers([Protocols.Filter]));
  return js;
}

/** js-waku may try a stream that it opened long before and that the node has closed since; then it fails once. */
function subscribed(js, decoders, callback) {
  return until("a subscription", async () => {
    if (await js.filter.subscribe(decoders, callback)) return true;
    await js.filter.unsubscribe(decoders);
    return false;
  });
}

/** A request to the ticket port: status and document. Headers as given, so that others than a browser's can be sent. */
function ask({ method = "POST", path = "/v1/lease-tickets", headers = {}, body = "" } = {}) {
  return new Promise((resolve, reject) => {
    const all = { authorization: `Bearer ${token}`, "content-type": "application/json", ...headers };
    for (const name of Object.keys(all)) if (all[name] === undefined) delete all[name];
    const asked = request(new URL(path, url), { method, headers: all, agent: false }, (answer) => {
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => {
        const said = Buffer.concat(chunks).toString();
        resolve({ status: answer.statusCode, headers: answer.headers, document: said && JSON.parse(said) });
      });
    });
    asked.on("error", reject);
    asked.end(body);
  });
}

/** The PeerId of an Ed25519 key that nobody has. */
function randomPeer() {
  const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  let rest = BigInt(`0x002408011220${randomBytes(32).toString("hex")}`);
  let digits = "";
  for (; rest > 0n; rest /= 58n) digits = alphabet[Number(rest % 58n)] + digits;
  return `1${digits}`;
}

const PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
const order = (changes = {}) => JSON.stringify({
  provider: market.provider.peer_id, peer_id: PEER, service: "filter", quota: 1, slot: "running", ...changes,
});

async function refused(what, wanted, asked) {
  const { status, headers, document } = await ask(asked);
  assert.deepEqual([status, document.error], wanted, `${what}: ${JSON.stringify(document)}`);
  assert.equal(headers["access-control-allow-origin"], asked.headers?.origin === "https://app.example" ? "https://app.example" : undefined);
}

test("the ticket port serves nobody without its token, host and leave", async () => {
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+$/);
  assert.match(token, /^[0-9a-f]{64}$/);
  assert.equal((await stat(market.tickets.token_file)).mode & 0o777, 0o600);

  await refused("no token", [401, "TRB-L001"], { headers: { authorization: undefined }, body: order() });
  await refused("a wrong token", [401, "TRB-L001"], { headers: { authorization: `Bearer ${"0".repeat(64)}` }, body: order() });
  const { port } = new URL(url);
  await refused("a name bound to loopback", [421, "TRB-L002"], { headers: { host: `evil.example:${port}` }, body: order() });
  await refused("a web page", [403, "TRB-L003"], { headers: { origin: "https://evil.example" }, body: order() });
  await refused("a sandboxed page", [403, "TRB-L003"], { headers: { origin: "null" }, body: order() });
  await refused("a page's preflight", [403, "TRB-L003"], {
    method: "OPTIONS", headers: { origin: "https://evil.example", "access-control-request-method": "POST" },
  });
  await refused("a named page without the token", [401, "TRB-L001"],
    { headers: { origin: "https://app.example", authorization: undefined }, body: order() });
  const preflight = await ask({ method: "OPTIONS", headers: { origin: "https://app.example", authorization: undefined } });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers["access-control-allow-origin"], "https://app.example");
  assert.equal(preflight.headers["access-control-allow-methods"], "POST");

  await refused("another path", [404, "TRB-L004"], { path: "/", body: order() });
  await refused("another method", [405, "TRB-L005"], { method: "GET" });
  await refused("a form", [415, "TRB-L006"], { headers: { "content-type": "text/plain" }, body: order() });
  await refused("a long body", [413, "TRB-L007"], { body: order({ service: "f".repeat(2000) }) });
  await refused("no order", [400, "TRB-L009"], { body: "{}" });
  await refused("an order for a secret", [400, "TRB-L009"], { body: order({ count: 4 }) });
});

test("orders that nothing pays for, or beyond the limits, get no ticket", async () => {
  await refused("a provider that no stream pays", [404, "TRB-C008"], { body: order({ provider: PEER }) });
  await refused("a service that isn't leased", [422, "TRB-C009"], { body: order({ service: "store" }) });
  await refused("more topics than are leased to one", [422, "TRB-C009"], { body: order({ quota: 101 }) });
  await refused("a quota of nothing", [422, "TRB-C017"], { body: order({ quota: 0 }) });
  await refused("three tickets where a lease has two", [429, "TRB-L021"], { body: order({ quota: 30 }) });
  await refused("a fourth proof", [429, "TRB-L023"], { body: order({ attempt: 3 }) });
});

test("a body that doesn't come is waited for a short while", async () => {
  const { port } = new URL(url);
  const socket = connect(Number(port), "127.0.0.1");
  const said = [];
  socket.on("data", (data) => said.push(data));
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.write(`POST /v1/lease-tickets HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAuthorization: Bearer ${token}\r\n`
    + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
  await within("the port's end of the connection", closed, 15_000);
  assert.match(Buffer.concat(said).toString(), /^HTTP\/1\.1 408 [^]*TRB-L008/);
});

test("a stock light node leases Filter, renews it, and is served as long as it paid", async (t) => {
  const provider = market.provider.peer_id;
  const writer = await light(t, websocket(market.node));
  await within("lightpush", writer.waitForPeers([Protocols.LightPush]));
  const js = await light(t, websocket(market.provider));
  const [{ id: peer }] = await js.getConnectedPeers();
  assert.equal(peer.toString(), provider);
  const topics = ["a", "b", "c"].map((name) => `/app/20/lease-${name}/text`);
  const decoders = topics.map((contentTopic) => js.createDecoder({ contentTopic }));
  const got = new Map();
  const take = (message) => got.set(string(message.payload), Date.now());

  // The free tier has two topics and no third.
  await subscribed(js, decoders.slice(0, 2), take);
  const third = await js.filter.protocol.subscribe(decoders[2].pubsubTopic, peer, [topics[2]]);
  assert.equal(third.failure?.error, "Remote peer rejected");
  assert.equal(await js.filter.unsubscribe(decoders.slice(0, 2)), true);

  // Without the token nothing is bought, and that is said at once.
  const wrong = buyLease({ node: js, provider, quota: 3, tickets: { url, token: "0".repeat(64) } });
  await assert.rejects(wrong, (error) => error instanceof LeaseError && error.code === "TRB-L001" && error.status === 401);
  // Nor is it from one that leases nothing.
  const elsewhere = buyLease({ node: js, provider: market.node.peer_id, quota: 3, tickets: { url, token } });
  await assert.rejects(elsewhere, (error) => error instanceof LeaseError && error.code === "TRB-C008");

  const granted = [];
  const errors = [];
  const lease = await buyLease({ node: js, provider, quota: 3, tickets: { url, token, fetch: counting } });
  t.after(() => lease.close());
  lease.addEventListener("granted", ({ detail }) => granted.push(detail));
  lease.addEventListener("error", ({ detail }) => errors.push(detail));
  assert.equal(lease.held, true);
  // Late in a slot the next one is bought at once too.
  const begun = lease.slots;
  assert.ok(begun.length >= 1 && begun.every(({ quota }) => quota === 3), JSON.stringify(begun));
  const again = buyLease({ node: js, provider, quota: 1, tickets: { url, token } });
  await assert.rejects(again, (error) => error.code === "TRB-L032");

  await subscribed(js, decoders, take);
  // The writer sees on its own, free subscription what went through the network.
  const seen = new Map();
  await subscribed(writer, topics.map((contentTopic) => writer.createDecoder({ contentTopic })),
    (message) => seen.set(string(message.payload), Date.now()));
  const encoders = topics.map((contentTopic) => writer.createEncoder({ contentTopic }));
  const sent = [];
  let writing = true;
  const written = (async () => {
    for (let i = 0; writing; i += 1) {
      const payload = `message ${i}`;
      const { successes } = await writer.lightPush.send(encoders[i % 3], { payload: text(payload) }, { autoRetry: false });
      if (successes.length === 1) sent.push({ payload, at: Date.now() });
      await pause(PACE);
    }
  })();
  try {
    await until("a delivery", () => got.size > 0);
    const flowing = Date.now();
    // Two renewals.
    await until("renewals", () => granted.length >= 2);
    await lease.close();
    const end = lease.until.getTime();
    const bought = [...begun.map(({ start }) => start), ...granted.map(({ slotStart }) => slotStart)];
    assert.deepEqual(bought, bought.map((_, i) => bought[0] + SLOT * i), `slots in a row; errors: ${errors.map(String)}`);
    assert.ok(end > Date.now());

    // Deliveries end with the lease and its grace: what the writer then sees itself comes no more.
    const lost = ({ payload }) => seen.has(payload) && !got.has(payload);
    await until("the end", () => sent.length > AFTER && sent.slice(-AFTER).every(lost));
    const over = Math.max(...got.values());
    assert.ok(over >= end - 1_500, `the last came ${end - over} ms before the end`);
    assert.ok(over <= end + 3_000, `the last came ${over - end} ms after the end`);
    const after = sent.slice(-AFTER);
    const missing = sent.filter(({ payload, at }) => at >= flowing && at < end - 2_000 && !got.has(payload));
    assert.deepEqual(missing, [], "none is lost while the lease lasts, renewals included");
    // It has to be paid again.
    const unpaid = await until("a refusal", async () => {
      const { failure } = await js.filter.protocol.subscribe(decoders[0].pubsubTopic, peer, topics);
      assert.ok(failure);
      return failure.error === "Remote peer rejected";
    });
    assert.ok(unpaid && after.every(lost), "none is delivered after it");
    assert.ok(got.size > 20, `${got.size} messages`);
    t.diagnostic(`${got.size} messages in ${Math.round((over - flowing) / 1000)} s, ${bought.length} slots bought`);
  } finally {
    writing = false;
    await written;
  }
  // It is not paid again by itself.
  assert.equal(lease.held, false);
});

test("the same order gets the same proof, and all orders together end at the limit", async () => {
  const [peer, ...others] = Array.from({ length: MAX_TOTAL + 1 }, randomPeer);
  const pair = async () => [await ask({ body: order({ peer_id: peer, slot: "next" }) }), await ask({ body: order({ peer_id: peer, slot: "next" }) })];
  // A slot may begin in between.
  const [one, two] = await until("two answers in one slot", async () => {
    const answers = await pair();
    assert.deepEqual(answers.map(({ status }) => status), [200, 200], JSON.stringify(answers.map(({ document }) => document)));
    for (const { document } of answers) proofs.add(document.eligibility_proof);
    return answers[0].document.slot_start === answers[1].document.slot_start && answers;
  });
  assert.equal(one.document.eligibility_proof, two.document.eligibility_proof);
  assert.equal(one.document.tickets, 1);
  assert.equal(one.document.slot_end - one.document.slot_start, SLOT);

  let last;
  for (const other of others) {
    last = await ask({ body: order({ peer_id: other }) });
    if (last.status !== 200) break;
    proofs.add(last.document.eligibility_proof);
  }
  assert.deepEqual([last.status, last.document.error], [429, "TRB-L022"], JSON.stringify(last.document));
  assert.equal(proofs.size, MAX_TOTAL);
});

test("the token ends with the process", async () => {
  process.kill(market.tickets_pid, "SIGTERM");
  await until("the token's file to go", async () => {
    try {
      await stat(market.tickets.token_file);
      return false;
    } catch ({ code }) {
      return code === "ENOENT";
    }
  });
});
