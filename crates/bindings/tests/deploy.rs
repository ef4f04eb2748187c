//! Deploys to a local chain with `script/deploy` and reads what it wrote. Needs the development keys (`script/setup`).

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, keccak256},
    providers::ProviderBuilder,
};
use tributary_bindings::{DeploymentManifest, IERC20Metadata, IGroth16Verifier, StreamPool};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn anvil(chain_id: u64) -> AnvilInstance {
    Anvil::at(root().join("node_modules/.bin/anvil")).chain_id(chain_id).spawn()
}

fn deploy(anvil: &AnvilInstance, manifest: &Path, options: &[&str]) -> Output {
    Command::new(root().join("script/deploy"))
        .args(["--rpc-url", &anvil.endpoint(), "--manifest"])
        .arg(manifest)
        .args(options)
        .output()
        .expect("script/deploy starts")
}

#[tokio::test]
async fn the_manifest_says_what_is_on_the_chain() {
    let anvil = anvil(31_337);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.json");
    let output =
        deploy(&anvil, &path, &["--notice", "240", "--slot-length", "60", "--margin", "20", "--burn-bps", "25"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let manifest = DeploymentManifest::read(&path).unwrap();
    assert_eq!(manifest.chain_id, 31_337);
    assert_eq!((manifest.notice, manifest.slot_length, manifest.margin, manifest.burn_bps), (240, 60, 20, 25));
    assert!(manifest.development);

    let provider = ProviderBuilder::new().connect_http(anvil.endpoint_url());
    let pool = StreamPool::new(manifest.pool, &provider);
    assert_eq!(pool.NOTICE().call().await.unwrap(), 240);
    assert_eq!(pool.SLOT_LENGTH().call().await.unwrap(), 60);
    assert_eq!(pool.MARGIN().call().await.unwrap(), 20);
    assert_eq!(pool.BURN_BPS().call().await.unwrap(), 25);
    assert_eq!(pool.TOKEN().call().await.unwrap(), manifest.token.address);
    let token = IERC20Metadata::new(manifest.token.address, &provider);
    assert_eq!(token.symbol().call().await.unwrap(), manifest.token.symbol);
    assert_eq!(token.decimals().call().await.unwrap(), manifest.token.decimals);

    let deployed: [(Address, Address, _); 4] = [
        (pool.TRANSACT_VERIFIER().call().await.unwrap(), manifest.verifiers.transact, manifest.vk_hashes.transact),
        (pool.CLOSE_VERIFIER().call().await.unwrap(), manifest.verifiers.close, manifest.vk_hashes.close),
        (pool.CLAIM_VERIFIER().call().await.unwrap(), manifest.verifiers.claim, manifest.vk_hashes.claim),
        (pool.INSERT_VERIFIER().call().await.unwrap(), manifest.verifiers.insert, manifest.vk_hashes.insert),
    ];
    for (on_chain, named, hash) in deployed {
        assert_eq!(on_chain, named);
        let key = IGroth16Verifier::new(named, &provider).verifyingKey().call().await.unwrap();
        assert_eq!(keccak256(key), hash);
    }
}

#[test]
fn nothing_is_deployed_or_written_when_a_check_fails() {
    let local = anvil(31_337);
    let mainnet = anvil(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.json");
    let cases: [(&AnvilInstance, &[&str], &str); 3] = [
        (&local, &["--notice", "149"], "StreamPool_NoticeBelowMinimum(149, 150)"),
        (&local, &["--burn-bps", "10001"], "Deploy_ParameterTooLarge(\"TRIBUTARY_BURN_BPS\", 10001"),
        (&mainnet, &[], "Deploy_DevelopmentKeyRefused(0, 1)"),
    ];
    for (anvil, options, error) in cases {
        let output = deploy(anvil, &path, options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{error}");
        assert!(stderr.contains(error), "{error} is not in: {stderr}");
        assert!(!path.exists(), "{error}");
    }
}
