// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";

import {Errors} from "../../../src/libraries/Errors.sol";
import {Authorization, Ext, TransactArgs} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";
import {FeeOnTransferToken} from "../../utils/Tokens.sol";

contract TransactWithAuthorization_Unit_Test is PoolTest {
    uint256 private constant AMOUNT = 700;

    address private owner;
    uint256 private ownerKey;

    function setUp() public override {
        super.setUp();
        (owner, ownerKey) = makeAddrAndKey("owner");
        token.mint(owner, 10_000);
    }

    function test_RevertWhen_NothingComesIn() external {
        (TransactArgs memory args, Ext memory ext) = deposit(0);
        Authorization memory authorization = sign(args, ext);
        vm.expectRevert(Errors.StreamPool_AmountInZero.selector);
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function test_WhenTheAuthorisationIsForThisStatement() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        expectTransacted(args, ext, 0);
        vm.prank(makeAddr("anybody"));
        pool.transactWithAuthorization(args, ext, authorization);
        assertEq(token.balanceOf(address(pool)), AMOUNT);
        assertEq(token.balanceOf(owner), 10_000 - AMOUNT);
        assertTrue(token.authorizationState(owner, nonceOf(args, ext)));
    }

    function test_WhenARelayerIsPaidFromTheDeposit() external {
        Ext memory ext = plainExt(payerMemo(1));
        ext.relayer = relayer;
        ext.fee = 9;
        TransactArgs memory args = transactArgs(1);
        args.amountIn = AMOUNT;
        args.amountOut = 9;
        args = prove(args, ext);
        Authorization memory authorization = sign(args, ext);
        vm.prank(relayer);
        pool.transactWithAuthorization(args, ext, authorization);
        assertEq(token.balanceOf(relayer), 9);
        assertEq(token.balanceOf(address(pool)), AMOUNT - 9);
    }

    function test_RevertWhen_TheAuthorisationIsForAnotherStatement() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        // Another note for the same money, well proved.
        args.commitments[0] += 1;
        args = prove(args, ext);
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function test_RevertWhen_TheAuthorisationNamesAnotherSigner() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        // The payer has approved the pool, but hasn't signed.
        authorization.from = payer;
        vm.expectRevert(ERC3009.ERC3009InvalidSignature.selector);
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function test_RevertWhen_TheAuthorisationHasExpired() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        vm.warp(authorization.validBefore);
        vm.expectRevert(
            abi.encodeWithSelector(
                ERC3009.ERC3009InvalidAuthorizationTime.selector, authorization.validAfter, authorization.validBefore
            )
        );
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function test_RevertWhen_SomebodyUsesTheAuthorisationWithoutThePool() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        bytes32 nonce = nonceOf(args, ext);
        vm.prank(makeAddr("thief"));
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(pool)));
        token.receiveWithAuthorization(
            owner,
            address(pool),
            AMOUNT,
            authorization.validAfter,
            authorization.validBefore,
            nonce,
            authorization.v,
            authorization.r,
            authorization.s
        );
    }

    function test_RevertGiven_TheTokenTakesAFeeOnTransfer() external {
        token = new FeeOnTransferToken();
        pool = deployPool(address(token));
        token.mint(owner, AMOUNT);
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_AmountReceivedMismatch.selector, AMOUNT, AMOUNT - AMOUNT / 100)
        );
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function test_RevertWhen_TheOperationIsRefused() external {
        (TransactArgs memory args, Ext memory ext) = deposit(AMOUNT);
        Authorization memory authorization = sign(args, ext);
        ext.deadline = block.timestamp - 1;
        vm.expectRevert(
            abi.encodeWithSelector(Errors.StreamPool_DeadlinePassed.selector, block.timestamp - 1, block.timestamp)
        );
        pool.transactWithAuthorization(args, ext, authorization);
    }

    function nonceOf(TransactArgs memory args, Ext memory ext) private view returns (bytes32) {
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        return Reference.statementHash(Reference.TRANSACT, args.digest, x);
    }

    function sign(TransactArgs memory args, Ext memory ext) private view returns (Authorization memory authorization) {
        authorization.from = owner;
        authorization.validAfter = block.timestamp - 1;
        authorization.validBefore = block.timestamp + 60;
        bytes32 typeHash = keccak256(
            "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        );
        bytes32 structHash = keccak256(
            abi.encode(
                typeHash,
                owner,
                address(pool),
                args.amountIn,
                authorization.validAfter,
                authorization.validBefore,
                nonceOf(args, ext)
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        (authorization.v, authorization.r, authorization.s) = vm.sign(ownerKey, digest);
    }
}
