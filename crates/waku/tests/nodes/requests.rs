//! The request-response facility: limits on both sides, and what a misbehaving peer gets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};
use tributary_waku::{
    Bytes, Node, NodeError, NodeLimits, PeerId, Refusal, RequestError, RequestHandler, RequestLimits, ServeLimits,
};

use crate::{
    common::{PATIENCE, address, burst, clock, config, connect, node, unlimited, within},
    raw::{RawPeer, Script},
};

const ECHO: &str = "/test/echo/1";

/// Metadata of a light client of the tests' cluster, with its length prefix.
const LIGHT: &[u8] = &[2, 0x08, 42];

#[derive(Debug)]
struct Echo;

#[async_trait]
impl RequestHandler for Echo {
    async fn handle(&self, _: PeerId, request: Bytes) -> Option<Bytes> {
        Some(request)
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        Some(format!("{refusal:?}").into())
    }
}

/// Answers when it is let, and knows how many requests are at work.
#[derive(Debug)]
struct Held {
    gate: Semaphore,
    started: AtomicUsize,
    working: AtomicUsize,
    most: AtomicUsize,
    changed: Notify,
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Semaphore::new(0),
            started: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    async fn wait_for_started(&self, n: usize) {
        within("starting handlers", async {
            loop {
                let changed = self.changed.notified();
                if self.started.load(Ordering::SeqCst) >= n {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }
}

#[async_trait]
impl RequestHandler for Held {
    async fn handle(&self, _: PeerId, request: Bytes) -> Option<Bytes> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let working = self.working.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(working, Ordering::SeqCst);
        self.changed.notify_waiters();
        self.gate.acquire().await.unwrap().forget();
        self.working.fetch_sub(1, Ordering::SeqCst);
        Some(request)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_is_served_while_the_node_runs() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    let limits = RequestLimits::default();
    assert_eq!(
        a.request(b.peer_id(), ECHO, "early", limits).await,
        Err(RequestError::NotConnected { peer: b.peer_id() })
    );
    connect(&a, &b).await;
    assert_eq!(
        a.request(b.peer_id(), ECHO, "early", limits).await,
        Err(RequestError::UnsupportedProtocol { peer: b.peer_id(), protocol: ECHO.to_owned() })
    );
    assert_eq!(
        a.request(b.peer_id(), "no slash", "x", limits).await,
        Err(RequestError::InvalidProtocol { protocol: "no slash".to_owned() })
    );

    // On the connection that is there already, and in both directions.
    for (server, client) in [(&b, &a), (&a, &b)] {
        server.serve(ECHO, unlimited(), Arc::new(Echo)).await.unwrap();
        for size in [0, 1, 4096, 5000, 200_000] {
            let body = Bytes::from(vec![7; size]);
            assert_eq!(client.request(server.peer_id(), ECHO, body.clone(), limits).await.unwrap(), body);
        }
        assert_eq!(server.serve_stats(ECHO).unwrap().answered, 5);
    }
    let again = b.serve(ECHO, unlimited(), Arc::new(Echo)).await.unwrap_err();
    assert!(matches!(again, NodeError::AlreadyServed { .. }), "{again}");

    assert!(b.unserve(ECHO).await);
    assert!(!b.unserve(ECHO).await);
    assert_eq!(a.request(b.peer_id(), ECHO, "late", limits).await.unwrap_err().code(), "TRB-W302");
    b.serve(ECHO, unlimited(), Arc::new(Echo)).await.unwrap();
    assert_eq!(a.request(b.peer_id(), ECHO, "again", limits).await.unwrap(), "again");

    b.shutdown().await;
    b.shutdown().await;
    assert_eq!(b.request(a.peer_id(), ECHO, "dead", limits).await, Err(RequestError::Stopped));
    a.wait_for_disconnect(b.peer_id(), PATIENCE).await.unwrap();
    assert_eq!(a.request(b.peer_id(), ECHO, "gone", limits).await.unwrap_err().code(), "TRB-W301");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_are_refused_at_their_length() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    connect(&a, &b).await;
    let small = ServeLimits { max_request_bytes: 100, max_response_bytes: 50, ..unlimited() };
    b.serve(ECHO, small, Arc::new(Echo)).await.unwrap();
    let request = |len: usize, limits| a.request(b.peer_id(), ECHO, vec![b'x'; len], limits);

    // The requester's own limit.
    let tight = RequestLimits { max_request_bytes: 10, max_response_bytes: 10, ..RequestLimits::default() };
    assert_eq!(request(11, tight).await, Err(RequestError::RequestTooLarge { len: 11, max: 10 }));
    // The responder's limit; the refusal arrives although most of the request is never read.
    let refusal = request(500_000, RequestLimits::default()).await.unwrap();
    assert_eq!(refusal, "TooLarge { len: 500000, max: 100 }");
    assert_eq!(b.serve_stats(ECHO).unwrap().too_large, 1);
    // The requester's limit on the answer.
    let tight = RequestLimits { max_response_bytes: 10, ..RequestLimits::default() };
    assert_eq!(request(20, tight).await, Err(RequestError::ResponseTooLarge { peer: b.peer_id(), len: 20, max: 10 }));
    // The responder's limit on its own answer.
    assert_eq!(request(60, RequestLimits::default()).await, Err(RequestError::NoAnswer { peer: b.peer_id() }));
    assert_eq!(b.serve_stats(ECHO).unwrap().response_too_large, 1);
    // None of it does harm to the connection.
    assert_eq!(request(50, RequestLimits::default()).await.unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_responder_that_never_answers_times_out_on_both_sides() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    connect(&a, &b).await;
    let held = Held::new();
    b.serve("/test/held/1", unlimited(), held.clone()).await.unwrap();
    let timeout = Duration::from_millis(300);
    assert_eq!(
        a.request(b.peer_id(), "/test/held/1", "x", RequestLimits { timeout, ..RequestLimits::default() }).await,
        Err(RequestError::Timeout { peer: b.peer_id(), timeout })
    );
    assert_eq!(held.started.load(Ordering::SeqCst), 1);

    let impatient = ServeLimits { handler_timeout: timeout, ..unlimited() };
    b.serve("/test/held/2", impatient, Held::new()).await.unwrap();
    assert_eq!(
        a.request(b.peer_id(), "/test/held/2", "x", RequestLimits::default()).await,
        Err(RequestError::NoAnswer { peer: b.peer_id() })
    );
    assert_eq!(b.serve_stats("/test/held/2").unwrap().handler_timeouts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_counted_before_requests_are_read() {
    let clock = clock();
    let (a, b, c) = (node(&clock).await, node(&clock).await, node(&clock).await);
    connect(&a, &b).await;
    connect(&c, &b).await;
    let limits =
        ServeLimits { rate_per_peer: Some(burst(3.0)), rate_total: Some(burst(5.0)), ..ServeLimits::default() };
    b.serve(ECHO, limits, Arc::new(Echo)).await.unwrap();
    let ask = async |node: &tributary_waku::NodeHandle| {
        // More than a stream's window: it could not be written if the responder waited for it.
        node.request(b.peer_id(), ECHO, vec![0; 250_000], RequestLimits::default()).await.unwrap().len() > 100
    };
    for _ in 0..3 {
        assert!(ask(&a).await);
    }
    for _ in 0..10 {
        assert!(!ask(&a).await);
    }
    // The flood used up nothing of what others may ask.
    assert!(ask(&c).await);
    assert!(ask(&c).await);
    assert!(!ask(&c).await, "all peers together reached the common rate");
    clock.advance(Duration::from_secs(1));
    assert!(ask(&a).await);
    assert!(!ask(&a).await);
    let stats = b.serve_stats(ECHO).unwrap();
    assert_eq!((stats.answered, stats.rate_limited), (6, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_opens_too_many_streams_harms_only_itself() {
    let clock = clock();
    let mut setup = config(&clock);
    setup.limits = NodeLimits { max_streams_per_peer: 20, ..NodeLimits::shared_address() };
    let b = Node::spawn(setup).await.unwrap();
    let held = Held::new();
    let limits = ServeLimits {
        max_concurrent: 12,
        max_concurrent_per_peer: 10,
        read_timeout: Duration::from_secs(3600),
        handler_timeout: Duration::from_secs(3600),
        ..unlimited()
    };
    b.serve("/test/held/1", limits, held.clone()).await.unwrap();

    let flood = RawPeer::dial(&address(&b), "/test/held/1", &[], LIGHT).await;
    b.wait_for_peer(flood.peer_id, PATIENCE).await.unwrap();
    // Ten requests that are at work, the rest of a hundred without a slot.
    let answers: Vec<_> = (0..100).map(|_| flood.start(Script::Send(vec![1, b'x']))).collect();
    held.wait_for_started(10).await;
    let stats = within("refusing the rest", async {
        loop {
            let stats = b.serve_stats("/test/held/1").unwrap();
            if stats.busy + stats.dropped >= 90 {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stats.busy + stats.dropped, 90, "{stats:?}");
    assert_eq!(held.most.load(Ordering::SeqCst), 10);

    // Another peer is served meanwhile.
    let honest = node(&clock).await;
    connect(&honest, &b).await;
    let asked = {
        let (honest, peer) = (honest.clone(), b.peer_id());
        tokio::spawn(async move { honest.request(peer, "/test/held/1", "y", RequestLimits::default()).await })
    };
    held.wait_for_started(11).await;
    held.gate.add_permits(11);
    assert_eq!(within("the honest answer", asked).await.unwrap().unwrap(), "y");
    let mut answered = 0;
    for answer in answers {
        answered += usize::from(within("the flood's answers", answer).await.unwrap() == Ok(vec![1, b'x']));
    }
    assert_eq!(answered, 10);
    assert_eq!(held.started.load(Ordering::SeqCst), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_frames_and_bad_prefixes() {
    let clock = clock();
    let b = node(&clock).await;
    let limits = ServeLimits { read_timeout: Duration::from_millis(300), ..unlimited() };
    b.serve(ECHO, limits, Arc::new(Echo)).await.unwrap();
    let raw = RawPeer::dial(&address(&b), ECHO, &[], LIGHT).await;
    b.wait_for_peer(raw.peer_id, PATIENCE).await.unwrap();
    let refused = |text: &str| {
        let mut frame = vec![u8::try_from(text.len()).unwrap()];
        frame.extend_from_slice(text.as_bytes());
        Ok(frame)
    };
    assert_eq!(raw.exchange(vec![2, 5, 6]).await, Ok(vec![2, 5, 6]));
    // Bytes after the frame are no second request.
    assert_eq!(raw.exchange(vec![1, 5, 1, 6]).await, Ok(vec![1, 5]));
    assert_eq!(raw.exchange(vec![0xff; 6]).await, refused("Malformed"));
    assert_eq!(raw.exchange(vec![0x80, 0x00]).await, refused("Malformed"));
    // A gigabyte announced costs nothing.
    assert_eq!(
        raw.exchange(vec![0x80, 0x80, 0x80, 0x80, 0x04]).await,
        refused("TooLarge { len: 1073741824, max: 262144 }")
    );
    // A frame that ends early gets no answer.
    assert_eq!(raw.exchange(vec![5, 1, 2]).await.unwrap_or_default(), Vec::<u8>::new());
    assert_eq!(raw.exchange(vec![]).await.unwrap_or_default(), Vec::<u8>::new());
    let broken = b.serve_stats(ECHO).unwrap().broken;
    assert_eq!(broken, 4);
    // So doesn't one that never ends.
    let _hanging = raw.start(Script::Hang(vec![5, 1]));
    within("giving up on the slow sender", async {
        while b.serve_stats(ECHO).unwrap().broken == broken {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_answers_what_it_has_read() {
    let clock = clock();
    let (a, b) = (node(&clock).await, node(&clock).await);
    connect(&a, &b).await;
    let held = Held::new();
    b.serve(ECHO, unlimited(), held.clone()).await.unwrap();
    let (peer, limits) = (b.peer_id(), RequestLimits::default());
    let asked = tokio::spawn({
        let a = a.clone();
        async move { a.request(peer, ECHO, "late", limits).await }
    });
    held.wait_for_started(1).await;
    // The time is over before the answer is there.
    assert_eq!(b.drain(Duration::ZERO).await, 1);
    let refused = a.request(peer, ECHO, "later", limits).await;
    assert_eq!(refused, Err(RequestError::UnsupportedProtocol { peer, protocol: ECHO.to_owned() }));
    let drained = tokio::spawn({
        let b = b.clone();
        async move { b.drain(PATIENCE).await }
    });
    held.gate.add_permits(1);
    assert_eq!(within("the drain", drained).await.unwrap(), 0);
    // The node goes at once; the answer left before.
    b.shutdown().await;
    assert_eq!(within("the answer", asked).await.unwrap().unwrap(), "late");
    assert_eq!(held.started.load(Ordering::SeqCst), 1);
}

/// Listens to all peers but these.
#[derive(Debug, Default)]
struct Choosy(std::sync::Mutex<Vec<PeerId>>);

#[async_trait]
impl RequestHandler for Choosy {
    async fn handle(&self, _: PeerId, request: Bytes) -> Option<Bytes> {
        Some(request)
    }

    fn listens_to(&self, peer: &PeerId) -> bool {
        !self.0.lock().unwrap().contains(peer)
    }

    fn refuse(&self, refusal: Refusal) -> Option<Bytes> {
        Some(format!("{refusal:?}").into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_not_listened_to_use_up_nothing_of_what_all_share() {
    let clock = clock();
    let server = node(&clock).await;
    let choosy = Arc::new(Choosy::default());
    let limits =
        ServeLimits { rate_per_peer: Some(burst(8.0)), rate_total: Some(burst(10.0)), ..ServeLimits::default() };
    server.serve(ECHO, limits, choosy.clone()).await.unwrap();
    let mut flooding = Vec::new();
    for _ in 0..4 {
        let peer = node(&clock).await;
        connect(&peer, &server).await;
        flooding.push(peer);
    }
    let honest = node(&clock).await;
    connect(&honest, &server).await;
    let ask = async |peer: &tributary_waku::NodeHandle| {
        peer.request(server.peer_id(), ECHO, "x", RequestLimits::default()).await.unwrap()
    };

    *choosy.0.lock().unwrap() = flooding.iter().map(tributary_waku::NodeHandle::peer_id).collect();
    for peer in &flooding {
        for _ in 0..8 {
            assert_eq!(ask(peer).await, "NotListened");
        }
    }
    for _ in 0..8 {
        assert_eq!(ask(&honest).await, "x", "the bucket of all peers has 10, and 32 were refused before it");
    }
    assert_eq!(ask(&honest).await, "RateLimited");
    // Once they are listened to again, they have all of their own rates, and share what is left of the common one.
    choosy.0.lock().unwrap().clear();
    let answers = [ask(&flooding[0]).await, ask(&flooding[1]).await, ask(&flooding[2]).await];
    assert_eq!(answers, ["x", "x", "RateLimited"]);
    let stats = server.serve_stats(ECHO).unwrap();
    assert_eq!((stats.answered, stats.not_listened, stats.rate_limited), (10, 32, 2));
}
