use std::path::PathBuf;

use tributary_protocol::{Circuit, ErrorCode};

/// Why a proof's 256 bytes are refused before any pairing is computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The encoding has the wrong length.
    #[error("a proof has 256 bytes, these are {got}")]
    Length {
        /// How many bytes there were.
        got: usize,
    },
    /// A coordinate is not below the base field's modulus, so a second encoding of the same point.
    #[error("coordinate {coordinate} of the proof is 0x{value}, not below the field modulus")]
    NonCanonical {
        /// Position of the 32-byte word, 0 to 7.
        coordinate: usize,
        /// The word, in hexadecimal.
        value: String,
    },
    /// A point is the identity, which no honest prover makes.
    #[error("point {point} of the proof is the point at infinity")]
    Infinity {
        /// `A`, `B` or `C`.
        point: char,
    },
    /// The coordinates satisfy no curve equation.
    #[error("point {point} of the proof is not on its curve")]
    OffCurve {
        /// `A`, `B` or `C`.
        point: char,
    },
    /// B lies on the twist but outside the subgroup of prime order.
    #[error("point {point} of the proof is not in the subgroup of prime order")]
    WrongSubgroup {
        /// Always `B`: G1 has cofactor one.
        point: char,
    },
}

impl ProofError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "TRB-P001",
            Self::NonCanonical { .. } => "TRB-P002",
            Self::Infinity { .. } => "TRB-P003",
            Self::OffCurve { .. } => "TRB-P004",
            Self::WrongSubgroup { .. } => "TRB-P005",
        }
    }
}

/// Why a verifying key is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// delta equals gamma: anyone can forge proofs against such a key.
    #[error("delta equals gamma: the key never got a contribution and accepts forged proofs")]
    DeltaIsGamma,
    /// delta is the generator of G2: nobody contributed to the key.
    #[error("delta is the generator of G2: the key never got a contribution and accepts forged proofs")]
    DeltaIsGenerator,
    /// A point is not on its curve, not in its subgroup or the identity.
    #[error("{point} is not a point of its group, or is the point at infinity")]
    BadPoint {
        /// Name of the key's element, such as `vk_delta_2`.
        point: String,
    },
    /// The number of public inputs differs from the circuit's.
    #[error("the key has {got} public inputs, {expected} were expected")]
    PublicInputs {
        /// What the key has.
        got: usize,
        /// What the circuit has.
        expected: usize,
    },
    /// The JSON doesn't have snarkjs' form.
    #[error("not a snarkjs verifying key for Groth16 over BN254: {reason}")]
    Format {
        /// What was wrong.
        reason: String,
    },
}

impl KeyError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::DeltaIsGamma => "TRB-P011",
            Self::DeltaIsGenerator => "TRB-P012",
            Self::BadPoint { .. } => "TRB-P013",
            Self::PublicInputs { .. } => "TRB-P014",
            Self::Format { .. } => "TRB-P015",
        }
    }
}

/// Why a well-formed proof is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The pairing equation doesn't hold: the proof is not one of this statement.
    #[error("the proof does not verify against its public inputs")]
    Invalid,
    /// At least one proof of the batch is bad; [`crate::VerifyingKey::find_invalid`] says which.
    #[error("at least one of {size} proofs does not verify")]
    InvalidBatch {
        /// How many proofs were checked together.
        size: usize,
    },
    /// The number of public inputs is not the key's.
    #[error("{got} public inputs were given, the verifying key takes {expected}")]
    PublicInputs {
        /// How many were given.
        got: usize,
        /// How many the key takes.
        expected: usize,
    },
}

impl VerifyError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Invalid => "TRB-P021",
            Self::InvalidBatch { .. } => "TRB-P022",
            Self::PublicInputs { .. } => "TRB-P023",
        }
    }
}

/// Why a file among the artefacts can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The file can't be read or written.
    #[error("{path}: {source}; run ./script/setup makes it")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's bytes don't have the format they should.
    #[error("{path} is damaged or of another format: {reason}; delete it and build it again")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What was wrong, and where.
        reason: String,
    },
    /// Two artefacts of one circuit don't belong together.
    #[error("{path} does not belong to its circuit's other artefacts: {reason}; build the circuits again")]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// The values that differ.
        reason: String,
    },
    /// The verifying key is refused.
    #[error("{path}: {source}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
}

impl ArtifactError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "TRB-P031",
            Self::Format { .. } => "TRB-P032",
            Self::Mismatch { .. } => "TRB-P033",
            Self::Key { source, .. } => source.code(),
        }
    }
}

/// Why there is no witness for some inputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// The circuit has no input of this name.
    #[error("the {circuit} circuit has no input {name}")]
    UnknownInput {
        /// Which circuit.
        circuit: Circuit,
        /// The name that was given.
        name: String,
    },
    /// An input has the wrong number of elements.
    #[error("input {name} of the {circuit} circuit takes {expected} elements, {got} were given")]
    InputLength {
        /// Which circuit.
        circuit: Circuit,
        /// The input's name.
        name: String,
        /// How many were given.
        got: usize,
        /// How many the circuit takes.
        expected: usize,
    },
    /// Fewer elements were given than the circuit has inputs.
    #[error("the {circuit} circuit takes {expected} input elements in all, {got} were given")]
    MissingInputs {
        /// Which circuit.
        circuit: Circuit,
        /// How many were given.
        got: usize,
        /// How many the circuit takes.
        expected: usize,
    },
    /// The inputs don't satisfy the circuit: there is no proof of this statement.
    #[error("the inputs do not satisfy the {circuit} circuit: {message}")]
    Unsatisfied {
        /// Which circuit.
        circuit: Circuit,
        /// Where the witness program stopped: template and line, never a value.
        message: String,
    },
}

impl WitnessError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownInput { .. } => "TRB-P041",
            Self::InputLength { .. } => "TRB-P042",
            Self::MissingInputs { .. } => "TRB-P043",
            Self::Unsatisfied { .. } => "TRB-P044",
        }
    }
}

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The prover was not loaded for this circuit.
    #[error("the prover was not loaded for the {circuit} circuit; name it when loading")]
    NotLoaded {
        /// Which circuit.
        circuit: Circuit,
    },
    /// A proof that was just made doesn't verify: the key on disk is damaged or foreign.
    #[error(
        "the proof just made for the {circuit} circuit does not verify: its proving key is damaged; build the circuits again"
    )]
    SelfCheck {
        /// Which circuit.
        circuit: Circuit,
    },
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system: {reason}")]
    Randomness {
        /// What it said.
        reason: String,
    },
    /// An artefact can't be used.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// There is no witness.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// A proof's bytes are malformed.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A proof is refused.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A verifying key is refused.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Error {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotLoaded { .. } => "TRB-P052",
            Self::SelfCheck { .. } => "TRB-P053",
            Self::Randomness { .. } => "TRB-P054",
            Self::Artifact(e) => e.code(),
            Self::Witness(e) => e.code(),
            Self::Proof(e) => e.code(),
            Self::Verify(e) => e.code(),
            Self::Key(e) => e.code(),
        }
    }
}

macro_rules! error_code {
    ($($error:ty),*) => {$(
        impl ErrorCode for $error {
            fn code(&self) -> &'static str {
                Self::code(self)
            }
        }
    )*};
}
error_code!(ProofError, KeyError, VerifyError, ArtifactError, WitnessError, Error);
