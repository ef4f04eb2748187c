// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IStreamPool} from "../../../src/interfaces/IStreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {ClaimArgs, Ext, InsertArgs, QueueState, TransactArgs} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";
import {CallingToken, FeeOnTransferToken, OldToken} from "../../utils/Tokens.sol";

contract Transact_Unit_Test is PoolTest {
    /// @dev Words of a statement's argument after the proof: digest, root, then x_3..x_18.
    uint256 private constant FIRST_WORD = 8;
    uint256 private constant WORDS = 18;

    function test_RevertWhen_TheDeadlinePassed() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        vm.warp(ext.deadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_DeadlinePassed.selector, ext.deadline, ext.deadline + 1)
        );
        pool.transact(args, ext);
    }

    function test_WhenTheDeadlineIsNow() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        vm.warp(ext.deadline);
        pool.transact(args, ext);
        assertTrue(pool.isSpent(args.nullifiers[0]));
    }

    function test_RevertWhen_TheMemoHasnt128Bytes() external {
        uint256[4] memory lengths = [uint256(0), 127, 129, 160];
        for (uint256 i; i < lengths.length; ++i) {
            Ext memory ext = plainExt(new bytes(lengths[i]));
            TransactArgs memory args = prove(transactArgs(1), ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_MemoLength.selector, lengths[i], 128));
            pool.transact(args, ext);
        }
    }

    function test_RevertWhen_TheFeeExceedsTheAmountOut() external {
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 101);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_FeeExceedsAmountOut.selector, 101, 100));
        pool.transact(args, ext);
    }

    function test_RevertWhen_AFeeHasNoRelayer() external {
        address[2] memory nobodies = [address(0), address(pool)];
        for (uint256 i; i < 2; ++i) {
            (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 1);
            ext.relayer = nobodies[i];
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RelayerInvalid.selector, nobodies[i]));
            pool.transact(args, ext);
        }
    }

    function test_RevertWhen_APayoutHasNoRecipient() external {
        address[2] memory nobodies = [address(0), address(pool)];
        for (uint256 i; i < 2; ++i) {
            (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 1);
            ext.recipient = nobodies[i];
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RecipientInvalid.selector, nobodies[i]));
            pool.transact(args, ext);
        }
    }

    function test_RevertWhen_TheRootIsUnknown() external {
        Ext memory ext = plainExt(payerMemo(1));
        uint256[3] memory roots = [0, EMPTY_ROOT + 1, EMPTY_ROOT + R];
        for (uint256 i; i < 3; ++i) {
            TransactArgs memory args = transactArgs(1);
            args.root = roots[i];
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_RootUnknown.selector, roots[i]));
            pool.transact(args, ext);
        }
    }

    function test_RevertWhen_AnElementIsntCanonical() external {
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 1);
        for (uint256 i; i < WORDS; ++i) {
            if (i == 1) continue; // The root: refused as unknown, see above.
            (bytes memory data, uint256 word) = addToWord(abi.encodeCall(pool.transact, (args, ext)), FIRST_WORD + i, R);
            // The digest is element 0, the root x_1, ext x_2, and then the arguments follow.
            uint256 index = i < 2 ? i : i + 1;
            (bool success, bytes memory result) = address(pool).call(data);
            assertFalse(success);
            assertEq(result, abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, index, word));
        }
    }

    function test_RevertWhen_AnElementWasFlipped() external {
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 1);
        for (uint256 i; i < WORDS; ++i) {
            if (i == 1) continue; // The root: refused as unknown, see above.
            (bytes memory data,) = addToWord(abi.encodeCall(pool.transact, (args, ext)), FIRST_WORD + i, 1);
            (bool success, bytes memory result) = address(pool).call(data);
            assertFalse(success);
            assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        }
        // Another root that the pool knows is no better.
        uint256[] memory leaves = someLeaves(0, 64);
        queueLeaves(leaves);
        args.root = insertAll(EMPTY_ROOT, leaves);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);
    }

    function test_RevertWhen_TheProofWasChanged() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        uint256 p =
            21_888_242_871_839_275_222_246_405_745_257_275_088_696_311_157_297_823_662_689_037_894_645_226_208_583;
        for (uint256 i; i < 8; ++i) {
            // The precompile takes what it is given when a point isn't one: the rest of the call needs little gas.
            (bytes memory data,) = addToWord(abi.encodeCall(pool.transact, (args, ext)), i, 1);
            (bool success, bytes memory result) = address(pool).call{gas: 20_000_000}(data);
            assertFalse(success);
            assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
            // The same point in another form.
            (data,) = addToWord(abi.encodeCall(pool.transact, (args, ext)), i, P);
            (success, result) = address(pool).call{gas: 20_000_000}(data);
            assertFalse(success);
            assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        }
        pool.transact(args, ext);
    }

    function test_RevertWhen_TheProofIsZero() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);
    }

    function test_RevertWhen_TheExternalDataWasChanged() external {
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        bytes memory err = abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21);
        address thief = makeAddr("thief");

        ext.recipient = thief;
        vm.expectRevert(err);
        pool.transact(args, ext);
        ext.recipient = recipient;

        ext.relayer = thief;
        vm.expectRevert(err);
        pool.transact(args, ext);
        ext.relayer = relayer;

        ext.fee = 11;
        vm.expectRevert(err);
        pool.transact(args, ext);
        ext.fee = 10;

        ext.deadline += 1;
        vm.expectRevert(err);
        pool.transact(args, ext);
        ext.deadline -= 1;

        ext.mayDropOutputs = true;
        vm.expectRevert(err);
        pool.transact(args, ext);
        ext.mayDropOutputs = false;

        for (uint256 i; i < 128; ++i) {
            ext.memo[i] ^= 0x01;
            vm.expectRevert(err);
            pool.transact(args, ext);
            ext.memo[i] ^= 0x01;
        }

        token.mint(address(pool), 100);
        pool.transact(args, ext);
    }

    function test_RevertWhen_TheProofIsForAnotherChain() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);
    }

    function test_RevertWhen_TheProofIsForAnotherPool() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        IStreamPool other = deployPool(address(token));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        other.transact(args, ext);
    }

    function test_RevertWhen_TheProofIsForAnotherOperation() external {
        // A statement of close has as many elements, and all test verifiers have the same key: the operation in ext and the
        // circuit in alpha tell them apart.
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.CLOSE, ext));
        args.proof = proveStatement(Reference.TRANSACT, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);

        x = Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        args.proof = proveStatement(Reference.CLOSE, args.digest, x);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);
    }

    function test_RevertGiven_ANullifierWasSpent() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory first = prove(transactArgs(1), ext);
        pool.transact(first, ext);
        for (uint256 i; i < 2; ++i) {
            TransactArgs memory args = transactArgs(2);
            args.nullifiers[i] = first.nullifiers[1 - i];
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, first.nullifiers[1 - i]));
            pool.transact(args, ext);
        }
    }

    function test_RevertWhen_BothNullifiersAreTheSame() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        args.nullifiers[1] = args.nullifiers[0];
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, args.nullifiers[0]));
        pool.transact(args, ext);
    }

    function test_RevertWhen_SentTwice() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        pool.transact(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, args.nullifiers[0]));
        pool.transact(args, ext);
    }

    function test_RevertGiven_TheProofWasRerandomised() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        pool.transact(args, ext);
        // (-A, -B, C) fulfils the same equation.
        uint256 p =
            21_888_242_871_839_275_222_246_405_745_257_275_088_696_311_157_297_823_662_689_037_894_645_226_208_583;
        args.proof.a[1] = P - args.proof.a[1];
        args.proof.b[1][0] = P - args.proof.b[1][0];
        args.proof.b[1][1] = P - args.proof.b[1][1];
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, args.nullifiers[0]));
        pool.transact(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayNotBeDropped() external {
        fillTree(128);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 128, 2, 128));
        pool.transact(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayBeDroppedButSomethingComesIn() external {
        fillTree(128);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        ext.mayDropOutputs = true;
        args.amountIn = 1;
        args = prove(args, ext);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 128, 2, 128));
        pool.transact(args, ext);
    }

    function test_RevertGiven_TheTreeIsFull_WhenOutputsMayBeDroppedButNothingGoesOut() external {
        fillTree(128);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 0, 0);
        ext.mayDropOutputs = true;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 128, 2, 128));
        pool.transact(args, ext);
    }

    function test_GivenTheTreeIsFull_WhenOutputsMayBeDroppedAndOnlySomethingGoesOut() external {
        fillTree(128);
        token.mint(address(pool), 100);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        ext.mayDropOutputs = true;
        args = prove(args, ext);
        bytes32 chain = pool.checkpoint(128);
        expectTransacted(args, ext, NOT_QUEUED);
        pool.transact(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(token.balanceOf(relayer), 10);
        assertEq(pool.queueState().queued, 128);
        assertEq(pool.checkpoint(128), chain);
        assertTrue(pool.isSpent(args.nullifiers[0]));
        assertTrue(pool.isSpent(args.nullifiers[1]));
    }

    function test_RevertGiven_OnePlaceIsLeft() external {
        fillTree(127);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_TreeFull.selector, 126, 2, 127));
        pool.transact(args, ext);
    }

    function test_WhenNothingGoesInOrOut() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        uint256 before = token.balanceOf(address(pool));
        expectTransacted(args, ext, 0);
        vm.recordLogs();
        pool.transact(args, ext);
        assertEq(vm.getRecordedLogs().length, 1);
        assertEq(token.balanceOf(address(pool)), before);
        assertTrue(pool.isSpent(args.nullifiers[0]));
        assertTrue(pool.isSpent(args.nullifiers[1]));
        QueueState memory state = pool.queueState();
        assertEq(state.queued, 2);
        assertEq(state.inserted, 0);
        bytes32 chain = keccak256(abi.encode(keccak256("tributary.queue"), args.commitments[0]));
        assertEq(pool.checkpoint(2), keccak256(abi.encode(chain, args.commitments[1])));
        assertEq(pool.checkpoint(1), bytes32(0));
        assertEq(pool.checkpoint(0), keccak256("tributary.queue"));
    }

    function test_WhenSomethingComesIn_ItShouldTakeItFromTheCaller() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        args.amountIn = 500;
        args = prove(args, ext);
        uint256 before = token.balanceOf(payer);
        expectTransacted(args, ext, 0);
        vm.prank(payer);
        pool.transact(args, ext);
        assertEq(token.balanceOf(payer), before - 500);
        assertEq(token.balanceOf(address(pool)), 500);
    }

    function test_WhenSomethingComesIn_ItShouldNotTouchAnotherAccountsAllowance() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        args.amountIn = 500;
        args = prove(args, ext);
        // The payer has approved the pool; the thief has nothing.
        address thief = makeAddr("thief");
        vm.prank(thief);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(pool), 0, 500));
        pool.transact(args, ext);
    }

    function test_RevertGiven_TheTokenTakesAFeeOnTransfer() external {
        FeeOnTransferToken taking = new FeeOnTransferToken();
        pool = deployPool(address(taking));
        taking.mint(payer, 1000);
        vm.startPrank(payer);
        taking.approve(address(pool), 1000);
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        args.amountIn = 1000;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_AmountReceivedMismatch.selector, 1000, 990));
        pool.transact(args, ext);
    }

    function test_GivenTheTokenReturnsNothing() external {
        OldToken old = new OldToken();
        pool = deployPool(address(old));
        old.mint(payer, 1000);
        vm.startPrank(payer);
        old.approve(address(pool), 1000);
        Ext memory ext = plainExt(payerMemo(1));
        ext.recipient = recipient;
        TransactArgs memory args = transactArgs(1);
        args.amountIn = 1000;
        args.amountOut = 400;
        pool.transact(prove(args, ext), ext);
        assertEq(old.balanceOf(address(pool)), 600);
        assertEq(old.balanceOf(recipient), 400);
    }

    function test_GivenTheTokenCallsBack() external {
        CallingToken calling = new CallingToken();
        pool = deployPool(address(calling));
        calling.mint(address(pool), 1000);

        (TransactArgs memory inner, Ext memory ext) = withdrawal(2, 0, 0);
        uint256[] memory leaves = new uint256[](2);
        InsertArgs[] memory insertions = new InsertArgs[](1);
        insertions[0] = insertArgs(EMPTY_ROOT, 0, leaves);
        ClaimArgs memory claimed = claimArgs(1, 1);
        bytes[] memory calls = new bytes[](6);
        calls[0] = abi.encodeCall(pool.transact, (inner, ext));
        calls[1] = abi.encodeCall(pool.close, (closeArgs(1), ext));
        calls[2] = abi.encodeCall(pool.claim, (claimed, ext));
        calls[3] = abi.encodeCall(pool.insert, (insertions[0]));
        calls[4] = abi.encodeCall(pool.bundle, ("", insertions));
        calls[5] = abi.encodeCall(pool.bundle, (calls[0], new InsertArgs[](0)));
        calling.onTransfer(address(pool), calls);

        (TransactArgs memory args, Ext memory outer) = withdrawal(1, 100, 0);
        pool.transact(args, outer);
        assertEq(calling.resultCount(), 6);
        for (uint256 i; i < 6; ++i) {
            assertFalse(calling.successes(i));
            assertEq(calling.results(i), abi.encodeWithSelector(Errors.StreamPool_Reentered.selector));
        }
        assertEq(pool.queueState().queued, 2);
        // The guard opens again.
        calling.onTransfer(address(0), new bytes[](0));
        (args, outer) = withdrawal(3, 100, 0);
        pool.transact(args, outer);
    }

    function test_WhenSomethingGoesOut() external {
        token.mint(address(pool), 1000);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 100, 10);
        expectTransacted(args, ext, 0);
        vm.expectEmit(address(pool));
        emit IStreamPool.Paid(recipient, 90, relayer, 10);
        pool.transact(args, ext);
        assertEq(token.balanceOf(recipient), 90);
        assertEq(token.balanceOf(relayer), 10);
        assertEq(token.balanceOf(address(pool)), 900);
    }

    function test_WhenAllThatGoesOutIsTheFee() external {
        token.mint(address(pool), 1000);
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 10, 10);
        ext.recipient = address(0);
        args = prove(args, ext);
        vm.expectEmit(address(pool));
        emit IStreamPool.Paid(address(0), 0, relayer, 10);
        pool.transact(args, ext);
        assertEq(token.balanceOf(relayer), 10);
        assertEq(token.balanceOf(address(pool)), 990);
    }

    function test_WhenTheBatchEndsBetweenTheLeaves() external {
        // 62 leaves, then a claim's one, so that the next two are the 64th and the 65th.
        uint256[] memory leaves = someLeaves(0, 62);
        queueLeaves(leaves);
        Ext memory ext = plainExt("");
        ClaimArgs memory claimed = prove(claimArgs(1, 1), ext);
        pool.claim(claimed, ext);

        ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        expectTransacted(args, ext, 63);
        pool.transact(args, ext);

        bytes32 chain = keccak256("tributary.queue");
        for (uint256 i; i < 62; ++i) {
            chain = keccak256(abi.encode(chain, leaves[i]));
        }
        chain = keccak256(abi.encode(chain, claimed.commitment));
        assertEq(pool.checkpoint(63), chain);
        chain = keccak256(abi.encode(chain, args.commitments[0]));
        assertEq(pool.checkpoint(64), chain);
        chain = keccak256(abi.encode(chain, args.commitments[1]));
        assertEq(pool.checkpoint(65), chain);
    }
}
