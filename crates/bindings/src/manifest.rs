//! The manifest that the deploy script writes and every program reads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

/// The version of the manifest's form that this crate reads.
const VERSION: u32 = 1;

/// Where a pool is, and with what it was deployed. Written by `contracts/script/Deploy.s.sol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentManifest {
    /// The form's version, 1.
    pub version: u32,
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The `StreamPool`.
    pub pool: Address,
    /// The pool's token.
    pub token: TokenInfo,
    /// A block at or shortly before the pool's own: following the chain may start here.
    pub block: u64,
    /// The verifiers' contracts.
    pub verifiers: VerifierAddresses,
    /// Hashes of the verifying keys, as docs/src/encodings.md defines them.
    pub vk_hashes: VerifyingKeyHashes,
    /// NOTICE: least seconds between a close and its stop.
    pub notice: u64,
    /// L: seconds of a time slot.
    pub slot_length: u64,
    /// Seconds for which the chain must have run on before a slot's stopped list is final.
    pub margin: u64,
    /// Share of each claim that is burnt, in basis points, 0 to 10,000.
    pub burn_bps: u16,
    /// Whether the verifying keys come from the public development setup and protect nothing.
    pub development: bool,
}

/// The pool's ERC-20 token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenInfo {
    /// The token's contract.
    pub address: Address,
    /// Its symbol as it calls itself. Nothing vouches for it.
    pub symbol: String,
    /// Digits behind the decimal point of one whole token, for display only.
    pub decimals: u8,
}

/// The contracts that verify each circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifierAddresses {
    /// Circuit `transact`.
    pub transact: Address,
    /// Circuit `close`.
    pub close: Address,
    /// Circuit `claim`.
    pub claim: Address,
    /// Circuit `insert`.
    pub insert: Address,
}

/// The hash of each circuit's verifying key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyingKeyHashes {
    /// Circuit `transact`.
    pub transact: B256,
    /// Circuit `close`.
    pub close: B256,
    /// Circuit `claim`.
    pub claim: B256,
    /// Circuit `insert`.
    pub insert: B256,
    /// Circuit `ticket`, which is verified off chain only.
    pub ticket: B256,
}

impl DeploymentManifest {
    /// Reads a manifest from a file.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Read`] if the file can't be read, otherwise as [`DeploymentManifest::from_json`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let path = path.as_ref();
        let json = fs::read_to_string(path).map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
        Self::from_json(&json)
    }

    /// Parses a manifest. Unknown fields are refused.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Parse`] if it isn't a manifest's JSON, [`ManifestError::Version`] if its form is another one's,
    /// [`ManifestError::Notice`], [`ManifestError::SlotLength`] or [`ManifestError::Burn`] if no pool can have these parameters.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_str(json)?;
        if manifest.version != VERSION {
            return Err(ManifestError::Version { found: manifest.version, supported: VERSION });
        }
        if manifest.slot_length == 0 {
            return Err(ManifestError::SlotLength);
        }
        let minimum = manifest.slot_length.saturating_mul(2).saturating_add(manifest.margin);
        if manifest.notice < minimum {
            return Err(ManifestError::Notice { notice: manifest.notice, minimum });
        }
        if manifest.burn_bps > 10_000 {
            return Err(ManifestError::Burn { burn_bps: manifest.burn_bps });
        }
        Ok(manifest)
    }
}

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file can't be read.
    #[error("deployment manifest {path}: {source}; deploy a pool first or name the right file", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a manifest's JSON.
    #[error("deployment manifest is malformed: {0}; write it again with the deploy script")]
    Parse(#[from] serde_json::Error),
    /// Written by another version of the deploy script.
    #[error(
        "deployment manifest has version {found}, this program reads {supported}; use the program of the deployment"
    )]
    Version {
        /// The manifest's.
        found: u32,
        /// The only one understood.
        supported: u32,
    },
    /// No pool can have a notice this short.
    #[error("deployment manifest says notice {notice} s, but two slots and the margin are {minimum} s; check the file")]
    Notice {
        /// Seconds, the manifest's.
        notice: u64,
        /// Seconds, the least possible.
        minimum: u64,
    },
    /// No pool can have slots without length.
    #[error("deployment manifest says slot length 0; check the file")]
    SlotLength,
    /// No pool can burn more than everything.
    #[error("deployment manifest says burn {burn_bps} basis points of 10,000; check the file")]
    Burn {
        /// Basis points, the manifest's.
        burn_bps: u16,
    },
}

impl ManifestError {
    /// A stable code for users and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "TRB-B001",
            Self::Parse(_) => "TRB-B002",
            Self::Version { .. } => "TRB-B003",
            Self::Notice { .. } => "TRB-B004",
            Self::SlotLength => "TRB-B005",
            Self::Burn { .. } => "TRB-B006",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeploymentManifest, ManifestError};

    fn sample() -> serde_json::Value {
        serde_json::json!({
            "version": 1,
            "chainId": 31337,
            "pool": "0x00000000000000000000000000000000000000AA",
            "token": { "address": "0x00000000000000000000000000000000000000bb", "symbol": "tUSD", "decimals": 6 },
            "block": 7,
            "verifiers": {
                "transact": "0x0000000000000000000000000000000000000001",
                "close": "0x0000000000000000000000000000000000000002",
                "claim": "0x0000000000000000000000000000000000000003",
                "insert": "0x0000000000000000000000000000000000000004"
            },
            "vkHashes": {
                "transact": "0x0000000000000000000000000000000000000000000000000000000000000001",
                "close": "0x0000000000000000000000000000000000000000000000000000000000000002",
                "claim": "0x0000000000000000000000000000000000000000000000000000000000000003",
                "insert": "0x0000000000000000000000000000000000000000000000000000000000000004",
                "ticket": "0x0000000000000000000000000000000000000000000000000000000000000005"
            },
            "notice": 180, "slotLength": 60, "margin": 30, "burnBps": 100, "development": true
        })
    }

    #[test]
    fn a_manifest_survives_a_round_trip() {
        let manifest = DeploymentManifest::from_json(&sample().to_string()).unwrap();
        assert_eq!(manifest.chain_id, 31_337);
        assert_eq!(manifest.token.decimals, 6);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(DeploymentManifest::from_json(&json).unwrap(), manifest);
    }

    #[test]
    fn each_flaw_has_its_code() {
        type Flaw = fn(&mut serde_json::Value);
        let flaws: [(Flaw, &str); 5] = [
            (|v| v["surprise"] = 1.into(), "TRB-B002"),
            (|v| v["version"] = 2.into(), "TRB-B003"),
            (|v| v["notice"] = 149.into(), "TRB-B004"),
            (|v| v["slotLength"] = 0.into(), "TRB-B005"),
            (|v| v["burnBps"] = 10_001.into(), "TRB-B006"),
        ];
        for (flaw, code) in flaws {
            let mut value = sample();
            flaw(&mut value);
            assert_eq!(DeploymentManifest::from_json(&value.to_string()).unwrap_err().code(), code);
        }
        let missing = DeploymentManifest::read("no/such/manifest.json").unwrap_err();
        assert!(matches!(missing, ManifestError::Read { .. }));
        assert_eq!(missing.code(), "TRB-B001");
    }
}
