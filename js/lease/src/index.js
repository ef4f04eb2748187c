/**
 * Leases for a js-waku light node: bought on the node's own connection, with tickets from a local `tributary tickets run`, and renewed slot by slot.
 * @module
 */
import { LeaseError, code, refusal } from "./errors.js";
import { FrameReader, PROTOCOL, decodeAnswer, encodeBuy, encodeQuery, frame, peerIdBytes } from "./wire.js";

export { LeaseError, REFUSALS } from "./errors.js";
export { PROTOCOL } from "./wire.js";

/** Proofs for one slot: the first, and those after ones that were spent in vain. The ticket port gives no more. */
const MAX_ATTEMPTS = 3;
/** Tries for the first purchase. */
const FIRST_TRIES = 10;
/** Between two tries, ms. */
const RETRY_MS = 1_000;
/** Between two looks at what the provider says of the lease, s: a restarted provider has forgotten it. */
const QUERY_INTERVAL = 15;
/** Time for one request to the provider, ms. */
const PROVIDER_LIMIT_MS = 10_000;
/** Time for one order of tickets, ms: the port makes one proof at a time. */
const TICKETS_LIMIT_MS = 60_000;
/** Characters of the ticket port's answer at most: a proof has at most 1,024 bytes. */
const MAX_TICKETS_ANSWER = 4_096;
const MAX_PROOF_BYTES = 1_024;
const MAX_CODE = /^TRB-[A-Z0-9]{1,8}$/;

/** Services leased for a node, so that none is bought twice with one proof. */
const leased = new WeakMap();

/** Text of a peer's that may end up on a terminal. */
const printable = (text) => String(text).replace(/\p{Cc}/gu, " ").slice(0, 512);

/** A signal that is over when either is. `release` drops the timer. */
function limited(signal, ms, late) {
  const controller = new AbortController();
  const end = () => controller.abort(signal.reason);
  if (signal.aborted) end();
  signal.addEventListener("abort", end, { once: true });
  const timer = setTimeout(() => controller.abort(late()), ms);
  return {
    signal: controller.signal,
    release() {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    },
  };
}

/** Settles as `promise`, or as the signal says. */
function race(promise, signal) {
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    if (signal.aborted) end();
    signal.addEventListener("abort", end, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", end));
  });
}

/** The local process that makes the tickets. */
class TicketPort {
  #url;
  #token;
  #fetch;

  constructor({ url, token, fetch = globalThis.fetch }) {
    try {
      this.#url = new URL("/v1/lease-tickets", url);
    } catch (cause) {
      throw new LeaseError(code.argument, "tickets.url is no URL", { cause });
    }
    if (typeof token !== "string" || !/^[0-9a-f]{64}$/.test(token.trim())) {
      throw new LeaseError(code.argument, "tickets.token must be the content of the token's file, 64 hex digits");
    }
    this.#token = token.trim();
    this.#fetch = fetch;
  }

  /** A proof that pays for this lease in this slot and for nothing else. The same order gets the same proof. */
  async order(order, signal) {
    const late = () => new LeaseError(code.ticketPort, `the ticket port did not answer within ${TICKETS_LIMIT_MS / 1000} s`);
    const limit = limited(signal, TICKETS_LIMIT_MS, late);
    let status, text;
    try {
      const answer = await this.#fetch(this.#url, {
        method: "POST",
        headers: { authorization: `Bearer ${this.#token}`, "content-type": "application/json" },
        body: JSON.stringify(order),
        // The token goes to nobody else.
        redirect: "error",
        credentials: "omit",
        signal: limit.signal,
      });
      ({ status } = answer);
      text = await answer.text();
    } catch (cause) {
      if (limit.signal.aborted) throw limit.signal.reason;
      throw new LeaseError(code.ticketPort, "the ticket port can't be reached: is `tributary tickets run` running?", { cause });
    } finally {
      limit.release();
    }
    let answer;
    try {
      if (text.length > MAX_TICKETS_ANSWER) throw new Error("it is too long");
      answer = JSON.parse(text);
    } catch (cause) {
      throw new LeaseError(code.ticketPort, `the ticket port's answer can't be read (HTTP ${status})`, { status, cause });
    }
    if (status !== 200) {
      const named = MAX_CODE.test(answer?.error) ? answer.error : code.ticketPort;
      throw new LeaseError(named, `no tickets: ${printable(answer?.message ?? `HTTP ${status}`)}`, { status });
    }
    const { slot_start: start, slot_end: end, eligibility_proof: proof } = answer;
    const hex = typeof proof === "string" && proof.length % 2 === 0 && proof.length <= 2 * MAX_PROOF_BYTES && /^[0-9a-f]+$/.test(proof);
    if (!hex || !Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end <= start) {
      throw new LeaseError(code.ticketPort, "the ticket port's answer is not as it should be", { status });
    }
    return { start, end, proof: Uint8Array.from(proof.match(/../g), (byte) => parseInt(byte, 16)) };
  }
}

/** The peer id at the end of a multiaddr, or the text itself. */
function providerOf(provider) {
  const text = String(provider);
  const peerId = text.includes("/") ? text.split("/p2p/").pop() : text;
  peerIdBytes(peerId);
  return { peerId, address: text.includes("/") ? text : undefined };
}

/**
 * A lease that is kept up until {@link Lease.close}. Made by {@link buyLease}.
 *
 * Events: `granted` (a slot was bought), `missed` (the running slot could not be bought; tried again), `error` (a try failed), `closed`. The
 * first's `detail` is `{ slotStart, quota, until }`, that of `missed` and `error` a {@link LeaseError}.
 */
export class Lease extends EventTarget {
  #node;
  #provider;
  #service;
  #quota;
  #port;
  #now;
  #stop = new AbortController();
  #running = Promise.resolve();
  #wake = () => {};
  #length;
  /** What the provider says that this node has. */
  #held;
  #queried = -Infinity;
  /** Per slot: the request that is to be sent (again), proofs spent in vain, and whether buying makes no sense any more. */
  #slots = new Map();
  #missed;
  #last;

  /** @hideconstructor */
  constructor({ node, provider, service, quota, tickets, now }) {
    super();
    if (!node?.libp2p) throw new LeaseError(code.argument, "node must be a js-waku node");
    if (!Number.isSafeInteger(quota) || quota < 1) throw new LeaseError(code.argument, `the quota is ${quota}, it must be 1 or more`);
    encodeQuery(service);
    this.#node = node;
    this.#provider = providerOf(provider);
    this.#service = service;
    this.#quota = quota;
    this.#port = new TicketPort(tickets ?? {});
    this.#now = now;
    const key = `${this.#provider.peerId} ${service}`;
    const known = leased.get(node) ?? new Set();
    if (known.has(key)) {
      throw new LeaseError(code.leasedTwice, `${service} of this provider is leased for this node already: close that lease first`);
    }
    leased.set(node, known.add(key));
    this.#stop.signal.addEventListener("abort", () => known.delete(key), { once: true });
  }

  /** The provider's peer id. */
  get provider() {
    return this.#provider.peerId;
  }

  /** The service's id in the provider's offer. */
  get service() {
    return this.#service;
  }

  /** How much of it in each slot. */
  get quota() {
    return this.#quota;
  }

  /** When the service ends unless the lease is renewed; `undefined` when the node has none. */
  get until() {
    return this.#held && new Date(this.#held.until * 1000);
  }

  /** The slots that the node has, as the provider said last. Unix seconds. */
  get slots() {
    return (this.#held?.slots ?? []).map((slot) => ({ ...slot }));
  }

  /** Whether the running slot is paid. */
  get held() {
    return this.#length !== undefined && this.#holds(this.#slotAt(this.#now()));
  }

  /** Why the last try failed, until one succeeds. */
  get lastError() {
    return this.#last;
  }

  /**
   * Stops renewing. What is bought stays: the service goes on until {@link Lease.until}.
   * @returns {Promise<void>}
   */
  async close() {
    if (!this.#stop.signal.aborted) {
      this.#stop.abort(new LeaseError(code.closed, "the lease was closed"));
      this.#wake();
      await this.#running;
      this.#emit("closed");
    }
    await this.#running;
  }

  #emit(name, detail) {
    const event = new Event(name);
    event.detail = detail;
    this.dispatchEvent(event);
  }

  #slotAt(now) {
    return Math.floor(now / this.#length) * this.#length;
  }

  #holds(start) {
    return (this.#held?.slots ?? []).some((slot) => slot.start === start && slot.quota >= this.#quota);
  }

  /** One request on the node's own connection with the provider. */
  async #ask(request) {
    const late = () => new LeaseError(code.timeout, `the provider did not answer within ${PROVIDER_LIMIT_MS / 1000} s`);
    const limit = limited(this.#stop.signal, PROVIDER_LIMIT_MS, late);
    const { signal } = limit;
    let stream;
    try {
      const connection = await race(this.#connection(), signal);
      try {
        stream = await connection.newStream(PROTOCOL, { signal });
      } catch (cause) {
        throw new LeaseError(code.protocol, "the provider sells no leases on this connection", { cause });
      }
      const exchange = async () => {
        const reader = new FrameReader();
        await stream.sink([frame(request)]);
        for await (const chunk of stream.source) {
          const body = reader.push(chunk.subarray());
          if (body) return decodeAnswer(body);
        }
        throw new LeaseError(code.protocol, "the provider closed the stream without an answer");
      };
      const answer = await race(exchange(), signal);
      // Both ends are done; how closing ends changes nothing.
      stream.close().catch(() => {});
      return answer;
    } catch (cause) {
      stream?.abort(cause);
      if (signal.aborted) throw signal.reason;
      if (cause instanceof LeaseError) throw cause;
      throw new LeaseError(code.unreachable, "the connection with the provider broke", { cause });
    } finally {
      limit.release();
    }
  }

  async #connection() {
    const { peerId, address } = this.#provider;
    const open = () => this.#node.libp2p.getConnections()
      .find((connection) => connection.status === "open" && connection.remotePeer.toString() === peerId);
    const known = open();
    if (known) return known;
    if (!address) {
      throw new LeaseError(code.unreachable, `the node is not connected to ${peerId}: dial it, or give its multiaddr`);
    }
    try {
      await this.#node.dial(address);
    } catch (cause) {
      throw new LeaseError(code.unreachable, `${peerId} does not answer`, { cause });
    }
    const dialed = open();
    if (!dialed) throw new LeaseError(code.unreachable, `${peerId} closed the connection`);
    return dialed;
  }

  /** What the provider says that this node has now. */
  async query() {
    const answer = await this.#ask(encodeQuery(this.#service));
    const refused = refusal(answer.status, answer.description);
    if (refused) throw refused;
    return answer.lease;
  }

  #failed(error) {
    this.#last = error instanceof LeaseError ? error : new LeaseError(code.noLease, "no lease was bought", { cause: error });
    if (!this.#stop.signal.aborted) this.#emit("error", this.#last);
  }

  /** Makes or finds the request for a slot. What was sent and not judged goes out again as it is: it is never paid twice. */
  async #bind(which, expected) {
    const state = this.#slots.get(expected);
    if (state?.request) return state;
    const order = {
      provider: this.#provider.peerId,
      peer_id: this.#node.libp2p.peerId.toString(),
      service: this.#service,
      quota: this.#quota,
      slot: which,
      attempt: state?.spent ?? 0,
    };
    const { start, end, proof } = await this.#port.order(order, this.#stop.signal);
    if (this.#length === undefined) this.#length = end - start;
    const bound = this.#slots.get(start) ?? { start, spent: 0, left: false };
    this.#slots.set(start, bound);
    if (!bound.request) {
      const { peer_id: peerId, service, quota } = order;
      bound.request = encodeBuy({ peerId, service, slotStart: start, quota, eligibilityProof: proof });
    }
    return bound;
  }

  async #buy(which, expected) {
    if (this.#slots.get(expected)?.left) return;
    const state = await this.#bind(which, expected);
    if (state.left) return;
    const answer = await this.#ask(state.request);
    if (answer.lease) {
      this.#held = answer.lease;
      this.#queried = this.#now();
    }
    const refused = refusal(answer.status, answer.description);
    if (!refused || this.#holds(state.start)) {
      state.request = undefined;
      // Bought: the request is done with, also if only now it is told.
      state.left = false;
      this.#last = undefined;
      this.#emit("granted", { slotStart: state.start, quota: this.#quota, until: this.until });
      return;
    }
    switch (refused.remedy) {
      case "send_again":
        break;
      case "new_ticket":
      case "spent":
        state.request = undefined;
        state.spent += 1;
        state.left = state.spent >= MAX_ATTEMPTS;
        break;
      default:
        state.left = true;
    }
    throw refused;
  }

  /** Does what is due: buys the running slot if it isn't paid, and the next one when half of the running one is over. */
  async #turn() {
    const now = this.#now();
    if (this.#length === undefined) {
      await this.#buy("running", undefined);
    }
    const running = this.#slotAt(now);
    let failure;
    for (const start of this.#slots.keys()) if (start < running) this.#slots.delete(start);
    if (this.#held && Math.abs(now - this.#queried) >= QUERY_INTERVAL) {
      this.#queried = now;
      try {
        this.#held = await this.query();
      } catch (error) {
        failure = error;
      }
    }
    if (!this.#holds(running)) {
      try {
        await this.#buy("running", running);
      } catch (error) {
        failure = error;
      }
    }
    if (now + this.#length / 2 >= running + this.#length && !this.#holds(running + this.#length)) {
      await this.#buy("next", running + this.#length);
    }
    if (failure) throw failure;
  }

  /** Whether trying again makes no sense: the slot can't be bought any more, or the ticket port refused the order itself. */
  #hopeless() {
    const left = this.#length !== undefined && this.#slots.get(this.#slotAt(this.#now()))?.left === true;
    const { remedy, status } = this.#last ?? {};
    return left || (remedy === undefined && status >= 400 && status < 500);
  }

  /** Until the next turn, ms. */
  #pause() {
    if (this.#last || !this.held) return RETRY_MS;
    const now = this.#now();
    const running = this.#slotAt(now);
    const renewal = this.#holds(running + this.#length) ? running + this.#length : running + this.#length / 2;
    const due = Math.min(renewal, this.#queried + QUERY_INTERVAL) - now;
    return due > 0 ? Math.min(due, QUERY_INTERVAL) * 1000 : RETRY_MS;
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      if (this.#stop.signal.aborted) this.#wake();
    });
  }

  async #try() {
    try {
      await this.#turn();
      if (this.held) this.#last = undefined;
    } catch (error) {
      this.#failed(error);
    }
  }

  /** @internal */
  async begin() {
    for (let i = 0; ; i += 1) {
      await this.#try();
      if (this.held) break;
      if (this.#stop.signal.aborted || i + 1 >= FIRST_TRIES || this.#hopeless()) {
        const last = this.#last ?? this.#stop.signal.reason;
        await this.close();
        throw last;
      }
      await this.#sleep(RETRY_MS);
    }
    this.#running = this.#run();
    return this;
  }

  async #run() {
    while (!this.#stop.signal.aborted) {
      await this.#sleep(this.#pause());
      if (this.#stop.signal.aborted) return;
      await this.#try();
      const running = this.#slotAt(this.#now());
      if (!this.#holds(running) && this.#missed !== running && !this.#stop.signal.aborted) {
        this.#missed = running;
        this.#emit("missed", this.#last ?? new LeaseError(code.noLease, "the running slot is not paid"));
      }
    }
  }
}

/**
 * Buys the running slot for the node, and each slot after it before the one before ends, until the lease is closed.
 * @param {import("./index.js").LeaseOptions} options
 * @returns {Promise<Lease>}
 */
export async function buyLease({ node, provider, service = "filter", quota = 1, tickets, signal, now = () => Date.now() / 1000 }) {
  signal?.throwIfAborted();
  const lease = new Lease({ node, provider, service, quota, tickets, now });
  const stop = () => { lease.close(); };
  signal?.addEventListener("abort", stop, { once: true });
  lease.addEventListener("closed", () => signal?.removeEventListener("abort", stop));
  return lease.begin();
}
