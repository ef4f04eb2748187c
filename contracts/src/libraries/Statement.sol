// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Errors} from "./Errors.sol";

/// @title Statement
/// @notice A proof's statement in memory and the two numbers that the contract derives from it.
/// @dev A statement of n elements is n + 2 words: the circuit's hash tag, the digest, x_1..x_n. So alpha is the hash of
/// this very memory, and events are logged from it.
library Statement {
    /// @notice The order of the scalar field.
    uint256 internal constant R =
        21_888_242_871_839_275_222_246_405_745_257_275_088_548_364_400_416_034_343_698_204_186_575_808_495_617;

    /// @notice Reserves memory for a statement, with `extra` words behind it.
    /// @param n The number of elements.
    /// @param extra Words behind the last element.
    /// @return ptr Where the statement starts.
    function allocate(uint256 n, uint256 extra) internal pure returns (uint256 ptr) {
        assembly ("memory-safe") {
            ptr := mload(0x40)
            mstore(0x40, add(ptr, shl(5, add(add(n, 2), extra))))
        }
    }

    /// @notice Derives alpha and value; reverts unless digest and all elements are below R.
    /// @param ptr Where the statement starts.
    /// @param n The number of elements.
    /// @return hash keccak256 of tag, digest and elements: alpha before it is reduced.
    /// @return value sum x_i * alpha^(n - i) mod R, with alpha = hash mod R.
    function evaluate(uint256 ptr, uint256 n) internal pure returns (bytes32 hash, uint256 value) {
        bool canonical;
        assembly ("memory-safe") {
            // X2: alpha depends on the digest, which binds the prover's own vector before alpha exists.
            hash := keccak256(ptr, shl(5, add(n, 2)))
            let alpha := mod(hash, R)
            let word := add(ptr, 0x20)
            let end := add(word, shl(5, n))
            canonical := lt(mload(word), R)
            // One by one until the rest is a multiple of six, then six at a time: the loop costs more than its arithmetic.
            for { let single := add(word, shl(5, mod(n, 6))) } lt(word, single) {} {
                word := add(word, 0x20)
                let x := mload(word)
                canonical := and(canonical, lt(x, R))
                value := addmod(mulmod(value, alpha, R), x, R)
            }
            for {} lt(word, end) {} {
                let x := mload(add(word, 0x20))
                let ok := lt(x, R)
                value := addmod(mulmod(value, alpha, R), x, R)
                x := mload(add(word, 0x40))
                ok := and(ok, lt(x, R))
                value := addmod(mulmod(value, alpha, R), x, R)
                x := mload(add(word, 0x60))
                ok := and(ok, lt(x, R))
                value := addmod(mulmod(value, alpha, R), x, R)
                x := mload(add(word, 0x80))
                ok := and(ok, lt(x, R))
                value := addmod(mulmod(value, alpha, R), x, R)
                x := mload(add(word, 0xa0))
                ok := and(ok, lt(x, R))
                value := addmod(mulmod(value, alpha, R), x, R)
                word := add(word, 0xc0)
                x := mload(word)
                canonical := and(canonical, and(ok, lt(x, R)))
                value := addmod(mulmod(value, alpha, R), x, R)
            }
        }
        // X1: an element has one form.
        if (!canonical) _revertNotCanonical(ptr, n);
    }

    /// @dev Finds the first word that is out of range.
    function _revertNotCanonical(uint256 ptr, uint256 n) private pure {
        for (uint256 i; i <= n; ++i) {
            uint256 word;
            assembly ("memory-safe") {
                word := mload(add(add(ptr, 0x20), shl(5, i)))
            }
            if (word >= R) revert Errors.StreamPool_NotCanonical(i, word);
        }
    }
}
