// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IStreamPool} from "../../../src/interfaces/IStreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {CloseArgs, Ext, StreamRecord, TransactArgs} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";

contract Close_Unit_Test is PoolTest {
    /// @dev Words of the first argument after the proof.
    uint256 private constant FIRST_WORD = 8;
    uint256 private constant WORDS = 18;

    function test_RevertWhen_TheDeadlinePassed() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 0, 0);
        vm.warp(ext.deadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_DeadlinePassed.selector, ext.deadline, ext.deadline + 1)
        );
        pool.close(args, ext);
    }

    function test_RevertWhen_TheMemoHasnt128Bytes() external {
        Ext memory ext = plainExt(new bytes(127));
        CloseArgs memory args = prove(closeArgs(1), ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_MemoLength.selector, 127, 128));
        pool.close(args, ext);
    }

    function test_RevertWhen_TheFeeExceedsTheAmountOut() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 5, 6);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_FeeExceedsAmountOut.selector, 6, 5));
        pool.close(args, ext);
    }

    function test_RevertWhen_TheRootIsUnknown() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        args.root = 7;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootUnknown.selector, 7));
        pool.close(args, ext);
    }

    function test_RevertWhen_TheStopIsSoonerThanTheNotice() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        args.stop = NOW + NOTICE;
        args = prove(args, ext);
        vm.warp(NOW + 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StopTooSoon.selector, NOW + NOTICE, NOW + 1 + NOTICE));
        pool.close(args, ext);
        // Not even 0, nor the past.
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StopTooSoon.selector, 0, NOW + 1 + NOTICE));
        args.stop = 0;
        pool.close(args, ext);
    }

    function test_WhenTheStopIsExactlyTheNoticeAhead() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        args.stop = NOW + NOTICE;
        pool.close(prove(args, ext), ext);
        assertEq(pool.streamRecord(args.tag).stop, NOW + NOTICE);
    }

    function test_RevertWhen_TheStopIsNoMultipleOfTheSlotLength() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        uint256 stop = args.stop;
        for (uint256 i; i < 2; ++i) {
            args.stop = i == 0 ? stop + 1 : stop + SLOT - 1;
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StopNotOnSlot.selector, args.stop, SLOT));
            pool.close(args, ext);
        }
    }

    function test_RevertWhen_TheStopHasMoreThan40Bits() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        // A multiple of the slot length that would be a good stop if it were cut to 40 bits.
        args.stop += (1 << 40) * SLOT;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StopOutOfRange.selector, args.stop));
        pool.close(args, ext);
    }

    function test_RevertGiven_TheStreamWasStoppedBefore() external {
        (CloseArgs memory first, Ext memory ext) = refund(1, 0, 0);
        first.stop += SLOT;
        first = prove(first, ext);
        pool.close(first, ext);
        for (uint256 i; i < 3; ++i) {
            CloseArgs memory args = closeArgs(2 + i);
            args.tag = first.tag;
            args.stop = first.stop + i * SLOT - SLOT;
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StreamStopped.selector, first.tag, first.stop));
            pool.close(args, ext);
        }
    }

    function test_GivenTheStreamWasClaimedBefore() external {
        Ext memory claimExt = plainExt("");
        pool.claim(prove(claimArgs(1, 1), claimExt), claimExt);
        (CloseArgs memory args, Ext memory ext) = refund(0, 0, 0);
        assertEq(args.tag, claimArgs(1, 1).lanes[0].tag);
        pool.close(args, ext);
        StreamRecord memory record = pool.streamRecord(args.tag);
        assertEq(record.claimedUntil, NOW);
        assertEq(record.stop, args.stop);
    }

    function test_RevertGiven_TheValueNoteWasSpent() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory spent = prove(transactArgs(1), ext);
        pool.transact(spent, ext);
        CloseArgs memory args = closeArgs(1);
        args.nullifier = spent.nullifiers[0];
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, args.nullifier));
        pool.close(args, ext);
    }

    function test_RevertWhen_AnElementIsntCanonical() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 1);
        bytes memory call = abi.encodeCall(pool.close, (args, ext));
        for (uint256 i; i < WORDS; ++i) {
            (bytes memory data, uint256 word) = addToWord(call, FIRST_WORD + i, R);
            bytes memory err = abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, i < 2 ? i : i + 1, word);
            // A root must be known and a stop must fit into 40 bits: both are refused even sooner.
            if (i == 1) err = abi.encodeWithSelector(Errors.StreamPool_RootUnknown.selector, word);
            if (i == 3) err = abi.encodeWithSelector(Errors.StreamPool_StopOutOfRange.selector, word);
            (bool success, bytes memory result) = address(pool).call(data);
            assertFalse(success);
            assertEq(result, err);
        }
    }

    function test_RevertWhen_AnElementWasFlipped() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 1);
        bytes memory call = abi.encodeCall(pool.close, (args, ext));
        for (uint256 i; i < WORDS; ++i) {
            if (i == 1) continue; // The root: refused as unknown.
            (bytes memory data,) = addToWord(call, FIRST_WORD + i, i == 3 ? SLOT : 1);
            (bool success, bytes memory result) = address(pool).call(data);
            assertFalse(success);
            assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 22));
        }
        // Another root that the pool knows is no better.
        uint256[] memory leaves = someLeaves(0, 64);
        queueLeaves(leaves);
        args.root = insertAll(EMPTY_ROOT, leaves);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 22));
        pool.close(args, ext);
    }

    function test_RevertWhen_TheExternalDataWasChanged() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 10);
        bytes memory err = abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 22);
        Ext[6] memory changed;
        for (uint256 i; i < 6; ++i) {
            changed[i] = abi.decode(abi.encode(ext), (Ext));
        }
        changed[0].recipient = payer;
        changed[1].relayer = payer;
        changed[2].fee = 9;
        changed[3].deadline += 1;
        changed[4].mayDropOutputs = true;
        changed[5].memo[127] ^= 0x80;
        for (uint256 i; i < 6; ++i) {
            vm.expectRevert(err);
            pool.close(args, changed[i]);
        }
    }

    function test_RevertWhen_TheProofIsForAnotherOperation() external {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(1);
        uint256[] memory x =
            Reference.close(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        args.proof = proveStatement(Reference.CLOSE, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 22));
        pool.close(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayNotBeDropped() external {
        fillTree(64);
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 10);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 64, 2, 64));
        pool.close(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayBeDroppedButNothingGoesOut() external {
        fillTree(64);
        (CloseArgs memory args, Ext memory ext) = refund(1, 0, 0);
        ext.mayDropOutputs = true;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 64, 2, 64));
        pool.close(args, ext);
    }

    function test_GivenTheTreeIsFull_WhenOutputsMayBeDroppedAndSomethingGoesOut() external {
        fillTree(64);
        token.mint(address(pool), 100);
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 10);
        ext.mayDropOutputs = true;
        args = prove(args, ext);
        expectClosed(args, ext, NOT_QUEUED);
        pool.close(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(pool.queueState().queued, 64);
        assertEq(pool.streamRecord(args.tag).stop, args.stop);
    }

    function test_WhenNothingGoesOut() external {
        (CloseArgs memory args, Ext memory ext) = refund(1, 0, 0);
        expectClosed(args, ext, 0);
        vm.recordLogs();
        pool.close(args, ext);
        assertEq(vm.getRecordedLogs().length, 1);
        StreamRecord memory record = pool.streamRecord(args.tag);
        assertEq(record.stop, args.stop);
        assertEq(record.claimedUntil, 0);
        assertTrue(pool.isSpent(args.nullifier));
        assertEq(pool.queueState().queued, 2);
        bytes32 chain = keccak256(abi.encode(keccak256("tributary.queue"), args.commitments[0]));
        assertEq(pool.checkpoint(2), keccak256(abi.encode(chain, args.commitments[1])));
    }

    function test_WhenSomethingGoesOut() external {
        token.mint(address(pool), 1000);
        (CloseArgs memory args, Ext memory ext) = refund(1, 100, 10);
        expectClosed(args, ext, 0);
        vm.expectEmit(address(pool));
        emit IStreamPool.Paid(recipient, 90, relayer, 10);
        pool.close(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(token.balanceOf(relayer), 10);
        assertEq(token.balanceOf(address(pool)), 900);
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        HELPERS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev A proved close that pays out.
    function refund(uint256 seed, uint256 amountOut, uint256 fee)
        private
        view
        returns (CloseArgs memory args, Ext memory ext)
    {
        ext = plainExt(payerMemo(seed));
        ext.recipient = recipient;
        ext.relayer = relayer;
        ext.fee = fee;
        args = closeArgs(seed);
        args.amountOut = amountOut;
        args = prove(args, ext);
    }

    function expectClosed(CloseArgs memory args, Ext memory ext, uint64 position) private {
        vm.expectEmit(address(pool));
        emit IStreamPool.Closed(
            args.tag,
            args.stop,
            args.amountOut,
            args.nullifier,
            args.commitments,
            args.memos,
            abi.decode(ext.memo, (bytes32[4])),
            position
        );
    }
}
