// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title IERC3009
/// @notice The part of EIP-3009 that the pool uses.
interface IERC3009 {
    /// @notice Moves tokens from the signer to the caller, who must be `to`.
    /// @param from The signer.
    /// @param to The receiver and caller.
    /// @param value Token base units.
    /// @param validAfter Unix seconds after which the authorisation is valid.
    /// @param validBefore Unix seconds before which it is valid.
    /// @param nonce A nonce that the signer never used before.
    /// @param v Part of the signature.
    /// @param r Part of the signature.
    /// @param s Part of the signature.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
}
