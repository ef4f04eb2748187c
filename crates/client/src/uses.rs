//! Uses of Filter and Lightpush: remembered when they end, judged against what others have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tributary_market::offer::ServiceId;
use tributary_reputation::filter::{FilterAssessor, FilterObservation, PushedMessage};
use tributary_reputation::lightpush::{LightpushAssessor, LightpushObservation, PushObserved};
use tributary_reputation::store::Ending;
use tributary_reputation::{Assessment, AssessmentId, Score};
use tributary_waku::{
    ContentTopic, MAX_PAGE_LIMIT, MessageHash, PeerId, PubsubTopic, ReceivedMessage, StoreQueryRequest, StoreStatus,
    Timestamp,
};

use crate::buyer::subject;
use crate::push::PaidPush;
use crate::{Buyer, ClientError};

/// Messages of one use that are remembered, at the most.
const MAX_MESSAGES: usize = 1024;

/// Archives that are asked what should have come.
const MAX_WITNESSES: usize = 4;

/// Pages that each of them is asked for.
const WITNESS_PAGES: usize = 11;

/// A use of a service, as it is kept until it is assessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum UseRecord {
    /// A Filter subscription.
    Filter(FilterUse),
    /// Messages published by Lightpush.
    Lightpush(LightpushObservation),
}

/// A Filter subscription that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterUse {
    /// The shard.
    pub pubsub_topic: String,
    /// The content topics.
    pub content_topics: Vec<String>,
    /// From its start, Unix nanoseconds.
    pub from: i64,
    /// To its end.
    pub to: i64,
    /// What was seen of it; what should have come is filled in by the assessment.
    pub observed: FilterObservation,
}

impl UseRecord {
    /// Whose service it was.
    #[must_use]
    pub const fn subject(&self) -> &tributary_reputation::Subject {
        match self {
            Self::Filter(filter) => &filter.observed.subject,
            Self::Lightpush(observed) => &observed.subject,
        }
    }
}

/// Collects what a Filter subscription delivers.
#[derive(Debug)]
pub struct FilterWatch {
    provider: PeerId,
    pubsub_topic: PubsubTopic,
    content_topics: Vec<ContentTopic>,
    from: Timestamp,
    delivered: Vec<PushedMessage>,
}

impl FilterWatch {
    /// From `now` on.
    #[must_use]
    pub const fn new(
        provider: PeerId,
        pubsub_topic: PubsubTopic,
        content_topics: Vec<ContentTopic>,
        now: Timestamp,
    ) -> Self {
        Self { provider, pubsub_topic, content_topics, from: now, delivered: Vec::new() }
    }

    /// A message that came at `now`.
    pub fn delivered(&mut self, received: &ReceivedMessage, now: Timestamp) {
        if self.delivered.len() >= MAX_MESSAGES {
            return;
        }
        let asked_for =
            received.pubsub_topic == self.pubsub_topic && self.content_topics.contains(&received.message.content_topic);
        let since = |sent: Timestamp| u64::try_from(now.as_nanos().saturating_sub(sent.as_nanos())).ok();
        let delay = received.message.timestamp.and_then(since).map(Duration::from_nanos);
        self.delivered.push(PushedMessage { hash: *received.hash.as_bytes(), asked_for, delay });
    }
}

impl Buyer {
    /// Remembers a Filter subscription that ended at `now`, and how: see [`Buyer::used`].
    ///
    /// # Errors
    /// When a database fails.
    pub async fn filter_ended(
        &self,
        watch: FilterWatch,
        unpaid_slots: u64,
        ending: Ending,
        now: Timestamp,
    ) -> Result<(), ClientError> {
        let service = ServiceId::filter();
        let record = FilterUse {
            pubsub_topic: watch.pubsub_topic.to_string(),
            content_topics: watch.content_topics.iter().map(ToString::to_string).collect(),
            from: watch.from.as_nanos(),
            to: now.as_nanos(),
            observed: FilterObservation {
                id: fresh_id()?,
                subject: subject(watch.provider, &service)?,
                at: self.now()?,
                delivered: watch.delivered,
                expected: Vec::new(),
                unpaid_slots,
                ending: ending.clone(),
            },
        };
        self.ended(watch.provider, &service, &UseRecord::Filter(record), &ending).await
    }

    /// Remembers messages that a provider published, and how that ended: see [`Buyer::used`].
    ///
    /// # Errors
    /// When a database fails.
    pub async fn pushes_ended(
        &self,
        provider: PeerId,
        pushed: &[(MessageHash, PaidPush)],
        ending: Ending,
    ) -> Result<(), ClientError> {
        let service = ServiceId::lightpush();
        let pushes = pushed.iter().take(MAX_MESSAGES).map(|(hash, push)| PushObserved {
            hash: *hash.as_bytes(),
            latency: push.latency,
            relay_peers: push.pushed.relay_peers,
            lost_tickets: push.lost_tickets,
            seen_back: None,
        });
        let record = LightpushObservation {
            id: fresh_id()?,
            subject: subject(provider, &service)?,
            at: self.now()?,
            pushes: pushes.collect(),
            ending: ending.clone(),
        };
        self.ended(provider, &service, &UseRecord::Lightpush(record), &ending).await
    }

    /// A use that failed is judged at once, so that the next choice knows.
    async fn ended(
        &self,
        provider: PeerId,
        service: &ServiceId,
        record: &UseRecord,
        ending: &Ending,
    ) -> Result<(), ClientError> {
        let number = self.store().put_use(provider, service.as_str(), record, self.now()?.get()).await?;
        if ending.failure().is_some() {
            self.assess_use(number, record.clone()).await?;
        }
        self.note_ending(provider, service, ending).await
    }

    /// Judges the newest use of a provider's Filter or Lightpush against what others have, as [`Buyer::assess`] does for Store.
    ///
    /// # Errors
    /// [`ClientError::NothingDelivered`].
    pub async fn assess_service(
        &self,
        provider: Option<PeerId>,
        service: &ServiceId,
    ) -> Result<(Assessment, bool, Score), ClientError> {
        let newest = self.store().last_use(provider, Some(service.as_str())).await?;
        let (number, _, record) = newest.ok_or(ClientError::NothingDelivered)?;
        self.assess_use(number, record).await
    }

    async fn assess_use(&self, number: i64, record: UseRecord) -> Result<(Assessment, bool, Score), ClientError> {
        let subject = record.subject().clone();
        let provider: PeerId =
            subject.provider.as_str().parse().map_err(|_| ClientError::Damaged { what: "a provider's id" })?;
        let assessment = match record {
            UseRecord::Filter(mut filter) => {
                filter.observed.expected = self.expected(provider, &filter).await?;
                FilterAssessor::default().assess(&filter.observed)
            }
            UseRecord::Lightpush(mut observed) => {
                self.look_for(provider, &mut observed).await?;
                LightpushAssessor::default().assess(&observed)
            }
        };
        let assessment = self.judged(assessment).await;
        let counted = self.reputation().record(&assessment).await?;
        self.store().use_assessed(number).await?;
        let score = self.reputation().score(&subject, self.now()?).await?;
        Ok((assessment, counted, score))
    }

    /// Other peers whose archives may tell what a provider did.
    async fn witnesses(&self, provider: PeerId) -> Vec<PeerId> {
        let peers = self.node().connected_peers().await;
        peers.into_iter().filter(|peer| *peer != provider).take(MAX_WITNESSES).collect()
    }

    /// Messages that a subscription should have brought: those that the buyer saw on relay, and those that at least half of the other archives
    /// have. One alone could invent some.
    async fn expected(&self, provider: PeerId, filter: &FilterUse) -> Result<Vec<[u8; 32]>, ClientError> {
        let topics: Vec<ContentTopic> =
            filter.content_topics.iter().map(|topic| topic.parse()).collect::<Result<_, _>>()?;
        let mut votes: BTreeMap<[u8; 32], (usize, usize)> = BTreeMap::new();
        let mut answered = 0;
        if let Some(first) = topics.first() {
            let pubsub = self.node().pubsub_topic(first)?;
            for peer in self.witnesses(provider).await {
                let mut request = StoreQueryRequest::by_topics(pubsub, topics.clone());
                request.include_data = false;
                request.pagination_forward = true;
                request.pagination_limit = Some(MAX_PAGE_LIMIT);
                request.time_start = Some(Timestamp::from_nanos(filter.from));
                request.time_end = Some(Timestamp::from_nanos(filter.to));
                let mut next = Some(request);
                let mut hashes = Vec::new();
                for _ in 0..WITNESS_PAGES {
                    let Some(request) = next.take() else { break };
                    let Ok(response) = self.node().store_query(peer, &request).await else { break };
                    if response.status != StoreStatus::OK {
                        break;
                    }
                    answered += usize::from(hashes.is_empty() && request.pagination_cursor.is_none());
                    next = request.next_page(&response);
                    hashes.extend(response.messages.iter().map(|entry| *entry.hash.as_bytes()));
                }
                for (place, hash) in hashes.into_iter().take(MAX_MESSAGES).enumerate() {
                    let vote = votes.entry(hash).or_insert((0, place));
                    vote.0 += 1;
                }
            }
        }
        let mut agreed: Vec<_> = votes
            .into_iter()
            .filter(|(_, (count, _))| 2 * count >= answered)
            .map(|(hash, (_, at))| (at, hash))
            .collect();
        agreed.sort_unstable();
        let mut expected: Vec<[u8; 32]> = agreed.into_iter().map(|(_, hash)| hash).collect();
        for topic in &filter.content_topics {
            for hash in self.store().seen(topic, filter.from, filter.to).await? {
                if !expected.contains(hash.as_bytes()) && expected.len() < MAX_MESSAGES {
                    expected.push(*hash.as_bytes());
                }
            }
        }
        Ok(expected)
    }

    /// Asks others whether they have the messages.
    async fn look_for(&self, provider: PeerId, observed: &mut LightpushObservation) -> Result<(), ClientError> {
        for peer in self.witnesses(provider).await {
            let open: Vec<MessageHash> = observed
                .pushes
                .iter()
                .filter(|push| push.seen_back != Some(true))
                .map(|push| MessageHash::from_bytes(push.hash))
                .collect();
            for hashes in open.chunks(usize::try_from(MAX_PAGE_LIMIT).unwrap_or(100)) {
                let mut request = StoreQueryRequest::presence(hashes.iter().copied());
                request.pagination_limit = Some(MAX_PAGE_LIMIT);
                let Ok(response) = self.node().store_query(peer, &request).await else { break };
                if response.status != StoreStatus::OK {
                    break;
                }
                for push in &mut observed.pushes {
                    let asked = hashes.iter().any(|hash| *hash.as_bytes() == push.hash);
                    if asked && push.seen_back != Some(true) {
                        let has = response.messages.iter().any(|entry| *entry.hash.as_bytes() == push.hash);
                        push.seen_back = Some(has);
                    }
                }
            }
        }
        for push in &mut observed.pushes {
            if self.store().has_seen(&push.hash).await? {
                push.seen_back = Some(true);
            }
        }
        Ok(())
    }
}

fn fresh_id() -> Result<AssessmentId, ClientError> {
    Ok(AssessmentId::new(format!("use-{:032x}", rand::random::<u128>()))?)
}
