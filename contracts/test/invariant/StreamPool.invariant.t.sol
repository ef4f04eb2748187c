// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {QueueState, RootInfo, StreamRecord} from "../../src/types/DataTypes.sol";
import {PoolTest} from "../utils/PoolTest.sol";
import {PoolHandler} from "./handlers/PoolHandler.sol";

/// @notice The invariants of README.md.
contract StreamPool_Invariant_Test is PoolTest {
    PoolHandler internal handler;

    function setUp() public override {
        super.setUp();
        handler = new PoolHandler(pool, token);
        bytes4[] memory selectors = new bytes4[](16);
        selectors[0] = handler.wait.selector;
        selectors[1] = handler.deposit.selector;
        selectors[2] = handler.spend.selector;
        selectors[3] = handler.open.selector;
        selectors[4] = handler.open.selector;
        selectors[5] = handler.close.selector;
        selectors[6] = handler.claim.selector;
        selectors[7] = handler.insert.selector;
        selectors[8] = handler.insert.selector;
        selectors[9] = handler.donate.selector;
        selectors[10] = handler.spendAgain.selector;
        selectors[11] = handler.withdrawMore.selector;
        selectors[12] = handler.claimWrongly.selector;
        selectors[13] = handler.closeWrongly.selector;
        selectors[14] = handler.deposit.selector;
        selectors[15] = handler.claim.selector;
        targetSelector(FuzzSelector(address(handler), selectors));
        targetContract(address(handler));
    }

    /// @dev All in one: each invariant of its own would mean a campaign of its own.
    function invariant_Pool() external view {
        checkBalanceEqNotesAndStreamsAndBurntAndDonated();
        checkPaidAndRefundedWithinDeposit();
        checkNullifierKnownIffSpent();
        checkRecordsEqLedger();
        checkQueueEqLeavesInOrder();
        checkRootsAreKnownForEver();
    }

    /// @dev Everybody is paid in the end.
    function afterInvariant() external {
        handler.settle();
        assertEq(handler.owed(), 0);
        assertEq(token.balanceOf(address(pool)), handler.burnt() + handler.donated());
    }

    function checkBalanceEqNotesAndStreamsAndBurntAndDonated() internal view {
        assertEq(token.balanceOf(address(pool)), handler.owed() + handler.burnt() + handler.donated());
    }

    function checkPaidAndRefundedWithinDeposit() internal view {
        for (uint256 i; i < handler.streamCount(); ++i) {
            (,, uint256 rate, uint256 start, uint256 end,,,, uint256 paid, uint256 refunded) = handler.streams(i);
            assertLe(paid + refunded, rate * (end - start));
        }
    }

    function checkNullifierKnownIffSpent() internal view {
        for (uint256 i; i < handler.noteCount(); ++i) {
            (, uint256 nullifier,, bool spent) = handler.notes(i);
            assertEq(pool.isSpent(nullifier), spent);
        }
    }

    function checkRecordsEqLedger() internal view {
        for (uint256 i; i < handler.streamCount(); ++i) {
            (uint256 tag,,,,,, uint256 claimedUntil, uint256 stop,,) = handler.streams(i);
            StreamRecord memory record = pool.streamRecord(tag);
            assertEq(record.claimedUntil, claimedUntil);
            assertEq(record.stop, stop);
        }
    }

    function checkQueueEqLeavesInOrder() internal view {
        QueueState memory state = pool.queueState();
        uint256 count = handler.leafCount();
        assertEq(state.queued, count);
        assertEq(pool.checkpoint(count), handler.chain(count));
        for (uint256 position; position <= count; position += 64) {
            assertEq(pool.checkpoint(position), handler.chain(position));
        }
    }

    function checkRootsAreKnownForEver() internal view {
        uint256 last;
        for (uint256 i; i < handler.rootCount(); ++i) {
            last = handler.rootSizes(i);
            RootInfo memory info = pool.rootInfo(handler.rootAt(last));
            assertEq(info.leafCount, last);
            assertGt(info.timestamp, 0);
        }
        assertEq(pool.queueState().inserted, last);
    }
}
