// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

/// @title TestToken
/// @notice A dollar-like token for local chains, with EIP-2612 and EIP-3009. Anyone may mint: it is worth nothing.
contract TestToken is ERC20Permit, ERC3009 {
    /// @notice Deploys the token without any supply.
    constructor() ERC20("Test Dollar", "tUSD") ERC20Permit("Test Dollar") {}

    /// @notice Makes tokens out of nothing.
    /// @param account Who receives them.
    /// @param amount Token base units.
    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    /// @inheritdoc ERC20
    function decimals() public pure override returns (uint8 places) {
        places = 6;
    }
}
