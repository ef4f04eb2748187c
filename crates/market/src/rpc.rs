//! Sealed requests and replies over content topics: neither side learns an address of the other.
//!
//! A request is sealed to the server's X25519 key and published on the server's request topic. Inside it are a key made for this
//! one reply and a one-time topic. The reply is sealed to that key and bound to the request's id, so only someone who opened the
//! request can have made it. A request that got no answer is sealed anew and sent again with the same id; the server recognises
//! it and answers as before without handling it twice.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use prost::Message as _;
use rand::RngCore;
use rand::rngs::OsRng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::proto;
use crate::sealed::{self, EncryptionKey, EncryptionSecret, ReplayGuard, SealedError};
use crate::topics::ContentTopic;
use crate::transport::{Broadcast, Keep, TransportError};
use crate::wire::{self, WireError};

/// Longest time ahead at which a request may expire, seconds.
pub const MAX_LIFETIME: u64 = 600;

const REQUEST_CONTEXT: &[u8] = b"tributary.rpc.request.v1";
const REPLY_CONTEXT: &[u8] = b"tributary.rpc.reply.v1";
/// A node that has just joined has nobody yet who would take a message; after this it tries again.
const REPUBLISH: Duration = Duration::from_millis(100);
/// Seconds that clocks may differ.
const CLOCK_SKEW: u64 = 60;

/// Why a sealed call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The network failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The request couldn't be sealed, or an answer couldn't be opened.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// The content of a sealed message is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// No answer came to any attempt. Whether the request was handled isn't known.
    #[error("no answer to {attempts} attempts of {seconds} s each; it isn't known whether the request was handled")]
    NoAnswer {
        /// How many times the request was sent.
        attempts: u32,
        /// How long each attempt waited, seconds.
        seconds: u64,
    },
    /// The request had expired when it arrived.
    #[error("the request expired at {expires_at}, now is {now}")]
    Expired {
        /// The request's expiry.
        expires_at: u64,
        /// The server's time.
        now: u64,
    },
    /// The request asks to be remembered for longer than allowed.
    #[error("the request expires at {expires_at}, {limit} is the latest allowed")]
    LivesTooLong {
        /// The request's expiry.
        expires_at: u64,
        /// The latest that is allowed now.
        limit: u64,
    },
    /// The same sealed bytes came before.
    #[error("the sealed request was replayed")]
    Replayed,
}

impl RpcError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Transport(error) => error.code(),
            Self::Sealed(error) => error.code(),
            Self::Wire(error) => error.code(),
            Self::NoAnswer { .. } => "TRB-M311",
            Self::Expired { .. } => "TRB-M312",
            Self::LivesTooLong { .. } => "TRB-M313",
            Self::Replayed => "TRB-M314",
        }
    }
}

/// How long a caller waits and how often it asks.
#[derive(Debug, Clone, Copy)]
pub struct CallPolicy {
    /// Times that the request is sent, at least once.
    pub attempts: u32,
    /// Wait for an answer after each.
    pub wait: Duration,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self { attempts: 4, wait: Duration::from_secs(5) }
    }
}

/// Makes sealed calls.
pub struct SealedClient {
    transport: Arc<dyn Broadcast>,
    clock: Arc<dyn Clock>,
    policy: CallPolicy,
}

impl fmt::Debug for SealedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedClient").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl SealedClient {
    /// A client on this transport.
    #[must_use]
    pub fn new(transport: Arc<dyn Broadcast>, clock: Arc<dyn Clock>, policy: CallPolicy) -> Self {
        Self { transport, clock, policy }
    }

    /// Sends `body` to the holder of `server` and returns the body of its reply.
    ///
    /// Messages on the reply topic that aren't the reply are skipped; they can't end the call.
    ///
    /// # Errors
    /// [`RpcError::NoAnswer`] after the last attempt; the request may have been handled all the same. [`RpcError::Transport`] when the node
    /// stops, or when the last attempt couldn't be published.
    pub async fn call(&self, server: &EncryptionKey, body: &[u8]) -> Result<Vec<u8>, RpcError> {
        let attempts = self.policy.attempts.max(1);
        let reply_secret = EncryptionSecret::random(&mut OsRng);
        let reply_topic = ContentTopic::one_time_reply(&mut OsRng);
        let mut request_id = [0; 16];
        OsRng.fill_bytes(&mut request_id);
        let total = u64::from(attempts) * self.policy.wait.as_secs().max(1);
        let request = proto::SealedRequest {
            version: 1,
            request_id: request_id.to_vec(),
            reply_key: reply_secret.public().as_bytes().to_vec(),
            reply_topic: reply_topic.to_string(),
            expires_at: self.clock.now().get() + total.min(MAX_LIFETIME),
            body: body.to_vec(),
        }
        .encode_to_vec();

        let topic = ContentTopic::requests_of(server);
        let mut replies = self.transport.subscribe(&reply_topic).await?;
        let mut unpublished = None;
        for _ in 0..attempts {
            let sealed = sealed::seal(server, REQUEST_CONTEXT, &request, &mut OsRng)?;
            let answer = tokio::time::timeout(self.policy.wait, async {
                loop {
                    match self.transport.publish(&topic, sealed.clone(), Keep::Ephemeral).await {
                        Ok(()) => break,
                        Err(TransportError::Closed) => return Err(TransportError::Closed),
                        Err(error) => unpublished = Some(error),
                    }
                    tokio::time::sleep(REPUBLISH).await;
                }
                unpublished = None;
                while let Some(sealed) = replies.next().await {
                    match open_reply(&reply_secret, &request_id, &sealed) {
                        Ok(body) => return Ok(body),
                        Err(error) => tracing::debug!(%error, "skipped a message on a reply topic"),
                    }
                }
                Err(TransportError::Closed)
            });
            if let Ok(answer) = answer.await {
                return Ok(answer?);
            }
        }
        match unpublished {
            Some(error) => Err(error.into()),
            None => Err(RpcError::NoAnswer { attempts, seconds: self.policy.wait.as_secs() }),
        }
    }
}

fn open_reply(secret: &EncryptionSecret, request_id: &[u8; 16], sealed: &[u8]) -> Result<Vec<u8>, RpcError> {
    let plain = secret.open(&reply_context(request_id), sealed)?;
    let reply: proto::SealedReply = wire::decode("sealed reply", &plain, sealed::MAX_MESSAGE)?;
    wire::check_version("sealed reply", reply.version)?;
    if reply.request_id != request_id {
        return Err(WireError::Invalid { field: "request_id", reason: "of another request".into() }.into());
    }
    Ok(reply.body)
}

fn reply_context(request_id: &[u8; 16]) -> Vec<u8> {
    [REPLY_CONTEXT, request_id].concat()
}

/// What a server does with the body of a request.
#[async_trait]
pub trait SealedHandler: Send + Sync + 'static {
    /// Handles one request and returns the reply's body; `None` sends no reply.
    async fn handle(&self, body: Vec<u8>) -> Option<Vec<u8>>;
}

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Requests handled at once; more are dropped, and their senders ask again.
    pub concurrent: usize,
    /// Requests and replies remembered for those who ask again.
    pub remembered: usize,
    /// Bytes of replies remembered.
    pub remembered_bytes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { concurrent: 32, remembered: 4096, remembered_bytes: 8 << 20 }
    }
}

/// Serves sealed requests to one key.
pub struct SealedServer {
    transport: Arc<dyn Broadcast>,
    clock: Arc<dyn Clock>,
    secret: EncryptionSecret,
    handler: Arc<dyn SealedHandler>,
    state: Mutex<ServerState>,
    slots: Arc<Semaphore>,
}

impl fmt::Debug for SealedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedServer").field("key", &self.secret.public()).finish_non_exhaustive()
    }
}

struct ServerState {
    guard: ReplayGuard,
    answers: Answers,
}

/// A request that passed every check.
struct Accepted {
    request_id: [u8; 16],
    reply_key: EncryptionKey,
    reply_topic: ContentTopic,
    body: Vec<u8>,
}

impl SealedServer {
    /// A server for the key of `secret`.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Broadcast>,
        clock: Arc<dyn Clock>,
        secret: EncryptionSecret,
        handler: Arc<dyn SealedHandler>,
        limits: ServerLimits,
    ) -> Self {
        Self {
            transport,
            clock,
            secret,
            handler,
            state: Mutex::new(ServerState {
                guard: ReplayGuard::new(limits.remembered),
                answers: Answers::new(limits.remembered, limits.remembered_bytes),
            }),
            slots: Arc::new(Semaphore::new(limits.concurrent.max(1))),
        }
    }

    /// Subscribes and serves until the transport closes. The subscription is in force once the returned future's first part,
    /// [`Self::listen`], has resolved; this runs both.
    ///
    /// # Errors
    /// [`TransportError::Closed`] when the node stops.
    pub async fn run(self: Arc<Self>) -> Result<(), TransportError> {
        let listening = self.listen().await?;
        listening.serve().await
    }

    /// Subscribes to the request topic. What arrives from now on is answered by [`Listening::serve`].
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn listen(self: Arc<Self>) -> Result<Listening, TransportError> {
        let topic = ContentTopic::requests_of(&self.secret.public());
        let requests = self.transport.subscribe(&topic).await?;
        Ok(Listening { server: self, requests })
    }

    async fn answer(&self, request: Accepted) {
        let Accepted { request_id, reply_key, reply_topic, body } = request;
        let earlier = self.lock().answers.begin(request_id);
        let reply = match earlier {
            Earlier::Unknown => {
                let pending = Pending { server: self, request_id };
                let Some(reply) = self.handler.handle(body).await else {
                    return;
                };
                self.lock().answers.finish(request_id, reply.clone());
                drop(pending);
                reply
            }
            // The attempt that is being handled will answer.
            Earlier::InProgress => return,
            Earlier::Answered(reply) => reply,
        };
        if let Err(error) = self.send(&request_id, &reply_key, &reply_topic, reply).await {
            tracing::debug!(%error, "a sealed reply was not sent");
        }
    }

    async fn send(
        &self,
        request_id: &[u8; 16],
        reply_key: &EncryptionKey,
        reply_topic: &ContentTopic,
        body: Vec<u8>,
    ) -> Result<(), RpcError> {
        let reply = proto::SealedReply { version: 1, request_id: request_id.to_vec(), body }.encode_to_vec();
        let sealed = sealed::seal(reply_key, &reply_context(request_id), &reply, &mut OsRng)?;
        Ok(self.transport.publish(reply_topic, sealed, Keep::Ephemeral).await?)
    }

    fn accept(&self, sealed: &[u8]) -> Result<Accepted, RpcError> {
        let plain = self.secret.open(REQUEST_CONTEXT, sealed)?;
        let request: proto::SealedRequest = wire::decode("sealed request", &plain, sealed::MAX_MESSAGE)?;
        wire::check_version("sealed request", request.version)?;
        let now = self.clock.now().get();
        if request.expires_at.saturating_add(CLOCK_SKEW) < now {
            return Err(RpcError::Expired { expires_at: request.expires_at, now });
        }
        let limit = now + MAX_LIFETIME + CLOCK_SKEW;
        if request.expires_at > limit {
            return Err(RpcError::LivesTooLong { expires_at: request.expires_at, limit });
        }
        let accepted = Accepted {
            request_id: wire::fixed("request_id", &request.request_id)?,
            reply_key: EncryptionKey::from_bytes("reply_key", &request.reply_key)?,
            reply_topic: ContentTopic::parse_reply(&request.reply_topic)?,
            body: request.body,
        };
        if !self.lock().guard.is_new(sealed) {
            return Err(RpcError::Replayed);
        }
        Ok(accepted)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets that a request is being handled when its handler ends without an answer, or is cancelled.
struct Pending<'a> {
    server: &'a SealedServer,
    request_id: [u8; 16],
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.server.lock().answers.abandon(self.request_id);
    }
}

/// A server whose subscription is in force.
pub struct Listening {
    server: Arc<SealedServer>,
    requests: crate::transport::Subscription,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

impl Listening {
    /// Answers requests until the transport closes. When this future is dropped, handlers in progress are cancelled.
    ///
    /// # Errors
    /// [`TransportError::Closed`].
    pub async fn serve(mut self) -> Result<(), TransportError> {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                sealed = self.requests.next() => {
                    let Some(sealed) = sealed else { return Err(TransportError::Closed) };
                    let Ok(permit) = Arc::clone(&self.server.slots).try_acquire_owned() else {
                        tracing::debug!("dropped a sealed request: too many at once");
                        continue;
                    };
                    match self.server.accept(&sealed) {
                        Ok(request) => {
                            let server = Arc::clone(&self.server);
                            tasks.spawn(async move {
                                server.answer(request).await;
                                drop(permit);
                            });
                        }
                        Err(error) => {
                            tracing::debug!(code = error.code(), %error, "dropped a sealed request");
                        }
                    }
                }
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }
}

enum Earlier {
    Unknown,
    InProgress,
    Answered(Vec<u8>),
}

/// Replies given, by request id; the oldest are forgotten first.
struct Answers {
    answers: HashMap<[u8; 16], Option<Vec<u8>>>,
    order: VecDeque<[u8; 16]>,
    bytes: usize,
    max_count: usize,
    max_bytes: usize,
}

impl Answers {
    fn new(max_count: usize, max_bytes: usize) -> Self {
        Self { answers: HashMap::new(), order: VecDeque::new(), bytes: 0, max_count: max_count.max(1), max_bytes }
    }

    fn begin(&mut self, id: [u8; 16]) -> Earlier {
        match self.answers.get(&id) {
            Some(Some(reply)) => Earlier::Answered(reply.clone()),
            Some(None) => Earlier::InProgress,
            None => {
                self.answers.insert(id, None);
                Earlier::Unknown
            }
        }
    }

    fn finish(&mut self, id: [u8; 16], reply: Vec<u8>) {
        self.bytes += reply.len();
        self.order.push_back(id);
        self.answers.insert(id, Some(reply));
        while self.order.len() > self.max_count || self.bytes > self.max_bytes {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(Some(reply)) = self.answers.remove(&oldest) {
                self.bytes -= reply.len();
            }
        }
    }

    fn abandon(&mut self, id: [u8; 16]) {
        if matches!(self.answers.get(&id), Some(None)) {
            self.answers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::transport::{LocalBus, Subscription};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;
    use tributary_protocol::time::UnixTime;

    const NOW: u64 = 1_800_000_000;

    #[derive(Default)]
    struct Echo {
        calls: AtomicUsize,
        /// The first this many requests get no answer.
        silent: usize,
    }

    #[async_trait]
    impl SealedHandler for Echo {
        async fn handle(&self, body: Vec<u8>) -> Option<Vec<u8>> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            (call >= self.silent).then(|| [b"echo ", body.as_slice()].concat())
        }
    }

    struct Setup {
        bus: Arc<LocalBus>,
        clock: ManualClock,
        server: Arc<SealedServer>,
        handler: Arc<Echo>,
        key: EncryptionKey,
    }

    fn setup(handler: Echo) -> Setup {
        let bus = Arc::new(LocalBus::new());
        let clock = ManualClock::new(UnixTime::new(NOW).unwrap());
        let secret = EncryptionSecret::random(&mut OsRng);
        let key = secret.public();
        let handler = Arc::new(handler);
        let server = Arc::new(SealedServer::new(
            bus.clone(),
            Arc::new(clock.clone()),
            secret,
            handler.clone(),
            ServerLimits::default(),
        ));
        Setup { bus, clock, server, handler, key }
    }

    fn client(setup: &Setup, policy: CallPolicy) -> SealedClient {
        SealedClient::new(setup.bus.clone(), Arc::new(setup.clock.clone()), policy)
    }

    fn request(change: impl FnOnce(&mut proto::SealedRequest)) -> Vec<u8> {
        let mut request = proto::SealedRequest {
            version: 1,
            request_id: vec![1; 16],
            reply_key: EncryptionSecret::random(&mut OsRng).public().as_bytes().to_vec(),
            reply_topic: ContentTopic::one_time_reply(&mut OsRng).to_string(),
            expires_at: NOW + 30,
            body: b"x".to_vec(),
        };
        change(&mut request);
        request.encode_to_vec()
    }

    fn sealed_to(key: &EncryptionKey, plain: &[u8]) -> Vec<u8> {
        sealed::seal(key, REQUEST_CONTEXT, plain, &mut OsRng).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_answered() {
        let setup = setup(Echo::default());
        let listening = setup.server.clone().listen().await.unwrap();
        tokio::spawn(listening.serve());
        let reply = client(&setup, CallPolicy::default()).call(&setup.key, b"hello").await;
        assert_eq!(reply.unwrap(), b"echo hello");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_a_bounded_number_of_times() {
        let setup = setup(Echo { silent: usize::MAX, ..Echo::default() });
        let listening = setup.server.clone().listen().await.unwrap();
        tokio::spawn(listening.serve());
        let policy = CallPolicy { attempts: 3, wait: Duration::from_secs(2) };
        let error = client(&setup, policy).call(&setup.key, b"x").await;
        assert_eq!(error.unwrap_err(), RpcError::NoAnswer { attempts: 3, seconds: 2 });
        assert_eq!(setup.handler.calls.load(Ordering::SeqCst), 3);
    }

    /// Loses the first published replies.
    struct Lossy {
        inner: Arc<LocalBus>,
        lose: AtomicUsize,
    }

    #[async_trait]
    impl Broadcast for Lossy {
        async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError> {
            let lost = self.lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if lost {
                return Ok(());
            }
            self.inner.publish(topic, payload, keep).await
        }

        async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
            self.inner.subscribe(topic).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_is_given_again_without_handling_the_request_twice() {
        let setup = setup(Echo::default());
        let lossy = Arc::new(Lossy { inner: setup.bus.clone(), lose: AtomicUsize::new(2) });
        let server = Arc::new(SealedServer::new(
            lossy,
            Arc::new(setup.clock.clone()),
            setup.server.secret.clone(),
            setup.handler.clone(),
            ServerLimits::default(),
        ));
        let listening = server.listen().await.unwrap();
        tokio::spawn(listening.serve());
        let reply = client(&setup, CallPolicy::default()).call(&setup.key, b"once").await;
        assert_eq!(reply.unwrap(), b"echo once");
        assert_eq!(setup.handler.calls.load(Ordering::SeqCst), 1);
    }

    /// Publishes nothing the first times.
    struct Forming {
        inner: Arc<LocalBus>,
        refuse: AtomicUsize,
    }

    #[async_trait]
    impl Broadcast for Forming {
        async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError> {
            let refused =
                self.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if refused {
                return Err(TransportError::Publish { topic: topic.clone(), reason: "no peers".into() });
            }
            self.inner.publish(topic, payload, keep).await
        }

        async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
            self.inner.subscribe(topic).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mesh_that_is_forming_is_waited_for_but_not_for_ever() {
        let setup = setup(Echo::default());
        let listening = setup.server.clone().listen().await.unwrap();
        tokio::spawn(listening.serve());
        let call = async |refuse| {
            let forming = Forming { inner: setup.bus.clone(), refuse: AtomicUsize::new(refuse) };
            let policy = CallPolicy { attempts: 3, wait: Duration::from_secs(2) };
            let forming = Arc::new(forming);
            let client = SealedClient::new(forming.clone(), Arc::new(setup.clock.clone()), policy);
            let answer = client.call(&setup.key, b"x").await.map_err(|error| error.code());
            (answer, refuse - forming.refuse.load(Ordering::SeqCst))
        };
        let echoed = || Ok(b"echo x".to_vec());
        assert_eq!(call(2).await, (echoed(), 2));
        // Longer than one attempt waits: the next one goes on.
        assert_eq!(call(30).await, (echoed(), 30));
        let (answer, tries) = call(usize::MAX).await;
        assert_eq!(answer, Err("TRB-M024"));
        // Each of three attempts tries at its start and every 100 ms of its 2 s.
        assert!((3 * 20..=3 * 21).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_on_the_reply_topic_does_not_end_a_call() {
        struct Garbage(Arc<LocalBus>);

        #[async_trait]
        impl Broadcast for Garbage {
            async fn publish(&self, topic: &ContentTopic, payload: Vec<u8>, keep: Keep) -> Result<(), TransportError> {
                let stranger = EncryptionSecret::random(&mut OsRng).public();
                let forged = sealed::seal(&stranger, b"", b"forged", &mut OsRng).unwrap();
                self.0.publish(topic, vec![0; 100], keep).await?;
                self.0.publish(topic, forged, keep).await?;
                self.0.publish(topic, payload, keep).await
            }

            async fn subscribe(&self, topic: &ContentTopic) -> Result<Subscription, TransportError> {
                self.0.subscribe(topic).await
            }
        }

        let setup = setup(Echo::default());
        let server = Arc::new(SealedServer::new(
            Arc::new(Garbage(setup.bus.clone())),
            Arc::new(setup.clock.clone()),
            setup.server.secret.clone(),
            setup.handler.clone(),
            ServerLimits::default(),
        ));
        let listening = server.listen().await.unwrap();
        tokio::spawn(listening.serve());
        let reply = client(&setup, CallPolicy::default()).call(&setup.key, b"x").await;
        assert_eq!(reply.unwrap(), b"echo x");
    }

    #[tokio::test]
    async fn each_bad_request_is_refused_with_its_own_code() {
        let setup = setup(Echo::default());
        let code =
            |plain: &[u8]| setup.server.accept(&sealed_to(&setup.key, plain)).map(|_| ()).map_err(|error| error.code());
        assert_eq!(code(&request(|_| {})), Ok(()));
        assert_eq!(code(&request(|r| r.version = 2)), Err("TRB-M003"));
        assert_eq!(code(&request(|r| r.expires_at = NOW - 61)), Err("TRB-M312"));
        assert_eq!(code(&request(|r| r.expires_at = NOW + 661)), Err("TRB-M313"));
        assert_eq!(code(&request(|r| r.expires_at = u64::MAX)), Err("TRB-M313"));
        assert_eq!(code(&request(|r| r.request_id = vec![1; 15])), Err("TRB-M005"));
        assert_eq!(code(&request(|r| r.reply_key = vec![1; 33])), Err("TRB-M005"));
        assert_eq!(code(&request(|r| r.reply_topic = ContentTopic::offers().to_string())), Err("TRB-M008"));
        assert_eq!(code(&[0xff]), Err("TRB-M002"));

        let sealed = sealed_to(&setup.key, &request(|_| {}));
        assert!(setup.server.accept(&sealed).is_ok());
        let error = setup.server.accept(&sealed).map(|_| ()).unwrap_err();
        assert_eq!(error, RpcError::Replayed);

        let other = EncryptionSecret::random(&mut OsRng).public();
        let error = setup.server.accept(&sealed_to(&other, &request(|_| {})));
        assert_eq!(error.map(|_| ()).unwrap_err().code(), "TRB-M305");
    }

    #[tokio::test]
    async fn a_server_full_of_work_drops_and_recovers() {
        struct Blocking {
            started: Notify,
            release: Semaphore,
        }

        #[async_trait]
        impl SealedHandler for Blocking {
            async fn handle(&self, body: Vec<u8>) -> Option<Vec<u8>> {
                self.started.notify_one();
                let _permit = self.release.acquire().await.ok()?;
                Some(body)
            }
        }

        let bus = Arc::new(LocalBus::new());
        let secret = EncryptionSecret::random(&mut OsRng);
        let key = secret.public();
        let handler = Arc::new(Blocking { started: Notify::new(), release: Semaphore::new(0) });
        let clock = ManualClock::new(UnixTime::new(NOW).unwrap());
        let server = Arc::new(SealedServer::new(
            bus.clone(),
            Arc::new(clock.clone()),
            secret,
            handler.clone(),
            ServerLimits { concurrent: 1, ..ServerLimits::default() },
        ));
        let listening = server.listen().await.unwrap();
        tokio::spawn(listening.serve());
        let client = Arc::new(SealedClient::new(
            bus,
            Arc::new(clock),
            CallPolicy { attempts: 100, wait: Duration::from_millis(50) },
        ));
        let first = tokio::spawn({
            let client = client.clone();
            async move { client.call(&key, b"first").await }
        });
        handler.started.notified().await;
        let second = tokio::spawn({
            let client = client.clone();
            async move { client.call(&key, b"second").await }
        });
        handler.release.add_permits(1);
        assert_eq!(first.await.unwrap().unwrap(), b"first");
        assert_eq!(second.await.unwrap().unwrap(), b"second");
    }

    #[test]
    fn remembered_answers_are_bounded_by_count_and_by_bytes() {
        let mut answers = Answers::new(2, 100);
        for id in 0..5u8 {
            assert!(matches!(answers.begin([id; 16]), Earlier::Unknown));
            answers.finish([id; 16], vec![id; 10]);
        }
        assert_eq!(answers.answers.len(), 2);
        assert!(matches!(answers.begin([4; 16]), Earlier::Answered(reply) if reply == vec![4; 10]));
        answers.finish([9; 16], vec![0; 95]);
        assert!(answers.bytes <= 100);
        assert!(matches!(answers.begin([7; 16]), Earlier::Unknown));
        assert!(matches!(answers.begin([7; 16]), Earlier::InProgress));
        answers.abandon([7; 16]);
        assert!(matches!(answers.begin([7; 16]), Earlier::Unknown));
    }
}
