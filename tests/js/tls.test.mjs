// js-waku with its own defaults dials websockets over TLS only: a proxy in front of our node ends the TLS.
import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { createServer } from "node:https";
import { connect } from "node:net";
import { test } from "node:test";

import { CLUSTER, OurNode, SHARDS, text, until, within } from "./node.mjs";

// The certificate is nobody's. Who the node is, noise shows inside.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = "0";
const { createLightNode, Protocols } = await import("@waku/sdk");

function der(tag, ...parts) {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  const length = body.length < 128 ? [body.length] : [0x82, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}

/** A self-signed X.509 certificate for localhost, and its key. */
function certificate() {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const ecdsaWithSha256 = der(0x30, der(6, [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
  const name = der(0x30, der(0x31, der(0x30, der(6, [0x55, 4, 3]), der(0x0c, "localhost"))));
  const validity = der(0x30, der(0x17, "200101000000Z"), der(0x17, "490101000000Z"));
  const key = publicKey.export({ type: "spki", format: "der" });
  const content = der(0x30, der(2, [1]), ecdsaWithSha256, name, validity, name, key);
  const signature = der(3, [0], sign("sha256", content, privateKey));
  const pem = der(0x30, content, ecdsaWithSha256, signature).toString("base64").match(/.{1,64}/g).join("\n");
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${pem}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: "pkcs8", format: "pem" }),
  };
}

/** Hands websockets on to a port; returns its own port and what ends it. */
async function proxy(to) {
  const sockets = new Set();
  const server = createServer(certificate());
  server.on("upgrade", (request, socket, head) => {
    const node = connect(to, "127.0.0.1");
    sockets.add(socket).add(node);
    const headers = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) headers.push(request.rawHeaders.slice(i, i + 2).join(": "));
    node.write(`${request.method} ${request.url} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n`);
    node.write(head);
    node.pipe(socket).pipe(node);
    for (const end of [node, socket]) {
      end.on("error", () => {});
      end.on("close", () => [node, socket].forEach((other) => other.destroy()));
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = () => {
    sockets.forEach((socket) => socket.destroy());
    return new Promise((resolve) => server.close(resolve));
  };
  return { port: server.address().port, stop, used: () => sockets.size / 2 };
}

test("js-waku with its defaults, through a TLS proxy", async () => {
  const node = await OurNode.start();
  const other = await OurNode.start({ peers: [node.tcp] });
  const tls = await proxy(Number(node.websocket.match(/\/tcp\/(\d+)\//)[1]));
  const client = await createLightNode({
    defaultBootstrap: false,
    bootstrapPeers: [`/ip4/127.0.0.1/tcp/${tls.port}/wss/p2p/${node.peerId}`],
    numPeersToUse: 1,
    discovery: { dns: false, peerExchange: false, peerCache: false },
    networkConfig: { clusterId: CLUSTER, numShardsInCluster: SHARDS },
  });
  try {
    await Promise.all([node.mesh(7, 1), other.mesh(7, 1)]);
    await client.start();
    await within("waitForPeers", client.waitForPeers([Protocols.LightPush, Protocols.Filter]));
    assert.equal(tls.used(), 1);
    const contentTopic = "/app/20/sometopic/someencoding";
    const got = [];
    const decoder = client.createDecoder({ contentTopic });
    assert.ok(await client.filter.subscribe([decoder], (message) => got.push(message.payload)));
    const payload = new Uint8Array(140 * 1024).fill(7);
    const pushed = await client.lightPush.send(client.createEncoder({ contentTopic }), { payload }, { autoRetry: false });
    assert.deepEqual(pushed.failures, []);
    await other.publish(contentTopic, "from the mesh");
    await until("both messages", () => got.length === 2);
    assert.deepEqual(new Set(got.map((bytes) => Buffer.from(bytes).toString("hex"))),
      new Set([payload, text("from the mesh")].map((bytes) => Buffer.from(bytes).toString("hex"))));
    // Its timers would keep the process alive.
    assert.ok(await client.filter.unsubscribe([decoder]));
  } finally {
    await client.stop();
    await Promise.all([node.stop(), other.stop(), tls.stop()]);
  }
});
