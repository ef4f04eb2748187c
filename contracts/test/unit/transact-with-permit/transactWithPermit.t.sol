// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {Errors} from "../../../src/libraries/Errors.sol";
import {Ext, Permit, TransactArgs} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {FeeOnTransferToken} from "../../utils/Tokens.sol";

contract TransactWithPermit_Unit_Test is PoolTest {
    uint256 private constant AMOUNT = 700;

    address private owner;
    uint256 private ownerKey;

    function setUp() public override {
        super.setUp();
        (owner, ownerKey) = makeAddrAndKey("owner");
        token.mint(owner, 10_000);
    }

    function test_RevertWhen_NothingComesIn() external {
        Ext memory ext = plainExt(payerMemo(1));
        TransactArgs memory args = prove(transactArgs(1), ext);
        Permit memory permit = signPermit(ownerKey, owner, 0);
        vm.prank(owner);
        vm.expectRevert(Errors.StreamPool_AmountInZero.selector);
        pool.transactWithPermit(args, ext, permit);
    }

    function test_WhenThePermitIsGood() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT);
        expectTransacted(args, ext, 0);
        vm.prank(owner);
        pool.transactWithPermit(args, ext, permit);
        assertEq(token.balanceOf(address(pool)), AMOUNT);
        assertEq(token.allowance(owner, address(pool)), 0);
    }

    function test_GivenThePermitWasUsedBefore() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT);
        // Somebody took the permit out of the mempool.
        token.permit(owner, address(pool), AMOUNT, permit.deadline, permit.v, permit.r, permit.s);
        vm.prank(owner);
        pool.transactWithPermit(args, ext, permit);
        assertEq(token.balanceOf(address(pool)), AMOUNT);
    }

    function test_WhenThePermitIsBad_GivenThereIsAnAllowance() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT + 1);
        vm.startPrank(owner);
        token.approve(address(pool), AMOUNT);
        pool.transactWithPermit(args, ext, permit);
        assertEq(token.balanceOf(address(pool)), AMOUNT);
    }

    function test_RevertWhen_ThePermitIsBad_GivenThereIsNoAllowance() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT + 1);
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(pool), 0, AMOUNT)
        );
        pool.transactWithPermit(args, ext, permit);
    }

    function test_RevertWhen_ThePermitIsAnotherAccounts() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT);
        vm.prank(makeAddr("thief"));
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(pool), 0, AMOUNT)
        );
        pool.transactWithPermit(args, ext, permit);
    }

    function test_RevertGiven_TheTokenTakesAFeeOnTransfer() external {
        token = new FeeOnTransferToken();
        pool = deployPool(address(token));
        token.mint(owner, AMOUNT);
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT);
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_AmountReceivedMismatch.selector, AMOUNT, AMOUNT - AMOUNT / 100)
        );
        pool.transactWithPermit(args, ext, permit);
    }

    function test_RevertWhen_TheOperationIsRefused() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        args.amountIn = AMOUNT - 1;
        Permit memory permit = signPermit(ownerKey, owner, AMOUNT - 1);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transactWithPermit(args, ext, permit);
    }

    function signPermit(uint256 key, address signer, uint256 value) private view returns (Permit memory permit) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        permit.deadline = block.timestamp + 60;
        bytes32 structHash =
            keccak256(abi.encode(typeHash, signer, address(pool), value, token.nonces(signer), permit.deadline));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        (permit.v, permit.r, permit.s) = vm.sign(key, digest);
    }
}
