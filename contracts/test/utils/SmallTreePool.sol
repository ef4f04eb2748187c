// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StreamPool} from "../../src/StreamPool.sol";
import {PoolConfig} from "../../src/types/DataTypes.sol";

/// @notice TEST ONLY. A pool whose tree takes fewer leaves, so that it can be filled.
contract SmallTreePool is StreamPool {
    uint256 private immutable CAPACITY;

    constructor(PoolConfig memory config, uint256 leaves) StreamPool(config) {
        CAPACITY = leaves;
    }

    function _capacity() internal view override returns (uint256 leaves) {
        leaves = CAPACITY;
    }
}
