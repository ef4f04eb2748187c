// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IGroth16Verifier} from "../interfaces/IGroth16Verifier.sol";
import {Groth16} from "../libraries/Groth16.sol";

/// @title Groth16Verifier
/// @notice See the documentation in {IGroth16Verifier}. A generated verifier adds its key and nothing else.
abstract contract Groth16Verifier is IGroth16Verifier {
    /// @inheritdoc IGroth16Verifier
    function verifyProof(
        uint256[2] calldata a,
        uint256[2][2] calldata b,
        uint256[2] calldata c,
        uint256[3] calldata input
    ) external view override returns (bool valid) {
        valid = Groth16.verify(_key(), a, b, c, input);
    }

    /// @inheritdoc IGroth16Verifier
    function verifyingKey() external view override returns (bytes memory key) {
        key = _key();
    }

    /// @inheritdoc IGroth16Verifier
    function verifyingKeyHash() external view override returns (bytes32 hash) {
        hash = keccak256(_key());
    }

    /// @dev The verifying key on the wire, 704 bytes.
    function _key() internal view virtual returns (bytes memory key);
}
