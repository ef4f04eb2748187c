// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title IGroth16Verifier
/// @notice Verifies proofs of one circuit with three public inputs: digest, alpha, value.
interface IGroth16Verifier {
    /// @notice Whether the proof is valid. Never reverts on a bad proof; points and inputs out of range are invalid.
    /// @param a The point A.
    /// @param b The point B, coordinates in EIP-197 order.
    /// @param c The point C.
    /// @param input (digest, alpha, value), each below the scalar field's order.
    /// @return valid Whether the pairing equation holds.
    function verifyProof(
        uint256[2] calldata a,
        uint256[2][2] calldata b,
        uint256[2] calldata c,
        uint256[3] calldata input
    ) external view returns (bool valid);

    /// @notice The verifying key: alpha, beta, gamma, delta, IC_0..IC_3, coordinates as in a proof, 704 bytes.
    /// @return key The points on the wire.
    function verifyingKey() external view returns (bytes memory key);

    /// @notice keccak256 of the verifying key.
    /// @return hash The verifying-key hash of docs/src/encodings.md.
    function verifyingKeyHash() external view returns (bytes32 hash);

    /// @notice The circuit's hash tag: 21 transact, 22 close, 23 claim, 24 insert.
    /// @return tag The tag.
    function circuit() external view returns (uint256 tag);

    /// @notice Whether the key comes from the public development setup and protects nothing.
    /// @return development True if it protects nothing.
    function isDevelopmentKey() external view returns (bool development);
}
