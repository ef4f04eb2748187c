// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {DeploymentChecks} from "../../script/DeploymentChecks.sol";
import {IGroth16Verifier} from "../../src/interfaces/IGroth16Verifier.sol";
import {Errors} from "../../src/libraries/Errors.sol";
import {Groth16} from "../../src/libraries/Groth16.sol";
import {ClaimArgs, CloseArgs, Ext, InsertArgs, Proof, TransactArgs} from "../../src/types/DataTypes.sol";
import {FixtureTest} from "../utils/FixtureTest.sol";
import {Reference} from "../utils/Reference.sol";

/// @notice Proofs of our prover against the generated verifiers, in the pool.
contract RealProofs_Test is FixtureTest {
    function test_Deposit() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_deposit");
        assertGt(args.amountIn, 0);
        assertEq(args.amountOut, 0);
        uint256 before = token.balanceOf(address(pool));
        goTo("transact_deposit");
        expectTransacted(args, ext, 256);
        sendCall(callOf("transact_deposit"));
        assertEq(token.balanceOf(address(pool)), before + args.amountIn);
    }

    function test_Open() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_open");
        assertEq(args.amountIn + args.amountOut + ext.fee, 0);
        send("transact_open");
        assertTrue(pool.isSpent(args.nullifiers[0]));
        assertTrue(pool.isSpent(args.nullifiers[1]));
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, args.nullifiers[0]));
        this.sendAgain("transact_open");
    }

    /// @dev A proof that snarkjs made from the same statement.
    function test_OpenWithAProofOfSnarkjs() external {
        (TransactArgs memory ours,) = transactOf("transact_open");
        (TransactArgs memory theirs,) = transactOf("transact_open_snarkjs");
        assertEq(ours.nullifiers[0], theirs.nullifiers[0]);
        assertTrue(ours.proof.a[0] != theirs.proof.a[0]);
        send("transact_open_snarkjs");
        assertTrue(pool.isSpent(theirs.nullifiers[0]));
    }

    function test_OpenWithFee() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_open_fee");
        assertGt(ext.fee, 0);
        assertEq(args.amountOut, ext.fee);
        send("transact_open_fee");
        assertEq(token.balanceOf(ext.relayer), ext.fee);
    }

    function test_Withdraw() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_withdraw");
        assertGt(args.amountOut, 0);
        send("transact_withdraw");
        assertEq(token.balanceOf(ext.recipient), args.amountOut - ext.fee);
    }

    function test_CloseOnce() external {
        (CloseArgs memory args,) = closeOf("close");
        (CloseArgs memory reopen,) = closeOf("close_reopen");
        assertEq(args.tag, reopen.tag);
        send("close");
        assertEq(pool.streamRecord(args.tag).stop, args.stop);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StreamStopped.selector, args.tag, args.stop));
        this.sendAgain("close_reopen");
    }

    function test_CloseAndReopen() external {
        (CloseArgs memory reopen,) = closeOf("close_reopen");
        send("close_reopen");
        assertEq(pool.streamRecord(reopen.tag).stop, reopen.stop);
    }

    function test_ClaimAndClaimAgain() external {
        (ClaimArgs memory first,) = claimOf("claim_16_first");
        (ClaimArgs memory second,) = claimOf("claim_16_repeat");
        send("claim_16_first");
        for (uint256 j; j < 16; ++j) {
            assertEq(pool.streamRecord(first.lanes[j].tag).claimedUntil, first.lanes[j].until);
            assertEq(second.lanes[j].tag, first.lanes[j].tag);
        }
        send("claim_16_repeat");
        for (uint256 j; j < 16; ++j) {
            assertEq(pool.streamRecord(first.lanes[j].tag).claimedUntil, second.lanes[j].until);
        }
    }

    /// @dev A proof for windows after a first claim is worth nothing before it.
    function test_RevertWhen_TheRepeatComesFirst() external {
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23));
        this.sendAgain("claim_16_repeat");
    }

    function test_ClaimOne() external {
        (ClaimArgs memory args, Ext memory ext) = claimOf("claim_1");
        for (uint256 j = 1; j < 16; ++j) {
            assertEq(args.lanes[j].tag, 0);
        }
        assertGt(ext.fee, 0);
        send("claim_1");
        assertEq(token.balanceOf(ext.recipient), args.amountOut - ext.fee);
        assertEq(token.balanceOf(ext.relayer), ext.fee);
    }

    function test_InsertAll() external {
        queueLeaves(queuedLeaves);
        InsertArgs memory args = insertOf("insert_64");
        assertEq(args.from, 256);
        assertEq(args.leaves.length, 64);
        send("insert_64");
        assertEq(pool.rootInfo(args.newRoot).leafCount, 320);
    }

    function test_InsertInTwoParts() external {
        queueLeaves(queuedLeaves);
        InsertArgs memory part = insertOf("insert_partial");
        assertEq(part.leaves.length, 30);
        send("insert_partial");
        assertEq(pool.rootInfo(part.newRoot).leafCount, 286);
        send("insert_resume");
        // Both ways lead to one tree.
        assertEq(pool.rootInfo(insertOf("insert_64").newRoot).leafCount, 320);
    }

    /// @dev Operation and insertion of its own leaves' predecessors in one call.
    function test_Bundle() external {
        queueLeaves(queuedLeaves);
        InsertArgs[] memory insertions = new InsertArgs[](1);
        insertions[0] = insertOf("insert_64");
        goTo("transact_open");
        sendCall(abi.encodeCall(pool.bundle, (callOf("transact_open"), insertions)));
        assertEq(pool.queueState().inserted, 320);
        assertEq(pool.queueState().queued, 322);
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        REFUSALS
    //////////////////////////////////////////////////////////////////////////*/

    function test_RevertWhen_AnElementWasFlipped() external {
        string[5] memory names =
            ["transact_deposit", "transact_open", "transact_open_fee", "transact_withdraw", "close"];
        for (uint256 n; n < 5; ++n) {
            bool isClose = n == 4;
            goTo(names[n]);
            bytes memory data = callOf(names[n]);
            for (uint256 word = 8; word < 26; ++word) {
                if (word == 9) continue; // The root: unknown.
                // An amount that goes out has to go somewhere.
                if ((isClose && word == 12) || (n < 3 && word == 11)) continue;
                (bytes memory changed,) = addToWord(data, word, isClose && word == 11 ? SLOT : 1);
                assertRefused(changed, isClose ? 22 : 21);
            }
        }
        goTo("claim_16_first");
        bytes memory claim = callOf("claim_16_first");
        for (uint256 word = 8; word < 49; ++word) {
            if (word == 9 || word == 10) continue;
            bool isUntil = word >= 17 && (word - 17) % 2 == 1;
            (bytes memory changed,) = addToWord(claim, word, isUntil ? type(uint256).max : 1);
            assertRefused(changed, 23);
        }
        queueLeaves(queuedLeaves);
        goTo("insert_64");
        bytes memory insertion = callOf("insert_64");
        // One offset, the proof, then digest and, two words on, the new root.
        for (uint256 word = 9; word < 12; word += 2) {
            (bytes memory changed,) = addToWord(insertion, word, 1);
            assertRefused(changed, 24);
        }
    }

    function test_RevertWhen_AProofPointWasChanged() external {
        goTo("transact_open");
        for (uint256 word; word < 8; ++word) {
            (bytes memory changed,) = addToWord(callOf("transact_open"), word, 1);
            assertRefused(changed, 21);
        }
    }

    /// @dev A = alpha, B = beta, C = -vk_x; the forgery that emptied pools with delta = gamma.
    function testFuzz_ForgedProofFailsAgainstEachVerifier(uint256 digest, uint256 alpha, uint256 value) external view {
        uint256[3] memory input = [digest % Groth16.R, alpha % Groth16.R, value % Groth16.R];
        for (uint256 circuit = 21; circuit < 25; ++circuit) {
            IGroth16Verifier verifier = verifierOf(circuit);
            Proof memory forged = DeploymentChecks.forgedProof(verifier.verifyingKey(), input);
            assertFalse(verifier.verifyProof(forged.a, forged.b, forged.c, input));
        }
    }

    /// @dev A forged proof for a real statement, through the pool.
    function test_RevertWhen_TheProofIsForged() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_withdraw");
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        uint256 alpha = uint256(Reference.statementHash(Reference.TRANSACT, args.digest, x)) % R;
        args.proof = DeploymentChecks.forgedProof(
            verifierOf(21).verifyingKey(), [args.digest, alpha, Reference.valueOf(alpha, x)]
        );
        goTo("transact_withdraw");
        assertRefused(abi.encodeCall(pool.transact, (args, ext)), 21);
    }

    /// @dev The value that belongs to another digest: whoever could choose the digest after alpha would prove anything.
    function test_RevertWhen_TheDigestIsChosenAfterAlpha() external {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_open");
        goTo("transact_open");
        args.digest = addmod(args.digest, 1, R);
        assertRefused(abi.encodeCall(pool.transact, (args, ext)), 21);
    }

    function test_RevertWhen_OnAnotherChain() external {
        goTo("transact_open");
        vm.chainId(block.chainid + 1);
        assertRefused(callOf("transact_open"), 21);
    }

    /// @dev Each verifier takes its own circuit's proofs only.
    function test_EachProofFitsItsOwnVerifierOnly() external view {
        (TransactArgs memory args, Ext memory ext) = transactOf("transact_open");
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        uint256 alpha = uint256(Reference.statementHash(Reference.TRANSACT, args.digest, x)) % R;
        uint256[3] memory input = [args.digest, alpha, Reference.valueOf(alpha, x)];
        for (uint256 circuit = 21; circuit < 25; ++circuit) {
            bool valid = verifierOf(circuit).verifyProof(args.proof.a, args.proof.b, args.proof.c, input);
            assertEq(valid, circuit == 21);
        }
    }

    /// @dev Keys, circuits and hashes as the deploy script checks them.
    function test_VerifiersAreSound() external view {
        string memory keys = vm.readFile("build/keys.json");
        string[4] memory names = ["transact", "close", "claim", "insert"];
        for (uint256 i; i < 4; ++i) {
            bytes32 hash = vm.parseJsonBytes32(keys, string.concat(".circuits.", names[i], ".vkey_hash"));
            DeploymentChecks.checkVerifier(verifierOf(21 + i), 21 + i, hash);
        }
    }

    function sendAgain(string memory name) external {
        send(name);
    }

    function assertRefused(bytes memory data, uint256 circuit) private {
        vm.prank(caller);
        (bool success, bytes memory result) = address(pool).call{gas: 20_000_000}(data);
        assertFalse(success);
        assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, circuit));
    }
}
