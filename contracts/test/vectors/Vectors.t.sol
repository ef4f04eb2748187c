// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StreamPool} from "../../src/StreamPool.sol";
import {Errors} from "../../src/libraries/Errors.sol";
import {Statement} from "../../src/libraries/Statement.sol";
import {ClaimArgs, CloseArgs, Ext, TransactArgs} from "../../src/types/DataTypes.sol";
import {PoolTest} from "../utils/PoolTest.sol";
import {Reference} from "../utils/Reference.sol";
import {StreamMath} from "../utils/StreamMath.sol";

/// @notice The shared vectors that circom, Rust and Solidity check.
contract Vectors_Test is PoolTest {
    function test_Statements() external view {
        string memory json = vm.readFile("vectors/statements.json");
        uint256 count;
        for (; vm.keyExistsJson(json, caseKey(count, "")); ++count) {
            string memory circuit = vm.parseJsonString(json, caseKey(count, ".circuit"));
            uint256[] memory x = vm.parseJsonUintArray(json, caseKey(count, ".x"));
            uint256 digest = vm.parseJsonUint(json, caseKey(count, ".digest"));
            bytes32 bindingHash = vm.parseJsonBytes32(json, caseKey(count, ".binding_hash"));
            uint256 alpha = vm.parseJsonUint(json, caseKey(count, ".alpha"));
            uint256 value = vm.parseJsonUint(json, caseKey(count, ".value"));
            uint256 tag = tagOf(circuit);

            assertEq(Reference.statementHash(tag, digest, x), bindingHash);
            assertEq(uint256(bindingHash) % R, alpha);
            assertEq(Reference.valueOf(alpha, x), value);

            (bytes32 hash, uint256 evaluated) = evaluate(tag, digest, x);
            assertEq(hash, bindingHash);
            assertEq(evaluated, value);
        }
        assertGe(count, 11);
    }

    /// @dev Elements out of range are found wherever they are, whatever the statement's length.
    function testFuzz_NotCanonical(uint256 n, uint256 index, uint256 excess) external {
        n = bound(n, 1, 80);
        index = bound(index, 0, n);
        uint256[] memory x = new uint256[](n);
        uint256 digest = R - 1;
        for (uint256 i; i < n; ++i) {
            x[i] = R - 1 - i;
        }
        this.evaluate(21, digest, x);
        uint256 word = R + bound(excess, 0, type(uint256).max - R);
        if (index == 0) digest = word;
        else x[index - 1] = word;
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NotCanonical.selector, index, word));
        this.evaluate(21, digest, x);
    }

    /// @dev The pool's folding agrees with the sum of its definition.
    function testFuzz_Value(uint256 n, uint256 seed) external view {
        n = bound(n, 1, 80);
        uint256[] memory x = new uint256[](n);
        for (uint256 i; i < n; ++i) {
            x[i] = element("fuzz", uint256(keccak256(abi.encode(seed, i))));
        }
        (bytes32 hash, uint256 value) = evaluate(23, seed % R, x);
        assertEq(hash, Reference.statementHash(23, seed % R, x));
        assertEq(value, Reference.valueOf(uint256(hash) % R, x));
    }

    /// @dev The pool at the vectors' address takes a proof for the vectors' hash, and for no other.
    function test_ExternalData() external {
        string memory json = vm.readFile("vectors/external.json");
        uint256 count;
        for (; vm.keyExistsJson(json, caseKey(count, "")); ++count) {
            vm.chainId(vm.parseJsonUint(json, caseKey(count, ".chain_id")));
            address where = vm.parseJsonAddress(json, caseKey(count, ".pool"));
            deployCodeTo("StreamPool.sol:StreamPool", abi.encode(config(address(token))), where);
            pool = StreamPool(where);
            Ext memory ext = Ext({
                recipient: vm.parseJsonAddress(json, caseKey(count, ".recipient")),
                relayer: vm.parseJsonAddress(json, caseKey(count, ".relayer")),
                fee: vm.parseJsonUint(json, caseKey(count, ".fee")),
                deadline: vm.parseJsonUint(json, caseKey(count, ".deadline")),
                mayDropOutputs: vm.parseJsonBool(json, caseKey(count, ".may_drop_outputs")),
                memo: vm.parseJsonBytes(json, caseKey(count, ".memo"))
            });
            vm.warp(ext.deadline / SLOT * SLOT);
            uint256 operation = vm.parseJsonUint(json, caseKey(count, ".operation"));
            uint256 hash = vm.parseJsonUint(json, caseKey(count, ".ext"));
            assertEq(Reference.extHash(block.chainid, where, operation, ext), hash);
            token.mint(where, ext.fee);
            uint256 state = vm.snapshotState();
            assertTrue(taken(operation, ext, hash, count));
            vm.revertToState(state);
            assertFalse(taken(operation, ext, hash + 1, count));
        }
        assertGe(count, 6);
    }

    function test_EmptyTree() external view {
        string memory json = vm.readFile("vectors/tree.json");
        uint256[] memory roots = vm.parseJsonUintArray(json, ".empty_roots");
        assertEq(roots.length, 17);
        assertEq(uint256(keccak256("tributary.empty.leaf")) % R, vm.parseJsonUint(json, ".empty_leaf"));
        assertEq(roots[0], vm.parseJsonUint(json, ".empty_leaf"));
        assertEq(pool.rootInfo(roots[16]).timestamp, NOW);
    }

    /// @dev The amounts of the reference ledger that the invariants compare with.
    function test_PayoutsAndRefunds() external view {
        string memory json = vm.readFile("vectors/notes.json");
        uint256 checked;
        for (uint256 i; vm.keyExistsJson(json, string.concat(".streams[", vm.toString(i), "]")); ++i) {
            string memory stream = string.concat(".streams[", vm.toString(i), "]");
            uint256 rate = vm.parseJsonUint(json, string.concat(stream, ".rate"));
            uint256 start = vm.parseJsonUint(json, string.concat(stream, ".start"));
            uint256 end = vm.parseJsonUint(json, string.concat(stream, ".end"));
            assertEq(rate * (end - start), vm.parseJsonUint(json, string.concat(stream, ".deposit")));
            for (uint256 j; j < 7; ++j) {
                string memory entry = string.concat(stream, ".payouts[", vm.toString(j), "]");
                uint256 t0 = vm.parseJsonUint(json, string.concat(entry, ".t0"));
                uint256 t1 = vm.parseJsonUint(json, string.concat(entry, ".t1"));
                uint256 pay = vm.parseJsonUint(json, string.concat(entry, ".pay"));
                assertEq(StreamMath.payout(rate, start, end, t0, t1), pay);
                ++checked;
            }
            for (uint256 j; vm.keyExistsJson(json, string.concat(stream, ".refunds[", vm.toString(j), "]")); ++j) {
                string memory entry = string.concat(stream, ".refunds[", vm.toString(j), "]");
                uint256 stop = vm.parseJsonUint(json, string.concat(entry, ".stop"));
                uint256 refund = vm.parseJsonUint(json, string.concat(entry, ".refund"));
                assertEq(StreamMath.refund(rate, start, end, stop), refund);
                ++checked;
            }
        }
        assertGe(checked, 40);
    }

    function test_TicketMessages() external view {
        string memory json = vm.readFile("vectors/tickets.json");
        bytes memory ticket = abi.encodePacked(
            "tributary.ticket.v1",
            vm.parseJsonBytes32(json, ".message.ephemeral_key"),
            vm.parseJsonBytes32(json, ".message.provider"),
            // forge-lint: disable-next-line(unsafe-typecast)
            uint64(vm.parseJsonUint(json, ".message.slot_start"))
        );
        assertEq(sha256(vm.parseJsonBytes(json, ".message.peer_id")), vm.parseJsonBytes32(json, ".message.provider"));
        assertEq(uint256(keccak256(ticket)) % R, vm.parseJsonUint(json, ".message.message"));
        bytes memory rating =
            abi.encodePacked("tributary.rating.v1", sha256(vm.parseJsonBytes(json, ".rating_message.rating")));
        assertEq(uint256(keccak256(rating)) % R, vm.parseJsonUint(json, ".rating_message.message"));
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        HELPERS
    //////////////////////////////////////////////////////////////////////////*/

    /// @dev The pool's own evaluation of a statement.
    function evaluate(uint256 tag, uint256 digest, uint256[] memory x)
        public
        pure
        returns (bytes32 hash, uint256 value)
    {
        uint256 n = x.length;
        uint256 ptr = Statement.allocate(n, 0);
        assembly ("memory-safe") {
            mstore(ptr, tag)
            mstore(add(ptr, 0x20), digest)
            mcopy(add(ptr, 0x40), add(x, 0x20), shl(5, n))
        }
        (hash, value) = Statement.evaluate(ptr, n);
    }

    /// @dev Whether the pool takes an operation proved for this hash of its external data.
    function taken(uint256 operation, Ext memory ext, uint256 hash, uint256 seed) private returns (bool success) {
        bytes memory call;
        if (operation == Reference.TRANSACT) {
            TransactArgs memory args = transactArgs(seed);
            args.amountOut = ext.fee;
            args.proof = proveStatement(operation, args.digest, Reference.transact(args, hash));
            call = abi.encodeCall(pool.transact, (args, ext));
        } else if (operation == Reference.CLOSE) {
            CloseArgs memory args = closeArgs(seed);
            args.amountOut = ext.fee;
            args.proof = proveStatement(operation, args.digest, Reference.close(args, hash));
            call = abi.encodeCall(pool.close, (args, ext));
        } else {
            ClaimArgs memory args = claimArgs(seed, 3);
            args.amountOut = ext.fee;
            uint256[16] memory from;
            args.proof = proveStatement(operation, args.digest, Reference.claim(args, hash, BURN_BPS, from));
            call = abi.encodeCall(pool.claim, (args, ext));
        }
        bytes memory result;
        (success, result) = address(pool).call(call);
        if (!success) assertEq(result, abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, operation));
    }

    function caseKey(uint256 i, string memory key) private pure returns (string memory) {
        return string.concat(".cases[", vm.toString(i), "]", key);
    }

    function tagOf(string memory circuit) private pure returns (uint256) {
        bytes32 name = keccak256(bytes(circuit));
        if (name == keccak256("transact")) return Reference.TRANSACT;
        if (name == keccak256("close")) return Reference.CLOSE;
        if (name == keccak256("claim")) return Reference.CLAIM;
        require(name == keccak256("insert"), circuit);
        return Reference.INSERT;
    }
}
