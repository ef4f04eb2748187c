// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice A Groth16 proof over BN254. Coordinates of G2 are in EIP-197 order: the imaginary part comes first.
/// @param a The point A of G1, (x, y).
/// @param b The point B of G2, ((x.c1, x.c0), (y.c1, y.c0)).
/// @param c The point C of G1, (x, y).
struct Proof {
    uint256[2] a;
    uint256[2][2] b;
    uint256[2] c;
}

/// @notice A note sealed to its owner's viewing key; the proof shows that it opens the very note.
/// @param ex The x coordinate of the ephemeral BabyJubjub point E.
/// @param ey The y coordinate of E.
/// @param c0 Ciphertext of the packed terms.
/// @param c1 Ciphertext of the note's seed rho.
/// @param c2 Ciphertext of the payer tag (0 for a value note).
struct SealedMemo {
    uint256 ex;
    uint256 ey;
    uint256 c0;
    uint256 c1;
    uint256 c2;
}

/// @notice External data: what a proof binds beside its own statement. A proof is worth nothing under any other.
/// @param recipient Who receives `amountOut - fee`. Neither zero nor the pool when that is positive, otherwise unused.
/// @param relayer Who receives `fee`. Neither zero nor the pool when that is positive, otherwise unused.
/// @param fee The relayer's fee, in token base units, at most the operation's `amountOut`.
/// @param deadline The last block timestamp, in Unix seconds, at which the operation is taken.
/// @param mayDropOutputs Whether the new notes may be dropped when the tree is full. Only for operations that put nothing
/// in and take something out; the wallet then makes the notes worthless.
/// @param memo The payer's own copy of the stream's terms, encrypted: exactly 128 bytes for transact and close, empty for
/// claim.
struct Ext {
    address recipient;
    address relayer;
    uint256 fee;
    uint256 deadline;
    bool mayDropOutputs;
    bytes memo;
}

/// @notice Two value notes in, two notes out; deposits, transfers, merges, withdrawals and opened streams alike.
/// @param proof The proof for circuit `transact`.
/// @param digest The Poseidon sponge of the statement.
/// @param root A root of the commitment tree that the pool knows.
/// @param amountIn Token base units that enter the pool.
/// @param amountOut Token base units that leave the pool, the relayer's fee included.
/// @param nullifiers The nullifiers of the two notes spent.
/// @param commitments The two new notes.
/// @param memos The two new notes, sealed.
struct TransactArgs {
    Proof proof;
    uint256 digest;
    uint256 root;
    uint256 amountIn;
    uint256 amountOut;
    uint256[2] nullifiers;
    uint256[2] commitments;
    SealedMemo[2] memos;
}

/// @notice One stream stopped and one value note spent, two notes out.
/// @param proof The proof for circuit `close`.
/// @param digest The Poseidon sponge of the statement.
/// @param root A root of the commitment tree that the pool knows.
/// @param tag The stream's record tag.
/// @param stop Unix seconds at which the stream stops: a multiple of the slot length, at least NOTICE ahead.
/// @param amountOut Token base units that leave the pool, the relayer's fee included.
/// @param nullifier The nullifier of the value note spent.
/// @param commitments The two new notes.
/// @param memos The two new notes, sealed.
struct CloseArgs {
    Proof proof;
    uint256 digest;
    uint256 root;
    uint256 tag;
    uint256 stop;
    uint256 amountOut;
    uint256 nullifier;
    uint256[2] commitments;
    SealedMemo[2] memos;
}

/// @notice One stream of a claim.
/// @param tag The stream's record tag, or 0 for an unused lane (never in the first).
/// @param until Unix seconds up to which the stream is claimed, 0 in an unused lane.
struct ClaimLane {
    uint256 tag;
    uint256 until;
}

/// @notice Up to 16 streams of one payee claimed in one proof, one note out.
/// @param proof The proof for circuit `claim`.
/// @param digest The Poseidon sponge of the statement.
/// @param root A root of the commitment tree that the pool knows.
/// @param amountOut Token base units that leave the pool, the relayer's fee included.
/// @param commitment The new note, the payee's own.
/// @param memo The new note, sealed.
/// @param lanes The streams.
struct ClaimArgs {
    Proof proof;
    uint256 digest;
    uint256 root;
    uint256 amountOut;
    uint256 commitment;
    SealedMemo memo;
    ClaimLane[16] lanes;
}

/// @notice Queued leaves that enter the tree: at most to the end of one batch of 64.
/// @param proof The proof for circuit `insert`.
/// @param digest The Poseidon sponge of the statement.
/// @param oldRoot The root after `from` leaves.
/// @param newRoot The root after the insertion.
/// @param from The number of leaves in the tree before the insertion.
/// @param leaves All leaves of the batch, from its first (already inserted ones included), 1 to 64.
struct InsertArgs {
    Proof proof;
    uint256 digest;
    uint256 oldRoot;
    uint256 newRoot;
    uint256 from;
    uint256[] leaves;
}

/// @notice An EIP-2612 permit of the caller for exactly `amountIn`.
/// @param deadline The permit's deadline in Unix seconds.
/// @param v Part of the signature.
/// @param r Part of the signature.
/// @param s Part of the signature.
struct Permit {
    uint256 deadline;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @notice An EIP-3009 authorisation to receive exactly `amountIn`. Its nonce isn't given: it is the hash of the statement.
/// @param from Whose tokens enter the pool: the signer.
/// @param validAfter Unix seconds after which it is valid.
/// @param validBefore Unix seconds before which it is valid.
/// @param v Part of the signature.
/// @param r Part of the signature.
/// @param s Part of the signature.
struct Authorization {
    address from;
    uint256 validAfter;
    uint256 validBefore;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @notice What the chain knows of a stream once it was claimed or stopped. One storage slot.
/// @param claimedUntil Unix seconds up to which the payee was paid, 0 if never.
/// @param stop Unix seconds at which the payer stopped the stream, 0 if never.
struct StreamRecord {
    uint40 claimedUntil;
    uint40 stop;
}

/// @notice When a root became known. One storage slot; `timestamp` is never 0 for a known root.
/// @param leafCount The number of leaves in the tree under this root.
/// @param blockNumber The block of the insertion.
/// @param timestamp That block's timestamp in Unix seconds.
struct RootInfo {
    uint64 leafCount;
    uint64 blockNumber;
    uint64 timestamp;
}

/// @notice The insertion queue's counters. One storage slot.
/// @param queued The number of commitments ever queued; the next one's position in queue and tree.
/// @param inserted The number of commitments in the tree.
struct QueueState {
    uint64 queued;
    uint64 inserted;
}

/// @notice What a pool is deployed with.
/// @param token The one ERC-20 token of the pool.
/// @param transactVerifier Verifier of circuit `transact`.
/// @param closeVerifier Verifier of circuit `close`.
/// @param claimVerifier Verifier of circuit `claim`.
/// @param insertVerifier Verifier of circuit `insert`.
/// @param notice Least seconds between a close and its stop, at least `2 * slotLength + margin`.
/// @param slotLength Seconds of a time slot, positive.
/// @param margin Seconds for which the chain must have run on before a slot's stopped list is final.
/// @param burnBps Share of each claim that is burnt, in basis points, 0 to 10,000.
struct PoolConfig {
    address token;
    address transactVerifier;
    address closeVerifier;
    address claimVerifier;
    address insertVerifier;
    uint40 notice;
    uint40 slotLength;
    uint40 margin;
    uint16 burnBps;
}
