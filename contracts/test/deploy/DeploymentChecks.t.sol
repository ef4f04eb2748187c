// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";

import {DeploymentChecks} from "../../script/DeploymentChecks.sol";
import {TestToken} from "../../src/dev/TestToken.sol";
import {Groth16, VerifyingKey} from "../../src/libraries/Groth16.sol";
import {Proof} from "../../src/types/DataTypes.sol";
import {Groth16Verifier} from "../../src/verifiers/Groth16Verifier.sol";
import {OldToken} from "../utils/Tokens.sol";
import {Trapdoor, TrapdoorVerifier} from "../utils/TrapdoorVerifier.sol";

/// @notice TEST ONLY. A verifier with any key.
contract AnyKeyVerifier is Groth16Verifier {
    bytes private _bytes;
    bool private immutable DEVELOPMENT;

    constructor(bytes memory key, bool development) {
        _bytes = key;
        DEVELOPMENT = development;
    }

    function circuit() external pure override returns (uint256 tag) {
        tag = 21;
    }

    function isDevelopmentKey() external view override returns (bool development) {
        development = DEVELOPMENT;
    }

    function _key() internal view override returns (bytes memory key) {
        key = _bytes;
    }
}

contract DeploymentChecks_Test is Test {
    function test_SoundKeyPasses() external {
        this.checkVerifier(new AnyKeyVerifier(Trapdoor.KEY, false), 21, keccak256(Trapdoor.KEY));
        vm.chainId(1);
        this.checkVerifier(new AnyKeyVerifier(Trapdoor.KEY, false), 21, keccak256(Trapdoor.KEY));
    }

    function test_DevelopmentKeyIsForDevelopmentChainsOnly() external {
        AnyKeyVerifier verifier = new AnyKeyVerifier(Trapdoor.KEY, true);
        bytes32 hash = keccak256(Trapdoor.KEY);
        uint256[2] memory local = [uint256(31_337), 1337];
        for (uint256 i; i < 2; ++i) {
            vm.chainId(local[i]);
            this.checkVerifier(verifier, 21, hash);
        }
        uint256[5] memory others = [uint256(1), 10, 100, 8453, 11_155_111];
        for (uint256 i; i < 5; ++i) {
            vm.chainId(others[i]);
            vm.expectRevert(
                abi.encodeWithSelector(DeploymentChecks.Deploy_DevelopmentKeyRefused.selector, 21, others[i])
            );
            this.checkVerifier(verifier, 21, hash);
        }
    }

    function test_AnotherCircuitsVerifierIsRefused() external {
        AnyKeyVerifier verifier = new AnyKeyVerifier(Trapdoor.KEY, false);
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_WrongCircuit.selector, 22, 21));
        this.checkVerifier(verifier, 22, keccak256(Trapdoor.KEY));
    }

    function test_AnotherKeyIsRefused() external {
        AnyKeyVerifier verifier = new AnyKeyVerifier(Trapdoor.KEY, false);
        vm.expectRevert(
            abi.encodeWithSelector(
                DeploymentChecks.Deploy_KeyHashMismatch.selector, 21, bytes32(uint256(1)), keccak256(Trapdoor.KEY)
            )
        );
        this.checkVerifier(verifier, 21, bytes32(uint256(1)));
    }

    function test_DeltaEqualToGammaIsRefused() external {
        VerifyingKey memory vk = abi.decode(Trapdoor.KEY, (VerifyingKey));
        vk.delta = vk.gamma;
        bytes memory key = abi.encode(vk);
        // The forgery that emptied pools works on such a key.
        AnyKeyVerifier verifier = new AnyKeyVerifier(key, false);
        uint256[3] memory input = [uint256(1), 2, 3];
        Proof memory forged = DeploymentChecks.forgedProof(key, input);
        assertTrue(verifier.verifyProof(forged.a, forged.b, forged.c, input));
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyDeltaEqualsGamma.selector, 21));
        this.checkVerifier(verifier, 21, keccak256(key));
    }

    function test_UncontributedDeltaIsRefused() external {
        VerifyingKey memory vk = abi.decode(Trapdoor.KEY, (VerifyingKey));
        vk.delta = Trapdoor.g2Generator();
        bytes memory key = abi.encode(vk);
        AnyKeyVerifier verifier = new AnyKeyVerifier(key, false);
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyDeltaIsGenerator.selector, 21));
        this.checkVerifier(verifier, 21, keccak256(key));
    }

    function test_KeyOfAnotherLengthIsRefused() external {
        bytes memory key = bytes.concat(Trapdoor.KEY, new bytes(64));
        AnyKeyVerifier verifier = new AnyKeyVerifier(key, false);
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyLength.selector, 21, 768));
        this.checkVerifier(verifier, 21, keccak256(key));
    }

    /// @dev Each point in turn off its curve, and the identity.
    function test_InvalidPointsAreRefused() external {
        uint256[8] memory offsets = [uint256(0), 64, 192, 320, 448, 512, 576, 640];
        uint256[8] memory lengths = [uint256(64), 128, 128, 128, 64, 64, 64, 64];
        for (uint256 i; i < 8; ++i) {
            bytes memory key = bytes.concat(Trapdoor.KEY);
            key[offsets[i] + 31] ^= 0x01;
            vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyPointInvalid.selector, 21, i));
            this.checkKey(key);
            key = bytes.concat(Trapdoor.KEY);
            for (uint256 j; j < lengths[i]; ++j) {
                key[offsets[i] + j] = 0;
            }
            vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyPointInvalid.selector, 21, i));
            this.checkKey(key);
        }
    }

    /// @dev On the twist but outside the subgroup of order r.
    function test_PointOutsideTheSubgroupIsRefused() external {
        VerifyingKey memory vk = abi.decode(Trapdoor.KEY, (VerifyingKey));
        vk.beta = twistPointOutsideTheSubgroup();
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_KeyPointInvalid.selector, 21, 1));
        this.checkKey(abi.encode(vk));
    }

    function test_TokenIsLookedAt() external {
        TestToken token = new TestToken();
        (string memory symbol, uint8 decimals) = this.checkToken(address(token));
        assertEq(symbol, "tUSD");
        assertEq(decimals, 6);

        address nobody = makeAddr("nobody");
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_TokenWithoutCode.selector, nobody));
        this.checkToken(nobody);

        token.mint(address(this), uint256(type(uint120).max) + 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                DeploymentChecks.Deploy_TokenSupply.selector, address(token), uint256(type(uint120).max) + 1
            )
        );
        this.checkToken(address(token));

        vm.mockCall(address(token), abi.encodeCall(token.decimals, ()), abi.encode(31));
        vm.expectRevert(abi.encodeWithSelector(DeploymentChecks.Deploy_TokenDecimals.selector, address(token), 31));
        this.checkToken(address(token));

        // No symbol, no token.
        OldToken old = new OldToken();
        vm.expectRevert(bytes(""));
        this.checkToken(address(old));
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        HELPERS
    //////////////////////////////////////////////////////////////////////////*/

    function checkVerifier(Groth16Verifier verifier, uint256 circuit, bytes32 hash) external view {
        DeploymentChecks.checkVerifier(verifier, circuit, hash);
    }

    function checkKey(bytes memory key) external view {
        DeploymentChecks.checkKey(key, 21);
    }

    function checkToken(address token) external view returns (string memory symbol, uint8 decimals) {
        return DeploymentChecks.checkToken(token);
    }

    function twistPointOutsideTheSubgroup() private pure returns (uint256[2][2] memory point) {
        point[0][1] = 1;
        point[1][0] =
        5_912_654_199_736_721_486_680_175_016_176_231_956_195_085_055_698_687_135_131_307_249_486_702_594_212;
        point[1][1] =
        18_278_151_005_453_108_793_778_860_132_295_291_098_363_647_455_926_340_152_056_652_516_292_830_556_603;
    }
}
