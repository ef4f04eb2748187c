// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ClaimWindow, IStreamPool} from "../../../src/interfaces/IStreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {ClaimArgs, CloseArgs, Ext} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";

contract Claim_Unit_Test is PoolTest {
    /// @dev Words of the first argument after the proof: digest, root, amountOut, commitment, memo, lanes.
    uint256 private constant FIRST_WORD = 8;
    uint256 private constant FIRST_LANE = 9;

    function test_RevertWhen_TheDeadlinePassed() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 0, 0);
        vm.warp(ext.deadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_DeadlinePassed.selector, ext.deadline, ext.deadline + 1)
        );
        pool.claim(args, ext);
    }

    function test_RevertWhen_ThereIsAMemo() external {
        Ext memory ext = plainExt(new bytes(128));
        ClaimArgs memory args = prove(claimArgs(1, 1), ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_MemoLength.selector, 128, 0));
        pool.claim(args, ext);
    }

    function test_RevertWhen_TheFeeExceedsTheAmountOut() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 5, 6);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_FeeExceedsAmountOut.selector, 6, 5));
        pool.claim(args, ext);
    }

    function test_RevertWhen_TheRootIsUnknown() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        args.root = 7;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootUnknown.selector, 7));
        pool.claim(args, ext);
    }

    function test_RevertWhen_TheFirstLaneIsEmpty() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 2);
        args.lanes[0].tag = 0;
        args.lanes[0].until = 0;
        args = prove(args, ext);
        vm.expectRevert(Errors.StreamPool_FirstLaneEmpty.selector);
        pool.claim(args, ext);
    }

    function test_RevertWhen_AnEmptyLaneNamesATime() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        args.lanes[15].until = NOW - 1;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_LaneNotEmpty.selector, 15, NOW - 1));
        pool.claim(args, ext);
    }

    function test_RevertWhen_AWindowIsEmpty() external {
        (ClaimArgs memory first, Ext memory ext) = claimed(1, 4, 0, 0);
        pool.claim(first, ext);
        ClaimArgs memory args = claimArgs(2, 4);
        for (uint256 j; j < 3; ++j) {
            args.lanes[j].until = NOW + 10;
        }
        vm.warp(NOW + 10);
        ext = plainExt("");
        for (uint256 i; i < 3; ++i) {
            args.lanes[3].until = i == 2 ? 0 : NOW - i;
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowEmpty.selector, 3, NOW, args.lanes[3].until));
            pool.claim(args, ext);
        }
    }

    function test_RevertWhen_ATagComesTwice() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 3);
        args.lanes[2].tag = args.lanes[0].tag;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowEmpty.selector, 2, NOW, NOW));
        pool.claim(args, ext);
        // One that claims a first and a second part gets each second once.
        args.lanes[0].until = NOW - 100;
        uint256[16] memory from;
        from[2] = NOW - 100;
        uint256[] memory x = Reference.claim(
            args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), BURN_BPS, from
        );
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        pool.claim(args, ext);
        assertEq(pool.streamRecord(args.lanes[0].tag).claimedUntil, NOW);
    }

    function test_RevertWhen_AWindowReachesBeyondNow() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 2);
        args.lanes[1].until = NOW + 1;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowInFuture.selector, 1, NOW + 1, NOW));
        pool.claim(args, ext);
    }

    function test_RevertWhen_AWindowReachesBeyondTheStop() external {
        uint256 stop = stopFirst();
        vm.warp(stop + 1000);
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        args.lanes[0].until = stop + 1;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowPastStop.selector, 0, stop + 1, stop));
        pool.claim(args, ext);
    }

    function test_WhenAWindowEndsAtTheStop() external {
        uint256 stop = stopFirst();
        vm.warp(stop + 1000);
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        args.lanes[0].until = stop;
        pool.claim(prove(args, ext), ext);
        assertEq(pool.streamRecord(args.lanes[0].tag).claimedUntil, stop);
        assertEq(pool.streamRecord(args.lanes[0].tag).stop, stop);
        // And then nothing is left, ever.
        args = claimArgs(2, 1);
        args.lanes[0].until = stop + 1;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowPastStop.selector, 0, stop + 1, stop));
        pool.claim(args, ext);
    }

    function test_WhenTheStopLiesAhead() external {
        uint256 stop = stopFirst();
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        pool.claim(prove(args, ext), ext);
        assertEq(pool.streamRecord(args.lanes[0].tag).claimedUntil, NOW);
        assertEq(pool.streamRecord(args.lanes[0].tag).stop, stop);
    }

    function test_RevertWhen_AnElementIsntCanonical() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 15, 100, 10);
        bytes memory call = abi.encodeCall(pool.claim, (args, ext));
        for (uint256 i; i < 9; ++i) {
            (bytes memory data, uint256 word) = addToWord(call, FIRST_WORD + i, R);
            // digest, x_1 root, x_3 amountOut, x_5 commitment, x_6.. memo
            uint256 index = i < 2 ? i : i == 2 ? 3 : i + 2;
            bytes memory err = abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, index, word);
            if (i == 1) err = abi.encodeWithSelector(Errors.StreamPool_RootUnknown.selector, word);
            assertRefused(data, err);
        }
        for (uint256 j; j < 16; ++j) {
            (bytes memory data, uint256 word) = addToWord(call, FIRST_WORD + FIRST_LANE + 2 * j, R);
            bytes memory err = j < 15
                ? abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, 11 + 3 * j, word)
                // A tag of r isn't 0, but it claims nothing.
                : abi.encodeWithSelector(Errors.StreamPool_WindowEmpty.selector, 15, 0, 0);
            assertRefused(data, err);
            (data, word) = addToWord(call, FIRST_WORD + FIRST_LANE + 2 * j + 1, R);
            err = j < 15
                ? abi.encodeWithSelector(Errors.StreamPool_WindowInFuture.selector, j, word, NOW)
                : abi.encodeWithSelector(Errors.StreamPool_LaneNotEmpty.selector, j, word);
            assertRefused(data, err);
        }
    }

    function test_RevertWhen_AnElementWasFlipped() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 16, 100, 10);
        bytes memory call = abi.encodeCall(pool.claim, (args, ext));
        bytes memory err = abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23);
        for (uint256 i; i < 9 + 32; ++i) {
            if (i == 1) continue; // The root: refused as unknown.
            bool isUntil = i >= FIRST_LANE && (i - FIRST_LANE) % 2 == 1;
            (bytes memory data,) = addToWord(call, FIRST_WORD + i, isUntil ? type(uint256).max : 1);
            assertRefused(data, err);
        }
        // Another root that the pool knows is no better.
        uint256[] memory leaves = someLeaves(0, 64);
        queueLeaves(leaves);
        args.root = insertAll(EMPTY_ROOT, leaves);
        assertRefused(abi.encodeCall(pool.claim, (args, ext)), err);
        // Nor is a stream more, or one fewer.
        (args, ext) = claimed(1, 8, 100, 10);
        args.lanes[8].tag = element("tag", 8);
        args.lanes[8].until = NOW;
        assertRefused(abi.encodeCall(pool.claim, (args, ext)), err);
        delete args.lanes[8];
        delete args.lanes[7];
        assertRefused(abi.encodeCall(pool.claim, (args, ext)), err);
    }

    function test_RevertWhen_TheExternalDataWasChanged() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 100, 10);
        bytes memory err = abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23);
        Ext[5] memory changed;
        for (uint256 i; i < 5; ++i) {
            changed[i] = abi.decode(abi.encode(ext), (Ext));
        }
        changed[0].recipient = payer;
        changed[1].relayer = payer;
        changed[2].fee = 9;
        changed[3].deadline += 1;
        changed[4].mayDropOutputs = true;
        for (uint256 i; i < 5; ++i) {
            vm.expectRevert(err);
            pool.claim(args, changed[i]);
        }
    }

    function test_RevertWhen_TheProofIsForAnotherOperation() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        uint256[16] memory from;
        uint256[] memory x = Reference.claim(
            args, Reference.extHash(block.chainid, address(pool), Reference.CLOSE, ext), BURN_BPS, from
        );
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23));
        pool.claim(args, ext);
    }

    function test_RevertWhen_TheProofIsForAnotherWindow() external {
        // A proof that pays from the start again, after a first claim.
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 2);
        args.lanes[0].until = NOW - 10;
        args.lanes[1].until = NOW - 10;
        pool.claim(prove(args, ext), ext);

        args = claimArgs(2, 2);
        uint256[16] memory from;
        from[0] = NOW - 10;
        uint256[] memory x = Reference.claim(
            args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), BURN_BPS, from
        );
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23));
        pool.claim(args, ext);
    }

    function test_RevertWhen_TheProofIsForAnotherBurn() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 1);
        uint256[16] memory from;
        uint256[] memory x =
            Reference.claim(args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), 0, from);
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23));
        pool.claim(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayNotBeDropped() external {
        fillTree(64);
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 100, 10);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 64, 1, 64));
        pool.claim(args, ext);
    }

    function test_GivenTheTreeIsFull_WhenOutputsMayBeDroppedAndSomethingGoesOut() external {
        fillTree(64);
        token.mint(address(pool), 100);
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 100, 10);
        ext.mayDropOutputs = true;
        args = prove(args, ext);
        uint256[16] memory from;
        expectClaimed(args, from, NOT_QUEUED);
        pool.claim(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(pool.queueState().queued, 64);
    }

    function test_WhenOneStreamIsClaimed() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 0, 0);
        uint256[16] memory from;
        expectClaimed(args, from, 0);
        vm.recordLogs();
        pool.claim(args, ext);
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(pool.streamRecord(args.lanes[0].tag).claimedUntil, NOW);
        assertEq(pool.streamRecord(args.lanes[0].tag).stop, 0);
        assertEq(pool.streamRecord(0).claimedUntil, 0);
        assertEq(pool.queueState().queued, 1);
        assertEq(pool.checkpoint(1), keccak256(abi.encode(keccak256("tributary.queue"), args.commitment)));
    }

    function test_When16StreamsAreClaimed() external {
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(1, 16);
        for (uint256 j; j < 16; ++j) {
            args.lanes[j].until = NOW - j;
        }
        args = prove(args, ext);
        uint256[16] memory from;
        expectClaimed(args, from, 0);
        pool.claim(args, ext);
        for (uint256 j; j < 16; ++j) {
            assertEq(pool.streamRecord(args.lanes[j].tag).claimedUntil, NOW - j);
        }
    }

    function test_WhenClaimedAgainLater() external {
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 16, 0, 0);
        pool.claim(args, ext);
        skip(500);
        (args, ext) = claimed(2, 16, 0, 0);
        uint256[16] memory from;
        for (uint256 j; j < 16; ++j) {
            from[j] = NOW;
        }
        expectClaimed(args, from, 1);
        pool.claim(args, ext);
        assertEq(pool.streamRecord(args.lanes[15].tag).claimedUntil, NOW + 500);
    }

    function test_WhenSomethingGoesOut() external {
        token.mint(address(pool), 1000);
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 2, 100, 10);
        uint256[16] memory from;
        expectClaimed(args, from, 0);
        vm.expectEmit(address(pool));
        emit IStreamPool.Paid(recipient, 90, relayer, 10);
        pool.claim(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(token.balanceOf(relayer), 10);
        assertEq(token.balanceOf(address(pool)), 900);
    }

    function test_WhenTheLeafEndsTheBatch() external {
        uint256[] memory leaves = someLeaves(0, 62);
        queueLeaves(leaves);
        (ClaimArgs memory args, Ext memory ext) = claimed(1, 1, 0, 0);
        pool.claim(args, ext);
        bytes32 before = pool.checkpoint(63);
        assertEq(pool.checkpoint(64), bytes32(0));
        (args, ext) = claimed(2, 1, 0, 0);
        args.lanes[0].tag = element("tag", 99);
        args = prove(args, ext);
        pool.claim(args, ext);
        assertEq(pool.checkpoint(64), keccak256(abi.encode(before, args.commitment)));
        assertEq(pool.checkpoint(63), before);
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        HELPERS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev A proved claim of `count` streams up to now.
    function claimed(uint256 seed, uint256 count, uint256 amountOut, uint256 fee)
        private
        view
        returns (ClaimArgs memory args, Ext memory ext)
    {
        ext = plainExt("");
        ext.recipient = recipient;
        ext.relayer = relayer;
        ext.fee = fee;
        args = claimArgs(seed, count);
        args.amountOut = amountOut;
        args = prove(args, ext);
    }

    /// @dev Stops the stream that lane 0 claims.
    function stopFirst() private returns (uint256 stop) {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = prove(closeArgs(0), ext);
        pool.close(args, ext);
        stop = args.stop;
    }

    function assertRefused(bytes memory data, bytes memory err) private {
        (bool success, bytes memory result) = address(pool).call(data);
        assertFalse(success);
        assertEq(result, err);
    }

    function expectClaimed(ClaimArgs memory args, uint256[16] memory from, uint64 position) private {
        ClaimWindow[16] memory windows;
        for (uint256 j; j < 16; ++j) {
            windows[j] = ClaimWindow(args.lanes[j].tag, from[j], args.lanes[j].until);
        }
        vm.expectEmit(address(pool));
        emit IStreamPool.Claimed(args.amountOut, BURN_BPS, args.commitment, args.memo, windows, position);
    }
}
