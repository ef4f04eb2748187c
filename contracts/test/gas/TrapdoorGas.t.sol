// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ClaimArgs, CloseArgs, Ext, InsertArgs, TransactArgs} from "../../src/types/DataTypes.sol";
import {PoolTest} from "../utils/PoolTest.sol";

contract TrapdoorGas_Test is PoolTest {
    uint256 internal root;
    uint256[] internal leaves;

    function setUp() public override {
        super.setUp();
        uint256[] memory first = someLeaves(0, 256);
        queueLeaves(first);
        root = insertAll(EMPTY_ROOT, first);
        token.mint(address(pool), 1e20);
        token.mint(relayer, 1e6);
        token.mint(recipient, 1e6);
    }

    function test_Gas() public {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory t = transactArgs(1);
        t.root = root;
        t = prove(t, ext);
        vm.prank(payer);
        pool.transact(t, ext);
        emit log_named_uint("transact_open", vm.lastCallGas().gasTotalUsed);

        ext.fee = 12_345;
        ext.relayer = relayer;
        t = transactArgs(2);
        t.root = root;
        t.amountOut = 12_345;
        t = prove(t, ext);
        vm.prank(relayer);
        pool.transact(t, ext);
        emit log_named_uint("transact_open_fee", vm.lastCallGas().gasTotalUsed);

        ext = plainExt(payerMemo(1));
        CloseArgs memory c = closeArgs(20);
        c.root = root;
        c = prove(c, ext);
        vm.prank(payer);
        pool.close(c, ext);
        emit log_named_uint("close", vm.lastCallGas().gasTotalUsed);

        ext = plainExt("");
        ClaimArgs memory a = claimArgs(3, 16);
        a.root = root;
        a = prove(a, ext);
        vm.prank(payer);
        pool.claim(a, ext);
        emit log_named_uint("claim_16_first each", vm.lastCallGas().gasTotalUsed / 16);
        skip(1000);
        ext = plainExt("");
        a = claimArgs(4, 16);
        a.root = root;
        a = prove(a, ext);
        vm.prank(payer);
        pool.claim(a, ext);
        emit log_named_uint("claim_16_repeat each", vm.lastCallGas().gasTotalUsed / 16);
    }

    function test_GasInsert() public {
        uint256[] memory more = someLeaves(256, 64);
        queueLeaves(more);
        InsertArgs memory args = prove(insertArgs(root, 256, more));
        vm.prank(payer);
        pool.insert(args);
        emit log_named_uint("insert_64", vm.lastCallGas().gasTotalUsed);
    }
}
