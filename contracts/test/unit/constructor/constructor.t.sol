// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StreamPool} from "../../../src/StreamPool.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {PoolConfig, QueueState, RootInfo} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";

contract Constructor_Unit_Test is PoolTest {
    function test_RevertWhen_TheSlotLengthIsZero() external {
        PoolConfig memory c = config(address(token));
        c.slotLength = 0;
        vm.expectRevert(Errors.StreamPool_SlotLengthZero.selector);
        new StreamPool(c);
    }

    function test_RevertWhen_TheNoticeIsBelowTwoSlotsAndTheMargin() external {
        PoolConfig memory c = config(address(token));
        c.notice = 2 * SLOT + MARGIN - 1;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NoticeBelowMinimum.selector, 149, 150));
        new StreamPool(c);
        // Sums that don't fit into 40 bits don't wrap.
        c.slotLength = type(uint40).max;
        c.margin = type(uint40).max;
        uint256 minimum = 3 * uint256(type(uint40).max);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NoticeBelowMinimum.selector, 149, minimum));
        new StreamPool(c);
    }

    function test_WhenTheNoticeIsExactlyTwoSlotsAndTheMargin() external {
        PoolConfig memory c = config(address(token));
        c.notice = 2 * SLOT + MARGIN;
        assertEq(new StreamPool(c).NOTICE(), 150);
    }

    function test_RevertWhen_TheBurnExceedsEverything() external {
        PoolConfig memory c = config(address(token));
        c.burnBps = 10_001;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_BurnTooHigh.selector, 10_001));
        new StreamPool(c);
    }

    function test_WhenEverythingIsBurnt() external {
        PoolConfig memory c = config(address(token));
        c.burnBps = 10_000;
        assertEq(new StreamPool(c).BURN_BPS(), 10_000);
    }

    function test_RevertWhen_TheTokenOrAVerifierHasNoCode() external {
        address nobody = makeAddr("nobody");
        for (uint256 i; i < 5; ++i) {
            PoolConfig memory c = config(address(token));
            if (i == 0) c.token = nobody;
            if (i == 1) c.transactVerifier = nobody;
            if (i == 2) c.closeVerifier = nobody;
            if (i == 3) c.claimVerifier = nobody;
            if (i == 4) c.insertVerifier = nobody;
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NotAContract.selector, nobody));
            new StreamPool(c);
        }
    }

    function test_WhenAllIsWell() external {
        PoolConfig memory c = config(address(token));
        StreamPool fresh = new StreamPool(c);
        assertEq(fresh.TOKEN(), c.token);
        assertEq(fresh.TRANSACT_VERIFIER(), c.transactVerifier);
        assertEq(fresh.CLOSE_VERIFIER(), c.closeVerifier);
        assertEq(fresh.CLAIM_VERIFIER(), c.claimVerifier);
        assertEq(fresh.INSERT_VERIFIER(), c.insertVerifier);
        assertEq(fresh.NOTICE(), c.notice);
        assertEq(fresh.SLOT_LENGTH(), c.slotLength);
        assertEq(fresh.MARGIN(), c.margin);
        assertEq(fresh.BURN_BPS(), c.burnBps);
        assertEq(fresh.capacity(), 2 ** 32);
        QueueState memory state = fresh.queueState();
        assertEq(state.queued, 0);
        assertEq(state.inserted, 0);
        RootInfo memory info = fresh.rootInfo(EMPTY_ROOT);
        assertEq(info.leafCount, 0);
        assertEq(info.blockNumber, block.number);
        assertEq(info.timestamp, block.timestamp);
        assertEq(fresh.rootInfo(0).timestamp, 0);
        assertEq(fresh.checkpoint(0), keccak256("tributary.queue"));
        // Nobody can do anything to it: no call changes a parameter, and it takes no ether.
        (bool success,) = address(fresh).call{value: 1}("");
        assertFalse(success);
    }
}
