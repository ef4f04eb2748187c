// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IERC3009} from "./interfaces/IERC3009.sol";
import {IGroth16Verifier} from "./interfaces/IGroth16Verifier.sol";
import {IStreamPool} from "./interfaces/IStreamPool.sol";
import {Errors} from "./libraries/Errors.sol";
import {Statement} from "./libraries/Statement.sol";
import {
    Authorization,
    ClaimArgs,
    CloseArgs,
    Ext,
    InsertArgs,
    Permit,
    PoolConfig,
    Proof,
    QueueState,
    RootInfo,
    StreamRecord,
    TransactArgs
} from "./types/DataTypes.sol";

/// @title StreamPool
/// @notice See the documentation in {IStreamPool}.
contract StreamPool is IStreamPool {
    using SafeERC20 for IERC20;

    /*//////////////////////////////////////////////////////////////////////////
                                     CONSTANTS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev Hash tags of the circuits; the first three are also the operations of the external data.
    uint256 private constant TRANSACT = 21;
    uint256 private constant CLOSE = 22;
    uint256 private constant CLAIM = 23;
    uint256 private constant INSERT = 24;

    /// @dev Elements of the circuits' statements.
    uint256 private constant TRANSACT_SIZE = 18;
    uint256 private constant CLOSE_SIZE = 18;
    uint256 private constant CLAIM_SIZE = 58;
    uint256 private constant INSERT_SIZE = 69;

    /// @dev Lanes of a claim.
    uint256 private constant LANES = 16;

    /// @dev Leaves of a batch.
    uint256 private constant BATCH = 64;

    /// @dev Slots of the ring of chain values. An insertion up to a partly filled batch stays possible until this many
    /// leaves were queued after its checkpoint.
    uint256 private constant RING = 256;

    /// @dev Bytes of the payer's memo in transact and close.
    uint256 private constant MEMO_LENGTH = 128;

    /// @dev The queue's chain value before its first leaf: keccak256("tributary.queue").
    bytes32 private constant EMPTY_QUEUE = 0xf25b03a633b3c8946d58b3833cf9942f005f53d5388d0534a6a592185c358a67;

    /// @dev The root of the tree without leaves: depth 16, four children a node, leaf keccak256("tributary.empty.leaf") mod r.
    uint256 private constant EMPTY_ROOT =
        3_820_005_473_897_952_777_488_610_195_425_796_823_960_975_242_144_704_014_705_800_192_751_825_800_430;

    /// @dev Leaves of the tree.
    uint256 private constant TREE_CAPACITY = 1 << 32;

    /// @dev The position of notes that were dropped.
    uint64 private constant NOT_QUEUED = type(uint64).max;

    /*//////////////////////////////////////////////////////////////////////////
                                     IMMUTABLES
    //////////////////////////////////////////////////////////////////////////*/

    /// @inheritdoc IStreamPool
    address public immutable override TOKEN;

    /// @inheritdoc IStreamPool
    address public immutable override TRANSACT_VERIFIER;

    /// @inheritdoc IStreamPool
    address public immutable override CLOSE_VERIFIER;

    /// @inheritdoc IStreamPool
    address public immutable override CLAIM_VERIFIER;

    /// @inheritdoc IStreamPool
    address public immutable override INSERT_VERIFIER;

    /// @inheritdoc IStreamPool
    uint40 public immutable override NOTICE;

    /// @inheritdoc IStreamPool
    uint40 public immutable override SLOT_LENGTH;

    /// @inheritdoc IStreamPool
    uint40 public immutable override MARGIN;

    /// @inheritdoc IStreamPool
    uint16 public immutable override BURN_BPS;

    /*//////////////////////////////////////////////////////////////////////////
                                       STATE
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev Nullifiers of spent notes.
    mapping(uint256 nullifier => bool spent) private _spent;

    /// @dev Streams that were claimed or stopped, by tag.
    mapping(uint256 tag => StreamRecord record) private _records;

    /// @dev All roots that the tree ever had.
    mapping(uint256 root => RootInfo info) private _roots;

    /// @dev The chain value at each 64th leaf, by number of full batches.
    mapping(uint256 batch => bytes32 chain) private _kept;

    /// @dev The chain values after the last operations, by position modulo the ring's size.
    bytes32[RING] private _ring;

    /// @dev The queue's counters.
    QueueState private _queue;

    /// @dev Whether a call is under way.
    bool private transient _entered;

    /*//////////////////////////////////////////////////////////////////////////
                                    CONSTRUCTION
    //////////////////////////////////////////////////////////////////////////*/

    /// @notice Deploys a pool that nobody can change.
    /// @param config Its token, verifiers and parameters.
    constructor(PoolConfig memory config) {
        // K1: slots have a length.
        if (config.slotLength == 0) revert Errors.StreamPool_SlotLengthZero();
        // K2: a stop lies behind every slot whose tickets may have been taken already.
        uint256 minimum = 2 * uint256(config.slotLength) + config.margin;
        if (config.notice < minimum) revert Errors.StreamPool_NoticeBelowMinimum(config.notice, minimum);
        // K3: at most everything is burnt.
        if (config.burnBps > 10_000) revert Errors.StreamPool_BurnTooHigh(config.burnBps);
        // K4: what it relies on exists.
        _checkCode(config.token);
        _checkCode(config.transactVerifier);
        _checkCode(config.closeVerifier);
        _checkCode(config.claimVerifier);
        _checkCode(config.insertVerifier);

        TOKEN = config.token;
        TRANSACT_VERIFIER = config.transactVerifier;
        CLOSE_VERIFIER = config.closeVerifier;
        CLAIM_VERIFIER = config.claimVerifier;
        INSERT_VERIFIER = config.insertVerifier;
        NOTICE = config.notice;
        SLOT_LENGTH = config.slotLength;
        MARGIN = config.margin;
        BURN_BPS = config.burnBps;

        _kept[0] = EMPTY_QUEUE;
        _roots[EMPTY_ROOT] = RootInfo(0, uint64(block.number), uint64(block.timestamp));
    }

    /// @dev One call at a time: a token that calls back finds the pool shut.
    modifier nonReentrant() {
        _enter();
        _;
        _entered = false;
    }

    /*//////////////////////////////////////////////////////////////////////////
                                     OPERATIONS
    //////////////////////////////////////////////////////////////////////////*/

    /// @inheritdoc IStreamPool
    function transact(TransactArgs calldata args, Ext calldata ext) external override nonReentrant {
        _transact(args, ext);
        // A1: a plain deposit comes from the caller and from nobody else.
        if (args.amountIn != 0) {
            uint256 balance = _balance();
            IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), args.amountIn);
            _checkReceived(balance, args.amountIn);
        }
        _pay(args.amountOut, ext);
    }

    /// @inheritdoc IStreamPool
    function transactWithPermit(TransactArgs calldata args, Ext calldata ext, Permit calldata permit)
        external
        override
        nonReentrant
    {
        // A2: a permit is for a deposit.
        if (args.amountIn == 0) revert Errors.StreamPool_AmountInZero();
        _transact(args, ext);
        // Whoever saw the permit may have used it first; then the allowance is there already, or the transfer fails.
        // solhint-disable no-empty-blocks
        try IERC20Permit(TOKEN)
            .permit(msg.sender, address(this), args.amountIn, permit.deadline, permit.v, permit.r, permit.s) {}
            catch {}
        // solhint-enable no-empty-blocks
        uint256 balance = _balance();
        IERC20(TOKEN).safeTransferFrom(msg.sender, address(this), args.amountIn);
        _checkReceived(balance, args.amountIn);
        _pay(args.amountOut, ext);
    }

    /// @inheritdoc IStreamPool
    function transactWithAuthorization(
        TransactArgs calldata args,
        Ext calldata ext,
        Authorization calldata authorization
    ) external override nonReentrant {
        // A2: an authorisation is for a deposit.
        if (args.amountIn == 0) revert Errors.StreamPool_AmountInZero();
        // A3: what was signed is this statement, so that nobody can take the deposit for another note.
        bytes32 nonce = _transact(args, ext);
        uint256 balance = _balance();
        IERC3009(TOKEN)
            .receiveWithAuthorization(
                authorization.from,
                address(this),
                args.amountIn,
                authorization.validAfter,
                authorization.validBefore,
                nonce,
                authorization.v,
                authorization.r,
                authorization.s
            );
        _checkReceived(balance, args.amountIn);
        _pay(args.amountOut, ext);
    }

    /// @inheritdoc IStreamPool
    function close(CloseArgs calldata args, Ext calldata ext) external override nonReentrant {
        _checkExt(args.amountOut, ext, MEMO_LENGTH);
        _checkRoot(args.root);
        _stop(args.tag, args.stop);

        uint256 ptr = Statement.allocate(CLOSE_SIZE, 5);
        uint256 extHash = _hashExt(CLOSE, ext);
        assembly ("memory-safe") {
            mstore(ptr, CLOSE)
            calldatacopy(add(ptr, 0x20), add(args, 0x100), 0x40)
            mstore(add(ptr, 0x60), extHash)
            calldatacopy(add(ptr, 0x80), add(args, 0x140), 0x200)
        }
        _verify(CLOSE_VERIFIER, args.proof, ptr, CLOSE_SIZE);
        _spend(args.nullifier);
        uint64 position =
            _queueLeaves(args.commitments[0], args.commitments[1], 2, 0, args.amountOut, ext.mayDropOutputs);
        _log(Closed.selector, ptr, CLOSE_SIZE, ext.memo, position);
        _pay(args.amountOut, ext);
    }

    /// @inheritdoc IStreamPool
    function claim(ClaimArgs calldata args, Ext calldata ext) external override nonReentrant {
        _checkExt(args.amountOut, ext, 0);
        _checkRoot(args.root);

        uint256 ptr = Statement.allocate(CLAIM_SIZE, 1);
        uint256 extHash = _hashExt(CLAIM, ext);
        uint256 burnBps = BURN_BPS;
        assembly ("memory-safe") {
            mstore(ptr, CLAIM)
            calldatacopy(add(ptr, 0x20), add(args, 0x100), 0x40)
            mstore(add(ptr, 0x60), extHash)
            mstore(add(ptr, 0x80), calldataload(add(args, 0x140)))
            mstore(add(ptr, 0xa0), burnBps)
            calldatacopy(add(ptr, 0xc0), add(args, 0x160), 0xc0)
        }
        // W1: the first lane seeds the new note, so it can't be empty.
        if (args.lanes[0].tag == 0) revert Errors.StreamPool_FirstLaneEmpty();
        for (uint256 lane; lane < LANES; ++lane) {
            uint256 tag = args.lanes[lane].tag;
            uint256 until = args.lanes[lane].until;
            uint256 from = _claimLane(lane, tag, until);
            assembly ("memory-safe") {
                let at := add(add(ptr, 0x180), mul(lane, 0x60))
                mstore(at, tag)
                mstore(add(at, 0x20), from)
                mstore(add(at, 0x40), until)
            }
        }
        _verify(CLAIM_VERIFIER, args.proof, ptr, CLAIM_SIZE);
        uint64 position = _queueLeaves(args.commitment, 0, 1, 0, args.amountOut, ext.mayDropOutputs);
        _log(Claimed.selector, ptr, CLAIM_SIZE, ext.memo, position);
        _pay(args.amountOut, ext);
    }

    /// @inheritdoc IStreamPool
    function insert(InsertArgs calldata args) external override nonReentrant {
        uint256 inserted = _queue.inserted;
        // I1: leaves enter in order.
        if (args.from != inserted) revert Errors.StreamPool_InsertionMismatch(args.from, inserted);
        _insert(args);
    }

    /// @inheritdoc IStreamPool
    function bundle(bytes calldata operation, InsertArgs[] calldata insertions) external override {
        if (operation.length != 0) _callOperation(operation);
        _enter();
        for (uint256 i; i < insertions.length; ++i) {
            uint64 inserted = _queue.inserted;
            // B2: an insertion that was overtaken is no reason to lose the rest.
            if (insertions[i].from == inserted) _insert(insertions[i]);
            else emit InsertionSkipped(insertions[i].from, inserted);
        }
        _entered = false;
    }

    /*//////////////////////////////////////////////////////////////////////////
                                       STATE
    //////////////////////////////////////////////////////////////////////////*/

    /// @inheritdoc IStreamPool
    function isSpent(uint256 nullifier) external view override returns (bool spent) {
        spent = _spent[nullifier];
    }

    /// @inheritdoc IStreamPool
    function streamRecord(uint256 tag) external view override returns (StreamRecord memory record) {
        record = _records[tag];
    }

    /// @inheritdoc IStreamPool
    function rootInfo(uint256 root) external view override returns (RootInfo memory info) {
        info = _roots[root];
    }

    /// @inheritdoc IStreamPool
    function queueState() external view override returns (QueueState memory state) {
        state = _queue;
    }

    /// @inheritdoc IStreamPool
    function checkpoint(uint256 position) external view override returns (bytes32 chain) {
        chain = _checkpoint(position);
    }

    /// @inheritdoc IStreamPool
    function capacity() external view override returns (uint256 leaves) {
        leaves = _capacity();
    }

    /*//////////////////////////////////////////////////////////////////////////
                                 INTERNAL: OPERATIONS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev Everything of a transact but the tokens. Returns the hash of the statement.
    function _transact(TransactArgs calldata args, Ext calldata ext) private returns (bytes32 hash) {
        _checkExt(args.amountOut, ext, MEMO_LENGTH);
        _checkRoot(args.root);

        uint256 ptr = Statement.allocate(TRANSACT_SIZE, 5);
        uint256 extHash = _hashExt(TRANSACT, ext);
        assembly ("memory-safe") {
            mstore(ptr, TRANSACT)
            calldatacopy(add(ptr, 0x20), add(args, 0x100), 0x40)
            mstore(add(ptr, 0x60), extHash)
            calldatacopy(add(ptr, 0x80), add(args, 0x140), 0x200)
        }
        hash = _verify(TRANSACT_VERIFIER, args.proof, ptr, TRANSACT_SIZE);
        _spend(args.nullifiers[0]);
        _spend(args.nullifiers[1]);
        uint64 position = _queueLeaves(
            args.commitments[0], args.commitments[1], 2, args.amountIn, args.amountOut, ext.mayDropOutputs
        );
        _log(Transacted.selector, ptr, TRANSACT_SIZE, ext.memo, position);
    }

    /// @dev Sets a stream's stop, once and for ever.
    function _stop(uint256 tag, uint256 stop) private {
        // S1: a stop fits into its record.
        if (stop > type(uint40).max) revert Errors.StreamPool_StopOutOfRange(stop);
        // S2: a stop ends a slot.
        if (stop % SLOT_LENGTH != 0) revert Errors.StreamPool_StopNotOnSlot(stop, SLOT_LENGTH);
        // S3: whoever accepts tickets hears of a stop in time.
        uint256 earliest = block.timestamp + NOTICE;
        if (stop < earliest) revert Errors.StreamPool_StopTooSoon(stop, earliest);
        // S4: a stop is for ever.
        StreamRecord storage record = _records[tag];
        uint40 previous = record.stop;
        if (previous != 0) revert Errors.StreamPool_StreamStopped(tag, previous);
        // forge-lint: disable-next-line(unsafe-typecast)
        record.stop = uint40(stop);
    }

    /// @dev Moves a stream's claimed time on. Returns where it stood.
    function _claimLane(uint256 lane, uint256 tag, uint256 until) private returns (uint256 from) {
        if (tag == 0) {
            // W2: an unused lane says nothing.
            if (until != 0) revert Errors.StreamPool_LaneNotEmpty(lane, until);
            return 0;
        }
        StreamRecord storage record = _records[tag];
        StreamRecord memory known = record;
        from = known.claimedUntil;
        // W3: no second is paid twice, also within one claim.
        if (until <= from) revert Errors.StreamPool_WindowEmpty(lane, from, until);
        // W4: only what has accrued is paid.
        if (until > block.timestamp) revert Errors.StreamPool_WindowInFuture(lane, until, block.timestamp);
        // W5: nothing is paid that was refunded.
        if (known.stop != 0 && until > known.stop) revert Errors.StreamPool_WindowPastStop(lane, until, known.stop);
        // forge-lint: disable-next-line(unsafe-typecast)
        known.claimedUntil = uint40(until);
        _records[tag] = known;
    }

    /// @dev An insertion that starts at the end of the tree.
    function _insert(InsertArgs calldata args) private {
        uint256 from = args.from;
        uint256 batch = from / BATCH;
        uint256 k = from % BATCH;
        uint256 m = args.leaves.length;
        // I2: an insertion adds something and stays within its batch.
        if (m <= k || m > BATCH) revert Errors.StreamPool_InsertionSizeInvalid(from, m);
        // I3: it starts from the tree as it is.
        RootInfo memory old = _roots[args.oldRoot];
        if (old.timestamp == 0 || old.leafCount != from) {
            revert Errors.StreamPool_RootNotCurrent(args.oldRoot, old.leafCount, from);
        }

        uint256 ptr = Statement.allocate(INSERT_SIZE, 0);
        bytes32 chain = _kept[batch];
        uint256[] calldata leaves = args.leaves;
        assembly ("memory-safe") {
            mstore(ptr, INSERT)
            calldatacopy(add(ptr, 0x20), add(args, 0x100), 0x60)
            mstore(add(ptr, 0x80), batch)
            mstore(add(ptr, 0xa0), k)
            mstore(add(ptr, 0xc0), m)
            let at := add(ptr, 0xe0)
            let size := shl(5, m)
            calldatacopy(at, leaves.offset, size)
            // Beyond the call's data everything reads as zero.
            calldatacopy(add(at, size), calldatasize(), sub(0x800, size))
            mstore(0x00, chain)
            // One by one until the rest is a multiple of four, then four at a time: the loop costs as much as a hash.
            let end := add(at, size)
            for { let single := add(at, shl(5, and(m, 3))) } lt(at, single) { at := add(at, 0x20) } {
                mstore(0x20, mload(at))
                mstore(0x00, keccak256(0x00, 0x40))
            }
            for {} lt(at, end) { at := add(at, 0x80) } {
                mstore(0x20, mload(at))
                mstore(0x00, keccak256(0x00, 0x40))
                mstore(0x20, mload(add(at, 0x20)))
                mstore(0x00, keccak256(0x00, 0x40))
                mstore(0x20, mload(add(at, 0x40)))
                mstore(0x00, keccak256(0x00, 0x40))
                mstore(0x20, mload(add(at, 0x60)))
                mstore(0x00, keccak256(0x00, 0x40))
            }
            chain := mload(0x00)
        }
        uint256 position = batch * BATCH + m;
        bytes32 known = _checkpoint(position);
        // I4: an empty slot vouches for nothing.
        if (known == 0) revert Errors.StreamPool_CheckpointUnknown(position);
        // I5: the leaves are those that were queued, all of them and in order.
        if (known != chain) revert Errors.StreamPool_ChainMismatch(position, known, chain);
        _verify(INSERT_VERIFIER, args.proof, ptr, INSERT_SIZE);

        // forge-lint: disable-next-line(unsafe-typecast)
        uint64 leafCount = uint64(position);
        _queue.inserted = leafCount;
        _roots[args.newRoot] = RootInfo(leafCount, uint64(block.number), uint64(block.timestamp));
        emit Inserted(args.newRoot, leafCount);
    }

    /// @dev Calls one of the pool's operations for the same sender, and passes its error on.
    function _callOperation(bytes calldata operation) private {
        // Fewer than four bytes are padded to a selector that isn't an operation's.
        // forge-lint: disable-next-line(unsafe-typecast)
        bytes4 selector = bytes4(operation);
        // B1: a bundle wraps an operation, not any call.
        if (
            selector != this.transact.selector && selector != this.transactWithPermit.selector
                && selector != this.transactWithAuthorization.selector && selector != this.close.selector
                && selector != this.claim.selector
        ) revert Errors.StreamPool_NotAnOperation(selector);
        // The pool's own code in its own storage, so that the sender stays who it is.
        // solhint-disable-next-line avoid-low-level-calls
        (bool success, bytes memory data) = address(this).delegatecall(operation);
        if (!success) {
            assembly ("memory-safe") {
                revert(add(data, 0x20), mload(data))
            }
        }
    }

    /*//////////////////////////////////////////////////////////////////////////
                                   INTERNAL: PARTS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev Checks the external data against the operation.
    function _checkExt(uint256 amountOut, Ext calldata ext, uint256 memoLength) private view {
        // E1: not after its deadline.
        if (block.timestamp > ext.deadline) revert Errors.StreamPool_DeadlinePassed(ext.deadline, block.timestamp);
        // E2: all operations of a kind look alike.
        if (ext.memo.length != memoLength) revert Errors.StreamPool_MemoLength(ext.memo.length, memoLength);
        // E3: the fee is part of what goes out.
        uint256 fee = ext.fee;
        if (fee > amountOut) revert Errors.StreamPool_FeeExceedsAmountOut(fee, amountOut);
        // E4: a fee reaches somebody.
        if (fee != 0 && _isNobody(ext.relayer)) revert Errors.StreamPool_RelayerInvalid(ext.relayer);
        // E5: a payout reaches somebody.
        if (amountOut != fee && _isNobody(ext.recipient)) revert Errors.StreamPool_RecipientInvalid(ext.recipient);
    }

    /// @dev Whether nothing should ever be paid to an account: it would be lost or would stay in the pool.
    function _isNobody(address account) private view returns (bool nobody) {
        nobody = account == address(0) || account == address(this);
    }

    /// @dev The statement's element that binds the external data, this chain and this pool.
    function _hashExt(uint256 operation, Ext calldata ext) private view returns (uint256 hash) {
        // E6: a proof is for this chain, this pool, this operation and this external data.
        hash = uint256(
            keccak256(
                abi.encode(
                    block.chainid,
                    address(this),
                    operation,
                    ext.recipient,
                    ext.relayer,
                    ext.fee,
                    ext.deadline,
                    ext.mayDropOutputs,
                    ext.memo
                )
            )
        ) % Statement.R;
    }

    /// @dev Reverts unless the tree once had this root.
    function _checkRoot(uint256 root) private view {
        // R1: notes are shown to be in a tree that this pool had.
        if (_roots[root].timestamp == 0) revert Errors.StreamPool_RootUnknown(root);
    }

    /// @dev Marks a note spent; reverts if it is.
    function _spend(uint256 nullifier) private {
        // N1: a note is spent once.
        if (_spent[nullifier]) revert Errors.StreamPool_NullifierSpent(nullifier);
        _spent[nullifier] = true;
    }

    /// @dev Reverts unless the statement is canonical and the proof valid. Returns the hash of the statement.
    function _verify(address verifier, Proof calldata proof, uint256 ptr, uint256 n)
        private
        view
        returns (bytes32 hash)
    {
        uint256 value;
        (hash, value) = Statement.evaluate(ptr, n);
        bytes4 selector = IGroth16Verifier.verifyProof.selector;
        bool valid;
        uint256 circuit;
        assembly ("memory-safe") {
            circuit := mload(ptr)
            let data := mload(0x40)
            mstore(data, selector)
            calldatacopy(add(data, 0x04), proof, 0x100)
            mstore(add(data, 0x104), mload(add(ptr, 0x20)))
            mstore(
                add(data, 0x124),
                mod(hash, 21888242871839275222246405745257275088548364400416034343698204186575808495617)
            )
            mstore(add(data, 0x144), value)
            valid := staticcall(gas(), verifier, data, 0x164, 0x00, 0x20)
            valid := and(valid, and(eq(mload(0x00), 1), gt(returndatasize(), 0x1f)))
        }
        // X3: the circuit's verifier agrees.
        if (!valid) revert Errors.StreamPool_InvalidProof(circuit);
    }

    /// @dev Queues one or two leaves. Returns the first one's position, or NOT_QUEUED if all were dropped.
    function _queueLeaves(
        uint256 leaf0,
        uint256 leaf1,
        uint256 count,
        uint256 amountIn,
        uint256 amountOut,
        bool mayDropOutputs
    ) private returns (uint64 position) {
        QueueState memory state = _queue;
        position = state.queued;
        uint256 next = position;
        // Q1: every leaf that is queued has its place in the tree.
        if (next + count > _capacity()) {
            // Q2: money can leave a full tree, and only then may notes be dropped.
            if (mayDropOutputs && amountIn == 0 && amountOut != 0) return NOT_QUEUED;
            revert Errors.StreamPool_TreeFull(next, count, _capacity());
        }
        bytes32 chain = _checkpoint(next);
        chain = _chain(chain, leaf0);
        unchecked {
            ++next;
        }
        if (count == 2) {
            // Q3: a checkpoint for ever at each 64th leaf, also between two of one operation.
            if (next % BATCH == 0) _kept[next / BATCH] = chain;
            chain = _chain(chain, leaf1);
            unchecked {
                ++next;
            }
        }
        // Q4: the newest end of the queue is always a checkpoint.
        if (next % BATCH == 0) _kept[next / BATCH] = chain;
        else _ring[next % RING] = chain;
        // forge-lint: disable-next-line(unsafe-typecast)
        state.queued = uint64(next);
        _queue = state;
    }

    /// @dev The chain value after one more leaf.
    function _chain(bytes32 chain, uint256 leaf) private pure returns (bytes32 next) {
        assembly ("memory-safe") {
            mstore(0x00, chain)
            mstore(0x20, leaf)
            next := keccak256(0x00, 0x40)
        }
    }

    /// @dev See {IStreamPool-checkpoint}.
    function _checkpoint(uint256 position) private view returns (bytes32 chain) {
        chain = position % BATCH == 0 ? _kept[position / BATCH] : _ring[position % RING];
    }

    /// @dev Logs an operation: the statement without root and ext, the memo, the position.
    function _log(bytes32 topic, uint256 ptr, uint256 n, bytes calldata memo, uint64 position) private {
        assembly ("memory-safe") {
            let at := add(ptr, shl(5, add(n, 2)))
            calldatacopy(at, memo.offset, memo.length)
            at := add(at, memo.length)
            mstore(at, position)
            let start := add(ptr, 0x80)
            log1(start, sub(add(at, 0x20), start), topic)
        }
    }

    /// @dev Pays recipient and relayer.
    function _pay(uint256 amountOut, Ext calldata ext) private {
        if (amountOut == 0) return;
        uint256 fee = ext.fee;
        uint256 amount = amountOut - fee;
        emit Paid(ext.recipient, amount, ext.relayer, fee);
        if (amount != 0) IERC20(TOKEN).safeTransfer(ext.recipient, amount);
        if (fee != 0) IERC20(TOKEN).safeTransfer(ext.relayer, fee);
    }

    /// @dev The pool's tokens.
    function _balance() private view returns (uint256 balance) {
        balance = IERC20(TOKEN).balanceOf(address(this));
    }

    /// @dev Reverts unless exactly `expected` came in since the balance was `before`.
    function _checkReceived(uint256 before, uint256 expected) private view {
        // A4: a note is worth what came in, whatever the token does.
        uint256 received = _balance() - before;
        if (received != expected) revert Errors.StreamPool_AmountReceivedMismatch(expected, received);
    }

    /// @dev Shuts the pool for the rest of the call.
    function _enter() private {
        // G1: one call at a time.
        if (_entered) revert Errors.StreamPool_Reentered();
        _entered = true;
    }

    /// @dev Reverts unless an account has code.
    function _checkCode(address account) private view {
        if (account.code.length == 0) revert Errors.StreamPool_NotAContract(account);
    }

    /// @dev Leaves that the tree takes. Tests of a full tree lower it; nothing else does.
    function _capacity() internal view virtual returns (uint256 leaves) {
        leaves = TREE_CAPACITY;
    }
}
