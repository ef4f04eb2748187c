//! Rating a provider: one rating for each stream, under the ticket circuit's rating purpose, published later than it is made.

use std::time::Duration;

use rand::Rng as _;
use tributary_market::offer::ServiceId;
use tributary_market::rating::{Rating, RatingMeasurement, RatingScore, proven};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Keep, TransportError};
use tributary_protocol::{Amount, UnixTime, slot::RatingCrowd};
use tributary_reputation::Verdict;
use tributary_waku::{ContentTopic as WakuTopic, LightPushRequest, PeerId, WakuMessage};
use tributary_wallet::{PayerStream, StreamState};

use crate::buyer::{paying, stored_offer, subject};
use crate::store::Purchase;
use crate::{Buyer, ClientError};

/// Assessments that a score is made of, at the most.
const MAX_ASSESSMENTS: u32 = 128;

/// Peers that are asked to publish when the node itself can't.
const MAX_PUSHERS: usize = 3;

/// Ratings that one call publishes, at the most.
const MAX_DUE: u32 = 32;

/// What shall be rated, and how.
#[derive(Debug, Clone, Default)]
pub struct RateOrder {
    /// The provider; none: that of the newest stream.
    pub provider: Option<PeerId>,
    /// The service; none: the one that the stream was opened for.
    pub service: Option<ServiceId>,
    /// The score; none: what the assessments since the stream's start come to.
    pub score: Option<RatingScore>,
    /// It is published at a random time from now to so much later.
    pub delay: Duration,
}

/// A rating that was made and written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeRating {
    /// The provider.
    pub provider: PeerId,
    /// The service.
    pub service: ServiceId,
    /// The score.
    pub score: RatingScore,
    /// What it proves to have been paid, at least.
    pub tier: Amount,
    /// Among whom it hides.
    pub crowd: RatingCrowd,
    /// When it will be published.
    pub due: UnixTime,
    /// Whether an earlier rating by the same stream is replaced.
    pub replaces: bool,
    /// Whether it was published already.
    pub published: bool,
    /// Time for witness and proof.
    pub proving: Duration,
}

/// A rating of this buyer's, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentRating {
    /// The stream note's commitment.
    pub commitment: [u8; 32],
    /// The provider.
    pub provider: PeerId,
    /// The service's id.
    pub service: String,
    /// 0 to 1000.
    pub score: u16,
    /// The hour that it names, Unix seconds.
    pub made_at: u64,
    /// Its revision.
    pub revision: u32,
    /// When it is published, Unix seconds.
    pub due: u64,
    /// Whether it was.
    pub sent: bool,
    /// The message.
    pub payload: Vec<u8>,
}

impl Buyer {
    /// Rates a provider by the newest stream that has paid it for a whole slot. The rating is written down first, and published when it is due
    /// ([`Buyer::publish_ratings`]): one that comes right after a use would tell when it was used. Rating again by the same stream replaces the rating.
    ///
    /// # Errors
    /// [`ClientError::NothingPaid`], [`ClientError::NothingToRate`], [`ClientError::Ticket`].
    pub async fn rate(&self, order: &RateOrder) -> Result<MadeRating, ClientError> {
        let now = self.now()?;
        let (purchase, stream) = self.rateable(order.provider).await?;
        let offer = stored_offer(self.wallet(), &purchase.offer)?;
        let service = match &order.service {
            Some(service) => service.clone(),
            None => self.store().service_of(&purchase.quote).await?.parse()?,
        };
        if offer.service(&service).is_none() {
            return Err(ClientError::NotSold { what: service.to_string() });
        }
        let (score, latency) = match order.score {
            Some(score) => (score, None),
            None => self.experienced(&purchase, &service, stream.note.terms.start()).await?,
        };
        let wait = rand::thread_rng().gen_range(0..=order.delay.as_secs());
        let earlier = self.store().rating(&purchase.commitment).await?;
        let mut due = UnixTime::new(now.get().saturating_add(wait))?;
        let mut made_at = Rating::hour_of(due);
        let mut revision = 0;
        if let Some(earlier) = &earlier {
            // Newer than the one before, whichever of the two is published first.
            due = due.max(UnixTime::new(earlier.made_at)?);
            made_at = Rating::hour_of(due);
            if earlier.made_at == made_at.get() {
                revision = earlier.revision.saturating_add(1);
            }
        }
        let measurements = latency.map(|ms| RatingMeasurement::new("latency_ms", ms)).transpose()?;
        let rating = Rating {
            pool: self.wallet().ledger().pool(),
            provider: purchase.provider,
            service: service.clone(),
            score,
            measurements: measurements.into_iter().collect(),
            made_at,
            revision,
        };
        let bytes = rating.encode()?;
        let started = std::time::Instant::now();
        let made = self.ticket_maker().rate(&paying(&purchase, &stream, &offer), &bytes).await?;
        let proving = started.elapsed();
        let sent = SentRating {
            commitment: purchase.commitment,
            provider: purchase.provider,
            service: service.to_string(),
            score: score.get(),
            made_at: made_at.get(),
            revision,
            due: due.get(),
            sent: false,
            payload: proven(bytes, &made.statement, &made.proof),
        };
        self.store().put_rating(&sent).await?;
        let published = due <= now && self.publish_rating(&sent).await?;
        Ok(MadeRating {
            provider: purchase.provider,
            service,
            score,
            tier: made.statement.min_streamed,
            crowd: made.crowd,
            due,
            replaces: earlier.is_some(),
            published,
            proving,
        })
    }

    /// Publishes the ratings that are due. Those that nobody takes now stay due. Says how many were published.
    ///
    /// # Errors
    /// When the database fails, or the node stopped.
    pub async fn publish_ratings(&self) -> Result<usize, ClientError> {
        let mut published = 0;
        for rating in self.store().due_ratings(self.now()?.get(), MAX_DUE).await? {
            published += usize::from(self.publish_rating(&rating).await?);
        }
        Ok(published)
    }

    async fn publish_rating(&self, rating: &SentRating) -> Result<bool, ClientError> {
        let topic = ContentTopic::ratings();
        match Broadcast::publish(self.node(), &topic, rating.payload.clone(), Keep::Stored).await {
            Ok(()) => {}
            Err(TransportError::Closed) => return Err(TransportError::Closed.into()),
            Err(error) => {
                tracing::debug!(code = error.code(), %error, "a rating was not relayed; asking peers to publish it");
                if !self.push_rating(&topic, rating).await? {
                    return Ok(false);
                }
            }
        }
        self.store().rating_sent(&rating.commitment, rating.made_at, rating.revision).await?;
        Ok(true)
    }

    /// Through peers that publish for others.
    async fn push_rating(&self, topic: &ContentTopic, rating: &SentRating) -> Result<bool, ClientError> {
        let topic = WakuTopic::opaque(topic.as_str());
        let pubsub = self.node().pubsub_topic(&topic)?;
        for peer in self.node().connected_peers().await.into_iter().take(MAX_PUSHERS) {
            let message = WakuMessage::new(topic.clone(), rating.payload.clone(), self.node().now());
            if self.node().lightpush(peer, &LightPushRequest::new(Some(pubsub), message)).await.is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The newest purchase of a provider's whose stream was paid for a whole slot.
    async fn rateable(&self, provider: Option<PeerId>) -> Result<(Purchase, PayerStream), ClientError> {
        let ledger = self.wallet().ledger();
        let (clock, head) = (ledger.clock(), ledger.head_time()?);
        let streams = self.wallet().payer_streams(true).await?;
        for purchase in self.store().purchases().await? {
            if provider.is_some_and(|wanted| wanted != purchase.provider) {
                continue;
            }
            let found = streams.iter().find(|stream| {
                let terms = &stream.note.terms;
                let until = head.min(terms.end()).min(stream.record.stop.unwrap_or(UnixTime::MAX));
                stream.commitment.to_be_bytes() == purchase.commitment
                    && !matches!(stream.state, StreamState::Missing | StreamState::Queued)
                    && clock.rating_slot(terms.start(), until).is_ok()
            });
            if let Some(stream) = found {
                return Ok((purchase, stream.clone()));
            }
        }
        let provider = provider.map_or_else(|| "any provider".into(), |peer| peer.to_string());
        Err(ClientError::NothingPaid { provider })
    }

    /// What the assessments since a stream's start come to, and the typical answer time as a power of two of milliseconds.
    async fn experienced(
        &self,
        purchase: &Purchase,
        service: &ServiceId,
        since: UnixTime,
    ) -> Result<(RatingScore, Option<u64>), ClientError> {
        let subject = subject(purchase.provider, service)?;
        let (mut sum, mut weights, mut latencies) = (0.0, 0.0, Vec::new());
        for assessment in self.reputation().history(&subject, MAX_ASSESSMENTS).await? {
            if let Verdict::Scored { score, weight } = assessment.verdict
                && assessment.at >= since
            {
                sum += score * weight;
                weights += weight;
                latencies.extend(assessment.value("latency"));
            }
        }
        if weights <= 0.0 {
            let (provider, service) = (purchase.provider.to_string(), service.to_string());
            return Err(ClientError::NothingToRate { provider, service });
        }
        latencies.sort_by(f64::total_cmp);
        Ok((RatingScore::rounded(sum / weights), latencies.get(latencies.len() / 2).map(|ms| rounded(*ms))))
    }
}

/// The next power of two of a time.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Cut to its range before.
fn rounded(milliseconds: f64) -> u64 {
    const HOUR_MS: f64 = 3_600_000.0;
    (milliseconds.clamp(1.0, HOUR_MS) as u64).next_power_of_two()
}
