// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ClaimArgs, CloseArgs, Ext, InsertArgs, TransactArgs} from "../../src/types/DataTypes.sol";
import {PoolTest} from "../utils/PoolTest.sol";

/// @notice Every operation over the whole range of its arguments: the pool's statement is the reference's.
contract Operations_Fuzz_Test is PoolTest {
    function testFuzz_Transact(TransactArgs memory args, Ext memory ext, uint120 amountIn, uint120 amountOut) external {
        args.root = EMPTY_ROOT;
        args.digest %= R;
        args.amountIn = amountIn;
        args.amountOut = amountOut;
        for (uint256 i; i < 2; ++i) {
            args.nullifiers[i] %= R;
            args.commitments[i] %= R;
            args.memos[i].ex %= R;
            args.memos[i].ey %= R;
            args.memos[i].c0 %= R;
            args.memos[i].c1 %= R;
            args.memos[i].c2 %= R;
        }
        vm.assume(args.nullifiers[0] != args.nullifiers[1]);
        ext = normalised(ext, amountOut, payerMemo(uint256(keccak256(ext.memo)) >> 8));
        args = prove(args, ext);
        token.mint(address(pool), amountOut);
        token.mint(payer, amountIn);
        uint256 before = token.balanceOf(address(pool));
        expectTransacted(args, ext, 0);
        vm.prank(payer);
        pool.transact(args, ext);
        assertEq(token.balanceOf(address(pool)), before + amountIn - amountOut);
        assertEq(token.balanceOf(ext.recipient), uint256(amountOut) - ext.fee);
        assertEq(token.balanceOf(ext.relayer), ext.fee);
    }

    function testFuzz_Close(CloseArgs memory args, Ext memory ext, uint40 stop, uint120 amountOut) external {
        args.root = EMPTY_ROOT;
        args.digest %= R;
        args.tag %= R;
        uint256 earliest = (NOW + NOTICE + SLOT - 1) / SLOT;
        args.stop = SLOT * bound(stop, earliest, type(uint40).max / SLOT);
        args.amountOut = amountOut;
        args.nullifier %= R;
        for (uint256 i; i < 2; ++i) {
            args.commitments[i] %= R;
            args.memos[i].ex %= R;
            args.memos[i].ey %= R;
            args.memos[i].c0 %= R;
            args.memos[i].c1 %= R;
            args.memos[i].c2 %= R;
        }
        ext = normalised(ext, amountOut, payerMemo(uint256(keccak256(ext.memo)) >> 8));
        args = prove(args, ext);
        token.mint(address(pool), amountOut);
        pool.close(args, ext);
        assertEq(pool.streamRecord(args.tag).stop, args.stop);
        assertTrue(pool.isSpent(args.nullifier));
        assertEq(token.balanceOf(ext.recipient), uint256(amountOut) - ext.fee);
    }

    function testFuzz_Claim(ClaimArgs memory args, Ext memory ext, uint16 active, uint120 amountOut) external {
        args.root = EMPTY_ROOT;
        args.digest %= R;
        args.amountOut = amountOut;
        args.commitment %= R;
        args.memo = sealedMemo(args.digest);
        for (uint256 j; j < 16; ++j) {
            if (j != 0 && (active >> j) & 1 == 0) {
                delete args.lanes[j];
                continue;
            }
            // Tags that differ.
            args.lanes[j].tag = element("fuzz tag", uint256(keccak256(abi.encode(args.lanes[j].tag, j))));
            args.lanes[j].until = bound(args.lanes[j].until, 1, NOW);
        }
        ext = normalised(ext, amountOut, "");
        args = prove(args, ext);
        token.mint(address(pool), amountOut);
        pool.claim(args, ext);
        for (uint256 j; j < 16; ++j) {
            assertEq(pool.streamRecord(args.lanes[j].tag).claimedUntil, args.lanes[j].until);
        }
        assertEq(token.balanceOf(ext.recipient), uint256(amountOut) - ext.fee);
    }

    /// @dev However the queue grew, everything gets into the tree from any inserted position, by whole and partial batches.
    /// forge-config: default.fuzz.runs = 48
    function testFuzz_QueueAndInsert(uint256 pairs, uint256 singles, uint256 seed) external {
        pairs = bound(pairs, 0, 60);
        singles = bound(singles, 1, 16);
        uint256[] memory all = new uint256[](2 * pairs + singles);
        uint256 queued;
        Ext memory claimExt = plainExt("");
        uint256 done;
        // Claims queue one leaf each and shift the pairs of the others.
        for (uint256 i; i < pairs + singles; ++i) {
            bool single = done < singles
                && (pairs + done == i || uint256(keccak256(abi.encode(seed, i))) % (pairs + 1) < singles);
            if (single) {
                ClaimArgs memory args = claimArgs(i, 1);
                args.lanes[0].tag = element("queue tag", i);
                pool.claim(prove(args, claimExt), claimExt);
                all[queued++] = args.commitment;
                ++done;
            } else if (queued + 2 <= all.length) {
                uint256[] memory pair = new uint256[](2);
                pair[0] = element("queue leaf", 2 * i);
                pair[1] = element("queue leaf", 2 * i + 1);
                queueLeaves(pair);
                all[queued++] = pair[0];
                all[queued++] = pair[1];
            }
        }
        assertEq(pool.queueState().queued, queued);

        uint256 root = EMPTY_ROOT;
        uint256 from;
        for (uint256 i; from < queued; ++i) {
            uint256 start = from - from % 64;
            uint256 end = start + 64 < queued ? start + 64 : queued;
            uint256 nearer = bound(uint256(keccak256(abi.encode(seed, "end", i))), from + 1, end);
            // Between the leaves of one transaction there is no checkpoint.
            if (pool.checkpoint(nearer) != 0) end = nearer;
            uint256[] memory batch = new uint256[](end - start);
            for (uint256 l; l < batch.length; ++l) {
                batch[l] = all[start + l];
            }
            InsertArgs memory args = prove(insertArgs(root, from, batch));
            pool.insert(args);
            root = args.newRoot;
            from = end;
        }
        assertEq(pool.queueState().inserted, queued);
        assertEq(pool.rootInfo(root).leafCount, queued);
    }

    /// @dev External data within the rules, with payees that hold nothing yet.
    function normalised(Ext memory ext, uint256 amountOut, bytes memory memo) private view returns (Ext memory) {
        ext.recipient = address(uint160(uint256(keccak256(abi.encode("recipient", ext.recipient)))));
        ext.relayer = address(uint160(uint256(keccak256(abi.encode("relayer", ext.relayer)))));
        ext.fee = bound(ext.fee, 0, amountOut);
        ext.deadline = bound(ext.deadline, block.timestamp, type(uint256).max);
        ext.memo = memo;
        return ext;
    }
}
