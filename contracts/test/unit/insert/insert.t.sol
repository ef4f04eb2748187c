// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IStreamPool} from "../../../src/interfaces/IStreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {Ext, InsertArgs, QueueState, RootInfo, TransactArgs} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";

contract Insert_Unit_Test is PoolTest {
    uint256[] private leaves;

    function setUp() public override {
        super.setUp();
        leaves = someLeaves(0, 100);
        queueLeaves(leaves);
    }

    function test_RevertWhen_ItStartsElsewhereThanAtTheTreesEnd() external {
        InsertArgs memory args = insertArgs(EMPTY_ROOT, 0, slice(0, 64));
        args.from = 64;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionMismatch.selector, 64, 0));
        pool.insert(args);
        pool.insert(prove(insertArgs(EMPTY_ROOT, 0, slice(0, 30))));
        args.from = 0;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionMismatch.selector, 0, 30));
        pool.insert(args);
    }

    function test_RevertWhen_ItAddsNoLeaf() external {
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionSizeInvalid.selector, 0, 0));
        pool.insert(insertArgs(EMPTY_ROOT, 0, new uint256[](0)));
        InsertArgs memory first = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 30)));
        pool.insert(first);
        InsertArgs memory args = insertArgs(first.newRoot, 30, slice(0, 30));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionSizeInvalid.selector, 30, 30));
        pool.insert(args);
        args.leaves = slice(0, 2);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionSizeInvalid.selector, 30, 2));
        pool.insert(args);
    }

    function test_RevertWhen_ItRunsBeyondTheBatch() external {
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionSizeInvalid.selector, 0, 65));
        pool.insert(insertArgs(EMPTY_ROOT, 0, slice(0, 65)));
    }

    function test_RevertWhen_TheOldRootIsntCurrent() external {
        InsertArgs memory args = insertArgs(77, 0, slice(0, 64));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootNotCurrent.selector, 77, 0, 0));
        pool.insert(args);
        pool.insert(prove(insertArgs(EMPTY_ROOT, 0, slice(0, 30))));
        args = insertArgs(EMPTY_ROOT, 30, slice(0, 64));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootNotCurrent.selector, EMPTY_ROOT, 0, 30));
        pool.insert(args);
    }

    function test_RevertWhen_NoCheckpointWasKept() external {
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_CheckpointUnknown.selector, 31));
        pool.insert(insertArgs(EMPTY_ROOT, 0, slice(0, 31)));
    }

    function test_RevertWhen_MoreLeavesAreGivenThanQueued() external {
        InsertArgs memory first = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64)));
        pool.insert(first);
        uint256[] memory batch = someLeaves(64, 38);
        InsertArgs memory args = insertArgs(first.newRoot, 64, batch);
        // 100 leaves are queued, position 102 was never reached.
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_CheckpointUnknown.selector, 102));
        pool.insert(args);
        args.leaves = someLeaves(64, 64);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_CheckpointUnknown.selector, 128));
        pool.insert(args);
        // Once round the ring, the slot of a position ahead holds the value of one behind.
        queueLeaves(someLeaves(100, 200));
        pool.insert(prove(insertArgs(first.newRoot, 64, someLeaves(64, 64))));
        pool.insert(prove(insertArgs(element("root", 128), 128, someLeaves(128, 64))));
        pool.insert(prove(insertArgs(element("root", 192), 192, someLeaves(192, 64))));
        args = insertArgs(element("root", 256), 256, someLeaves(256, 46));
        vm.expectRevert(
            abi.encodeWithSelector(
                Errors.StreamPool_ChainMismatch.selector, 302, pool.checkpoint(46), chainAfter(someLeaves(0, 302))
            )
        );
        pool.insert(args);
    }

    function test_RevertWhen_ALeafIsntTheQueuedOne() external {
        for (uint256 i; i < 64; ++i) {
            uint256[] memory batch = slice(0, 64);
            batch[i] += 1;
            vm.expectRevert(
                abi.encodeWithSelector(
                    Errors.StreamPool_ChainMismatch.selector, 64, pool.checkpoint(64), chainAfter(batch)
                )
            );
            pool.insert(insertArgs(EMPTY_ROOT, 0, batch));
        }
    }

    function test_RevertWhen_LeavesAreSwapped() external {
        uint256[] memory batch = slice(0, 30);
        (batch[4], batch[5]) = (batch[5], batch[4]);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_ChainMismatch.selector, 30, pool.checkpoint(30), chainAfter(batch))
        );
        pool.insert(insertArgs(EMPTY_ROOT, 0, batch));
    }

    function test_RevertWhen_TheCheckpointLeftTheRing() external {
        InsertArgs memory args = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 30)));
        queueLeaves(someLeaves(100, 184));
        // 284 leaves: the ring holds position 30 still.
        assertEq(pool.checkpoint(30), chainAfter(slice(0, 30)));
        queueLeaves(someLeaves(284, 2));
        vm.expectRevert(
            abi.encodeWithSelector(
                Errors.StreamPool_ChainMismatch.selector, 30, pool.checkpoint(286), chainAfter(slice(0, 30))
            )
        );
        pool.insert(args);
        pool.insert(prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64))));
        assertEq(pool.queueState().inserted, 64);
    }

    function test_RevertWhen_AnElementIsntCanonical() external {
        InsertArgs memory args = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64)));
        args.digest += R;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, 0, args.digest));
        pool.insert(args);
        args.digest -= R;
        args.newRoot += R;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, 2, args.newRoot));
        pool.insert(args);
        args.newRoot -= R;
        args.oldRoot += R;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootNotCurrent.selector, args.oldRoot, 0, 0));
        pool.insert(args);
        args.oldRoot -= R;
        // Queued leaves are canonical, so that another form of one breaks the chain.
        args.leaves[63] += R;
        vm.expectRevert(
            abi.encodeWithSelector(
                Errors.StreamPool_ChainMismatch.selector, 64, pool.checkpoint(64), chainAfter(args.leaves)
            )
        );
        pool.insert(args);
    }

    function test_RevertWhen_AnElementWasFlipped() external {
        bytes memory err = abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 24);
        InsertArgs memory args = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64)));
        args.digest += 1;
        vm.expectRevert(err);
        pool.insert(args);
        args.digest -= 1;
        args.newRoot += 1;
        vm.expectRevert(err);
        pool.insert(args);
        args.newRoot -= 1;
        // Elements that the pool puts in itself: a proof for another one of each fails.
        for (uint256 i; i < 69; ++i) {
            if (i == 1) continue;
            uint256[] memory x = Reference.insert(args);
            x[i] = addmod(x[i], 1, R);
            args.proof = proveStatement(Reference.INSERT, args.digest, x);
            vm.expectRevert(err);
            pool.insert(args);
        }
        pool.insert(prove(args));
    }

    function test_RevertWhen_TheProofIsForAnotherCircuit() external {
        InsertArgs memory args = insertArgs(EMPTY_ROOT, 0, slice(0, 64));
        args.proof = proveStatement(Reference.CLAIM, args.digest, Reference.insert(args));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 24));
        pool.insert(args);
    }

    function test_WhenTheWholeBatchIsInserted() external {
        InsertArgs memory args = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64)));
        vm.warp(NOW + 5);
        vm.roll(1005);
        vm.expectEmit(address(pool));
        emit IStreamPool.Inserted(args.newRoot, 64);
        vm.prank(makeAddr("anybody"));
        pool.insert(args);
        QueueState memory state = pool.queueState();
        assertEq(state.inserted, 64);
        assertEq(state.queued, 100);
        RootInfo memory info = pool.rootInfo(args.newRoot);
        assertEq(info.leafCount, 64);
        assertEq(info.blockNumber, 1005);
        assertEq(info.timestamp, NOW + 5);
        // The old root stays known, for spending.
        assertEq(pool.rootInfo(EMPTY_ROOT).timestamp, NOW);
        Ext memory ext = plainExt(payerMemo(1));
        vm.warp(NOW + 3650 days);
        ext.deadline = NOW + 3650 days;
        pool.transact(prove(transactArgs(1), ext), ext);
        TransactArgs memory newer = transactArgs(2);
        newer.root = args.newRoot;
        pool.transact(prove(newer, ext), ext);
    }

    function test_WhenAPartOfTheBatchIsInserted() external {
        uint256 root = EMPTY_ROOT;
        uint256[5] memory ends = [uint256(2), 4, 30, 62, 64];
        uint256 from;
        for (uint256 i; i < 5; ++i) {
            InsertArgs memory args = prove(insertArgs(root, from, slice(0, ends[i])));
            pool.insert(args);
            from = ends[i];
            root = args.newRoot;
            assertEq(pool.queueState().inserted, from);
            assertEq(pool.rootInfo(root).leafCount, from);
        }
        // And into the next batch.
        pool.insert(prove(insertArgs(root, 64, slice(64, 36))));
        assertEq(pool.queueState().inserted, 100);
    }

    function test_RevertWhen_AnybodyElseInsertsTheSameFirst() external {
        InsertArgs memory args = prove(insertArgs(EMPTY_ROOT, 0, slice(0, 64)));
        vm.prank(makeAddr("faster"));
        pool.insert(args);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionMismatch.selector, 0, 64));
        pool.insert(args);
    }

    function test_GivenThousandsOfLeavesAreWaiting() external {
        queueLeaves(someLeaves(100, 4000 - 100));
        uint256 root = EMPTY_ROOT;
        uint256 from;
        while (from < 4000) {
            uint256 count = from + 64 <= 4000 ? 64 : 4000 - from;
            InsertArgs memory args = prove(insertArgs(root, from, someLeaves(from, count)));
            pool.insert(args);
            root = args.newRoot;
            from += count;
        }
        QueueState memory state = pool.queueState();
        assertEq(state.queued, 4000);
        assertEq(state.inserted, 4000);
        assertEq(pool.rootInfo(root).leafCount, 4000);
    }

    function slice(uint256 from, uint256 count) private view returns (uint256[] memory part) {
        part = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            part[i] = leaves[from + i];
        }
    }

    /// @dev The queue's chain value after these leaves.
    function chainAfter(uint256[] memory part) private pure returns (bytes32 chain) {
        chain = keccak256("tributary.queue");
        for (uint256 i; i < part.length; ++i) {
            chain = keccak256(abi.encode(chain, part[i]));
        }
    }
}
