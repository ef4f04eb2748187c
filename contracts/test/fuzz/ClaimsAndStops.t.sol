// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ClaimArgs, CloseArgs, Ext} from "../../src/types/DataTypes.sol";
import {PoolTest} from "../utils/PoolTest.sol";
import {StreamMath} from "../utils/StreamMath.sol";

/// @notice P5: claims and stops can't invalidate each other, in any order.
contract ClaimsAndStops_Fuzz_Test is PoolTest {
    struct Stream {
        uint256 rate;
        uint256 start;
        uint256 end;
        uint256 claimedUntil;
        uint256 paid;
        uint256 refunded;
    }

    /// @dev Whatever the moments of claims and of the stop, what was paid and refunded is the deposit, second for second.
    /// forge-config: default.fuzz.runs = 96
    function testFuzz_AnyOrderGivesTheSameTotals(
        uint96 rate,
        uint256 startSeed,
        uint256 lengthSeed,
        uint256 stopAfter,
        uint256 stopAhead,
        uint256[6] memory waits
    ) external {
        Stream memory s;
        s.rate = bound(rate, 1, type(uint80).max);
        s.start = NOW - 600 + bound(startSeed, 0, 20) * SLOT;
        s.end = s.start + SLOT * bound(lengthSeed, 1, 60);
        stopAfter = bound(stopAfter, 0, 6);
        uint256 stop;
        for (uint256 i; i < 6; ++i) {
            if (i == stopAfter) stop = stopStream(s, stopAhead);
            vm.warp(block.timestamp + bound(waits[i], 1, 1200));
            claimStream(s, stop, i);
        }
        if (stop == 0) stop = stopStream(s, stopAhead);
        vm.warp((stop > s.end ? stop : s.end) + 1);
        claimStream(s, stop, 6);

        uint256 last = stop < s.end ? stop : s.end;
        uint256 accrued = last > s.start ? s.rate * (last - s.start) : 0;
        assertEq(s.paid, accrued);
        assertEq(s.paid + s.refunded, s.rate * (s.end - s.start));
    }

    function stopStream(Stream memory s, uint256 ahead) private returns (uint256 stop) {
        Ext memory ext = plainExt(payerMemo(1));
        CloseArgs memory args = closeArgs(0);
        args.stop += SLOT * bound(ahead, 0, 30);
        pool.close(prove(args, ext), ext);
        s.refunded = StreamMath.refund(s.rate, s.start, s.end, args.stop);
        stop = args.stop;
    }

    /// @dev Claims up to now, or to the stop, if that is more than nothing.
    function claimStream(Stream memory s, uint256 stop, uint256 seed) private {
        uint256 until = stop != 0 && stop < block.timestamp ? stop : block.timestamp;
        if (until <= s.claimedUntil) return;
        Ext memory ext = plainExt("");
        ClaimArgs memory args = claimArgs(seed, 1);
        args.lanes[0].until = until;
        pool.claim(prove(args, ext), ext);
        s.paid += StreamMath.payout(s.rate, s.start, s.end, s.claimedUntil, until);
        s.claimedUntil = until;
    }
}
