// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";

import {IGroth16Verifier} from "../src/interfaces/IGroth16Verifier.sol";
import {Groth16, VerifyingKey} from "../src/libraries/Groth16.sol";
import {Proof} from "../src/types/DataTypes.sol";

/// @title DeploymentChecks
/// @notice What must hold of verifiers and token before a pool is deployed with them.
library DeploymentChecks {
    /// @notice Thrown when a development key would guard money.
    error Deploy_DevelopmentKeyRefused(uint256 circuit, uint256 chainId);

    /// @notice Thrown when a verifier takes the proof that fits every key with delta = gamma.
    error Deploy_ForgedProofAccepted(uint256 circuit);

    /// @notice Thrown when delta equals gamma: anybody can forge proofs.
    error Deploy_KeyDeltaEqualsGamma(uint256 circuit);

    /// @notice Thrown when delta is the generator: nobody contributed to the key, anybody can forge proofs.
    error Deploy_KeyDeltaIsGenerator(uint256 circuit);

    /// @notice Thrown when a verifier's key isn't the one that the prover's artefacts record.
    error Deploy_KeyHashMismatch(uint256 circuit, bytes32 expected, bytes32 actual);

    /// @notice Thrown when a key has another length than 704 bytes.
    error Deploy_KeyLength(uint256 circuit, uint256 length);

    /// @notice Thrown when a key's point isn't on its curve, not in its group, or the identity. Points count from 0 in the
    /// order alpha, beta, gamma, delta, IC_0..IC_3.
    error Deploy_KeyPointInvalid(uint256 circuit, uint256 point);

    /// @notice Thrown when there is no token at an address.
    error Deploy_TokenWithoutCode(address token);

    /// @notice Thrown when a token has more decimals than displays and amounts of 120 bits can take.
    error Deploy_TokenDecimals(address token, uint8 decimals);

    /// @notice Thrown when a token's supply doesn't fit into the 120 bits of an amount.
    error Deploy_TokenSupply(address token, uint256 supply);

    /// @notice Thrown when a verifier is another circuit's.
    error Deploy_WrongCircuit(uint256 expected, uint256 actual);

    /// @dev More than one addition or pairing takes; a precompile takes all it is given when a point is invalid.
    uint256 private constant PRECOMPILE_GAS = 200_000;

    /// @notice Chains on which development keys may be used: local ones.
    /// @param chainId The chain (EIP-155).
    /// @return development Whether this is one.
    function isDevelopmentChain(uint256 chainId) internal pure returns (bool development) {
        development = chainId == 31_337 || chainId == 1337;
    }

    /// @notice Reverts unless the verifier is the circuit's, its key is the expected one and sound, and a forged proof fails.
    /// @param verifier A deployed verifier.
    /// @param circuit The circuit's hash tag.
    /// @param expectedHash The verifying-key hash that the prover's artefacts record.
    function checkVerifier(IGroth16Verifier verifier, uint256 circuit, bytes32 expectedHash) internal view {
        // D1: each circuit has its own verifier.
        if (verifier.circuit() != circuit) revert Deploy_WrongCircuit(circuit, verifier.circuit());
        // D2: money is never guarded by a key whose trapdoor is public.
        if (verifier.isDevelopmentKey() && !isDevelopmentChain(block.chainid)) {
            revert Deploy_DevelopmentKeyRefused(circuit, block.chainid);
        }
        bytes memory key = verifier.verifyingKey();
        bytes32 hash = keccak256(key);
        // D3: the deployed key is the prover's.
        if (hash != expectedHash) revert Deploy_KeyHashMismatch(circuit, expectedHash, hash);
        if (verifier.verifyingKeyHash() != hash) {
            revert Deploy_KeyHashMismatch(circuit, hash, verifier.verifyingKeyHash());
        }
        checkKey(key, circuit);

        uint256[3] memory input = [uint256(keccak256(key)) % Groth16.R, 1, 2];
        Proof memory forged = forgedProof(key, input);
        // D6: the forgery that emptied pools fails.
        if (verifier.verifyProof(forged.a, forged.b, forged.c, input)) revert Deploy_ForgedProofAccepted(circuit);
    }

    /// @notice Reverts unless all points of a key are in their groups and delta is neither gamma nor the generator.
    /// @param key The key on the wire.
    /// @param circuit The circuit's hash tag.
    function checkKey(bytes memory key, uint256 circuit) internal view {
        if (key.length != 704) revert Deploy_KeyLength(circuit, key.length);
        VerifyingKey memory vk = abi.decode(key, (VerifyingKey));
        // D4: the key's points are in their groups and not the identity.
        if (!_isG1(vk.alpha)) revert Deploy_KeyPointInvalid(circuit, 0);
        if (!_isG2(vk.beta)) revert Deploy_KeyPointInvalid(circuit, 1);
        if (!_isG2(vk.gamma)) revert Deploy_KeyPointInvalid(circuit, 2);
        if (!_isG2(vk.delta)) revert Deploy_KeyPointInvalid(circuit, 3);
        for (uint256 i; i < 4; ++i) {
            if (!_isG1(vk.ic[i])) revert Deploy_KeyPointInvalid(circuit, 4 + i);
        }
        // D5: somebody contributed to the key.
        if (_same(vk.delta, vk.gamma)) revert Deploy_KeyDeltaEqualsGamma(circuit);
        if (_same(vk.delta, _generator())) revert Deploy_KeyDeltaIsGenerator(circuit);
    }

    /// @notice A = alpha, B = beta, C = -(IC_0 + sum input_i IC_i): valid for any input if delta equals gamma.
    /// @param key The key on the wire.
    /// @param input The public inputs to forge for.
    /// @return proof The forgery.
    function forgedProof(bytes memory key, uint256[3] memory input) internal view returns (Proof memory proof) {
        VerifyingKey memory vk = abi.decode(key, (VerifyingKey));
        proof.a = vk.alpha;
        proof.b = vk.beta;
        uint256[2] memory sum = vk.ic[0];
        for (uint256 i; i < 3; ++i) {
            sum = _add(sum, _mul(vk.ic[i + 1], input[i]));
        }
        proof.c = [sum[0], (Groth16.P - sum[1]) % Groth16.P];
    }

    /// @notice Reverts unless there is an ERC-20 token whose whole supply fits into an amount.
    /// @dev A fee on transfer can't be seen from outside; the pool refuses it at each deposit.
    /// @param token The token.
    /// @return symbol What it calls itself.
    /// @return decimals Digits behind the decimal point of one whole token.
    function checkToken(address token) internal view returns (string memory symbol, uint8 decimals) {
        // D7: the token is one, and all of it fits into an amount of 120 bits.
        if (token.code.length == 0) revert Deploy_TokenWithoutCode(token);
        IERC20Metadata erc20 = IERC20Metadata(token);
        symbol = erc20.symbol();
        decimals = erc20.decimals();
        if (decimals > 30) revert Deploy_TokenDecimals(token, decimals);
        uint256 supply = erc20.totalSupply();
        if (supply > type(uint120).max) revert Deploy_TokenSupply(token, supply);
        // Called for its reverting: a token that can't be asked for balances is none.
        erc20.balanceOf(token);
        erc20.allowance(token, token);
    }

    /// @dev The generator of G2.
    function _generator() private pure returns (uint256[2][2] memory point) {
        point[0][0] =
        11_559_732_032_986_387_107_991_004_021_392_285_783_925_812_861_821_192_530_917_403_151_452_391_805_634;
        point[0][1] =
        10_857_046_999_023_057_135_944_570_762_232_829_481_370_756_359_578_518_086_990_519_993_285_655_852_781;
        point[1][0] =
        4_082_367_875_863_433_681_332_203_403_145_435_568_316_851_327_593_401_208_105_741_076_214_120_093_531;
        point[1][1] =
        8_495_653_923_123_431_417_604_973_247_489_272_438_418_190_587_263_600_148_770_280_649_306_958_101_930;
    }

    function _same(uint256[2][2] memory p, uint256[2][2] memory q) private pure returns (bool same) {
        same = keccak256(abi.encode(p)) == keccak256(abi.encode(q));
    }

    /// @dev Whether a point is on the curve and not the identity; G1 is the whole curve.
    function _isG1(uint256[2] memory p) private view returns (bool valid) {
        if (p[0] == 0 && p[1] == 0) return false;
        (valid,) = address(6).staticcall{gas: PRECOMPILE_GAS}(abi.encode(p, [uint256(0), 0]));
    }

    /// @dev Whether a point is in the subgroup and not the identity: the pairing refuses all others.
    function _isG2(uint256[2][2] memory p) private view returns (bool valid) {
        if (p[0][0] == 0 && p[0][1] == 0 && p[1][0] == 0 && p[1][1] == 0) return false;
        (valid,) = address(8).staticcall{gas: PRECOMPILE_GAS}(abi.encode([uint256(1), 2], p));
    }

    function _add(uint256[2] memory p, uint256[2] memory q) private view returns (uint256[2] memory sum) {
        // forge-lint: disable-next-line(unchecked-call)
        (, bytes memory result) = address(6).staticcall(abi.encode(p, q));
        sum = abi.decode(result, (uint256[2]));
    }

    function _mul(uint256[2] memory p, uint256 scalar) private view returns (uint256[2] memory product) {
        // forge-lint: disable-next-line(unchecked-call)
        (, bytes memory result) = address(7).staticcall(abi.encode(p, scalar));
        product = abi.decode(result, (uint256[2]));
    }
}
