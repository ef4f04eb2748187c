//! Serving Store queries, freely or past a gate.

use std::{
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use libp2p::PeerId;
use prost::{Message as _, bytes::Bytes};

use super::{
    EligibilityStatus, StoreEntry, StoreQueryRequest, StoreQueryResponse, StoreStatus, request_bytes_without_proof,
    types::{BadRequest, UNREAD_ID},
};
use crate::{
    archive::{Archive, ArchiveError, Page},
    proto::store::v3 as wire,
    rpc::{NOT_LISTENED, Refusal, RequestHandler},
};

/// A well-formed query at the gate, before the archive is read.
#[derive(Clone, Debug)]
pub struct GatedQuery {
    /// Who asks.
    pub peer: PeerId,
    /// The query, with its proof.
    pub request: StoreQueryRequest,
    /// Field 30: the serialized `EligibilityProof`.
    pub eligibility_proof: Option<Bytes>,
    /// What a payment's signature covers: [`request_bytes_without_proof`].
    pub signed_bytes: Bytes,
}

/// The gate's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreVerdict {
    /// Serve the query.
    Allow {
        /// What to say about the payment in field 30.
        eligibility: Option<EligibilityStatus>,
    },
    /// Don't.
    Refuse {
        /// Status of the response, e.g. [`StoreStatus::PAYMENT_REQUIRED`].
        status: StoreStatus,
        /// Why, in words that the user sees.
        desc: String,
        /// Field 30.
        eligibility: Option<EligibilityStatus>,
    },
}

/// How an allowed query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreOutcome {
    /// Status of the response.
    pub status: StoreStatus,
    /// Messages in it.
    pub messages: usize,
    /// Its size in bytes.
    pub bytes: usize,
}

/// Decides whether a query may be served; how a provider sells its archive.
#[async_trait]
pub trait StoreGate: Debug + Send + Sync + 'static {
    /// Whether anything of this peer is judged at the moment. Asked before a request is read, and before the node's rates are charged: peers that are
    /// refused here use up nothing of what all peers share. Must answer at once.
    fn listens_to(&self, peer: &PeerId) -> bool {
        let _ = peer;
        true
    }

    /// Judges a query. Called once for each well-formed query (malformed ones get 400 and cost nothing), before the
    /// archive is read. What it spends must be durable when it returns: the answer may never arrive.
    async fn admit(&self, query: &GatedQuery) -> StoreVerdict;

    /// Told about each allowed query when its response is made.
    async fn served(&self, query: &GatedQuery, outcome: StoreOutcome) {
        let _ = (query, outcome);
    }
}

#[derive(Debug)]
pub(crate) struct StoreServer {
    archive: Arc<dyn Archive>,
    gate: RwLock<Option<Arc<dyn StoreGate>>>,
    max_response_bytes: usize,
}

impl StoreServer {
    pub(crate) fn new(archive: Arc<dyn Archive>, gate: Option<Arc<dyn StoreGate>>, max_response_bytes: u64) -> Self {
        Self {
            archive,
            gate: RwLock::new(gate),
            max_response_bytes: usize::try_from(max_response_bytes).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn set_gate(&self, gate: Option<Arc<dyn StoreGate>>) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    async fn answer(&self, peer: PeerId, bytes: &[u8]) -> Bytes {
        let request = match StoreQueryRequest::decode(bytes) {
            Ok(request) => request,
            Err(BadRequest { request_id, reason }) => {
                return StoreQueryResponse::refusal(request_id, StoreStatus::BAD_REQUEST, reason).encode();
            }
        };
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(gate) = gate else {
            return self.read(&request, None).await.0;
        };
        let query = GatedQuery {
            peer,
            eligibility_proof: request.eligibility_proof.clone(),
            signed_bytes: request_bytes_without_proof(&request),
            request,
        };
        match gate.admit(&query).await {
            StoreVerdict::Refuse { status, desc, eligibility } => {
                let refusal = StoreQueryResponse::refusal(query.request.request_id, status, desc);
                StoreQueryResponse { eligibility, ..refusal }.encode()
            }
            StoreVerdict::Allow { eligibility } => {
                let (response, outcome) = self.read(&query.request, eligibility).await;
                gate.served(&query, outcome).await;
                response
            }
        }
    }

    async fn read(&self, request: &StoreQueryRequest, eligibility: Option<EligibilityStatus>) -> (Bytes, StoreOutcome) {
        let page = self.archive.page(&request.page_query()).await;
        let mut response = match page {
            Ok(page) => self.fill(request, page),
            Err(e @ ArchiveError::UnknownCursor { .. }) => {
                StoreQueryResponse::refusal(request.request_id.clone(), StoreStatus::BAD_REQUEST, e.to_string())
            }
            Err(e) => {
                // What the database says is the operator's business, not the peer's.
                tracing::error!(code = e.code(), error = %e, "a store query failed");
                StoreQueryResponse::refusal(
                    request.request_id.clone(),
                    StoreStatus::BAD_RESPONSE,
                    "the archive can't be read at the moment",
                )
            }
        };
        response.eligibility = eligibility;
        let bytes = response.encode();
        let outcome = StoreOutcome { status: response.status, messages: response.messages.len(), bytes: bytes.len() };
        (bytes, outcome)
    }

    /// Makes the response of a page, shortened to what may be sent.
    fn fill(&self, request: &StoreQueryRequest, mut page: Page) -> StoreQueryResponse {
        let sizes: Vec<usize> = page
            .entries
            .iter()
            .map(|entry| {
                let entry = wire::WakuMessageKeyValue::from(&StoreEntry { hash: entry.hash, data: entry.data.clone() });
                // Tag and length of the field included.
                entry.encoded_len() + 6
            })
            .collect();
        let room = self.max_response_bytes.saturating_sub(4096);
        let kept = fitting(&sizes, room, request.pagination_forward);
        if kept < page.entries.len() {
            page.more = true;
            if request.pagination_forward {
                page.entries.truncate(kept);
            } else {
                page.entries.drain(..page.entries.len() - kept);
            }
        }
        let edge = if request.pagination_forward { page.entries.last() } else { page.entries.first() };
        let cursor = edge.filter(|_| page.more).map(|entry| entry.hash);
        StoreQueryResponse {
            request_id: request.request_id.clone(),
            status: StoreStatus::OK,
            status_desc: "OK".to_owned(),
            messages: page.entries.into_iter().map(|entry| StoreEntry { hash: entry.hash, data: entry.data }).collect(),
            pagination_cursor: cursor,
            eligibility: None,
        }
    }
}

/// How many entries fit, counted from the end where the page begins; at least one.
fn fitting(sizes: &[usize], room: usize, forward: bool) -> usize {
    let mut used = 0_usize;
    let mut kept = 0;
    for index in 0..sizes.len() {
        let size = if forward { sizes[index] } else { sizes[sizes.len() - 1 - index] };
        used = used.saturating_add(size);
        if used > room && kept > 0 {
            break;
        }
        kept += 1;
    }
    kept
}

#[async_trait]
impl RequestHandler for StoreServer {
    async fn handle(&self, peer: PeerId, request: Bytes) -> Option<Bytes> {
        Some(self.answer(peer, &request).await)
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        gate.as_ref().is_none_or(|gate| gate.listens_to(peer))
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        let (status, desc) = match refusal {
            Refusal::NotListened => (StoreStatus::TOO_MANY_REQUESTS, NOT_LISTENED.to_owned()),
            Refusal::RateLimited => (StoreStatus::TOO_MANY_REQUESTS, "too many requests".to_owned()),
            Refusal::Busy => (StoreStatus::TOO_MANY_REQUESTS, "too many requests at the same time".to_owned()),
            Refusal::TooLarge { len, max } => {
                (StoreStatus::BAD_REQUEST, format!("the request has {len} bytes, at most {max} are allowed"))
            }
            Refusal::Malformed => (StoreStatus::BAD_REQUEST, "the request's length prefix is malformed".to_owned()),
            Refusal::HandlerTimeout => (StoreStatus::SERVICE_UNAVAILABLE, "the query took too long".to_owned()),
        };
        Some(StoreQueryResponse::refusal(UNREAD_ID.to_owned(), status, desc).encode())
    }
}
