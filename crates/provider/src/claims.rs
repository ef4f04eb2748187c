//! The provider's streams, and what is claimed from them.
//!
//! The payee's wallet finds the streams (it accepts only those whose commitment recomputes and is on chain), proves claims and writes each
//! down before it is sent. This module decides when, resumes what a stop interrupted, and never gives more for a claim than it brings.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Mutex as AsyncMutex;
use tributary_market::clock::Clock;
use tributary_protocol::{Amount, Commitment, Price, Seconds, UnixTime};
use tributary_wallet::{
    Intent, OperationId, OperationKind, OperationStatus, Outcome, PayeeStream, PreparedTransaction, Rejection,
    StreamState, Submitter, Wallet, WalletError,
};

use crate::files;

/// Streams in one claim.
const LANES: usize = 16;

/// When to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimPlan {
    /// Time between two rounds of claims; `None` claims on command only.
    pub interval: Option<Seconds>,
    /// Claims of up to 16 streams in one round.
    pub most: usize,
    /// A claim must bring at least this much besides the relayer's fee, in base units.
    pub least_gain: Amount,
}

impl Default for ClaimPlan {
    /// Once a day, up to 64 claims, each worth something.
    fn default() -> Self {
        Self { interval: Seconds::new(86_400).ok(), most: 64, least_gain: Amount::new(1).unwrap_or(Amount::ZERO) }
    }
}

/// One claim and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The wallet's operation.
    pub operation: OperationId,
    /// Streams in it.
    pub streams: usize,
    /// What it pays before burn and fee, base units; 0 for a resumed one.
    pub amount: Amount,
    /// The relayer's fee in it.
    pub fee: Amount,
    /// Whether an earlier process or round had begun it.
    pub resumed: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why a round claimed no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "stopped", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stopped {
    /// Nothing is left that is worth claiming.
    NothingLeft,
    /// What is left brings less than it costs.
    NotWorthIt {
        /// What the best claim would pay.
        brings: Amount,
        /// The relayer's fee.
        fee: Amount,
    },
    /// Nobody is there to send it.
    NoSubmitter {
        /// Stable code.
        code: String,
        /// Why.
        reason: String,
    },
    /// A claim was not confirmed; the next round goes on with it.
    NotConfirmed,
    /// The round's number of claims is reached.
    Limit,
}

/// What a round did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimReport {
    /// Its claims, resumed ones first.
    pub claims: Vec<Claim>,
    /// Why it ended.
    #[serde(flatten)]
    pub stopped: Stopped,
}

/// Streams and claims at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamSummary {
    /// Streams that pay now.
    pub running: usize,
    /// Streams that start later or aren't in the tree yet.
    pub waiting: usize,
    /// What can be claimed now, base units.
    pub claimable: Amount,
    /// Tickets a slot that the running streams pay for.
    pub tickets_per_slot: u64,
    /// Claims confirmed since the start.
    pub claims: u64,
    /// What they paid, before burn and fee.
    pub claimed: Amount,
}

/// Why claiming failed before anything was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The time of the last round can't be kept.
    #[error("the time of the last claims can't be kept at {path}: {reason}; make the folder writable", path = path.display())]
    Schedule {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl ClaimError {
    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Wallet(e) => e.code(),
            Self::Schedule { .. } => "TRB-5601",
        }
    }
}

/// Claims for one payee.
pub struct Claimer {
    wallet: Wallet,
    submitter: Arc<dyn Submitter>,
    clock: Arc<dyn Clock>,
    plan: ClaimPlan,
    ticket_price: Price,
    schedule: PathBuf,
    /// One round at a time.
    round: AsyncMutex<()>,
    summary: Mutex<StreamSummary>,
}

impl fmt::Debug for Claimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimer").field("plan", &self.plan).field("submitter", &self.submitter).finish_non_exhaustive()
    }
}

impl Claimer {
    /// Claims for the owner of `wallet`, through `submitter`. The time of the last round is kept in the file `schedule`.
    #[must_use]
    pub fn new(
        wallet: Wallet,
        submitter: Arc<dyn Submitter>,
        clock: Arc<dyn Clock>,
        plan: ClaimPlan,
        ticket_price: Price,
        schedule: PathBuf,
    ) -> Self {
        Self {
            wallet,
            submitter,
            clock,
            plan,
            ticket_price,
            schedule,
            round: AsyncMutex::default(),
            summary: Mutex::default(),
        }
    }

    /// The payee's wallet.
    #[must_use]
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// Streams and claims as they were at the last [`Self::look`] or round.
    #[must_use]
    pub fn summary(&self) -> StreamSummary {
        *self.summary.lock()
    }

    /// Reads the chain for streams to this payee.
    ///
    /// # Errors
    /// [`ClaimError::Wallet`].
    pub async fn look(&self) -> Result<StreamSummary, ClaimError> {
        self.wallet.scan().await?;
        self.wallet.reconcile().await?;
        let streams = self.wallet.payee_streams(false).await?;
        Ok(self.summarise(&streams))
    }

    fn summarise(&self, streams: &[PayeeStream]) -> StreamSummary {
        let length = self.wallet.ledger().clock().slot_length();
        let mut seen = StreamSummary::default();
        for stream in streams {
            match stream.state {
                StreamState::Running | StreamState::Stopping => {
                    seen.running += 1;
                    let paid = stream.note.terms.rate().times(length);
                    let price = alloy::primitives::U256::from(self.ticket_price.get().max(1));
                    let tickets = u64::try_from(paid / price).unwrap_or(u64::MAX);
                    seen.tickets_per_slot = seen.tickets_per_slot.saturating_add(tickets);
                }
                StreamState::Queued | StreamState::Scheduled => seen.waiting += 1,
                StreamState::Missing | StreamState::Over => {}
            }
            seen.claimable = seen.claimable.checked_add(stream.claimable).unwrap_or(Amount::MAX);
        }
        let mut summary = self.summary.lock();
        *summary = StreamSummary { claims: summary.claims, claimed: summary.claimed, ..seen };
        *summary
    }

    /// Whether the schedule wants a round now.
    ///
    /// # Errors
    /// [`ClaimError::Schedule`].
    pub fn is_due(&self) -> Result<bool, ClaimError> {
        let Some(interval) = self.plan.interval else { return Ok(false) };
        let now = self.clock.now();
        match files::read_number(&self.schedule).map_err(|e| self.schedule_failed(&e))? {
            Some(last) => {
                let last = UnixTime::new(last).unwrap_or(UnixTime::MAX);
                // A last round in the future means that the clock was wrong then, or is now: claiming too early costs a fee, never money.
                Ok(now < last || now.since(last) >= interval)
            }
            // The first round comes one interval after the first start.
            None => {
                self.keep_schedule(now)?;
                Ok(false)
            }
        }
    }

    fn keep_schedule(&self, now: UnixTime) -> Result<(), ClaimError> {
        files::write_number(&self.schedule, now.get()).map_err(|e| self.schedule_failed(&e))
    }

    fn schedule_failed(&self, e: &io::Error) -> ClaimError {
        ClaimError::Schedule { path: self.schedule.clone(), reason: e.to_string() }
    }

    /// Claims what is worth it: first whatever is under way, then the fullest streams, 16 at a time.
    ///
    /// # Errors
    /// [`ClaimError`] before a claim was sent. What was sent and how it ended stands in the wallet; the next round goes on with it.
    pub async fn claim(&self) -> Result<ClaimReport, ClaimError> {
        let _one = self.round.lock().await;
        if self.plan.interval.is_some() {
            self.keep_schedule(self.clock.now())?;
        }
        self.wallet.sync().await?;
        // Each stream once in a round: it accrues with every block, also with the one of its own claim.
        let mut done = HashSet::new();
        let mut claims = self.resume(&mut done).await?;
        let stopped = if claims.iter().all(|c| matches!(c.outcome, Outcome::Confirmed { .. })) {
            self.claim_more(&mut claims, &mut done).await?
        } else {
            Stopped::NotConfirmed
        };
        self.look().await?;
        tracing::info!(claims = claims.len(), ?stopped, "a round of claims ended");
        Ok(ClaimReport { claims, stopped })
    }

    /// Hands claims that were proved and not seen on chain to the submitter again. The same transaction can be mined only once.
    async fn resume(&self, done: &mut HashSet<Commitment>) -> Result<Vec<Claim>, ClaimError> {
        let mut claims = Vec::new();
        let now = self.wallet.now()?;
        for operation in self.wallet.operations().await? {
            let waiting = matches!(operation.status, OperationStatus::Prepared | OperationStatus::Sent);
            let late = operation.deadline.is_some_and(|deadline| deadline < now);
            let Intent::Claim { streams } = &operation.intent else { continue };
            if matches!(operation.status, OperationStatus::Confirmed { .. }) {
                continue;
            }
            // Whatever becomes of it, its streams are spoken for.
            done.extend(streams);
            if !waiting || late {
                continue;
            }
            let Some(prepared) = self.wallet.attempts(operation.id).await?.pop() else { continue };
            let outcome = self.wallet.submit(&prepared, &*self.submitter).await?;
            self.wallet.sync().await?;
            self.count(&outcome, Amount::ZERO);
            claims.push(Claim {
                operation: operation.id,
                streams: prepared.tags.len(),
                amount: Amount::ZERO,
                fee: prepared.external.fee,
                resumed: true,
                outcome,
            });
        }
        Ok(claims)
    }

    async fn claim_more(&self, claims: &mut Vec<Claim>, done: &mut HashSet<Commitment>) -> Result<Stopped, ClaimError> {
        for _ in 0..self.plan.most {
            let before = self.wallet.payee_streams(false).await?;
            let best = self.fullest(&before, done);
            if best.is_empty() {
                return Ok(Stopped::NothingLeft);
            }
            let terms = match self.submitter.terms(OperationKind::Claim).await {
                Ok(terms) => terms,
                Err(Rejection { code, reason, .. }) => return Ok(Stopped::NoSubmitter { code, reason }),
            };
            let brings =
                Amount::checked_sum(before.iter().filter(|s| best.contains(&s.commitment)).map(|s| s.claimable))
                    .unwrap_or(Amount::MAX);
            let costs = terms.fee.checked_add(self.plan.least_gain).unwrap_or(Amount::MAX);
            if brings < costs {
                return Ok(Stopped::NotWorthIt { brings, fee: terms.fee });
            }
            done.extend(&best);
            let prepared = self.wallet.prepare(Intent::Claim { streams: best }, terms).await?;
            let amount = paid_by(&prepared, &before);
            let outcome = self.wallet.submit(&prepared, &*self.submitter).await?;
            self.wallet.sync().await?;
            self.count(&outcome, amount);
            let confirmed = matches!(outcome, Outcome::Confirmed { .. });
            claims.push(Claim {
                operation: prepared.operation,
                streams: prepared.tags.len(),
                amount,
                fee: prepared.external.fee,
                resumed: false,
                outcome,
            });
            if !confirmed {
                return Ok(Stopped::NotConfirmed);
            }
        }
        Ok(Stopped::Limit)
    }

    /// The up to 16 streams with most to claim, besides those that are done.
    fn fullest(&self, streams: &[PayeeStream], done: &HashSet<Commitment>) -> Vec<Commitment> {
        let least = self.wallet.config().least_claim;
        let inserted = self.wallet.ledger().inserted();
        let mut open: Vec<&PayeeStream> = streams
            .iter()
            .filter(|s| !s.claimable.is_zero() && s.claimable >= least && !done.contains(&s.commitment))
            .filter(|s| s.position.is_some_and(|position| u64::from(position) < inserted))
            .collect();
        open.sort_by_key(|stream| std::cmp::Reverse(stream.claimable));
        open.iter().take(LANES).map(|stream| stream.commitment).collect()
    }

    fn count(&self, outcome: &Outcome, amount: Amount) {
        if matches!(outcome, Outcome::Confirmed { .. }) {
            let mut summary = self.summary.lock();
            summary.claims += 1;
            summary.claimed = summary.claimed.checked_add(amount).unwrap_or(Amount::MAX);
        }
    }
}

/// What a claim pays, from the streams as they stood before it.
fn paid_by(prepared: &PreparedTransaction, before: &[PayeeStream]) -> Amount {
    let windows = prepared.tags.iter().zip(&prepared.claimed_until).filter_map(|(tag, until)| {
        let stream = before.iter().find(|s| s.tag == *tag)?;
        Some(stream.note.terms.payout(stream.record.claimed_until, *until))
    });
    Amount::checked_sum(windows).unwrap_or(Amount::MAX)
}
