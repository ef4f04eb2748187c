// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title AcceptingTestVerifier
/// @notice TEST ONLY. Accepts every proof, for tests whose thousands of calls can't afford a pairing each and for putting a
/// pool into a state.
contract AcceptingTestVerifier {
    function verifyProof(uint256[2] calldata, uint256[2][2] calldata, uint256[2] calldata, uint256[3] calldata)
        external
        pure
        returns (bool valid)
    {
        valid = true;
    }
}
