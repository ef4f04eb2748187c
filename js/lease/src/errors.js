/**
 * What can go wrong, with the codes of the Rust programs (docs/src/market.md).
 * @module
 */

/**
 * What a buyer does about a provider's refusal.
 *
 * - `send_again`: nothing is spent; the same request goes out again later.
 * - `new_ticket`: another ticket is needed.
 * - `spent`: the ticket is spent.
 * - `read_offer`: the provider's newest offer says what has changed.
 * - `report`: a program is wrong.
 * @typedef {"send_again" | "new_ticket" | "spent" | "read_offer" | "report"} Remedy
 */

/** A lease that was not bought, or could not be asked about. */
export class LeaseError extends Error {
  /**
   * @param {string} code Stable code, `TRB-…`.
   * @param {string} message What happened, and what to do.
   * @param {{ status?: number, reason?: string, remedy?: Remedy, cause?: unknown }} [details]
   */
  constructor(code, message, { status, reason, remedy, cause } = {}) {
    super(`${message} [${code}]`, cause === undefined ? undefined : { cause });
    this.name = "LeaseError";
    /** Stable code: of a provider's refusal, of the local ticket port, of a message, or of a connection. */
    this.code = code;
    /** The provider's status (402 and 403 with two digits), or the HTTP status of the ticket port. */
    this.status = status;
    /** The provider's name of the reason. */
    this.reason = reason;
    /** What a buyer does about it. */
    this.remedy = remedy;
  }
}

export const code = {
  tooLarge: "TRB-M001",
  undecodable: "TRB-M002",
  version: "TRB-M003",
  missing: "TRB-M004",
  range: "TRB-M007",
  invalid: "TRB-M008",
  unreachable: "TRB-M022",
  timeout: "TRB-M023",
  protocol: "TRB-M025",
  noLease: "TRB-C016",
  /** The ticket port did not answer, or not as it should. */
  ticketPort: "TRB-L031",
  /** Another lease of the same service is kept up for this node already. */
  leasedTwice: "TRB-L032",
  /** An argument is not what it must be. */
  argument: "TRB-L033",
  /** The lease was closed. */
  closed: "TRB-L034",
  /** A provider's status that this version doesn't know. */
  unknownStatus: "TRB-L035",
};

/**
 * Refusals by status: name, code, and what a buyer does. The terms of a lease (403..) are judged before its ticket, so nothing is spent.
 * @type {ReadonlyMap<number, { reason: string, code: string, remedy: Remedy }>}
 */
export const REFUSALS = new Map([
  [402, "payment_required", "TRB-M400", "read_offer"],
  [40201, "too_large", "TRB-M401", "report"],
  [40202, "malformed", "TRB-M402", "report"],
  [40203, "bad_version", "TRB-M403", "report"],
  [40204, "over_spent", "TRB-M404", "report"],
  [40205, "unused_nullifier", "TRB-M405", "report"],
  [40206, "zero_nullifier", "TRB-M406", "report"],
  [40207, "repeated_nullifier", "TRB-M407", "report"],
  [40208, "not_a_ticket", "TRB-M408", "report"],
  [40209, "wrong_slot", "TRB-M409", "report"],
  [40210, "stale_slot", "TRB-M410", "new_ticket"],
  [40211, "slot_not_final", "TRB-M411", "send_again"],
  [40212, "wrong_payee", "TRB-M412", "read_offer"],
  [40213, "wrong_price", "TRB-M413", "read_offer"],
  [40214, "wrong_min_streamed", "TRB-M414", "read_offer"],
  [40215, "unknown_root", "TRB-M415", "send_again"],
  [40216, "shallow_root", "TRB-M416", "send_again"],
  [40217, "wrong_stopped_root", "TRB-M417", "send_again"],
  [40218, "replayed", "TRB-M418", "spent"],
  [40219, "already_served", "TRB-M419", "spent"],
  [40220, "spent_unserved", "TRB-M420", "spent"],
  [40221, "bad_signature", "TRB-M421", "report"],
  [40222, "invalid_proof", "TRB-M422", "report"],
  [40223, "too_few_tickets", "TRB-M423", "new_ticket"],
  [40224, "unavailable", "TRB-M424", "send_again"],
  [40301, "malformed_lease_request", "TRB-M451", "report"],
  [40302, "bad_lease_version", "TRB-M452", "report"],
  [40303, "wrong_peer", "TRB-M453", "report"],
  [40304, "unknown_service", "TRB-M454", "read_offer"],
  [40305, "bad_quota", "TRB-M455", "read_offer"],
  [40306, "wrong_lease_slot", "TRB-M456", "send_again"],
  [40307, "full", "TRB-M457", "send_again"],
  [40308, "too_many_requests", "TRB-M458", "send_again"],
].map(([status, reason, trb, remedy]) => [status, Object.freeze({ reason, code: trb, remedy })]));

/**
 * The error that a provider's status stands for; `undefined` for 200.
 * @param {number} status
 * @param {string} description
 */
export function refusal(status, description) {
  if (status === 200) return undefined;
  const known = REFUSALS.get(status);
  if (!known) return new LeaseError(code.unknownStatus, `the provider answered ${status}: ${description}`, { status });
  return new LeaseError(known.code, `the provider refused: ${description}`, { status, ...known });
}
