// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Ext} from "../../src/types/DataTypes.sol";
import {FixtureTest} from "../utils/FixtureTest.sol";

/// @notice Whole-transaction gas (21,000 base and calldata in) with the generated verifiers, real proofs, full-length memos
/// and a ring that was used once round. `forge test` writes contracts/snapshots/StreamPool.json;
/// FORGE_SNAPSHOT_CHECK=true fails when a figure differs from the committed one.
/// forge-config: default.isolate = true
contract StreamPool_Gas_Test is FixtureTest {
    function test_TransactOpen() external {
        send("transact_open");
        record("transact_open", 330_000);
    }

    function test_TransactOpenFee() external {
        (, address relayer_) = feeOf();
        token.mint(relayer_, 1);
        send("transact_open_fee");
        record("transact_open_fee", 365_000);
    }

    function test_TransactDeposit() external {
        send("transact_deposit");
        record("transact_deposit", type(uint256).max);
    }

    function test_TransactWithdraw() external {
        send("transact_withdraw");
        record("transact_withdraw", type(uint256).max);
    }

    function test_Close() external {
        send("close");
        record("close", 330_000);
    }

    function test_Claim16() external {
        send("claim_16_first");
        record("claim_16_first", 16 * 44_000);
        send("claim_16_repeat");
        record("claim_16_repeat", 16 * 26_000);
    }

    function test_Insert64() external {
        queueLeaves(queuedLeaves);
        send("insert_64");
        record("insert_64", 64 * 5000);
    }

    /// @dev Writes a figure down and holds it to its bar.
    function record(string memory name, uint256 bar) private {
        uint256 gasUsed = vm.snapshotGasLastCall("StreamPool", name);
        assertLe(gasUsed, bar, name);
        // A figure without the base cost would mean that the call didn't run as a transaction of its own.
        assertGt(gasUsed, 250_000, name);
    }

    function feeOf() private view returns (uint256 fee, address relayer_) {
        (, Ext memory ext) = transactOf("transact_open_fee");
        return (ext.fee, ext.relayer);
    }
}
