import type { LightNode } from "@waku/sdk";

/** Protocol id of leases. */
export const PROTOCOL: "/tributary/lease/1";

/** What a buyer does about a refusal. */
export type Remedy = "send_again" | "new_ticket" | "spent" | "read_offer" | "report";

/** A lease that was not bought, or could not be asked about. */
export class LeaseError extends Error {
  /** Stable code, as in the Rust programs: `TRB-M4..` a provider's refusal, `TRB-M0..` a message or a connection, `TRB-L...` the ticket port, others what it could not do. */
  readonly code: string;
  /** The provider's status, or the ticket port's HTTP status. */
  readonly status?: number;
  /** The provider's name of the reason. */
  readonly reason?: string;
  readonly remedy?: Remedy;
}

/** A provider's refusals by status. */
export const REFUSALS: ReadonlyMap<number, Readonly<{ reason: string; code: string; remedy: Remedy }>>;

/** Where tickets come from: a running `tributary tickets run`. */
export interface TicketPortOptions {
  /** What the process printed as `url`, such as `http://127.0.0.1:8646`. */
  url: string;
  /** Content of the file that it printed as `token_file`. */
  token: string;
  /** Instead of the global `fetch`. */
  fetch?: typeof globalThis.fetch;
}

export interface LeaseOptions {
  /** A started light node. */
  node: Pick<LightNode, "libp2p" | "dial">;
  /** Peer id of the provider, or its multiaddr with `/p2p/` at the end, which is dialed if the node has no connection with it. */
  provider: string | { toString(): string };
  /** The service's id in the offer; `filter` if left out. */
  service?: string;
  /** How much of it in each slot, 1 if left out: content topics of Filter, messages of Lightpush. */
  quota?: number;
  tickets: TicketPortOptions;
  /** Closes the lease. */
  signal?: AbortSignal;
  /** The time, Unix seconds with fractions. */
  now?: () => number;
}

/** A slot that a node has. */
export interface LeasedSlot {
  /** Unix seconds. */
  start: number;
  quota: number;
  /** What was used of it, where use is counted. */
  used: number;
}

/** What a provider says that a node has. Times in Unix seconds, grace in seconds. */
export interface HeldLease {
  service: string;
  slots: LeasedSlot[];
  until: number;
  grace: number;
}

export interface LeaseEvents {
  granted: Event & { detail: { slotStart: number; quota: number; until: Date } };
  missed: Event & { detail: LeaseError };
  error: Event & { detail: LeaseError };
  closed: Event;
}

/** A lease that is kept up until it is closed. */
export class Lease extends EventTarget {
  private constructor();
  /** The provider's peer id. */
  readonly provider: string;
  readonly service: string;
  readonly quota: number;
  /** When the service ends unless the lease is renewed. */
  readonly until: Date | undefined;
  /** The slots that the node has, as the provider said last. */
  readonly slots: LeasedSlot[];
  /** Whether the running slot is paid. */
  readonly held: boolean;
  /** Why the last try failed, until one succeeds. */
  readonly lastError: LeaseError | undefined;
  /** What the provider says that the node has now. */
  query(): Promise<HeldLease | undefined>;
  /** Stops renewing. What is bought stays. */
  close(): Promise<void>;
  addEventListener<K extends keyof LeaseEvents>(
    type: K,
    listener: (event: LeaseEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** Buys the running slot for the node, and each slot after it before the one before ends, until the lease is closed. */
export function buyLease(options: LeaseOptions): Promise<Lease>;
