// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice A verifying key with three public inputs, coordinates in EIP-197 order. `abi.encode` of it is the key on the wire.
/// @param alpha The point alpha of G1.
/// @param beta The point beta of G2.
/// @param gamma The point gamma of G2.
/// @param delta The point delta of G2.
/// @param ic The points IC_0..IC_3 of G1.
struct VerifyingKey {
    uint256[2] alpha;
    uint256[2][2] beta;
    uint256[2][2] gamma;
    uint256[2][2] delta;
    uint256[2][4] ic;
}

/// @title Groth16
/// @notice Groth16 over BN254 with exactly three public inputs, on the precompiles of EIP-196 and EIP-197.
library Groth16 {
    /// @notice The order of the scalar field.
    uint256 internal constant R =
        21_888_242_871_839_275_222_246_405_745_257_275_088_548_364_400_416_034_343_698_204_186_575_808_495_617;

    /// @notice The order of the base field.
    uint256 internal constant P =
        21_888_242_871_839_275_222_246_405_745_257_275_088_696_311_157_297_823_662_689_037_894_645_226_208_583;

    /// @notice Whether e(-A, B) e(alpha, beta) e(IC_0 + sum input_i IC_i, gamma) e(C, delta) = 1.
    /// @dev Inputs must be below R and A.y below P, else one proof would have several forms; the precompiles refuse all other
    /// coordinates that are out of range and all points off their curve or out of the subgroup.
    /// @param key The verifying key, 704 bytes: `abi.encode` of a {VerifyingKey}.
    /// @param a The point A.
    /// @param b The point B.
    /// @param c The point C.
    /// @param input The public inputs.
    /// @return valid Whether the proof is valid.
    function verify(
        bytes memory key,
        uint256[2] calldata a,
        uint256[2][2] calldata b,
        uint256[2] calldata c,
        uint256[3] calldata input
    ) internal view returns (bool valid) {
        assembly ("memory-safe") {
            let k := add(key, 0x20)
            // Scratch space behind the free memory pointer; 0x300 bytes become the pairing's input:
            // (IC, gamma), (-A, B), (alpha, beta), (C, delta).
            let m := mload(0x40)
            let ay := calldataload(add(a, 0x20))
            // V2: the negated coordinate has one form.
            valid := lt(ay, P)

            // m[0..1] accumulates IC_0 + sum input_i IC_i; m[2..4] holds a point and its scalar.
            mcopy(m, add(k, 0x1c0), 0x40)
            for { let i := 0 } lt(i, 3) { i := add(i, 1) } {
                let x := calldataload(add(input, shl(5, i)))
                // V1: an input has one form.
                valid := and(valid, lt(x, R))
                mcopy(add(m, 0x40), add(add(k, 0x200), shl(6, i)), 0x40)
                mstore(add(m, 0x80), x)
                let ok := staticcall(gas(), 7, add(m, 0x40), 0x60, add(m, 0x40), 0x40)
                valid := and(valid, ok)
                ok := staticcall(gas(), 6, m, 0x80, m, 0x40)
                valid := and(valid, ok)
            }

            if valid {
                mcopy(add(m, 0x40), add(k, 0xc0), 0x80)
                mstore(add(m, 0xc0), calldataload(a))
                mstore(add(m, 0xe0), mod(sub(P, ay), P))
                calldatacopy(add(m, 0x100), b, 0x80)
                mcopy(add(m, 0x180), k, 0xc0)
                calldatacopy(add(m, 0x240), c, 0x40)
                mcopy(add(m, 0x280), add(k, 0x140), 0x80)
                // V3: the pairing equation.
                // On failure the output area keeps what it held, so the answer counts only with the call's success.
                valid := staticcall(gas(), 8, m, 0x300, 0x00, 0x20)
                valid := and(valid, eq(mload(0x00), 1))
            }
        }
    }
}
