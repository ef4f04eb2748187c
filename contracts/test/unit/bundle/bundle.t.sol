// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IStreamPool} from "../../../src/interfaces/IStreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {
    Authorization,
    ClaimArgs,
    CloseArgs,
    Ext,
    InsertArgs,
    Permit,
    TransactArgs
} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";

contract Bundle_Unit_Test is PoolTest {
    InsertArgs[] private NONE;

    function test_RevertWhen_ItWrapsNoOperation() external {
        bytes[5] memory calls;
        calls[0] = abi.encodeCall(pool.bundle, ("", new InsertArgs[](0)));
        calls[1] = abi.encodeCall(pool.insert, (insertArgs(EMPTY_ROOT, 0, new uint256[](1))));
        calls[2] = abi.encodeCall(pool.queueState, ());
        calls[3] = hex"01";
        calls[4] = abi.encodeWithSignature("transferFrom(address,address,uint256)", payer, recipient, 1);
        for (uint256 i; i < 5; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NotAnOperation.selector, bytes4(calls[i])));
            pool.bundle(calls[i], NONE);
        }
    }

    function test_RevertWhen_TheOperationIsRefused() external {
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 5, 6);
        bytes memory call = abi.encodeCall(pool.transact, (args, ext));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_FeeExceedsAmountOut.selector, 6, 5));
        pool.bundle(call, NONE);
    }

    function test_WhenItHoldsEachKindOfOperation() external {
        (address owner, uint256 ownerKey) = makeAddrAndKey("owner");
        token.mint(owner, 1000);
        Ext memory ext = plainExt(payerMemo(1));

        // Tokens come from the bundle's sender.
        TransactArgs memory args = transactArgs(1);
        args.amountIn = 100;
        args = prove(args, ext);
        expectTransacted(args, ext, 0);
        vm.prank(payer);
        pool.bundle(abi.encodeCall(pool.transact, (args, ext)), NONE);
        assertEq(token.balanceOf(address(pool)), 100);

        args = transactArgs(2);
        args.amountIn = 100;
        args = prove(args, ext);
        Permit memory permit;
        permit.deadline = block.timestamp;
        (permit.v, permit.r, permit.s) = vm.sign(
            ownerKey,
            keccak256(
                abi.encodePacked(
                    hex"1901",
                    token.DOMAIN_SEPARATOR(),
                    keccak256(
                        abi.encode(
                            keccak256(
                                "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                            ),
                            owner,
                            address(pool),
                            100,
                            0,
                            permit.deadline
                        )
                    )
                )
            )
        );
        vm.prank(owner);
        pool.bundle(abi.encodeCall(pool.transactWithPermit, (args, ext, permit)), NONE);
        assertEq(token.balanceOf(owner), 900);

        args = transactArgs(3);
        args.amountIn = 100;
        args = prove(args, ext);
        Authorization memory authorization;
        authorization.from = owner;
        authorization.validBefore = block.timestamp + 1;
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
                ),
                owner,
                address(pool),
                100,
                0,
                authorization.validBefore,
                Reference.statementHash(Reference.TRANSACT, args.digest, x)
            )
        );
        (authorization.v, authorization.r, authorization.s) =
            vm.sign(ownerKey, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
        pool.bundle(abi.encodeCall(pool.transactWithAuthorization, (args, ext, authorization)), NONE);
        assertEq(token.balanceOf(owner), 800);

        CloseArgs memory closed = prove(closeArgs(1), ext);
        pool.bundle(abi.encodeCall(pool.close, (closed, ext)), NONE);
        assertEq(pool.streamRecord(closed.tag).stop, closed.stop);

        ext = plainExt("");
        ClaimArgs memory claimed = prove(claimArgs(1, 1), ext);
        pool.bundle(abi.encodeCall(pool.claim, (claimed, ext)), NONE);
        assertEq(pool.streamRecord(claimed.lanes[0].tag).claimedUntil, NOW);
        assertEq(pool.queueState().queued, 9);
    }

    function test_WhenThereIsNoOperation() external {
        queueLeaves(someLeaves(0, 128));
        pool.bundle("", batches(128));
        assertEq(pool.queueState().inserted, 128);
    }

    function test_WhenTheOperationsOwnLeavesAreInsertedWithIt() external {
        queueLeaves(someLeaves(0, 62));
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = transactArgs(1);
        args.commitments = [element("leaf", 62), element("leaf", 63)];
        args = prove(args, ext);
        InsertArgs[] memory insertions = batches(64);
        expectTransacted(args, ext, 62);
        vm.expectEmit(address(pool));
        emit IStreamPool.Inserted(insertions[0].newRoot, 64);
        pool.bundle(abi.encodeCall(pool.transact, (args, ext)), insertions);
        assertEq(pool.queueState().inserted, 64);
    }

    function test_WhenAnInsertionWasOvertaken() external {
        queueLeaves(someLeaves(0, 64));
        InsertArgs[] memory insertions = batches(64);
        pool.insert(insertions[0]);
        delete insertions[0].proof;
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 0, 0);
        expectTransacted(args, ext, 64);
        vm.expectEmit(address(pool));
        emit IStreamPool.InsertionSkipped(0, 64);
        pool.bundle(abi.encodeCall(pool.transact, (args, ext)), insertions);
        assertEq(pool.queueState().inserted, 64);
        assertEq(pool.queueState().queued, 66);
    }

    function test_WhenALaterInsertionBuildsOnASkippedOne() external {
        queueLeaves(someLeaves(0, 192));
        InsertArgs[] memory insertions = batches(192);
        pool.insert(insertions[0]);
        vm.expectEmit(address(pool));
        emit IStreamPool.InsertionSkipped(0, 64);
        vm.expectEmit(address(pool));
        emit IStreamPool.Inserted(insertions[1].newRoot, 128);
        vm.expectEmit(address(pool));
        emit IStreamPool.Inserted(insertions[2].newRoot, 192);
        pool.bundle("", insertions);
        assertEq(pool.queueState().inserted, 192);
    }

    function test_RevertWhen_AnInsertionThatFitsHasABadProof() external {
        queueLeaves(someLeaves(0, 64));
        InsertArgs[] memory insertions = batches(64);
        delete insertions[0].proof;
        (TransactArgs memory args, Ext memory ext) = withdrawal(1, 0, 0);
        bytes memory call = abi.encodeCall(pool.transact, (args, ext));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 24));
        pool.bundle(call, insertions);
        assertFalse(pool.isSpent(args.nullifiers[0]));
    }

    function test_RevertWhen_AnInsertionThatFitsHasWrongLeaves() external {
        queueLeaves(someLeaves(0, 64));
        InsertArgs[] memory insertions = batches(64);
        insertions[0].leaves[0] += 1;
        bytes32 chain = keccak256("tributary.queue");
        for (uint256 i; i < 64; ++i) {
            chain = keccak256(abi.encode(chain, insertions[0].leaves[i]));
        }
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_ChainMismatch.selector, 64, pool.checkpoint(64), chain)
        );
        pool.bundle("", insertions);
    }

    /// @dev Proved insertions of the first `count` leaves in whole batches.
    function batches(uint256 count) private view returns (InsertArgs[] memory insertions) {
        insertions = new InsertArgs[](count / 64);
        uint256 root = EMPTY_ROOT;
        for (uint256 i; i < insertions.length; ++i) {
            insertions[i] = prove(insertArgs(root, 64 * i, someLeaves(64 * i, 64)));
            root = insertions[i].newRoot;
        }
    }
}
