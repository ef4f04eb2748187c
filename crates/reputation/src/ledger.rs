//! The book of experience, in SQLite.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row as _, SqlSafeStr as _, SqlitePool};
use tributary_protocol::time::{Seconds, UnixTime};

use crate::assess::{AssessError, Assessment, ProviderName, ServiceName, Subject, Verdict};
use crate::beta::{Decay, Experience};

/// Largest evidence of a fault, bytes: two offers with their envelopes fit.
pub const MAX_FAULT_EVIDENCE: usize = 16 * 1024;

const DAY: u64 = 86_400;

/// Why the book can't do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReputationError {
    /// The database failed.
    #[error("the reputation database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database is from a newer version, or damaged.
    #[error("the reputation database can't be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The assessment isn't one.
    #[error(transparent)]
    Assessment(#[from] AssessError),
    /// What is stored can't be read.
    #[error("a stored {what} can't be read: {reason}")]
    Stored {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl ReputationError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Database(_) => "TRB-M611",
            Self::Migration(_) => "TRB-M612",
            Self::Assessment(error) => error.code(),
            Self::Stored { .. } => "TRB-M613",
        }
    }
}

/// How experience counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How fast it fades.
    pub decay: Decay,
    /// How long a first hard fault suspends a provider; each further one doubles it.
    pub suspension: Seconds,
    /// The longest suspension.
    pub max_suspension: Seconds,
    /// Assessments kept of each subject; one that is older than all of these isn't recognised when it comes again.
    pub kept_assessments: u32,
    /// Faults kept in all. Proofs of strangers' faults cost their makers nothing, so they are bounded, and forgotten first.
    pub kept_faults: u32,
}

impl Default for Config {
    fn default() -> Self {
        let days = |days: u64| Seconds::new(days * DAY).unwrap_or(Seconds::MAX);
        Self {
            decay: Decay::default(),
            suspension: days(30),
            max_suspension: days(365),
            kept_assessments: 128,
            kept_faults: 4096,
        }
    }
}

/// Kinds of proven misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Two offers with one sequence number.
    Equivocation,
    /// A signed quote that doesn't keep to the offer, or that wasn't honoured.
    QuoteNotHonoured,
    /// A signed reply that is false in itself.
    InvalidReply,
}

impl FaultKind {
    const ALL: [Self; 3] = [Self::Equivocation, Self::QuoteNotHonoured, Self::InvalidReply];

    /// Its name, as stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equivocation => "equivocation",
            Self::QuoteNotHonoured => "quote_not_honoured",
            Self::InvalidReply => "invalid_reply",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A hard fault, to be reported. Whoever reports it has checked the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The provider.
    pub provider: ProviderName,
    /// What it did.
    pub kind: FaultKind,
    /// When it was found.
    pub at: UnixTime,
    /// The signed messages that prove it, at most [`MAX_FAULT_EVIDENCE`] bytes.
    pub evidence: Vec<u8>,
    /// Names the evidence, so that one fault counts once: its SHA-256, say.
    pub digest: [u8; 32],
}

/// A provider that isn't dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suspension {
    /// The provider.
    pub provider: ProviderName,
    /// Its latest fault.
    pub kind: FaultKind,
    /// When that was found.
    pub since: UnixTime,
    /// Until when it isn't dealt with.
    pub until: UnixTime,
    /// Faults ever proven.
    pub faults: u64,
}

impl fmt::Display for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}, until {}", self.kind, self.since, self.until)?;
        if self.faults > 1 {
            write!(f, " ({} faults)", self.faults)?;
        }
        Ok(())
    }
}

/// A provider's score for a service, from the buyer's own experience.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Who and what.
    pub subject: Subject,
    /// Expected quality, 0 to 1; 0.5 when nothing is known.
    pub value: f64,
    /// The experience behind it, as of the time asked for.
    pub experience: Experience,
    /// Whether it isn't dealt with.
    pub suspension: Option<Suspension>,
}

impl Score {
    /// Whether nothing is known.
    #[must_use]
    pub const fn is_newcomer(&self) -> bool {
        self.experience.assessments == 0
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {:.2}", self.subject.provider, self.subject.service, self.value)?;
        if self.is_newcomer() {
            f.write_str(" (nothing known)")?;
        } else {
            write!(
                f,
                " = (1 + {:.2} good) / (2 + {:.2} in all), from {} assessments",
                self.experience.good,
                self.experience.weight(),
                self.experience.assessments,
            )?;
            if self.value < self.experience.mean() {
                f.write_str(", less for its last uses")?;
            }
        }
        if let Some(latency) = self.experience.latency_ms() {
            write!(f, ", {latency:.0} ms")?;
        }
        if let Some(suspension) = &self.suspension {
            write!(f, "; suspended: {suspension}")?;
        }
        Ok(())
    }
}

/// The buyer's own experience with providers.
#[derive(Debug, Clone)]
pub struct Reputation {
    pool: SqlitePool,
    config: Config,
}

/// Built here and not by sqlx's macro, which would compile SQLite a second time for itself.
fn migrations() -> Migrator {
    let step = |version, name, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        step(1, "local", include_str!("../migrations/0001_local.sql")),
        step(2, "recent", include_str!("../migrations/0002_recent.sql")),
        step(3, "ratings", include_str!("../migrations/0003_ratings.sql")),
        step(4, "failed", include_str!("../migrations/0004_failed.sql")),
    ])
}

impl Reputation {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// [`ReputationError::Database`] or [`ReputationError::Migration`].
    pub async fn open(path: &Path, config: Config) -> Result<Self, ReputationError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        // One connection: updates read what they change.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        migrations().run(&pool).await?;
        Ok(Self { pool, config })
    }

    pub(crate) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes the database. What was recorded is on disk already.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Counts an assessment. One that was counted before, or that says nothing of the provider, changes no score. Says whether the score
    /// changed.
    ///
    /// # Errors
    /// [`ReputationError`]; then nothing is changed.
    pub async fn record(&self, assessment: &Assessment) -> Result<bool, ReputationError> {
        assessment.check()?;
        let subject = &assessment.subject;
        let (provider, service) = (subject.provider.as_str(), subject.service.as_str());
        let content = serde_json::to_string(assessment).map_err(|error| stored("assessment", error))?;
        let mut transaction = self.pool.begin().await?;
        let inserted = sqlx::query(
            "INSERT INTO assessment (id, provider, service, at, content) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        )
        .bind(assessment.id.as_str())
        .bind(provider)
        .bind(service)
        .bind(seconds(assessment.at))
        .bind(content)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if inserted == 0 {
            return Ok(false);
        }
        sqlx::query(
            "DELETE FROM assessment WHERE provider = ?1 AND service = ?2 AND id NOT IN \
             (SELECT id FROM assessment WHERE provider = ?1 AND service = ?2 ORDER BY at DESC, id LIMIT ?3)",
        )
        .bind(provider)
        .bind(service)
        .bind(self.config.kept_assessments)
        .execute(&mut *transaction)
        .await?;
        let Verdict::Scored { score, weight } = assessment.verdict else {
            transaction.commit().await?;
            return Ok(false);
        };
        let known = sqlx::query("SELECT * FROM experience WHERE provider = ? AND service = ?")
            .bind(provider)
            .bind(service)
            .fetch_optional(&mut *transaction)
            .await?;
        let before = match known {
            Some(row) => experience_of(&row)?,
            None => Experience::none(assessment.at),
        };
        let latency = assessment.value("latency");
        let after = before.with(score, weight, latency, assessment.at, &self.config.decay);
        sqlx::query(
            "INSERT INTO experience (provider, service, good, bad, latency_sum, latency_weight, recent_good, recent_bad, failed, assessments, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (provider, service) DO UPDATE SET good = excluded.good, bad = excluded.bad, latency_sum = excluded.latency_sum, \
             latency_weight = excluded.latency_weight, recent_good = excluded.recent_good, recent_bad = excluded.recent_bad, failed = excluded.failed, assessments = excluded.assessments, updated_at = excluded.updated_at",
        )
        .bind(provider)
        .bind(service)
        .bind(after.good)
        .bind(after.bad)
        .bind(after.latency_sum)
        .bind(after.latency_weight)
        .bind(after.recent_good)
        .bind(after.recent_bad)
        .bind(after.failed)
        .bind(i64::try_from(after.assessments).unwrap_or(i64::MAX))
        .bind(seconds(after.updated_at))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes a hard fault and suspends the provider, the longer the more faults. The same evidence again changes nothing.
    ///
    /// # Errors
    /// [`ReputationError`]; then nothing is changed.
    pub async fn report(&self, fault: &Fault) -> Result<Suspension, ReputationError> {
        if fault.evidence.len() > MAX_FAULT_EVIDENCE {
            return Err(AssessError::TooMuch {
                what: "bytes of evidence",
                got: fault.evidence.len(),
                limit: MAX_FAULT_EVIDENCE,
            }
            .into());
        }
        let provider = fault.provider.as_str();
        let mut transaction = self.pool.begin().await?;
        let digest = hex::encode(fault.digest);
        let (earlier, repeated): (i64, i64) = {
            let row = sqlx::query("SELECT COUNT(*), COALESCE(SUM(digest = ?2), 0) FROM fault WHERE provider = ?1")
                .bind(provider)
                .bind(&digest)
                .fetch_one(&mut *transaction)
                .await?;
            (row.try_get(0)?, row.try_get(1)?)
        };
        if repeated == 0 {
            let doublings = u32::try_from(earlier).unwrap_or(u32::MAX).min(40);
            let length =
                self.config.suspension.get().saturating_mul(1 << doublings).min(self.config.max_suspension.get());
            let length = Seconds::new(length).unwrap_or(Seconds::MAX);
            sqlx::query("INSERT INTO fault (provider, kind, digest, at, until, evidence) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(provider)
                .bind(fault.kind.name())
                .bind(&digest)
                .bind(seconds(fault.at))
                .bind(seconds(fault.at.saturating_add(length)))
                .bind(&fault.evidence)
                .execute(&mut *transaction)
                .await?;
            // Strangers' faults are forgotten first: whoever has made thousands of keys must not push out what was suffered.
            sqlx::query(
                "DELETE FROM fault WHERE rowid IN (SELECT fault.rowid FROM fault \
                 LEFT JOIN (SELECT DISTINCT provider FROM experience) AS known ON known.provider = fault.provider \
                 ORDER BY known.provider IS NOT NULL DESC, fault.at DESC, fault.rowid DESC LIMIT -1 OFFSET ?)",
            )
            .bind(self.config.kept_faults)
            .execute(&mut *transaction)
            .await?;
        }
        let row = latest_fault(&mut transaction, provider).await?;
        transaction.commit().await?;
        row.ok_or_else(|| stored("fault", "it was forgotten at once"))
    }

    /// A provider's score for a service as of `now`.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn score(&self, subject: &Subject, now: UnixTime) -> Result<Score, ReputationError> {
        let row = sqlx::query("SELECT * FROM experience WHERE provider = ? AND service = ?")
            .bind(subject.provider.as_str())
            .bind(subject.service.as_str())
            .fetch_optional(&self.pool)
            .await?;
        let experience = match row {
            Some(row) => experience_of(&row)?.at(now, &self.config.decay),
            None => Experience::none(now),
        };
        Ok(Score {
            subject: subject.clone(),
            value: experience.value(),
            experience,
            suspension: self.suspension(&subject.provider, now).await?,
        })
    }

    /// Scores of all known providers for a service as of `now`, best first.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn scores(&self, service: &ServiceName, now: UnixTime) -> Result<Vec<Score>, ReputationError> {
        let rows = sqlx::query("SELECT * FROM experience WHERE service = ?")
            .bind(service.as_str())
            .fetch_all(&self.pool)
            .await?;
        let mut scores = Vec::with_capacity(rows.len());
        for row in rows {
            let provider = name(row.try_get("provider")?)?;
            let experience = experience_of(&row)?.at(now, &self.config.decay);
            scores.push(Score {
                suspension: self.suspension(&provider, now).await?,
                subject: Subject { provider, service: service.clone() },
                value: experience.value(),
                experience,
            });
        }
        scores.sort_by(|a, b| b.value.total_cmp(&a.value).then_with(|| a.subject.cmp(&b.subject)));
        Ok(scores)
    }

    /// Whether a provider is suspended at `now`.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn suspension(
        &self,
        provider: &ProviderName,
        now: UnixTime,
    ) -> Result<Option<Suspension>, ReputationError> {
        let mut connection = self.pool.acquire().await?;
        let latest = latest_fault(&mut connection, provider.as_str()).await?;
        Ok(latest.filter(|suspension| suspension.until > now))
    }

    /// All providers suspended at `now`.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn suspensions(&self, now: UnixTime) -> Result<Vec<Suspension>, ReputationError> {
        let rows = sqlx::query("SELECT DISTINCT provider FROM fault WHERE until > ?")
            .bind(seconds(now))
            .fetch_all(&self.pool)
            .await?;
        let mut suspensions = Vec::with_capacity(rows.len());
        for row in rows {
            let provider = name(row.try_get("provider")?)?;
            suspensions.extend(self.suspension(&provider, now).await?);
        }
        Ok(suspensions)
    }

    /// Ends a provider's suspension at the user's word. Its faults stay on the record.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn pardon(&self, provider: &ProviderName, now: UnixTime) -> Result<(), ReputationError> {
        sqlx::query("UPDATE fault SET until = MIN(until, ?) WHERE provider = ?")
            .bind(seconds(now))
            .bind(provider.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The latest assessments of a subject, newest first: what its score comes from.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn history(&self, subject: &Subject, limit: u32) -> Result<Vec<Assessment>, ReputationError> {
        let rows = sqlx::query(
            "SELECT content FROM assessment WHERE provider = ? AND service = ? ORDER BY at DESC, id LIMIT ?",
        )
        .bind(subject.provider.as_str())
        .bind(subject.service.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                let content: String = row.try_get(0)?;
                serde_json::from_str(&content).map_err(|error| stored("assessment", error))
            })
            .collect()
    }

    /// Evidence of a provider's faults, newest first.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn faults(&self, provider: &ProviderName) -> Result<Vec<Fault>, ReputationError> {
        let rows =
            sqlx::query("SELECT kind, digest, at, evidence FROM fault WHERE provider = ? ORDER BY at DESC, rowid DESC")
                .bind(provider.as_str())
                .fetch_all(&self.pool)
                .await?;
        rows.iter()
            .map(|row| {
                let digest: String = row.try_get("digest")?;
                let mut bytes = [0; 32];
                hex::decode_to_slice(&digest, &mut bytes).map_err(|error| stored("fault", error))?;
                Ok(Fault {
                    provider: provider.clone(),
                    kind: kind(row.try_get("kind")?)?,
                    at: time(row.try_get("at")?)?,
                    evidence: row.try_get("evidence")?,
                    digest: bytes,
                })
            })
            .collect()
    }
}

async fn latest_fault(
    connection: &mut sqlx::SqliteConnection,
    provider: &str,
) -> Result<Option<Suspension>, ReputationError> {
    let rows = sqlx::query(
        "SELECT kind, at, until, (SELECT COUNT(*) FROM fault WHERE provider = ?1) AS faults FROM fault \
         WHERE provider = ?1 ORDER BY until DESC, at DESC LIMIT 1",
    )
    .bind(provider)
    .fetch_optional(connection)
    .await?;
    rows.map(|row| {
        let faults: i64 = row.try_get("faults")?;
        Ok(Suspension {
            provider: name(provider.to_owned())?,
            kind: kind(row.try_get("kind")?)?,
            since: time(row.try_get("at")?)?,
            until: time(row.try_get("until")?)?,
            faults: u64::try_from(faults).unwrap_or_default(),
        })
    })
    .transpose()
}

fn experience_of(row: &sqlx::sqlite::SqliteRow) -> Result<Experience, ReputationError> {
    let assessments: i64 = row.try_get("assessments")?;
    Ok(Experience {
        good: row.try_get("good")?,
        bad: row.try_get("bad")?,
        latency_sum: row.try_get("latency_sum")?,
        latency_weight: row.try_get("latency_weight")?,
        recent_good: row.try_get("recent_good")?,
        recent_bad: row.try_get("recent_bad")?,
        failed: row.try_get("failed")?,
        assessments: u64::try_from(assessments).unwrap_or_default(),
        updated_at: time(row.try_get("updated_at")?)?,
    })
}

fn name(text: String) -> Result<ProviderName, ReputationError> {
    ProviderName::new(text).map_err(|error| stored("provider", error))
}

fn kind(text: &str) -> Result<FaultKind, ReputationError> {
    FaultKind::ALL
        .into_iter()
        .find(|kind| kind.name() == text)
        .ok_or_else(|| stored("fault", format!("{text} is no kind of fault")))
}

pub(crate) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.get()).unwrap_or(i64::MAX)
}

pub(crate) fn time(seconds: i64) -> Result<UnixTime, ReputationError> {
    u64::try_from(seconds)
        .ok()
        .and_then(|seconds| UnixTime::new(seconds).ok())
        .ok_or_else(|| stored("time", format!("{seconds} is out of range")))
}

pub(crate) fn stored(what: &'static str, reason: impl fmt::Display) -> ReputationError {
    ReputationError::Stored { what, reason: reason.to_string() }
}
