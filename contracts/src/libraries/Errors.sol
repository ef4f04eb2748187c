// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Errors
/// @notice Every reason for which the pool refuses a call, with the values it compared.
library Errors {
    /// @notice Thrown when a deposit by permit or authorisation puts nothing in.
    error StreamPool_AmountInZero();

    /// @notice Thrown when the token moved another amount into the pool than asked, as tokens with a fee on transfer do.
    error StreamPool_AmountReceivedMismatch(uint256 expected, uint256 received);

    /// @notice Thrown when the share to burn exceeds 10,000 basis points.
    error StreamPool_BurnTooHigh(uint256 burnBps);

    /// @notice Thrown when the leaves given aren't the ones queued up to `position`.
    error StreamPool_ChainMismatch(uint256 position, bytes32 expected, bytes32 actual);

    /// @notice Thrown when no checkpoint of the queue was ever kept for `position`.
    error StreamPool_CheckpointUnknown(uint256 position);

    /// @notice Thrown when the operation arrives after its deadline.
    error StreamPool_DeadlinePassed(uint256 deadline, uint256 timestamp);

    /// @notice Thrown when the relayer's fee exceeds what leaves the pool.
    error StreamPool_FeeExceedsAmountOut(uint256 fee, uint256 amountOut);

    /// @notice Thrown when the first lane of a claim has no tag.
    error StreamPool_FirstLaneEmpty();

    /// @notice Thrown when an insertion starts elsewhere than at the end of the tree: another one came first.
    error StreamPool_InsertionMismatch(uint256 from, uint256 inserted);

    /// @notice Thrown when an insertion adds no leaf or runs beyond its batch.
    error StreamPool_InsertionSizeInvalid(uint256 from, uint256 leaves);

    /// @notice Thrown when the verifier of this circuit (by its hash tag) refuses the proof.
    error StreamPool_InvalidProof(uint256 circuit);

    /// @notice Thrown when a lane without a tag names a time.
    error StreamPool_LaneNotEmpty(uint256 lane, uint256 until);

    /// @notice Thrown when the payer's memo hasn't the one length it may have.
    error StreamPool_MemoLength(uint256 length, uint256 expected);

    /// @notice Thrown when a verifier or the token has no code.
    error StreamPool_NotAContract(address account);

    /// @notice Thrown when a bundle wraps a call that is no operation.
    error StreamPool_NotAnOperation(bytes4 selector);

    /// @notice Thrown when a statement element isn't below the scalar field's order. Index 0 is the digest, i is x_i.
    error StreamPool_NotCanonical(uint256 index, uint256 value);

    /// @notice Thrown when a pool's notice doesn't cover two slots and the margin.
    error StreamPool_NoticeBelowMinimum(uint256 notice, uint256 minimum);

    /// @notice Thrown when a note was spent before, or twice in this very operation.
    error StreamPool_NullifierSpent(uint256 nullifier);

    /// @notice Thrown when a payout would go to the zero address or to the pool itself.
    error StreamPool_RecipientInvalid(address recipient);

    /// @notice Thrown when a call comes from within another call of the pool.
    error StreamPool_Reentered();

    /// @notice Thrown when a fee would go to the zero address or to the pool itself.
    error StreamPool_RelayerInvalid(address relayer);

    /// @notice Thrown when an insertion names an old root that isn't the tree's current one.
    error StreamPool_RootNotCurrent(uint256 root, uint256 leafCount, uint256 inserted);

    /// @notice Thrown when the pool never had this root.
    error StreamPool_RootUnknown(uint256 root);

    /// @notice Thrown when a pool's slots have no length.
    error StreamPool_SlotLengthZero();

    /// @notice Thrown when a stop isn't a multiple of the slot length.
    error StreamPool_StopNotOnSlot(uint256 stop, uint256 slotLength);

    /// @notice Thrown when a stop doesn't fit into 40 bits.
    error StreamPool_StopOutOfRange(uint256 stop);

    /// @notice Thrown when a stop comes sooner than the notice allows.
    error StreamPool_StopTooSoon(uint256 stop, uint256 earliest);

    /// @notice Thrown when a stream was stopped before: a stop is set once, for ever.
    error StreamPool_StreamStopped(uint256 tag, uint256 stop);

    /// @notice Thrown when the tree has no place for the new notes and they may not be dropped.
    error StreamPool_TreeFull(uint256 queued, uint256 leaves, uint256 capacity);

    /// @notice Thrown when a claim covers no new second of a stream, also when a tag comes twice.
    error StreamPool_WindowEmpty(uint256 lane, uint256 from, uint256 until);

    /// @notice Thrown when a claim reaches beyond now.
    error StreamPool_WindowInFuture(uint256 lane, uint256 until, uint256 timestamp);

    /// @notice Thrown when a claim reaches beyond the stream's stop.
    error StreamPool_WindowPastStop(uint256 lane, uint256 until, uint256 stop);
}
