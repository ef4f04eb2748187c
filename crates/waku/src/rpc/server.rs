//! Served protocols and the admission of inbound streams.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::AsyncWriteExt as _;
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{FrameError, Handler, Refusal, RequestHandler, ServeLimits, ServeStats, read_frame, write_frame};
use crate::{clock::Clock, limits::KeyedLimiter};

/// Peers whose rates are remembered per protocol.
const MAX_RATED_PEERS: usize = 4096;

/// Time for a refusal to leave.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The protocols that a node serves.
pub(crate) struct Registry {
    clock: Arc<dyn Clock>,
    max_streams_per_peer: usize,
    endpoints: RwLock<Endpoints>,
    streams: Arc<StreamCounts>,
    /// Requests that were read and aren't answered.
    at_work: watch::Sender<usize>,
    shutdown: CancellationToken,
}

struct Endpoints {
    by_protocol: HashMap<StreamProtocol, Arc<Endpoint>>,
    protocols: Arc<[StreamProtocol]>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("protocols", &self.protocols()).finish_non_exhaustive()
    }
}

struct Endpoint {
    handler: Handler,
    limits: ServeLimits,
    rates: KeyedLimiter<PeerId>,
    concurrent: Arc<Semaphore>,
    streams: Arc<StreamCounts>,
    at_work: watch::Sender<usize>,
    stats: Stats,
}

/// Counts a request as long as it is at work.
struct AtWork<'a>(&'a watch::Sender<usize>);

impl<'a> AtWork<'a> {
    fn new(requests: &'a watch::Sender<usize>) -> Self {
        requests.send_modify(|n| *n += 1);
        Self(requests)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[derive(Default)]
struct Stats {
    answered: AtomicU64,
    unanswered: AtomicU64,
    rate_limited: AtomicU64,
    not_listened: AtomicU64,
    busy: AtomicU64,
    too_large: AtomicU64,
    broken: AtomicU64,
    handler_timeouts: AtomicU64,
    response_too_large: AtomicU64,
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Open streams by peer. Entries live as long as a stream is open.
#[derive(Default)]
struct StreamCounts(Mutex<HashMap<PeerId, usize>>);

struct StreamGuard {
    counts: Arc<StreamCounts>,
    peer: PeerId,
}

impl StreamCounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, peer: PeerId, max: usize) -> Option<StreamGuard> {
        let mut counts = self.lock();
        let open = counts.entry(peer).or_insert(0);
        if *open >= max {
            return None;
        }
        *open += 1;
        drop(counts);
        Some(StreamGuard { counts: self.clone(), peer })
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(open) = counts.get_mut(&self.peer) {
            *open -= 1;
            if *open == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

impl Registry {
    pub(crate) fn new(clock: Arc<dyn Clock>, max_streams_per_peer: usize, shutdown: CancellationToken) -> Self {
        Self {
            clock,
            max_streams_per_peer,
            endpoints: RwLock::new(Endpoints { by_protocol: HashMap::new(), protocols: Arc::new([]) }),
            streams: Arc::default(),
            at_work: watch::Sender::new(0),
            shutdown,
        }
    }

    /// False if the protocol is served already.
    pub(crate) fn register(&self, protocol: StreamProtocol, limits: ServeLimits, handler: Handler) -> bool {
        let now = self.clock.monotonic();
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if endpoints.by_protocol.contains_key(&protocol) {
            return false;
        }
        let endpoint = Endpoint {
            handler,
            limits,
            rates: KeyedLimiter::new(limits.rate_per_peer, limits.rate_total, MAX_RATED_PEERS, now),
            concurrent: Arc::new(Semaphore::new(limits.max_concurrent)),
            streams: Arc::default(),
            at_work: self.at_work.clone(),
            stats: Stats::default(),
        };
        endpoints.by_protocol.insert(protocol, Arc::new(endpoint));
        endpoints.protocols = sorted(&endpoints.by_protocol);
        true
    }

    /// False if the protocol isn't served.
    pub(crate) fn unregister(&self, protocol: &StreamProtocol) -> bool {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let removed = endpoints.by_protocol.remove(protocol).is_some();
        endpoints.protocols = sorted(&endpoints.by_protocol);
        removed
    }

    pub(crate) fn protocols(&self) -> Arc<[StreamProtocol]> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).protocols.clone()
    }

    pub(crate) fn stats(&self, protocol: &StreamProtocol) -> Option<ServeStats> {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let stats = &endpoints.by_protocol.get(protocol)?.stats;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(ServeStats {
            answered: read(&stats.answered),
            unanswered: read(&stats.unanswered),
            rate_limited: read(&stats.rate_limited),
            not_listened: read(&stats.not_listened),
            busy: read(&stats.busy),
            too_large: read(&stats.too_large),
            broken: read(&stats.broken),
            handler_timeouts: read(&stats.handler_timeouts),
            response_too_large: read(&stats.response_too_large),
            dropped: read(&stats.dropped),
        })
    }

    /// Forgets all handlers, which may own handles of the node.
    pub(crate) fn clear(&self) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.by_protocol.clear();
        endpoints.protocols = Arc::new([]);
    }

    /// Waits until no request is at work.
    pub(crate) async fn idle(&self) {
        // The sender is here, so it isn't gone.
        let _ = self.at_work.subscribe().wait_for(|requests| *requests == 0).await;
    }

    /// Requests at work.
    pub(crate) fn at_work(&self) -> usize {
        *self.at_work.borrow()
    }

    /// Takes an inbound stream whose protocol was negotiated: admits it and starts its task, or refuses it.
    pub(crate) fn accept(&self, peer: PeerId, protocol: &StreamProtocol, mut stream: Stream) {
        let endpoint = {
            let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
            match endpoints.by_protocol.get(protocol) {
                Some(endpoint) => endpoint.clone(),
                None => return,
            }
        };
        // Without a slot here not even a refusal is written: dropping the stream resets it.
        let Some(slot) = self.streams.enter(peer, self.max_streams_per_peer) else {
            count(&endpoint.stats.dropped);
            return;
        };
        let shutdown = self.shutdown.clone();
        let admission = endpoint.admit(peer, self.clock.monotonic());
        tokio::spawn(async move {
            let _slot = slot;
            let work = async {
                match admission {
                    Ok(_permits) => match &endpoint.handler {
                        Handler::Requests(handler) => endpoint.serve(handler.as_ref(), peer, &mut stream).await,
                        Handler::Streams(handler) => handler.stream(peer, stream).await,
                    },
                    Err(refusal) => endpoint.refuse(refusal, &mut stream).await,
                }
            };
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

fn sorted(endpoints: &HashMap<StreamProtocol, Arc<Endpoint>>) -> Arc<[StreamProtocol]> {
    let mut protocols: Vec<_> = endpoints.keys().cloned().collect();
    protocols.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    protocols.into()
}

impl Endpoint {
    fn admit(&self, peer: PeerId, now: Duration) -> Result<(OwnedSemaphorePermit, StreamGuard), Refusal> {
        if let Handler::Requests(handler) = &self.handler
            && !handler.listens_to(&peer)
        {
            count(&self.stats.not_listened);
            return Err(Refusal::NotListened);
        }
        if self.rates.take(&peer, 1.0, now).is_err() {
            count(&self.stats.rate_limited);
            return Err(Refusal::RateLimited);
        }
        let own = self.streams.enter(peer, self.limits.max_concurrent_per_peer);
        match (own, self.concurrent.clone().try_acquire_owned()) {
            (Some(own), Ok(permit)) => Ok((permit, own)),
            _ => {
                count(&self.stats.busy);
                Err(Refusal::Busy)
            }
        }
    }

    async fn serve(&self, handler: &dyn RequestHandler, peer: PeerId, stream: &mut Stream) {
        let limits = &self.limits;
        let request = match timeout(limits.read_timeout, read_frame(stream, limits.max_request_bytes)).await {
            Ok(Ok(request)) => request,
            Ok(Err(FrameError::TooLarge { len, max })) => {
                count(&self.stats.too_large);
                return self.refuse(Refusal::TooLarge { len, max }, stream).await;
            }
            Ok(Err(FrameError::Malformed)) => {
                count(&self.stats.broken);
                return self.refuse(Refusal::Malformed, stream).await;
            }
            Ok(Err(FrameError::Io(_))) | Err(_) => return count(&self.stats.broken),
        };
        let _at_work = AtWork::new(&self.at_work);
        let response = match timeout(limits.handler_timeout, handler.handle(peer, request)).await {
            Ok(Some(response)) => response,
            Ok(None) => return count(&self.stats.unanswered),
            Err(_) => {
                count(&self.stats.handler_timeouts);
                return self.refuse(Refusal::HandlerTimeout, stream).await;
            }
        };
        if response.len() as u64 > limits.max_response_bytes {
            tracing::warn!(
                bytes = response.len(),
                max = limits.max_response_bytes,
                "an answer exceeds its protocol's limit and is not sent"
            );
            return count(&self.stats.response_too_large);
        }
        match timeout(limits.write_timeout, answer(stream, &response)).await {
            Ok(Ok(())) => count(&self.stats.answered),
            _ => count(&self.stats.broken),
        }
    }

    async fn refuse(&self, refusal: Refusal, stream: &mut Stream) {
        let Handler::Requests(handler) = &self.handler else { return };
        if let Some(response) = handler.refuse(refusal) {
            let _ = timeout(REFUSAL_TIMEOUT, answer(stream, &response)).await;
        }
    }
}

async fn answer(stream: &mut Stream, response: &[u8]) -> std::io::Result<()> {
    write_frame(stream, response).await?;
    stream.close().await
}
