// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {StreamPool} from "../../src/StreamPool.sol";
import {TestToken} from "../../src/dev/TestToken.sol";
import {IStreamPool} from "../../src/interfaces/IStreamPool.sol";
import {
    ClaimArgs,
    CloseArgs,
    Ext,
    InsertArgs,
    PoolConfig,
    Proof,
    SealedMemo,
    TransactArgs
} from "../../src/types/DataTypes.sol";
import {AcceptingTestVerifier} from "./AcceptingTestVerifier.sol";
import {Reference} from "./Reference.sol";
import {SmallTreePool} from "./SmallTreePool.sol";
import {Trapdoor, TrapdoorVerifier} from "./TrapdoorVerifier.sol";

/// @title PoolTest
/// @notice A pool with verifiers whose trapdoor is known, and well-formed calls to vary.
abstract contract PoolTest is Test {
    uint256 internal constant R = Reference.R;

    /// @dev The base field's order.
    uint256 internal constant P =
        21_888_242_871_839_275_222_246_405_745_257_275_088_696_311_157_297_823_662_689_037_894_645_226_208_583;

    /// @dev The empty tree's root.
    uint256 internal constant EMPTY_ROOT =
        3_820_005_473_897_952_777_488_610_195_425_796_823_960_975_242_144_704_014_705_800_192_751_825_800_430;

    /// @dev Now: a multiple of the slot length.
    uint256 internal constant NOW = 1_800_000_000;

    uint40 internal constant NOTICE = 180;
    uint40 internal constant SLOT = 60;
    uint40 internal constant MARGIN = 30;
    uint16 internal constant BURN_BPS = 100;

    uint64 internal constant NOT_QUEUED = type(uint64).max;

    StreamPool internal pool;
    TestToken internal token;

    address internal payer = makeAddr("payer");
    address internal recipient = makeAddr("recipient");
    address internal relayer = makeAddr("relayer");

    function setUp() public virtual {
        vm.warp(NOW);
        vm.roll(1000);
        token = new TestToken();
        pool = deployPool(address(token));
        token.mint(payer, 1e30);
        vm.prank(payer);
        token.approve(address(pool), type(uint256).max);
    }

    function deployPool(address token_) internal virtual returns (StreamPool) {
        return new StreamPool(config(token_));
    }

    function config(address token_) internal virtual returns (PoolConfig memory) {
        return PoolConfig({
            token: token_,
            transactVerifier: address(new TrapdoorVerifier(Reference.TRANSACT)),
            closeVerifier: address(new TrapdoorVerifier(Reference.CLOSE)),
            claimVerifier: address(new TrapdoorVerifier(Reference.CLAIM)),
            insertVerifier: address(new TrapdoorVerifier(Reference.INSERT)),
            notice: NOTICE,
            slotLength: SLOT,
            margin: MARGIN,
            burnBps: BURN_BPS
        });
    }

    /*//////////////////////////////////////////////////////////////////////////
                                   WELL-FORMED CALLS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev A field element that depends on a label and a number.
    function element(string memory label, uint256 i) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(label, i))) % R;
    }

    function sealedMemo(uint256 seed) internal pure returns (SealedMemo memory) {
        return SealedMemo({
            ex: element("ex", seed),
            ey: element("ey", seed),
            c0: element("c0", seed),
            c1: element("c1", seed),
            c2: element("c2", seed)
        });
    }

    function payerMemo(uint256 seed) internal pure returns (bytes memory memo) {
        for (uint256 i; i < 4; ++i) {
            memo = abi.encodePacked(memo, keccak256(abi.encode("payer memo", seed, i)));
        }
    }

    /// @dev External data that pays nobody.
    function plainExt(bytes memory memo) internal view returns (Ext memory) {
        return Ext({
            recipient: address(0),
            relayer: address(0),
            fee: 0,
            deadline: block.timestamp + 120,
            mayDropOutputs: false,
            memo: memo
        });
    }

    /// @dev A transfer inside the pool, not proved yet.
    function transactArgs(uint256 seed) internal pure returns (TransactArgs memory args) {
        args.digest = element("digest", seed);
        args.root = EMPTY_ROOT;
        args.nullifiers = [element("nullifier", 2 * seed), element("nullifier", 2 * seed + 1)];
        args.commitments = [element("commitment", 2 * seed), element("commitment", 2 * seed + 1)];
        args.memos[0] = sealedMemo(2 * seed);
        args.memos[1] = sealedMemo(2 * seed + 1);
    }

    /// @dev A close at the earliest stop there is, not proved yet.
    function closeArgs(uint256 seed) internal view returns (CloseArgs memory args) {
        args.digest = element("close digest", seed);
        args.root = EMPTY_ROOT;
        args.tag = element("tag", seed);
        args.stop = (block.timestamp + NOTICE + SLOT - 1) / SLOT * SLOT;
        args.nullifier = element("close nullifier", seed);
        args.commitments = [element("close commitment", 2 * seed), element("close commitment", 2 * seed + 1)];
        args.memos[0] = sealedMemo(2 * seed);
        args.memos[1] = sealedMemo(2 * seed + 1);
    }

    /// @dev A claim of `count` streams up to now, not proved yet.
    function claimArgs(uint256 seed, uint256 count) internal view returns (ClaimArgs memory args) {
        args.digest = element("claim digest", seed);
        args.root = EMPTY_ROOT;
        args.commitment = element("claim commitment", seed);
        args.memo = sealedMemo(seed);
        for (uint256 j; j < count; ++j) {
            args.lanes[j].tag = element("tag", j);
            args.lanes[j].until = block.timestamp;
        }
    }

    /// @dev An insertion of the first `args.leaves.length` leaves of the current batch, not proved yet.
    function insertArgs(uint256 oldRoot, uint256 from, uint256[] memory leaves)
        internal
        pure
        returns (InsertArgs memory args)
    {
        args.digest = element("insert digest", from);
        args.oldRoot = oldRoot;
        args.newRoot = element("root", from - from % 64 + leaves.length);
        args.from = from;
        args.leaves = leaves;
    }

    /// @dev A proved withdrawal.
    function withdrawal(uint256 seed, uint256 amountOut, uint256 fee)
        internal
        view
        returns (TransactArgs memory args, Ext memory ext)
    {
        ext = plainExt(payerMemo(seed));
        ext.recipient = recipient;
        ext.relayer = relayer;
        ext.fee = fee;
        args = transactArgs(seed);
        args.amountOut = amountOut;
        args = prove(args, ext);
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        PROOFS
    //////////////////////////////////////////////////////////////////////////*/

    function prove(TransactArgs memory args, Ext memory ext) internal view returns (TransactArgs memory) {
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        args.proof = proveStatement(Reference.TRANSACT, args.digest, x);
        return args;
    }

    function prove(CloseArgs memory args, Ext memory ext) internal view returns (CloseArgs memory) {
        uint256[] memory x =
            Reference.close(args, Reference.extHash(block.chainid, address(pool), Reference.CLOSE, ext));
        args.proof = proveStatement(Reference.CLOSE, args.digest, x);
        return args;
    }

    /// @dev Proves for the windows that are open now.
    function prove(ClaimArgs memory args, Ext memory ext) internal view returns (ClaimArgs memory) {
        uint256[16] memory from;
        for (uint256 j; j < 16; ++j) {
            if (args.lanes[j].tag != 0) from[j] = pool.streamRecord(args.lanes[j].tag).claimedUntil;
        }
        uint256[] memory x = Reference.claim(
            args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), BURN_BPS, from
        );
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        return args;
    }

    function prove(InsertArgs memory args) internal view returns (InsertArgs memory) {
        args.proof = proveStatement(Reference.INSERT, args.digest, Reference.insert(args));
        return args;
    }

    function proveStatement(uint256 circuit, uint256 digest, uint256[] memory x) internal view returns (Proof memory) {
        uint256 alpha = uint256(Reference.statementHash(circuit, digest, x)) % R;
        return Trapdoor.prove(digest, alpha, Reference.valueOf(alpha, x));
    }

    /// @dev A proved deposit.
    function deposit(uint256 amount) internal view returns (TransactArgs memory args, Ext memory ext) {
        ext = plainExt(payerMemo(1));
        args = transactArgs(1);
        args.amountIn = amount;
        args = prove(args, ext);
    }

    /// @dev A call with `delta` added to one word of its arguments. Returns the call and the word's new value.
    function addToWord(bytes memory data, uint256 word, uint256 delta)
        internal
        pure
        returns (bytes memory changed, uint256 value)
    {
        changed = bytes.concat(data);
        uint256 offset = 0x20 + 4 + 32 * word;
        assembly ("memory-safe") {
            value := add(mload(add(changed, offset)), delta)
            mstore(add(changed, offset), value)
        }
    }

    function expectTransacted(TransactArgs memory args, Ext memory ext, uint64 position) internal {
        vm.expectEmit(address(pool));
        emit IStreamPool.Transacted(
            args.amountIn,
            args.amountOut,
            args.nullifiers,
            args.commitments,
            args.memos,
            abi.decode(ext.memo, (bytes32[4])),
            position
        );
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        STATES
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev Lets every verifier accept everything while `body` runs.
    modifier withAcceptingVerifiers() {
        address[4] memory verifiers =
            [pool.TRANSACT_VERIFIER(), pool.CLOSE_VERIFIER(), pool.CLAIM_VERIFIER(), pool.INSERT_VERIFIER()];
        bytes[4] memory codes;
        bytes memory accepting = address(new AcceptingTestVerifier()).code;
        for (uint256 i; i < 4; ++i) {
            codes[i] = verifiers[i].code;
            vm.etch(verifiers[i], accepting);
        }
        _;
        for (uint256 i; i < 4; ++i) {
            vm.etch(verifiers[i], codes[i]);
        }
    }

    /// @dev Queues an even number of leaves by plain transfers.
    function queueLeaves(uint256[] memory leaves) internal withAcceptingVerifiers {
        Ext memory ext = plainExt(payerMemo(0));
        for (uint256 i; i < leaves.length; i += 2) {
            uint256 seed = uint256(keccak256(abi.encode("queue", pool.queueState().queued)));
            TransactArgs memory args = transactArgs(seed >> 8);
            args.commitments = [leaves[i], leaves[i + 1]];
            pool.transact(args, ext);
        }
    }

    /// @dev Leaves by position.
    function someLeaves(uint256 from, uint256 count) internal pure returns (uint256[] memory leaves) {
        leaves = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            leaves[i] = element("leaf", from + i);
        }
    }

    /// @dev Inserts without proofs everything up to `leaves.length`, in whole batches. Returns the last root.
    function insertAll(uint256 oldRoot, uint256[] memory leaves) internal withAcceptingVerifiers returns (uint256) {
        for (uint256 from; from < leaves.length; from += 64) {
            uint256[] memory batch = new uint256[](64);
            for (uint256 i; i < 64; ++i) {
                batch[i] = leaves[from + i];
            }
            InsertArgs memory args = insertArgs(oldRoot, from, batch);
            pool.insert(args);
            oldRoot = args.newRoot;
        }
        return oldRoot;
    }

    /// @dev A pool for so many leaves, as full as pairs make it.
    function fillTree(uint256 leaves) internal {
        pool = new SmallTreePool(config(address(token)), leaves);
        vm.prank(payer);
        token.approve(address(pool), type(uint256).max);
        queueLeaves(someLeaves(0, leaves - leaves % 2));
        assertEq(pool.capacity(), leaves);
    }
}
