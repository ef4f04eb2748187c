// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Script} from "forge-std/Script.sol";

import {StreamPool} from "../src/StreamPool.sol";
import {TestToken} from "../src/dev/TestToken.sol";
import {IGroth16Verifier} from "../src/interfaces/IGroth16Verifier.sol";
import {PoolConfig} from "../src/types/DataTypes.sol";
import {DeploymentChecks} from "./DeploymentChecks.sol";

/// @title Deploy
/// @notice Deploys the generated verifiers and a pool, after checking keys and token, and writes the deployment manifest.
/// @dev Reads from the environment, all optional but the token (which only a development chain may leave out; a test token is
/// deployed there): TRIBUTARY_TOKEN, TRIBUTARY_NOTICE, TRIBUTARY_SLOT_LENGTH, TRIBUTARY_MARGIN (seconds), TRIBUTARY_BURN_BPS,
/// TRIBUTARY_KEYS (keys.json), TRIBUTARY_MANIFEST (what to write). `script/deploy` sets them from options and publishes the manifest
/// only once the contracts are on chain.
contract Deploy is Script {
    /// @notice Thrown when no token is named on a chain where tokens are worth something.
    error Deploy_TokenMissing(uint256 chainId);

    /// @notice Thrown when a verifier's creation fails.
    error Deploy_CreationFailed(string artefact);

    /// @notice Thrown when a parameter doesn't fit its type.
    error Deploy_ParameterTooLarge(string name, uint256 value, uint256 maximum);

    /// @notice Thrown when keys.json calls a key a production key and the verifier's source a development key, or the reverse.
    error Deploy_DevelopmentFlagMismatch(string circuit);

    /// @notice What was deployed.
    struct Deployment {
        StreamPool pool;
        address token;
        string symbol;
        uint8 decimals;
        uint256 blockNumber;
        bytes32[5] keyHashes;
        bool development;
    }

    string[5] private circuits = ["transact", "close", "claim", "insert", "ticket"];
    string[4] private artefacts = [
        "TransactVerifier.sol:TransactVerifier",
        "CloseVerifier.sol:CloseVerifier",
        "ClaimVerifier.sol:ClaimVerifier",
        "InsertVerifier.sol:InsertVerifier"
    ];

    /// @notice Runs the deployment.
    /// @return deployment What was deployed.
    function run() external returns (Deployment memory deployment) {
        PoolConfig memory config;
        config.notice = _time("TRIBUTARY_NOTICE", 180);
        config.slotLength = _time("TRIBUTARY_SLOT_LENGTH", 60);
        config.margin = _time("TRIBUTARY_MARGIN", 30);
        uint256 burnBps = vm.envOr("TRIBUTARY_BURN_BPS", uint256(100));
        if (burnBps > 10_000) revert Deploy_ParameterTooLarge("TRIBUTARY_BURN_BPS", burnBps, 10_000);
        // forge-lint: disable-next-line(unsafe-typecast)
        config.burnBps = uint16(burnBps);
        config.token = vm.envOr("TRIBUTARY_TOKEN", address(0));

        string memory keys = vm.readFile(vm.envOr("TRIBUTARY_KEYS", string("build/keys.json")));
        bool[5] memory development;
        for (uint256 i; i < 5; ++i) {
            string memory entry = string.concat(".circuits.", circuits[i]);
            deployment.keyHashes[i] = vm.parseJsonBytes32(keys, string.concat(entry, ".vkey_hash"));
            development[i] = vm.parseJsonBool(keys, string.concat(entry, ".development"));
            deployment.development = deployment.development || development[i];
        }
        // The ticket's key has no contract; providers and wallets trust it all the same.
        if (development[4] && !DeploymentChecks.isDevelopmentChain(block.chainid)) {
            revert DeploymentChecks.Deploy_DevelopmentKeyRefused(0, block.chainid);
        }
        deployment.blockNumber = block.number;

        vm.startBroadcast();
        if (config.token == address(0)) {
            if (!DeploymentChecks.isDevelopmentChain(block.chainid)) revert Deploy_TokenMissing(block.chainid);
            config.token = address(new TestToken());
        }
        address[4] memory verifiers;
        for (uint256 i; i < 4; ++i) {
            verifiers[i] = _create(artefacts[i]);
        }
        config.transactVerifier = verifiers[0];
        config.closeVerifier = verifiers[1];
        config.claimVerifier = verifiers[2];
        config.insertVerifier = verifiers[3];
        deployment.pool = new StreamPool(config);
        vm.stopBroadcast();

        // Nothing is sent before the whole script has run: a failed check leaves the chain as it was.
        deployment.token = config.token;
        (deployment.symbol, deployment.decimals) = DeploymentChecks.checkToken(config.token);
        for (uint256 i; i < 4; ++i) {
            IGroth16Verifier verifier = IGroth16Verifier(verifiers[i]);
            DeploymentChecks.checkVerifier(verifier, 21 + i, deployment.keyHashes[i]);
            if (verifier.isDevelopmentKey() != development[i]) revert Deploy_DevelopmentFlagMismatch(circuits[i]);
        }
        _writeManifest(deployment, config);
    }

    /// @dev Writes what crates/bindings reads as `DeploymentManifest`.
    function _writeManifest(Deployment memory deployment, PoolConfig memory config) private {
        string memory token = "token";
        vm.serializeAddress(token, "address", deployment.token);
        vm.serializeString(token, "symbol", deployment.symbol);
        token = vm.serializeUint(token, "decimals", deployment.decimals);

        string memory verifiers = "verifiers";
        vm.serializeAddress(verifiers, "transact", config.transactVerifier);
        vm.serializeAddress(verifiers, "close", config.closeVerifier);
        vm.serializeAddress(verifiers, "claim", config.claimVerifier);
        verifiers = vm.serializeAddress(verifiers, "insert", config.insertVerifier);

        string memory hashes = "vkHashes";
        for (uint256 i; i < 4; ++i) {
            vm.serializeBytes32(hashes, circuits[i], deployment.keyHashes[i]);
        }
        hashes = vm.serializeBytes32(hashes, circuits[4], deployment.keyHashes[4]);

        string memory manifest = "manifest";
        vm.serializeUint(manifest, "version", 1);
        vm.serializeUint(manifest, "chainId", block.chainid);
        vm.serializeAddress(manifest, "pool", address(deployment.pool));
        vm.serializeString(manifest, "token", token);
        vm.serializeUint(manifest, "block", deployment.blockNumber);
        vm.serializeString(manifest, "verifiers", verifiers);
        vm.serializeString(manifest, "vkHashes", hashes);
        vm.serializeUint(manifest, "notice", config.notice);
        vm.serializeUint(manifest, "slotLength", config.slotLength);
        vm.serializeUint(manifest, "margin", config.margin);
        vm.serializeUint(manifest, "burnBps", config.burnBps);
        manifest = vm.serializeBool(manifest, "development", deployment.development);

        string memory path = vm.envOr("TRIBUTARY_MANIFEST", string("build/deploy/manifest.json"));
        vm.writeJson(manifest, path);
    }

    /// @dev Creates a contract from an artefact: the generated verifiers don't exist before the keys do, so they can't be
    /// imported.
    function _create(string memory artefact) private returns (address created) {
        bytes memory code = vm.getCode(artefact);
        assembly ("memory-safe") {
            created := create(0, add(code, 0x20), mload(code))
        }
        if (created == address(0)) revert Deploy_CreationFailed(artefact);
    }

    /// @dev Seconds from the environment.
    function _time(string memory name, uint256 fallbackValue) private view returns (uint40 time) {
        uint256 value = vm.envOr(name, fallbackValue);
        if (value > type(uint40).max) revert Deploy_ParameterTooLarge(name, value, type(uint40).max);
        // forge-lint: disable-next-line(unsafe-typecast)
        time = uint40(value);
    }
}
