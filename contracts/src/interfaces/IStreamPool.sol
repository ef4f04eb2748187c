// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {
    Authorization,
    ClaimArgs,
    CloseArgs,
    Ext,
    InsertArgs,
    Permit,
    QueueState,
    RootInfo,
    SealedMemo,
    StreamRecord,
    TransactArgs
} from "../types/DataTypes.sol";

/// @notice The window of one stream that a claim paid.
/// @param tag The stream's record tag, 0 in an unused lane.
/// @param from Unix seconds up to which it was claimed before, 0 if never.
/// @param until Unix seconds up to which it is claimed now.
struct ClaimWindow {
    uint256 tag;
    uint256 from;
    uint256 until;
}

/// @title IStreamPool
/// @notice A shielded pool of one ERC-20 token with anonymous payment streams. Without owner, pause or upgrade.
/// @dev Amounts are in token base units, times in Unix seconds, positions count leaves from 0. The events alone are enough
/// to rebuild the tree, the stopped lists and, with a seed, a wallet.
interface IStreamPool {
    /*//////////////////////////////////////////////////////////////////////////
                                       EVENTS
    //////////////////////////////////////////////////////////////////////////*/

    /// @notice Emitted when two notes are spent and two are made.
    /// @param amountIn Token base units that entered the pool.
    /// @param amountOut Token base units that left the pool, the relayer's fee included.
    /// @param nullifiers The nullifiers of the notes spent.
    /// @param commitments The new notes.
    /// @param memos The new notes, sealed.
    /// @param payerMemo The payer's memo, 128 opaque bytes.
    /// @param position The position of `commitments[0]` in queue and tree, the other follows; 2^64 - 1 if both were dropped.
    event Transacted(
        uint256 amountIn,
        uint256 amountOut,
        uint256[2] nullifiers,
        uint256[2] commitments,
        SealedMemo[2] memos,
        bytes32[4] payerMemo,
        uint64 position
    );

    /// @notice Emitted when a stream is stopped.
    /// @param tag The stream's record tag.
    /// @param stop Unix seconds at which it stops.
    /// @param amountOut Token base units that left the pool, the relayer's fee included.
    /// @param nullifier The nullifier of the value note spent.
    /// @param commitments The new notes.
    /// @param memos The new notes, sealed.
    /// @param payerMemo The payer's memo, 128 opaque bytes.
    /// @param position The position of `commitments[0]` in queue and tree, the other follows; 2^64 - 1 if both were dropped.
    event Closed(
        uint256 tag,
        uint256 stop,
        uint256 amountOut,
        uint256 nullifier,
        uint256[2] commitments,
        SealedMemo[2] memos,
        bytes32[4] payerMemo,
        uint64 position
    );

    /// @notice Emitted when a payee claims.
    /// @param amountOut Token base units that left the pool, the relayer's fee included.
    /// @param burnBps The share that was burnt, in basis points.
    /// @param commitment The new note.
    /// @param memo The new note, sealed.
    /// @param windows What was claimed of each stream; unused lanes are 0.
    /// @param position The position of `commitment` in queue and tree; 2^64 - 1 if it was dropped.
    event Claimed(
        uint256 amountOut,
        uint256 burnBps,
        uint256 commitment,
        SealedMemo memo,
        ClaimWindow[16] windows,
        uint64 position
    );

    /// @notice Emitted when tokens leave the pool, after the operation's own event.
    /// @param recipient Who received `amount`, unless that is 0.
    /// @param amount Token base units, without the fee.
    /// @param relayer Who received `fee`, unless that is 0.
    /// @param fee Token base units.
    event Paid(address recipient, uint256 amount, address relayer, uint256 fee);

    /// @notice Emitted when queued leaves enter the tree.
    /// @param newRoot The root from now on.
    /// @param leafCount The number of leaves in the tree from now on.
    event Inserted(uint256 newRoot, uint64 leafCount);

    /// @notice Emitted when a bundle leaves an insertion out because another one came first.
    /// @param from Where the insertion would have started.
    /// @param inserted The number of leaves in the tree.
    event InsertionSkipped(uint256 from, uint64 inserted);

    /*//////////////////////////////////////////////////////////////////////////
                                     OPERATIONS
    //////////////////////////////////////////////////////////////////////////*/

    /// @notice Spends two value notes and makes two notes: deposit, transfer, merge, withdrawal and opening a stream.
    /// @dev `amountIn` is taken from the caller, who has approved it. Emits {Transacted} and perhaps {Paid}.
    /// @param args The statement and its proof.
    /// @param ext External data bound by the proof.
    function transact(TransactArgs calldata args, Ext calldata ext) external;

    /// @notice As {transact}, with the caller's approval by EIP-2612. A permit that was used before is no hindrance as long
    /// as the allowance is there.
    /// @param args The statement and its proof; `amountIn` is positive.
    /// @param ext External data bound by the proof.
    /// @param permit The caller's permit for exactly `amountIn`.
    function transactWithPermit(TransactArgs calldata args, Ext calldata ext, Permit calldata permit) external;

    /// @notice As {transact}, with tokens of whoever signed an EIP-3009 authorisation for this very statement. Anyone may
    /// send it.
    /// @dev The authorisation's nonce is keccak256(abi.encodePacked(uint256(21), digest, x_1..x_18)).
    /// @param args The statement and its proof; `amountIn` is positive.
    /// @param ext External data bound by the proof.
    /// @param authorization The signer and the signature.
    function transactWithAuthorization(
        TransactArgs calldata args,
        Ext calldata ext,
        Authorization calldata authorization
    ) external;

    /// @notice Stops a stream, refunds what will not have accrued, and perhaps opens another one with it.
    /// @dev Emits {Closed} and perhaps {Paid}.
    /// @param args The statement and its proof.
    /// @param ext External data bound by the proof.
    function close(CloseArgs calldata args, Ext calldata ext) external;

    /// @notice Pays a payee what accrued on up to 16 streams.
    /// @dev Emits {Claimed} and perhaps {Paid}.
    /// @param args The statement and its proof.
    /// @param ext External data bound by the proof; its memo is empty.
    function claim(ClaimArgs calldata args, Ext calldata ext) external;

    /// @notice Moves queued leaves into the tree. Anyone may do it.
    /// @dev Emits {Inserted}.
    /// @param args The leaves of one batch and the proof.
    function insert(InsertArgs calldata args) external;

    /// @notice One operation and then a list of insertions in one call.
    /// @dev An insertion that doesn't start at the end of the tree is skipped before its proof is looked at; whatever else is
    /// wrong with one reverts the whole. Emits the operation's events, {Inserted} and {InsertionSkipped}.
    /// @param operation The calldata of `transact`, `transactWithPermit`, `transactWithAuthorization`, `close` or `claim`, or
    /// nothing.
    /// @param insertions The insertions, in order.
    function bundle(bytes calldata operation, InsertArgs[] calldata insertions) external;

    /*//////////////////////////////////////////////////////////////////////////
                                       STATE
    //////////////////////////////////////////////////////////////////////////*/

    /// @notice Whether a note was spent.
    /// @param nullifier The note's nullifier.
    /// @return spent True once it was.
    function isSpent(uint256 nullifier) external view returns (bool spent);

    /// @notice What is known of a stream.
    /// @param tag The stream's record tag.
    /// @return record What was claimed, and when it stops; all zero for a stream that was neither claimed nor stopped.
    function streamRecord(uint256 tag) external view returns (StreamRecord memory record);

    /// @notice When a root became known; all zero for a root that the pool never had. Roots stay known for ever.
    /// @param root The root.
    /// @return info When, and how many leaves.
    function rootInfo(uint256 root) external view returns (RootInfo memory info);

    /// @notice The queue's counters.
    /// @return state How many leaves were queued, and how many are in the tree.
    function queueState() external view returns (QueueState memory state);

    /// @notice The queue's chain value after `position` leaves as an insertion would compare it: kept for ever at each 64th
    /// leaf, in the ring between. A slot of the ring may hold a value of an earlier or later round, or 0.
    /// @param position A number of leaves.
    /// @return chain The value, or 0 if there never was one.
    function checkpoint(uint256 position) external view returns (bytes32 chain);

    /// @notice How many leaves the tree takes.
    /// @return leaves 2^32.
    function capacity() external view returns (uint256 leaves);

    /*//////////////////////////////////////////////////////////////////////////
                                     IMMUTABLES
    //////////////////////////////////////////////////////////////////////////*/

    /// @notice The pool's token.
    /// @return token An ERC-20 token.
    function TOKEN() external view returns (address token);

    /// @notice Verifier of circuit `transact`.
    /// @return verifier An {IGroth16Verifier}.
    function TRANSACT_VERIFIER() external view returns (address verifier);

    /// @notice Verifier of circuit `close`.
    /// @return verifier An {IGroth16Verifier}.
    function CLOSE_VERIFIER() external view returns (address verifier);

    /// @notice Verifier of circuit `claim`.
    /// @return verifier An {IGroth16Verifier}.
    function CLAIM_VERIFIER() external view returns (address verifier);

    /// @notice Verifier of circuit `insert`.
    /// @return verifier An {IGroth16Verifier}.
    function INSERT_VERIFIER() external view returns (address verifier);

    /// @notice Least seconds between a close and its stop.
    /// @return notice Seconds.
    function NOTICE() external view returns (uint40 notice);

    /// @notice Seconds of a time slot.
    /// @return length Seconds.
    function SLOT_LENGTH() external view returns (uint40 length);

    /// @notice Seconds for which the chain must have run on before a slot's stopped list is final.
    /// @return margin Seconds.
    function MARGIN() external view returns (uint40 margin);

    /// @notice Share of each claim that is burnt, in basis points.
    /// @return burnBps 0 to 10,000.
    function BURN_BPS() external view returns (uint16 burnBps);
}
