//! Rust bindings of the contracts, generated from their build artefacts, and the manifest that a deployment writes.
//!
//! [`StreamPool`] is the pool with its structs, events and errors; [`TestToken`] the token of local chains; [`IERC20Metadata`]
//! any other token; [`IGroth16Verifier`] a deployed verifier.

mod manifest;

pub use manifest::{DeploymentManifest, ManifestError, TokenInfo, VerifierAddresses, VerifyingKeyHashes};

/// The modules that `sol!` generates; documentation of their items is in the Solidity sources.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    alloy::sol!(
        #[sol(rpc, all_derives)]
        StreamPool,
        "../../contracts/out/StreamPool.sol/StreamPool.json"
    );
    alloy::sol!(
        #[sol(rpc, all_derives)]
        TestToken,
        "../../contracts/out/TestToken.sol/TestToken.json"
    );
    alloy::sol!(
        #[sol(rpc, all_derives)]
        IERC20Metadata,
        "../../contracts/out/IERC20Metadata.sol/IERC20Metadata.json"
    );
    alloy::sol!(
        #[sol(rpc, all_derives)]
        IGroth16Verifier,
        "../../contracts/out/IGroth16Verifier.sol/IGroth16Verifier.json"
    );
}

pub use generated::{IERC20Metadata, IGroth16Verifier, StreamPool, TestToken};

/// The position that an event names when its notes were dropped because the tree was full.
pub const NOT_QUEUED: u64 = u64::MAX;

impl From<[u8; 256]> for StreamPool::Proof {
    /// A proof in its form on the wire (encodings, "Groth16 proofs on the wire").
    fn from(bytes: [u8; 256]) -> Self {
        let word = |i: usize| alloy::primitives::U256::from_be_slice(&bytes[32 * i..32 * (i + 1)]);
        Self { a: [word(0), word(1)], b: [[word(2), word(3)], [word(4), word(5)]], c: [word(6), word(7)] }
    }
}
