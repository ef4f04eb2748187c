//! Scores of providers from a buyer's own experience, and why.
//!
//! A service's assessor ([`store::StoreAssessor`]) turns what was observed of one use into an [`assess::Assessment`]: typed
//! measurements, a score, evidence. [`Reputation`] folds assessments into a Beta score with exponential decay for each provider and
//! service, persists it, and suspends a provider that is proven to misbehave. Whom nobody knows counts as average, not as bad.

pub mod assess;
pub mod beta;
pub mod custom;
pub mod filter;
pub mod http;
pub mod inference;
pub mod ledger;
pub mod lightpush;
mod measure;
pub mod network;
pub mod ratings;
pub mod store;
pub mod turn;

pub use assess::{Assessment, AssessmentId, Measurement, ProviderName, ServiceName, Subject, Verdict};
pub use beta::{Decay, Experience, Newcomers};
pub use ledger::{Config, Fault, FaultKind, Reputation, ReputationError, Score, Suspension};
pub use network::{
    Agreement, Combined, Measure, NetworkConfig, NetworkExperience, NetworkRating, NetworkScore, Outdone, RatingValue,
    ReputationWeights, Usual, combine,
};
pub use ratings::{Kept, Place, RatingBounds, Ratings, VerifiedRating};
