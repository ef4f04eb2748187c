// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ClaimArgs, CloseArgs, Ext, InsertArgs, SealedMemo, TransactArgs} from "../../src/types/DataTypes.sol";

/// @title Reference
/// @notice Statements, alpha, value and the external data's hash, written from docs/src/encodings.md alone: plain loops over
/// arrays, nothing shared with the pool's own code.
library Reference {
    uint256 internal constant R =
        21_888_242_871_839_275_222_246_405_745_257_275_088_548_364_400_416_034_343_698_204_186_575_808_495_617;

    uint256 internal constant TRANSACT = 21;
    uint256 internal constant CLOSE = 22;
    uint256 internal constant CLAIM = 23;
    uint256 internal constant INSERT = 24;

    function extHash(uint256 chainId, address pool, uint256 operation, Ext memory ext) internal pure returns (uint256) {
        // forge-lint: disable-next-line(unsafe-typecast)
        uint8 op = uint8(operation);
        bytes memory data = abi.encode(
            chainId, pool, op, ext.recipient, ext.relayer, ext.fee, ext.deadline, ext.mayDropOutputs, ext.memo
        );
        return uint256(keccak256(data)) % R;
    }

    function transact(TransactArgs memory args, uint256 ext) internal pure returns (uint256[] memory x) {
        x = new uint256[](18);
        x[0] = args.root;
        x[1] = ext;
        x[2] = args.amountIn;
        x[3] = args.amountOut;
        x[4] = args.nullifiers[0];
        x[5] = args.nullifiers[1];
        x[6] = args.commitments[0];
        x[7] = args.commitments[1];
        _memo(x, 8, args.memos[0]);
        _memo(x, 13, args.memos[1]);
    }

    function close(CloseArgs memory args, uint256 ext) internal pure returns (uint256[] memory x) {
        x = new uint256[](18);
        x[0] = args.root;
        x[1] = ext;
        x[2] = args.tag;
        x[3] = args.stop;
        x[4] = args.amountOut;
        x[5] = args.nullifier;
        x[6] = args.commitments[0];
        x[7] = args.commitments[1];
        _memo(x, 8, args.memos[0]);
        _memo(x, 13, args.memos[1]);
    }

    /// @param from What was claimed of each lane's stream before.
    function claim(ClaimArgs memory args, uint256 ext, uint256 burnBps, uint256[16] memory from)
        internal
        pure
        returns (uint256[] memory x)
    {
        x = new uint256[](58);
        x[0] = args.root;
        x[1] = ext;
        x[2] = args.amountOut;
        x[3] = burnBps;
        x[4] = args.commitment;
        _memo(x, 5, args.memo);
        for (uint256 j; j < 16; ++j) {
            x[10 + 3 * j] = args.lanes[j].tag;
            x[11 + 3 * j] = from[j];
            x[12 + 3 * j] = args.lanes[j].until;
        }
    }

    function insert(InsertArgs memory args) internal pure returns (uint256[] memory x) {
        x = new uint256[](69);
        x[0] = args.oldRoot;
        x[1] = args.newRoot;
        x[2] = args.from / 64;
        x[3] = args.from % 64;
        x[4] = args.leaves.length;
        for (uint256 i; i < args.leaves.length; ++i) {
            x[5 + i] = args.leaves[i];
        }
    }

    /// @notice alpha before it is reduced, also the nonce of an EIP-3009 deposit.
    function statementHash(uint256 circuit, uint256 digest, uint256[] memory x) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(circuit, digest, x));
    }

    /// @notice sum x_i * alpha^(n - i), term by term.
    function valueOf(uint256 alpha, uint256[] memory x) internal pure returns (uint256 value) {
        uint256 power = 1;
        for (uint256 i = x.length; i > 0; --i) {
            value = addmod(value, mulmod(x[i - 1], power, R), R);
            power = mulmod(power, alpha, R);
        }
    }

    function _memo(uint256[] memory x, uint256 i, SealedMemo memory memo) private pure {
        x[i] = memo.ex;
        x[i + 1] = memo.ey;
        x[i + 2] = memo.c0;
        x[i + 3] = memo.c1;
        x[i + 4] = memo.c2;
    }
}
