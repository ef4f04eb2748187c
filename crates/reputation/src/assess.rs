//! Assessments: what was measured of one use of a service, and what it is worth.

use std::fmt;

use serde::{Deserialize, Serialize};
use tributary_protocol::time::UnixTime;

/// Longest name of a provider or service, bytes.
pub const MAX_NAME: usize = 128;
/// Most measurements of one assessment.
pub const MAX_MEASUREMENTS: usize = 32;
/// Largest evidence of one assessment as JSON, bytes.
pub const MAX_EVIDENCE: usize = 16 * 1024;

/// Why an assessment isn't one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AssessError {
    /// A name is empty, too long, or has other than printable ASCII characters.
    #[error("{what} {text:?} is no name of 1 to 128 printable characters")]
    Name {
        /// What it names.
        what: &'static str,
        /// The text, cut.
        text: String,
    },
    /// A score or weight lies outside its range.
    #[error("{what} is {value}; allowed are {min} to {max}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The least allowed.
        min: f64,
        /// The most allowed.
        max: f64,
    },
    /// There is too much of something.
    #[error("{what}: {got}, at most {limit} are kept")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        got: usize,
        /// The limit.
        limit: usize,
    },
}

impl AssessError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "TRB-M601",
            Self::Range { .. } => "TRB-M602",
            Self::TooMuch { .. } => "TRB-M603",
        }
    }
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the name.
            ///
            /// # Errors
            /// [`AssessError::Name`].
            pub fn new(text: impl Into<String>) -> Result<Self, AssessError> {
                let text = text.into();
                let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
                if text.is_empty() || text.len() > MAX_NAME || !printable {
                    return Err(AssessError::Name {
                        what: $what,
                        text: text.chars().filter(|c| !c.is_control()).take(32).collect(),
                    });
                }
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = AssessError;

            fn try_from(text: String) -> Result<Self, AssessError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A provider: the text of its PeerId.
    ProviderName, "provider"
}
name! {
    /// A service as offers call it: `store`.
    ServiceName, "service"
}
name! {
    /// Names an assessment, so that it counts once: the request's own id, say.
    AssessmentId, "assessment"
}

/// Whose performance at what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// The provider.
    pub provider: ProviderName,
    /// The service.
    pub service: ServiceName,
}

/// One measured quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What it measures: `completeness`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit: `ms`, `share`, `messages`.
    pub unit: String,
    /// What it is worth, 0 to 1; absent for what is only noted.
    pub score: Option<f64>,
    /// How much its score counts in the whole.
    pub weight: f64,
}

/// What an assessment comes to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The provider did this well.
    Scored {
        /// 0 to 1.
        score: f64,
        /// How much it counts, above 0, at most 4; 1 is a usual use.
        weight: f64,
    },
    /// The network failed. Says nothing of the provider.
    NetworkFault {
        /// How it showed.
        reason: String,
    },
    /// The buyer failed. Says nothing of the provider.
    BuyerFault {
        /// How it showed.
        reason: String,
    },
}

/// One use of a service, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// Its name; one that was recorded before doesn't count again.
    pub id: AssessmentId,
    /// Who did what.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// What was measured.
    pub measurements: Vec<Measurement>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Hashes, timings and the like that bear the verdict out.
    pub evidence: serde_json::Value,
}

impl Assessment {
    /// Checks ranges and sizes.
    ///
    /// # Errors
    /// [`AssessError`].
    pub fn check(&self) -> Result<(), AssessError> {
        let range = |what, value: f64, min, max| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(AssessError::Range { what, value, min, max }) }
        };
        if let Verdict::Scored { score, weight } = self.verdict {
            range("score", score, 0.0, 1.0)?;
            range("weight", weight, f64::MIN_POSITIVE, 4.0)?;
        }
        if self.measurements.len() > MAX_MEASUREMENTS {
            return Err(AssessError::TooMuch {
                what: "measurements",
                got: self.measurements.len(),
                limit: MAX_MEASUREMENTS,
            });
        }
        for measurement in &self.measurements {
            range("a measurement", measurement.value, f64::MIN, f64::MAX)?;
            if let Some(score) = measurement.score {
                range("a measurement's score", score, 0.0, 1.0)?;
            }
        }
        let size = self.evidence.to_string().len();
        if size > MAX_EVIDENCE {
            return Err(AssessError::TooMuch { what: "bytes of evidence", got: size, limit: MAX_EVIDENCE });
        }
        Ok(())
    }

    /// The value of a measurement.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<f64> {
        self.measurements.iter().find(|measurement| measurement.name == name).map(|measurement| measurement.value)
    }
}
