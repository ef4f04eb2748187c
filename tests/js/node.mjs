// Our node as a process, and what the suites share.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

// js-waku wants it, Node 20 lacks it.
Promise.withResolvers ??= function withResolvers() {
  let resolve, reject;
  const promise = new this((yes, no) => { resolve = yes, reject = no; });
  return { promise, resolve, reject };
};

export const CLUSTER = 42;
export const SHARDS = 8;
/** Nothing here waits this long unless it fails. */
export const PATIENCE = 60_000;

const PROGRAM = process.env.TRIBUTARY_TEST_NODE
  ?? fileURLToPath(new URL("../../target/debug/examples/node", import.meta.url));

/** A process that is still running, so that none outlives the tests. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** A running node of ours. */
export class OurNode {
  #child;
  #answers = [];
  #ended;
  /** Hashes of what it got by relay, or published, in order of arrival. */
  received = [];

  /** Settings are those of crates/waku/examples/node.rs. */
  static async start(settings = {}) {
    if (!existsSync(PROGRAM)) {
      throw new Error(`${PROGRAM} is missing: cargo build --workspace --example node`);
    }
    const node = new OurNode();
    const all = {
      listen: ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"],
      cluster: CLUSTER, shards: SHARDS, key: randomBytes(32).toString("hex"),
      ...settings,
    };
    node.settings = all;
    node.#child = spawn(PROGRAM, [JSON.stringify(all)], { stdio: ["pipe", "pipe", "inherit"] });
    running.add(node.#child);
    node.#ended = new Promise((resolve) => node.#child.once("exit", (code, signal) => {
      running.delete(node.#child);
      node.#answers.splice(0).forEach(({ reject }) => reject(new Error(`the node ended: ${code ?? signal}`)));
      resolve(code);
    }));
    const ready = node.#answer();
    createInterface({ input: node.#child.stdout }).on("line", (line) => node.#onLine(JSON.parse(line)));
    const { peer_id: peerId, addresses, record } = await within("a node's start", ready);
    node.peerId = peerId;
    node.record = record;
    node.websocket = addresses.find((address) => address.includes("/ws/p2p/"));
    node.tcp = addresses.find((address) => !address.includes("/ws/"));
    return node;
  }

  #onLine(event) {
    if (event.received !== undefined) {
      this.received.push(event.received);
      return;
    }
    const { resolve, reject } = this.#answers.shift();
    if (event.error === undefined) resolve(event);
    else reject(new Error(event.error));
  }

  #answer() {
    return new Promise((resolve, reject) => this.#answers.push({ resolve, reject }));
  }

  #ask(command) {
    const answer = this.#answer();
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    return within(JSON.stringify(command), answer);
  }

  /** Publishes; returns the message's hash. */
  async publish(topic, payload) {
    return (await this.#ask({ publish: { topic, payload } })).published;
  }

  mesh(shard, peers) {
    return this.#ask({ mesh: { shard, peers } });
  }

  /** Done when its discovery found a node. */
  found(peer) {
    return this.#ask({ found: { peer } });
  }

  /** Done when everything published so far is in the archive. */
  flush() {
    return this.#ask("flush");
  }

  /** Asks it to end, and waits. */
  async stop() {
    this.#child.stdin.end();
    return within("a node's end", this.#ended);
  }

  /** The same node once more, at the same addresses. */
  async restart() {
    await this.stop();
    const listen = [this.tcp, this.websocket].map((address) => address.replace(/\/p2p\/.*$/, ""));
    return OurNode.start({ ...this.settings, listen });
  }
}

/** A temporary folder, and what removes it. */
export async function folder() {
  const path = await mkdtemp(join(tmpdir(), "tributary-js-"));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Fails if something isn't done in time. */
export async function within(what, promise, limit = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Looks until the condition holds, and returns what it gave. */
export async function until(what, condition, limit = PATIENCE) {
  const deadline = Date.now() + limit;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${limit} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const text = (string) => new TextEncoder().encode(string);
export const string = (bytes) => new TextDecoder().decode(bytes);
