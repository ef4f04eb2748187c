// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Groth16} from "../../src/libraries/Groth16.sol";
import {Proof} from "../../src/types/DataTypes.sol";
import {Groth16Verifier} from "../../src/verifiers/Groth16Verifier.sol";

/// @title TrapdoorVerifier
/// @notice TEST ONLY. A Groth16 verifier whose trapdoor is known, so that {Trapdoor} makes valid proofs for any public inputs.
/// Everything but the circuit is real: the library, the pairing, the gas.
contract TrapdoorVerifier is Groth16Verifier {
    uint256 private immutable CIRCUIT;

    constructor(uint256 tag) {
        CIRCUIT = tag;
    }

    function circuit() external view override returns (uint256 tag) {
        tag = CIRCUIT;
    }

    function isDevelopmentKey() external pure override returns (bool development) {
        development = true;
    }

    function _key() internal pure override returns (bytes memory key) {
        key = Trapdoor.KEY;
    }
}

/// @title Trapdoor
/// @notice TEST ONLY. Proofs without a witness, from the discrete logarithms of the key's points.
library Trapdoor {
    /// @dev alpha = 2 G1, beta = 3 G2, gamma = 5 G2, delta = 7 G2, IC = (11, 13, 17, 19) G1.
    bytes internal constant KEY = hex"030644e72e131a029b85045b68181585d97816a916871ca8d3c208c16d87cfd3"
        hex"15ed738c0e0a7c92e7845f96b2ae9c0a68a6a449e3538fc7ff3ebf7a5a18a2c4"
        hex"1014772f57bb9742735191cd5dcfe4ebbc04156b6878a0a7c9824f32ffb66e85"
        hex"06064e784db10e9051e52826e192715e8d7e478cb09a5e0012defa0694fbc7f5"
        hex"021e2335f3354bb7922ffcc2f38d3323dd9453ac49b55441452aeaca147711b2"
        hex"058e1d5681b5b9e0074b0f9c8d2c68a069b920d74521e79765036d57666c5597"
        hex"0a09ccf561b55fd99d1c1208dee1162457b57ac5af3759d50671e510e428b2a1"
        hex"2e539c423b302d13f4e5773c603948eaf5db5df8ae8a9a9113708390a06410d8"
        hex"19b763513924a736e4eebd0d78c91c1bc1d657fee4214057d21414011cfcc763"
        hex"2f8d9f9ab83727c77a2fec063cb7b6e5eb23044ccf535ad49d46d394fb6f6bf6"
        hex"2903ba015a9abde26a5d081e84551e63be0fd4516e46ee6d593edeba46362455"
        hex"224bdc5d4327fcf8ed702e01de1c2f1657a253ba75e32a89c390142aaa28b308"
        hex"03c8b7cda6b2dedb7aeeaf5fda464ad17036bea1c4e6f7adbaed1ebe0335e0d8"
        hex"1d92fff52a265017eeccb372e37d7a7bd431800eca28dfd82e21e8054114233f"
        hex"2a14705537b009189da8808651eecdb82482477fe92ac12ca8b71f80fc3d49ef"
        hex"2df7ee7f243ea8b38e1ddf14029258877a618c779fd4717db6177e19ea67ec38"
        hex"05e86f8cc8a7a4f10f56093465679f17f8b8c3fdb41469e408b529e030f52f3f"
        hex"2857bd14bbc09767bed8e913d3ccb42b2bc8738f715417dd6f020725d22bcd90"
        hex"1c6a451060210f3baad93fe1631753751da9857edae0468e8e4bee7dd33cfb2c"
        hex"2331a64aa86c50d2d1e0237893ef7744a77228881ce73fcc2ad555a37d4ab405"
        hex"15514de6a136158ef7b2bc22bed59866743bc401edd63ae857d44f4c71edc28d"
        hex"095e28f5ba5d73440c0e504b624afabfedb9387320817b62e9168b6868d8952e";

    uint256 private constant R = Groth16.R;

    /// @dev 1 / 7 mod R.
    uint256 private constant DELTA_INVERSE =
        3_126_891_838_834_182_174_606_629_392_179_610_726_935_480_628_630_862_049_099_743_455_225_115_499_374;

    /// @notice A valid proof for these public inputs.
    function prove(uint256 digest, uint256 alpha, uint256 value) internal view returns (Proof memory proof) {
        // A = a G1 and B = G2; the equation a = alpha beta + gamma ic + delta c gives c.
        uint256 a = uint256(keccak256(abi.encode(digest, alpha, value))) % R;
        uint256 ic = addmod(mulmod(13, digest, R), mulmod(17, alpha, R), R);
        ic = addmod(addmod(ic, mulmod(19, value, R), R), 11, R);
        uint256 rest = addmod(6, mulmod(5, ic, R), R);
        uint256 c = mulmod(addmod(a, R - rest, R), DELTA_INVERSE, R);
        proof.a = mul(a);
        proof.b = g2Generator();
        proof.c = mul(c);
    }

    /// @notice The generator of G2.
    function g2Generator() internal pure returns (uint256[2][2] memory point) {
        point[0][0] =
        11_559_732_032_986_387_107_991_004_021_392_285_783_925_812_861_821_192_530_917_403_151_452_391_805_634;
        point[0][1] =
        10_857_046_999_023_057_135_944_570_762_232_829_481_370_756_359_578_518_086_990_519_993_285_655_852_781;
        point[1][0] =
        4_082_367_875_863_433_681_332_203_403_145_435_568_316_851_327_593_401_208_105_741_076_214_120_093_531;
        point[1][1] =
        8_495_653_923_123_431_417_604_973_247_489_272_438_418_190_587_263_600_148_770_280_649_306_958_101_930;
    }

    /// @notice A multiple of the generator of G1.
    function mul(uint256 scalar) internal view returns (uint256[2] memory point) {
        uint256[3] memory input = [uint256(1), 2, scalar];
        bool ok;
        assembly ("memory-safe") {
            ok := staticcall(gas(), 7, input, 0x60, point, 0x40)
        }
        require(ok, "ecmul");
    }
}
