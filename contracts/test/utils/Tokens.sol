// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {TestToken} from "../../src/dev/TestToken.sol";

/// @notice TEST ONLY. Takes 1% of every transfer between accounts.
contract FeeOnTransferToken is TestToken {
    function _update(address from, address to, uint256 value) internal override {
        if (from != address(0) && to != address(0)) {
            uint256 fee = value / 100;
            super._update(from, address(0xfee), fee);
            value -= fee;
        }
        super._update(from, to, value);
    }
}

/// @notice TEST ONLY. Calls another contract in the middle of each transfer, as ERC-777 tokens do, and records what came of it.
contract CallingToken is TestToken {
    address public target;
    bytes[] public calls;
    bytes[] public results;
    bool[] public successes;
    bool private _calling;

    function onTransfer(address target_, bytes[] calldata calls_) external {
        target = target_;
        delete calls;
        delete results;
        delete successes;
        for (uint256 i; i < calls_.length; ++i) {
            calls.push(calls_[i]);
        }
    }

    function resultCount() external view returns (uint256) {
        return results.length;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (target == address(0) || _calling) return;
        _calling = true;
        for (uint256 i; i < calls.length; ++i) {
            (bool success, bytes memory result) = target.call(calls[i]);
            successes.push(success);
            results.push(result);
        }
        _calling = false;
    }
}

/// @notice TEST ONLY. Returns nothing from transfers, as some old tokens do, and knows neither permits nor authorisations.
contract OldToken {
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address account, uint256 amount) external {
        balanceOf[account] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
