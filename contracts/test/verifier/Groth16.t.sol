// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {DeploymentChecks} from "../../script/DeploymentChecks.sol";
import {Groth16} from "../../src/libraries/Groth16.sol";
import {Proof} from "../../src/types/DataTypes.sol";
import {Trapdoor, TrapdoorVerifier} from "../utils/TrapdoorVerifier.sol";

contract Groth16_Test is Test {
    TrapdoorVerifier private verifier = new TrapdoorVerifier(21);

    /// forge-config: default.fuzz.runs = 64
    function testFuzz_ValidProof(uint256 digest, uint256 alpha, uint256 value) external view {
        uint256[3] memory input = [digest % Groth16.R, alpha % Groth16.R, value % Groth16.R];
        Proof memory proof = Trapdoor.prove(input[0], input[1], input[2]);
        assertTrue(verifier.verifyProof(proof.a, proof.b, proof.c, input));
        // For any other input it isn't.
        for (uint256 i; i < 3; ++i) {
            uint256 before = input[i];
            input[i] = addmod(before, 1, Groth16.R);
            assertFalse(verifier.verifyProof(proof.a, proof.b, proof.c, input));
            input[i] = before;
        }
    }

    function test_InputsBeyondTheOrderAreInvalid() external view {
        uint256[3] memory input = [uint256(3), 4, 5];
        Proof memory proof = Trapdoor.prove(3, 4, 5);
        assertTrue(verifier.verifyProof(proof.a, proof.b, proof.c, input));
        for (uint256 i; i < 3; ++i) {
            input[i] += Groth16.R;
            assertFalse(verifier.verifyProof(proof.a, proof.b, proof.c, input));
            input[i] -= Groth16.R;
        }
    }

    function test_CoordinatesBeyondTheOrderAreInvalid() external view {
        uint256[3] memory input = [uint256(3), 4, 5];
        Proof memory proof = Trapdoor.prove(3, 4, 5);
        for (uint256 i; i < 2; ++i) {
            proof.a[i] += Groth16.P;
            assertFalse(verifier.verifyProof{gas: 1e7}(proof.a, proof.b, proof.c, input));
            proof.a[i] -= Groth16.P;
            proof.c[i] += Groth16.P;
            assertFalse(verifier.verifyProof{gas: 1e7}(proof.a, proof.b, proof.c, input));
            proof.c[i] -= Groth16.P;
            for (uint256 j; j < 2; ++j) {
                proof.b[i][j] += Groth16.P;
                assertFalse(verifier.verifyProof{gas: 1e7}(proof.a, proof.b, proof.c, input));
                proof.b[i][j] -= Groth16.P;
            }
        }
        assertTrue(verifier.verifyProof(proof.a, proof.b, proof.c, input));
        // P - A.y wraps around 2^256 to the same point for such an A.y.
        unchecked {
            proof.a[1] -= Groth16.P;
        }
        assertGt(proof.a[1], Groth16.P);
        assertFalse(verifier.verifyProof{gas: 1e7}(proof.a, proof.b, proof.c, input));
    }

    /// @dev A pairing that runs out of gas leaves no answer of an earlier call behind.
    function test_TooLittleGasIsNoProof() external {
        uint256[3] memory input = [uint256(3), 4, 5];
        Proof memory proof = Trapdoor.prove(3, 4, 5);
        bytes memory call = abi.encodeCall(verifier.verifyProof, (proof.a, proof.b, proof.c, input));
        for (uint256 gasLimit = 5000; gasLimit < 201_000; gasLimit += 1400) {
            (bool success, bytes memory result) = address(verifier).call{gas: gasLimit}(call);
            if (success) assertFalse(abi.decode(result, (bool)));
        }
        (bool enough, bytes memory answer) = address(verifier).call{gas: 215_000}(call);
        assertTrue(enough && abi.decode(answer, (bool)));
    }

    /// @dev The identity and points off the curve prove nothing.
    function test_DegeneratePointsAreInvalid() external view {
        uint256[3] memory input = [uint256(3), 4, 5];
        Proof memory proof = Trapdoor.prove(3, 4, 5);
        uint256[2] memory zero;
        uint256[2][2] memory zero2;
        assertFalse(verifier.verifyProof(zero, proof.b, proof.c, input));
        assertFalse(verifier.verifyProof(proof.a, zero2, proof.c, input));
        assertFalse(verifier.verifyProof(proof.a, proof.b, zero, input));
        assertFalse(verifier.verifyProof(zero, zero2, zero, input));
        assertFalse(verifier.verifyProof{gas: 1e7}([uint256(1), 1], proof.b, proof.c, input));
        assertFalse(verifier.verifyProof{gas: 1e7}(proof.a, [[uint256(1), 2], [uint256(3), 4]], proof.c, input));
    }

    function test_ForgedProofIsInvalid() external view {
        uint256[3] memory input = [uint256(3), 4, 5];
        Proof memory forged = DeploymentChecks.forgedProof(Trapdoor.KEY, input);
        assertFalse(verifier.verifyProof(forged.a, forged.b, forged.c, input));
    }
}
