// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title StreamMath
/// @notice What a stream pays and refunds, from protocol terms alone: the reference for what the circuits prove.
library StreamMath {
    /// @notice What accrues between two times.
    /// @param rate Token base units a second.
    /// @param start Unix seconds.
    /// @param end Unix seconds.
    /// @param from Unix seconds up to which it was paid.
    /// @param until Unix seconds up to which it is paid now.
    function payout(uint256 rate, uint256 start, uint256 end, uint256 from, uint256 until)
        internal
        pure
        returns (uint256 amount)
    {
        uint256 first = from > start ? from : start;
        uint256 last = until < end ? until : end;
        amount = last > first ? rate * (last - first) : 0;
    }

    /// @notice What a stop gives back.
    function refund(uint256 rate, uint256 start, uint256 end, uint256 stop) internal pure returns (uint256 amount) {
        if (stop < start) stop = start;
        if (stop > end) stop = end;
        amount = rate * (end - stop);
    }
}
