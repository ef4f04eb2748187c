//! Verified ratings of others, in SQLite, within bounds.
//!
//! What is kept cost its makers money, and what gives way first is what cost least: a full store forgets low tiers before high ones, and old
//! ratings before new ones. Payees that offers named cost nothing; those of providers with ratings or own experience are forgotten last.

use std::fmt;

use sqlx::{Row as _, SqlitePool};
use tributary_protocol::amount::Amount;
use tributary_protocol::ticket::RatingTier;
use tributary_protocol::time::UnixTime;

use crate::assess::{ProviderName, ServiceName, Subject};
use crate::ledger::{Reputation, ReputationError, seconds, stored, time};
use crate::network::{NetworkRating, RatingValue};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RatingBounds {
    /// Ratings of one provider's service.
    pub per_subject: u32,
    /// Ratings of one provider, whatever services it claims to have.
    pub per_provider: u32,
    /// Ratings in all.
    pub total: u32,
    /// Payees of one provider.
    pub payees_per_provider: u32,
    /// Payees in all.
    pub payees: u32,
}

impl Default for RatingBounds {
    fn default() -> Self {
        Self { per_subject: 1024, per_provider: 4096, total: 65_536, payees_per_provider: 8, payees: 16_384 }
    }
}

/// A rating's place among those of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// When it was made.
    pub made_at: UnixTime,
    /// Its revision.
    pub revision: u32,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// A verified rating.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedRating {
    /// Names the stream.
    pub nullifier: [u8; 32],
    /// Whose performance at what.
    pub subject: Subject,
    /// What it was worth.
    pub value: RatingValue,
    /// What was paid, at least.
    pub tier: RatingTier,
    /// End of the slot that the proof is for: its age counts from there, because a maker can't make that younger.
    pub slot_end: UnixTime,
    /// Its place.
    pub place: Place,
}

/// What became of a verified rating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is the first of its stream.
    New,
    /// It took the place of an older one.
    Replaced,
    /// One as new is known.
    Older,
    /// The store is full of ratings that weigh more.
    NoRoom,
}

/// Verified ratings and the payees of providers. Clones share the database.
#[derive(Clone)]
pub struct Ratings {
    pool: SqlitePool,
    bounds: RatingBounds,
}

impl fmt::Debug for Ratings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ratings").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Reputation {
    /// The ratings of others, in the same database.
    #[must_use]
    pub fn ratings(&self, bounds: RatingBounds) -> Ratings {
        Ratings { pool: self.pool().clone(), bounds }
    }
}

impl Ratings {
    /// The places of all ratings, by nullifier.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn places(&self) -> Result<Vec<([u8; 32], Place)>, ReputationError> {
        let rows = sqlx::query("SELECT nullifier, made_at, revision, digest FROM rating").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((bytes(row.try_get("nullifier")?)?, place_of(row)?))).collect()
    }

    /// Keeps ratings, in one transaction. The newest of a stream replaces the older ones, whoever it is about.
    ///
    /// # Errors
    /// [`ReputationError`]; then nothing is changed.
    pub async fn put(&self, ratings: &[VerifiedRating]) -> Result<Vec<Kept>, ReputationError> {
        let mut transaction = self.pool.begin().await?;
        let mut fates = Vec::with_capacity(ratings.len());
        for rating in ratings {
            let row = sqlx::query("SELECT made_at, revision, digest FROM rating WHERE nullifier = ?")
                .bind(&rating.nullifier[..])
                .fetch_optional(&mut *transaction)
                .await?;
            let have = row.as_ref().map(place_of).transpose()?;
            if have.is_some_and(|have| have >= rating.place) {
                fates.push(Kept::Older);
                continue;
            }
            let (provider, service) = (rating.subject.provider.as_str(), rating.subject.service.as_str());
            sqlx::query(
                "INSERT OR REPLACE INTO rating (nullifier, provider, service, score, tier, slot_end, made_at, revision, digest) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(&rating.nullifier[..])
            .bind(provider)
            .bind(service)
            .bind(rating.value.get())
            .bind(i64::from(rating.tier.amount().get().trailing_zeros()))
            .bind(seconds(rating.slot_end))
            .bind(seconds(rating.place.made_at))
            .bind(i64::from(rating.place.revision))
            .bind(&rating.place.digest[..])
            .execute(&mut *transaction)
            .await?;
            const WORST: &str = "ORDER BY tier DESC, slot_end DESC, nullifier LIMIT -1 OFFSET";
            for (condition, bound) in [
                ("WHERE provider = ?1 AND service = ?2", self.bounds.per_subject),
                ("WHERE provider = ?1 AND ?2 = ?2", self.bounds.per_provider),
                ("WHERE ?1 = ?1 AND ?2 = ?2", self.bounds.total),
            ] {
                let count: i64 =
                    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM rating {condition}")))
                        .bind(provider)
                        .bind(service)
                        .fetch_one(&mut *transaction)
                        .await?;
                if count <= i64::from(bound) {
                    continue;
                }
                let query = format!(
                    "DELETE FROM rating WHERE nullifier IN (SELECT nullifier FROM rating {condition} {WORST} ?3)"
                );
                sqlx::query(sqlx::AssertSqlSafe(query))
                    .bind(provider)
                    .bind(service)
                    .bind(bound)
                    .execute(&mut *transaction)
                    .await?;
            }
            let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM rating WHERE nullifier = ?")
                .bind(&rating.nullifier[..])
                .fetch_one(&mut *transaction)
                .await?;
            fates.push(match have {
                _ if kept == 0 => Kept::NoRoom,
                Some(_) => Kept::Replaced,
                None => Kept::New,
            });
        }
        transaction.commit().await?;
        Ok(fates)
    }

    /// Forgets ratings whose slot ended before `oldest`.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn forget_before(&self, oldest: UnixTime) -> Result<u64, ReputationError> {
        let done =
            sqlx::query("DELETE FROM rating WHERE slot_end < ?").bind(seconds(oldest)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }

    /// All ratings, in no order.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn all(&self) -> Result<Vec<NetworkRating>, ReputationError> {
        let rows =
            sqlx::query("SELECT provider, service, score, tier, slot_end FROM rating").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let (provider, service): (String, String) = (row.try_get("provider")?, row.try_get("service")?);
                let tier: i64 = row.try_get("tier")?;
                let paid = u32::try_from(tier).ok().and_then(|exponent| 1_u128.checked_shl(exponent));
                let paid = paid.and_then(|paid| Amount::new(paid).ok());
                Ok(NetworkRating {
                    subject: Subject {
                        provider: ProviderName::new(provider).map_err(|error| stored("provider", error))?,
                        service: ServiceName::new(service).map_err(|error| stored("service", error))?,
                    },
                    value: RatingValue::new(row.try_get("score")?).map_err(|error| stored("score", error))?,
                    paid: paid.ok_or_else(|| stored("tier", format!("{tier} is out of range")))?,
                    at: time(row.try_get("slot_end")?)?,
                })
            })
            .collect()
    }

    /// How many ratings are kept.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn count(&self) -> Result<u64, ReputationError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM rating").fetch_one(&self.pool).await?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Remembers that an offer signed by this provider named this payee. The caller has verified the offer.
    ///
    /// # Errors
    /// [`ReputationError`]; then nothing is changed.
    pub async fn put_payee(
        &self,
        provider: &ProviderName,
        payee: &[u8; 32],
        now: UnixTime,
    ) -> Result<(), ReputationError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO payee (provider, payee, seen_at) VALUES (?, ?, ?) \
             ON CONFLICT (provider, payee) DO UPDATE SET seen_at = max(seen_at, excluded.seen_at)",
        )
        .bind(provider.as_str())
        .bind(&payee[..])
        .bind(seconds(now))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM payee WHERE provider = ?1 AND payee NOT IN \
             (SELECT payee FROM payee WHERE provider = ?1 ORDER BY seen_at DESC, payee LIMIT ?2)",
        )
        .bind(provider.as_str())
        .bind(self.bounds.payees_per_provider)
        .execute(&mut *transaction)
        .await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM payee").fetch_one(&mut *transaction).await?;
        let excess = count - i64::from(self.bounds.payees);
        if excess > 0 {
            // Offers of keys made for it cost nothing: whom money or own experience speaks for is forgotten last.
            sqlx::query(
                "DELETE FROM payee WHERE (provider, payee) IN (SELECT payee.provider, payee.payee FROM payee \
                 LEFT JOIN (SELECT provider FROM rating UNION SELECT provider FROM experience) AS known \
                 ON known.provider = payee.provider \
                 ORDER BY known.provider IS NOT NULL, payee.seen_at LIMIT ?)",
            )
            .bind(excess)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// All pairs of provider and payee.
    ///
    /// # Errors
    /// [`ReputationError`].
    pub async fn payees(&self) -> Result<Vec<(ProviderName, [u8; 32])>, ReputationError> {
        let rows = sqlx::query("SELECT provider, payee FROM payee").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let provider: String = row.try_get("provider")?;
                let provider = ProviderName::new(provider).map_err(|error| stored("provider", error))?;
                Ok((provider, bytes(row.try_get("payee")?)?))
            })
            .collect()
    }
}

fn place_of(row: &sqlx::sqlite::SqliteRow) -> Result<Place, ReputationError> {
    let revision: i64 = row.try_get("revision")?;
    Ok(Place {
        made_at: time(row.try_get("made_at")?)?,
        revision: u32::try_from(revision).map_err(|error| stored("revision", error))?,
        digest: bytes(row.try_get("digest")?)?,
    })
}

fn bytes(bytes: &[u8]) -> Result<[u8; 32], ReputationError> {
    bytes.try_into().map_err(|_| stored("hash", format!("{} bytes", bytes.len())))
}
