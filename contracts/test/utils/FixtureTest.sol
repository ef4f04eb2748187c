// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StreamPool} from "../../src/StreamPool.sol";
import {TestToken} from "../../src/dev/TestToken.sol";
import {IGroth16Verifier} from "../../src/interfaces/IGroth16Verifier.sol";
import {ClaimArgs, CloseArgs, Ext, InsertArgs, PoolConfig, TransactArgs} from "../../src/types/DataTypes.sol";
import {PoolTest} from "./PoolTest.sol";

/// @title FixtureTest
/// @notice The pool of contracts/test/fixtures/README.md with the generated verifiers, and its calls with real proofs.
abstract contract FixtureTest is PoolTest {
    string internal constant FIXTURES = "build/fixtures/pool.json";

    string private _json;
    uint256 internal root;
    uint256[] internal leaves;
    uint256[] internal queuedLeaves;
    address internal caller = makeAddr("caller");

    function setUp() public virtual override {
        require(
            vm.exists(FIXTURES), "build/fixtures/pool.json is missing: script/setup makes keys, verifiers and fixtures"
        );
        _json = vm.readFile(FIXTURES);
        vm.chainId(vm.parseJsonUint(_json, ".chainId"));
        vm.warp(earliest());
        token = new TestToken();
        pool = StreamPool(vm.parseJsonAddress(_json, ".pool"));
        deployCodeTo("StreamPool.sol:StreamPool", abi.encode(config(address(token))), address(pool));

        root = vm.parseJsonUint(_json, ".root");
        leaves = vm.parseJsonUintArray(_json, ".leaves");
        queuedLeaves = vm.parseJsonUintArray(_json, ".queuedLeaves");
        assertEq(leaves.length, 256);
        assertEq(queuedLeaves.length, 64);
        queueLeaves(leaves);
        insertTo(root);
        token.mint(address(pool), type(uint120).max);
        token.mint(caller, type(uint120).max);
        vm.prank(caller);
        token.approve(address(pool), type(uint256).max);
    }

    function config(address token_) internal override returns (PoolConfig memory) {
        return PoolConfig({
            token: token_,
            transactVerifier: deployCode("TransactVerifier.sol:TransactVerifier"),
            closeVerifier: deployCode("CloseVerifier.sol:CloseVerifier"),
            claimVerifier: deployCode("ClaimVerifier.sol:ClaimVerifier"),
            insertVerifier: deployCode("InsertVerifier.sol:InsertVerifier"),
            notice: uint40(vm.parseJsonUint(_json, ".notice")),
            slotLength: uint40(vm.parseJsonUint(_json, ".slotLength")),
            margin: uint40(vm.parseJsonUint(_json, ".margin")),
            burnBps: uint16(vm.parseJsonUint(_json, ".burnBps"))
        });
    }

    /// @dev An operation's calldata.
    function callOf(string memory name) internal view returns (bytes memory) {
        return vm.parseJsonBytes(_json, string.concat(".operations.", name, ".calldata"));
    }

    /// @dev Goes to an operation's time.
    function goTo(string memory name) internal {
        vm.warp(vm.parseJsonUint(_json, string.concat(".operations.", name, ".timestamp")));
    }

    /// @dev Sends an operation as it stands.
    function send(string memory name) internal {
        goTo(name);
        sendCall(callOf(name));
    }

    /// @dev Sends a call and passes its error on.
    function sendCall(bytes memory data) internal {
        vm.prank(caller);
        (bool success, bytes memory result) = address(pool).call(data);
        if (!success) {
            assembly ("memory-safe") {
                revert(add(result, 0x20), mload(result))
            }
        }
    }

    function transactOf(string memory name) internal view returns (TransactArgs memory args, Ext memory ext) {
        return abi.decode(withoutSelector(callOf(name), pool.transact.selector), (TransactArgs, Ext));
    }

    function closeOf(string memory name) internal view returns (CloseArgs memory args, Ext memory ext) {
        return abi.decode(withoutSelector(callOf(name), pool.close.selector), (CloseArgs, Ext));
    }

    function claimOf(string memory name) internal view returns (ClaimArgs memory args, Ext memory ext) {
        return abi.decode(withoutSelector(callOf(name), pool.claim.selector), (ClaimArgs, Ext));
    }

    function insertOf(string memory name) internal view returns (InsertArgs memory args) {
        return abi.decode(withoutSelector(callOf(name), pool.insert.selector), (InsertArgs));
    }

    function verifierOf(uint256 circuit) internal view returns (IGroth16Verifier) {
        if (circuit == 21) return IGroth16Verifier(pool.TRANSACT_VERIFIER());
        if (circuit == 22) return IGroth16Verifier(pool.CLOSE_VERIFIER());
        if (circuit == 23) return IGroth16Verifier(pool.CLAIM_VERIFIER());
        return IGroth16Verifier(pool.INSERT_VERIFIER());
    }

    function withoutSelector(bytes memory data, bytes4 selector) private pure returns (bytes memory arguments) {
        // forge-lint: disable-next-line(unsafe-typecast)
        require(bytes4(data) == selector, "another function's calldata");
        arguments = new bytes(data.length - 4);
        for (uint256 i; i < arguments.length; ++i) {
            arguments[i] = data[i + 4];
        }
    }

    /// @dev A time before all operations, on a slot's edge.
    function earliest() private view returns (uint256 time) {
        time = type(uint256).max;
        string[] memory names = vm.parseJsonKeys(_json, ".operations");
        for (uint256 i; i < names.length; ++i) {
            uint256 t = vm.parseJsonUint(_json, string.concat(".operations.", names[i], ".timestamp"));
            if (t < time) time = t;
        }
        time = (time / SLOT - 10) * SLOT;
    }

    /// @dev Inserts the 256 leaves without proofs, so that the tree ends with the given root.
    function insertTo(uint256 last) private withAcceptingVerifiers {
        uint256 oldRoot = EMPTY_ROOT;
        for (uint256 from; from < 256; from += 64) {
            uint256[] memory batch = new uint256[](64);
            for (uint256 i; i < 64; ++i) {
                batch[i] = leaves[from + i];
            }
            InsertArgs memory args = insertArgs(oldRoot, from, batch);
            if (from == 192) args.newRoot = last;
            pool.insert(args);
            oldRoot = args.newRoot;
        }
    }
}
