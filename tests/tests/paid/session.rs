//! Sessions: who is paid, who is left, and what may be spent.

use super::*;
use tributary_client::{ClientError, Failure, LeftStreams, Load, Session, SoughtFamily, SpendingCaps};
use tributary_market::offer::{Attributes, FamilyAttributes, Service, UsePrice, UseUnit};
use tributary_market::property::Properties;
use tributary_provider::{service::ServiceError, till::Till};
use tributary_reputation::store::Ending;
use tributary_waku::FilterHealth;
use tributary_wallet::{Intent, SendTerms, StreamState};

/// A stream of three slots takes 1,800 and a relayer at most 1,000.
fn caps() -> SpendingCaps {
    SpendingCaps { purchase: amount(3_000), day: amount(100_000), relay_fee: amount(1_000) }
}

fn want() -> Want {
    Market::want(Sought::Lightpush { messages: 1, payload: 100 })
}

/// Longer than the pool's notice, so that something comes back when it is stopped: a stream takes 12,000.
fn long(want: Want) -> Want {
    Want { duration: seconds(20 * L), ..want }
}

fn larger_caps() -> SpendingCaps {
    SpendingCaps { purchase: amount(14_000), ..caps() }
}

/// Shown when a test fails.
fn tell(line: &str) {
    eprintln!("{line}");
}

impl Market {
    /// One whose buyer has heard of somebody who sells this, and of a relayer that takes 700.
    async fn with_relayer(want: &Want) -> (Self, (NodeHandle, Arc<Relayer>)) {
        let market = Self::new().await;
        market.find(want).await;
        let relayer = market.relayer(Manner::Sends, 700).await;
        (market, relayer)
    }

    /// The chain goes on meanwhile: blocks come, and leaves get into the tree.
    async fn while_blocks_come<T>(&self, future: impl Future<Output = T>) -> T {
        let blocks = async {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.shop.net.insert().await;
                self.shop.advance(1).await;
            }
        };
        tokio::select! {
            done = within("a session", future) => done,
            () = blocks => unreachable!("blocks come forever"),
        }
    }

    async fn session(&self, want: &Want, caps: SpendingCaps) -> Result<Session, ClientError> {
        self.while_blocks_come(self.buyer.session(want, None, &caps, &tell)).await
    }

    /// Somebody else who sells the same for more. The buyer knows its offer.
    async fn second_seller(&self) -> (NodeHandle, Arc<Provider>) {
        let seller = node(true).await;
        for other in [&self.neighbour, self.buyer.node(), &self.seller] {
            other.dial_within(&seller.listen_addrs()[0], PATIENCE).await.unwrap();
        }
        let provider = sell(&self.shop, &seller, "second", 300).await;
        let known = async {
            while self.buyer.directory().offer(seller.peer_id()).is_err() {
                let _ = provider.publisher().publish_now().await;
                self.buyer.directory().discover(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();
            }
        };
        within("the second seller's offer", known).await;
        (seller, provider)
    }

    async fn push(&self, session: &Session, text: &str) -> Result<(), ClientError> {
        let request = LightPushRequest::new(Some(self.shard()), self.message(text));
        within("a push", session.lightpush().unwrap().push(request)).await.map(|_| ())
    }

    /// Waits until a session's stream is stopped on the chain.
    async fn stopped(&self, session: &Session) {
        loop {
            self.buyer.wallet().sync().await.unwrap();
            let streams = self.buyer.wallet().payer_streams(true).await.unwrap();
            let stream = streams.iter().find(|stream| stream.commitment == session.stream.commitment).unwrap();
            if matches!(stream.state, StreamState::Stopping | StreamState::Over) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn paid_providers(&self) -> Vec<String> {
        self.buyer.store().purchases().await.unwrap().iter().map(|purchase| purchase.provider.to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_a_provider_that_is_gone_and_pays_only_the_next_one() {
    let market = Market::new().await;
    let want = long(want());
    market.find(&want).await;
    let (second, _provider) = market.second_seller().await;
    let (relayer, _handler) = market.relayer(Manner::Sends, 700).await;
    relayer.dial_within(&second.listen_addrs()[0], PATIENCE).await.unwrap();

    let none = market.session(&want, SpendingCaps::NOTHING).await.unwrap_err();
    assert!(matches!(none, ClientError::NoStream { .. }), "{none}");
    let first = market.session(&want, larger_caps()).await.unwrap();
    assert_eq!(first.provider(), market.seller.peer_id(), "the cheaper one");
    assert!(first.opened.is_some());
    market.push(&first, "by the first").await.unwrap();
    // What is open is used, and nothing is bought.
    let again = market.session(&want, larger_caps()).await.unwrap();
    assert_eq!(again.stream.commitment, first.stream.commitment);
    assert!(again.opened.is_none());

    let gone = market.seller.peer_id();
    market.provider.stop().await;
    market.seller.shutdown().await;
    market.buyer.node().wait_for_disconnect(gone, PATIENCE).await.unwrap();
    let away = market.session(&want, SpendingCaps::NOTHING).await.unwrap_err();
    assert!(matches!(&away, ClientError::Away { provider, .. } if *provider == gone), "{away}");
    let next = market.session(&want, larger_caps()).await.unwrap();
    assert_eq!(next.provider(), second.peer_id());
    let paid = [second.peer_id().to_string(), gone.to_string()];
    assert_eq!(market.paid_providers().await, paid, "newest first: the one that is gone got nothing more");
    let request =
        LightPushRequest::new(Some(second.pubsub_topic(&topics()[0]).unwrap()), market.message("by the next"));
    within("a push", next.lightpush().unwrap().push(request)).await.unwrap();

    // Who is reported is left out at once, though it answers.
    next.failed(&Failure::Broken { reason: "took a ticket and gave nothing".into() }).await.unwrap();
    let nobody = market.session(&want, SpendingCaps::NOTHING).await.unwrap_err();
    assert!(matches!(nobody, ClientError::NoStream { .. }), "{nobody}");
    // Both streams are stopped: a provider that failed is paid for no further slot.
    market.while_blocks_come(market.stopped(&first)).await;
    market.while_blocks_come(market.stopped(&next)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_whose_provider_dies_is_lost_left_and_paid_no_more() {
    let market = Market::new().await;
    let want = long(Market::want(Sought::Filter { topics: 1 }));
    market.find(&want).await;
    let (second, _provider) = market.second_seller().await;
    let (relayer, _handler) = market.relayer(Manner::Sends, 700).await;
    relayer.dial_within(&second.listen_addrs()[0], PATIENCE).await.unwrap();
    let session = market.session(&want, larger_caps()).await.unwrap();
    assert_eq!(session.provider(), market.seller.peer_id(), "the cheaper one");
    let lease = Arc::new(session.lease(1).unwrap());
    let open = PaidFilter::open(market.buyer.node(), lease, market.shard(), topics());
    let mut filter = within("a leased subscription", open).await.unwrap();
    market.neighbour.wait_for_mesh(market.shard(), 1, PATIENCE).await.unwrap();
    market.neighbour.publish(market.message("while it lives")).await.unwrap();
    assert_eq!(next(&mut filter).await, "while it lives");

    let gone = market.seller.peer_id();
    market.provider.stop().await;
    market.seller.shutdown().await;
    market.buyer.node().wait_for_disconnect(gone, PATIENCE).await.unwrap();
    let lost = async {
        while !matches!(filter.health(), FilterHealth::Lost { .. }) {
            let _ = tokio::time::timeout(Duration::from_millis(100), filter.recv()).await;
        }
    };
    within("the loss of the subscription", lost).await;
    session.failed(&Failure::Unreachable).await.unwrap();
    drop(filter);
    let other = market.session(&want, larger_caps()).await.unwrap();
    assert_eq!(other.provider(), second.peer_id());
    market.while_blocks_come(market.stopped(&session)).await;
    let streams = market.buyer.wallet().payer_streams(true).await.unwrap();
    let stopped = streams.iter().find(|stream| stream.commitment == session.stream.commitment).unwrap();
    assert!(stopped.record.stop.is_some_and(|stop| stop < stopped.note.terms.end()), "{:?}", stopped.record);
    let running: Vec<_> =
        streams.iter().filter(|stream| matches!(stream.state, StreamState::Running | StreamState::Scheduled)).collect();
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].commitment, other.stream.commitment);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_moved_is_reached_where_its_newest_offer_says() {
    let (market, _relayer) = Market::with_relayer(&want()).await;
    let first = market.session(&want(), caps()).await.unwrap();
    let offer = market.buyer.directory().offer(market.seller.peer_id()).unwrap();
    market.provider.stop().await;
    market.seller.shutdown().await;
    market.buyer.node().wait_for_disconnect(offer.peer_id(), PATIENCE).await.unwrap();

    let key = market.seller.key().clone();
    let moved = Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(key.clone(), ClusterId(42), Sharding::Auto { shards: 8 })
    })
    .await
    .unwrap();
    let newer = Offer {
        multiaddrs: moved.listen_addrs().iter().map(plain).collect(),
        sequence: offer.sequence + 1,
        ..offer.offer().clone()
    };
    let signed = newer.sign(&key).unwrap();
    market.neighbour.dial_within(&market.buyer.node().listen_addrs()[0], PATIENCE).await.unwrap();
    let publishing = async {
        loop {
            let bytes = signed.as_bytes().to_vec();
            let _ = Broadcast::publish(&market.neighbour, &MarketTopic::offers(), bytes, Keep::Stored).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // The newer offer is heard while the old address is tried in vain.
    let want = want();
    let session = tokio::select! {
        session = market.session(&want, SpendingCaps::NOTHING) => session.unwrap(),
        () = publishing => unreachable!("it is published forever"),
    };
    assert_eq!(session.stream.commitment, first.stream.commitment);
    assert_eq!(session.addresses[..newer.multiaddrs.len()], newer.multiaddrs);
    assert!(market.buyer.node().connected_peers().await.contains(&moved.peer_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_refuse_a_purchase_with_their_numbers_also_after_a_restart() {
    let (market, _relayer) = Market::with_relayer(&want()).await;

    let small = SpendingCaps { purchase: amount(2_000), ..caps() };
    let error = market.session(&want(), small).await.unwrap_err();
    assert_eq!(error.code(), "TRB-C040");
    assert!(matches!(error, ClientError::PurchaseCap { needed: 2_800.., cap: 2_000 }), "{error}");
    assert_eq!(market.paid_providers().await, Vec::<String>::new());
    let now = || market.now().get();
    assert_eq!(market.buyer.store().spent_in_a_day(now()).await.unwrap(), 0);

    let opened = market.session(&want(), caps()).await.unwrap().opened.unwrap();
    let spent = opened.deposit.get() + opened.fee.get();
    // The fee that was paid counts, not the highest.
    assert_eq!(opened.fee, amount(700));
    let reopened = ClientStore::open(&market.shop.path("client.sqlite")).await.unwrap();
    assert_eq!(reopened.spent_in_a_day(now()).await.unwrap(), spent);
    let tight = SpendingCaps { day: amount(spent + 100), ..caps() };
    // A want that the open stream does not pay for: 6 tickets a slot.
    let more = Market::want(Sought::Lightpush { messages: 6, payload: 100 });
    let more = Want { duration: seconds(4 * L), ..more };
    let other = market.buyer.session(&more, Some(market.seller.peer_id()), &tight, &tell);
    match market.while_blocks_come(other).await {
        Ok(session) => assert_eq!(session.stream.commitment, opened.commitment, "the open stream pays for it"),
        Err(error) => panic!("{error}"),
    }
    let provider = market.seller.peer_id();
    let error = reopened.reserve(provider, amount(101), Some(&tight), now()).await.unwrap_err();
    assert_eq!(error.code(), "TRB-C041");
    assert!(matches!(error, ClientError::DayCap { needed: 101, spent: s, cap } if s == spent && cap == spent + 100));
    reopened.reserve(provider, amount(100), Some(&tight), now()).await.unwrap();
    let (then, all) = (now(), amount(spent + 1));
    reopened.reserve(provider, amount(1), None, then).await.unwrap();
    let error = reopened.reserve(provider, all, Some(&tight), then + 86_399).await.unwrap_err();
    assert!(matches!(error, ClientError::DayCap { spent: 1.., .. }), "a day isn't over: {error}");
    reopened.reserve(provider, all, Some(&tight), then + 86_400).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_session_pays_from_the_slot_after_the_last_one() {
    let (market, _relayer) = Market::with_relayer(&want()).await;
    let first = market.session(&want(), caps()).await.unwrap();
    market.push(&first, "in its first slot").await.unwrap();
    assert!(!first.is_due(seconds(L)).unwrap());
    let ahead = first.pays_until().since(market.now()).get() - L / 2;
    for _ in 0..ahead.div_ceil(MARGIN) {
        market.shop.advance(MARGIN.min(ahead)).await;
    }
    assert!(first.is_due(seconds(2 * L)).unwrap());
    let renewed = market.while_blocks_come(first.renew(&caps(), &tell)).await.unwrap();
    assert_eq!(renewed.provider(), first.provider());
    assert_eq!(renewed.pays_from(), first.pays_until(), "no slot between them is unpaid, and none is paid twice");
    let left = renewed.pays_from().since(market.now()).get();
    market.shop.advance(left + 1).await;
    market.push(&renewed, "after the first stream's end").await.unwrap();
}

/// As after kill -9 between the note and the stop: whoever runs next stops it, once, and not for more than it may cost.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_left_is_stopped_by_the_next_run_and_once() {
    let want = long(want());
    let (market, _relayer) = Market::with_relayer(&want).await;
    let session = market.session(&want, larger_caps()).await.unwrap();
    market.buyer.leave(session.stream.commitment).await.unwrap();
    let dear = market.buyer.stop_left(amount(699)).await.unwrap();
    assert_eq!(dear, LeftStreams { stopped: 0, paying: 1 }, "no relayer does it for that");
    // A run that ended between the proof and the relayer leaves its operation behind.
    let fee = SendTerms { relayer: Address::repeat_byte(7), fee: amount(700), ..SendTerms::default() };
    market.buyer.wallet().prepare(Intent::Close { stream: session.stream.commitment }, fee).await.unwrap();
    // Two calls at once stop it once.
    let stop = async { tokio::join!(market.buyer.stop_left(amount(700)), market.buyer.stop_left(amount(700))) };
    let (one, other) = market.while_blocks_come(stop).await;
    let mut stopped = [one.unwrap().stopped, other.unwrap().stopped];
    stopped.sort_unstable();
    assert_eq!(stopped, [0, 1]);
    market.while_blocks_come(market.stopped(&session)).await;
    let none = market.buyer.stop_left(amount(700)).await.unwrap();
    assert_eq!(none, LeftStreams::default(), "nothing is left to stop");
    // It is used no more, though its provider answers.
    let other = market.session(&want, larger_caps()).await.unwrap();
    assert_ne!(other.stream.commitment, session.stream.commitment);
}

/// Who isn't reached when nobody is has done nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_without_a_network_leaves_nobody() {
    let want = long(want());
    let (market, (relayer, _handler)) = Market::with_relayer(&want).await;
    let session = market.session(&want, larger_caps()).await.unwrap();
    market.provider.stop().await;
    for node in [&market.seller, &market.neighbour, &relayer] {
        node.shutdown().await;
        let _ = market.buyer.node().wait_for_disconnect(node.peer_id(), PATIENCE).await;
    }
    assert_eq!(market.buyer.node().connected_peers().await, []);
    let away = market.session(&want, larger_caps()).await.unwrap_err();
    assert!(matches!(&away, ClientError::Away { provider, .. } if *provider == session.provider()), "{away}");
    session.failed(&Failure::Unreachable).await.unwrap();
    let nothing = market.buyer.stop_left(amount(700)).await.unwrap();
    assert_eq!(nothing, LeftStreams::default(), "no stream was left");
    let known = market.buyer.reputed(session.provider(), &session.service()).await.unwrap();
    assert!(known.combined.own_weight == 0.0 && known.failures.is_none(), "{:?}", known.combined);
}

/// What a service node refuses because of what was asked is no failure of its own.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_what_was_asked_say_nothing_of_the_provider() {
    let market = Market::new().await;
    let provider = market.seller.peer_id();
    let status = |status| ClientError::LightPush(LightPushError::Status { status, desc: "x".into() });
    for (error, fault) in [
        (status(LightPushStatus::PAYLOAD_TOO_LARGE), None),
        (status(LightPushStatus::UNSUPPORTED_PUBSUB_TOPIC), None),
        (status(LightPushStatus::SERVICE_NOT_AVAILABLE), Some(true)),
        (ClientError::LightPush(LightPushError::NoPeersToRelay), Some(true)),
        (ClientError::NoLease { reason: "x".into(), ending: Ending::BuyerError { reason: "x".into() } }, Some(false)),
        (ClientError::NoLease { reason: "x".into(), ending: Ending::NoAnswer }, Some(true)),
    ] {
        let ending = market.buyer.ending_of(provider, &error).await;
        assert_eq!(ending.map(|ending| ending.is_fault()), fault, "{error}");
    }
}

/// A purchase takes a while: what is bought for the shortest time isn't over when it can be used.
#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_purchase_pays_for_the_slot_after_the_running_one() {
    let want = Want { duration: seconds(L), ..want() };
    let (market, _relayer) = Market::with_relayer(&want).await;
    let session = market.session(&want, caps()).await.unwrap();
    // The slot may have ended in which it was bought.
    assert!(session.pays_until() > market.now());
    market.push(&session, "for a ticket of it").await.unwrap();
}

/// What would come back is less than a relayer takes: it runs out, and pays for nothing that is asked for meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_worth_stopping_is_not_used_either() {
    let (market, _relayer) = Market::with_relayer(&want()).await;
    let first = market.session(&want(), caps()).await.unwrap();
    market.buyer.leave(first.stream.commitment).await.unwrap();
    let left = market.while_blocks_come(market.buyer.stop_left(amount(700))).await.unwrap();
    assert_eq!(left, LeftStreams { stopped: 0, paying: 1 });
    let none = market.session(&want(), SpendingCaps::NOTHING).await.unwrap_err();
    assert!(matches!(none, ClientError::NoStream { .. }), "{none}");
    let none = market.buyer.stream_for(None, Some(&first.service())).await.unwrap_err();
    assert!(matches!(none, ClientError::NoStream { .. }), "nor without a session: {none}");
    let other = market.session(&want(), caps()).await.unwrap();
    assert_ne!(other.stream.commitment, first.stream.commitment);
}

/// Sells a service that goes over relay alone.
#[derive(Debug)]
struct Oracle;

#[async_trait]
impl tributary_provider::service::Service for Oracle {
    fn entry(&self) -> Service {
        Service {
            id: "oracle".parse().unwrap(),
            uses: vec![UsePrice { unit: UseUnit::Request, quantity: 1, tickets: 1 }],
            attributes: Attributes::Family(FamilyAttributes {
                name: "oracle".parse().unwrap(),
                lease: None,
                properties: Properties::new(),
            }),
        }
    }
    fn free_tier(&self) -> FreeTierLimits {
        FreeTierLimits::NONE
    }
    async fn start(&self, _: Till) -> Result<(), ServiceError> {
        Ok(())
    }
    async fn stop(&self) {}
}

/// Who is connected to the provider is the first to send it what it relays: each prompt would come from the same neighbour.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_over_relay_is_bought_without_a_connection_to_its_provider() {
    let market = Market::new().await;
    let seller = node(true).await;
    for other in [&seller, market.buyer.node()] {
        market.neighbour.dial_within(&other.listen_addrs()[0], PATIENCE).await.unwrap();
    }
    let mut services = Registry::new();
    services.add(Arc::new(Oracle)).unwrap();
    let provider = sell_all(&market.shop, &seller, "oracle", 100, services).await;
    let _relayer = market.relayer(Manner::Sends, 700).await;
    let want = Market::want(Sought::Family(SoughtFamily {
        id: "oracle".parse().unwrap(),
        family: "oracle".parse().unwrap(),
        needs: Vec::new(),
        unit: UseUnit::Request,
        load: Load::Uses { uses: 1, units: 1 },
        dialled: false,
    }));
    let known = async {
        while market.buyer.directory().offer(seller.peer_id()).is_err() {
            let _ = provider.publisher().publish_now().await;
            market.buyer.directory().discover(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();
        }
    };
    within("the oracle's offer", known).await;
    let session = market.session(&want, caps()).await.unwrap();
    assert_eq!(session.provider(), seller.peer_id());
    assert!(session.tickets.take(session.tickets.current_slot().unwrap(), 1).await.is_ok(), "it is paid");
    let (buyer, met) = (market.buyer.node().peer_id(), seller.connected_peers().await);
    assert!(met.contains(&market.neighbour.peer_id()) && !met.contains(&buyer), "{met:?}");
}
