use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::Error;

/// A circuit of the payment protocol (protocol specification, "Circuits").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Circuit {
    /// Two value notes in, two notes out: deposit, transfer, merge, withdraw, open.
    Transact,
    /// A stream and a value note in, two notes out.
    Close,
    /// A payee's claim on up to 16 streams.
    Claim,
    /// Up to 64 queued leaves into the commitment tree.
    Insert,
    /// A payment ticket for a time slot, or a rating.
    Ticket,
}

impl Circuit {
    /// Every circuit, in the order of the encodings page.
    pub const ALL: [Self; 5] = [
        Self::Transact,
        Self::Close,
        Self::Claim,
        Self::Insert,
        Self::Ticket,
    ];

    /// The artefacts' file stem, as in `build/circuits/<name>.zkey`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transact => "transact",
            Self::Close => "close",
            Self::Claim => "claim",
            Self::Insert => "insert",
            Self::Ticket => "ticket",
        }
    }

    /// How many public inputs a proof of this circuit has: `(digest, alpha, value)` for what goes on
    /// chain, thirteen for a ticket.
    #[must_use]
    pub const fn public_inputs(self) -> usize {
        match self {
            Self::Ticket => 13,
            _ => 3,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Circuit {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == s)
            .ok_or_else(|| Error::UnknownCircuit { name: s.to_owned() })
    }
}

/// The folder that holds the circuits' artefacts, `build/circuits` in this repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Artefacts under `dir`. Nothing is read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The constraint system, in circom's r1cs format.
    #[must_use]
    pub fn r1cs(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "r1cs")
    }

    /// The witness program that circom made.
    #[must_use]
    pub fn wasm(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "wasm")
    }

    /// The proving key, in snarkjs' zkey format.
    #[must_use]
    pub fn zkey(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "zkey")
    }

    /// The verifying key, in snarkjs' JSON format.
    #[must_use]
    pub fn vkey(&self, circuit: Circuit) -> PathBuf {
        self.file(circuit, "vkey.json")
    }

    /// The key manifest, `keys.json` beside the folder.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.dir
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .map_or_else(|| self.dir.join("../keys.json"), |p| p.join("keys.json"))
    }

    fn file(&self, circuit: Circuit, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", circuit.name()))
    }
}
