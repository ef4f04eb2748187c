//! The same over two real Waku nodes on loopback TCP.

use std::sync::Arc;
use std::time::Duration;

use tributary_market::book::{Collector, OfferBook, SharedBook};
use tributary_market::clock::{Clock, SystemClock};
use tributary_market::negotiate::buyer::{Direct, NegotiationError, QuoteChannel, Wish, negotiate};
use tributary_market::negotiate::policy::{AttributesPolicy, CapacityPolicy, DurationPolicy, LoadPolicy, PricePolicy};
use tributary_market::negotiate::provider::{Negotiator, QuoteTimes};
use tributary_market::negotiate::{StoreWanted, Wanted};
use tributary_market::node::{encryption_secret, serve_quotes};
use tributary_market::offer::{Offer, OfferContext, RateClassId, ServiceId, VerifiedOffer};
use tributary_market::rpc::{CallPolicy, SealedClient, SealedServer, ServerLimits};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Exchange, Keep, TransportError};
use tributary_protocol::amount::{Price, Rate};
use tributary_waku::{ClusterId, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, Sharding};

use crate::common::*;

/// Nothing here waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

async fn node() -> NodeHandle {
    let config = NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(66), Sharding::Auto { shards: 1 })
    };
    Node::spawn(config).await.unwrap()
}

/// Addresses as an offer carries them.
fn addresses(node: &NodeHandle) -> Vec<libp2p::Multiaddr> {
    let mut addresses = node.listen_addrs();
    for address in &mut addresses {
        address.pop();
    }
    addresses
}

fn make_offer(node: &NodeHandle) -> Offer {
    let now = SystemClock.now();
    Offer {
        multiaddrs: addresses(node),
        issued_at: now,
        expires_at: now.saturating_add(seconds(3600)),
        encryption_key: Some(encryption_secret(node.key()).public()),
        ..offer()
    }
}

fn negotiator(node: &NodeHandle, offer: VerifiedOffer) -> Arc<Negotiator> {
    let negotiator = Negotiator::new(
        Arc::new(node.key().clone()),
        clock(),
        Arc::new(SystemClock),
        QuoteTimes { validity: seconds(120), start_grace: seconds(300) },
        vec![
            Box::new(PricePolicy),
            Box::new(DurationPolicy),
            Box::new(AttributesPolicy),
            Box::new(LoadPolicy),
            Box::new(CapacityPolicy::new(100, 100)),
        ],
    );
    negotiator.set_offer(Some(Arc::new(offer)));
    Arc::new(negotiator)
}

fn wish() -> Wish {
    let start = SystemClock.now();
    Wish {
        service: ServiceId::store(),
        wanted: Wanted::Store(StoreWanted {
            retention: seconds(3600),
            pubsub_topic: SHARD.into(),
            content_topics: Vec::new(),
        }),
        rate_class: RateClassId(1),
        start,
        latest_start: start,
        duration: seconds(3600),
        min_duration: seconds(3600),
        max_duration: seconds(3600),
        load: 5,
        min_load: 1,
        max_ticket_price: Price::new(60).unwrap(),
        max_rate: Rate::new(10).unwrap(),
        max_rounds: 2,
    }
}

async fn agree<C: QuoteChannel>(channel: &C, offer: &VerifiedOffer) -> Result<u32, NegotiationError> {
    let quote = negotiate(channel, offer, &wish(), &SystemClock, &mut rng()).await?;
    assert_eq!(quote.payee, offer.payee);
    Ok(quote.terms.load_cap)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_gossiped_and_its_quote_agreed_directly_and_sealed() {
    let (provider, buyer) = (node().await, node().await);
    buyer.dial_within(&provider.listen_addrs()[0], PATIENCE).await.unwrap();
    let shard = SHARD.parse().unwrap();
    provider.wait_for_topic_peers(shard, 1, PATIENCE).await.unwrap();
    buyer.wait_for_topic_peers(shard, 1, PATIENCE).await.unwrap();

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let book = SharedBook::new(OfferBook::new(8));
    let collector = Collector::new(book.clone(), [pool()], clock.clone(), Arc::new(()));
    let offers = collector.listen(&buyer).await.unwrap();
    let collecting = tokio::spawn(async move { collector.run(offers).await });

    let signed = make_offer(&provider).sign(provider.key()).unwrap();
    Broadcast::publish(&provider, &ContentTopic::offers(), signed.as_bytes().to_vec(), Keep::Stored).await.unwrap();
    let found = tokio::time::timeout(PATIENCE, book.wait_for(|book| book.live(clock.now()).next().cloned()));
    let found = found.await.expect("the offer arrives");
    assert_eq!(found.peer_id(), provider.peer_id());

    let own = signed.verify(&OfferContext { now: clock.now(), pools: &[pool()] }).unwrap();
    let negotiator = negotiator(&provider, own);
    serve_quotes(&provider, negotiator.clone()).await.unwrap();
    assert_eq!(agree(&Direct(buyer.clone()), &found).await.unwrap(), 5);

    let server = SealedServer::new(
        Arc::new(provider.clone()),
        clock.clone(),
        encryption_secret(provider.key()),
        negotiator,
        ServerLimits::default(),
    );
    let serving = tokio::spawn(Arc::new(server).listen().await.unwrap().serve());
    let sealed = SealedClient::new(Arc::new(buyer.clone()), clock, CallPolicy::default());
    assert_eq!(agree(&sealed, &found).await.unwrap(), 5);

    // When the node stops, what runs on it ends.
    provider.shutdown().await;
    buyer.shutdown().await;
    let ended = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err(), TransportError::Closed);
    tokio::time::timeout(PATIENCE, collecting).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_dials_the_address_of_the_offer_and_knows_its_peer() {
    let (provider, buyer, stranger, mute) = (node().await, node().await, node().await, node().await);
    let signed = make_offer(&provider).sign(provider.key()).unwrap();
    let offer = signed.verify(&OfferContext { now: SystemClock.now(), pools: &[pool()] }).unwrap();
    serve_quotes(&provider, negotiator(&provider, offer.clone())).await.unwrap();
    assert!(buyer.connected_peers().await.is_empty());
    assert_eq!(agree(&Direct(buyer.clone()), &offer).await.unwrap(), 5);

    // An address that leads to somebody else isn't taken for the provider.
    let misled = Offer { multiaddrs: addresses(&stranger), ..offer.offer().clone() };
    let misled = verified_now(&misled, provider.key());
    buyer.disconnect(provider.peer_id()).await;
    buyer.wait_for_disconnect(provider.peer_id(), PATIENCE).await.unwrap();
    let error = agree(&Direct(buyer.clone()), &misled).await.unwrap_err();
    assert!(
        matches!(&error, NegotiationError::Transport(TransportError::Unreachable { peer, .. }) if *peer == provider.peer_id()),
        "{error:?}"
    );

    // A peer that doesn't negotiate breaks no one.
    let error = Exchange::request(&buyer, mute.peer_id(), &addresses(&mute), "/tributary/quote/1", vec![1]).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "TRB-M025", "{error}");
    for node in [provider, buyer, stranger, mute] {
        node.shutdown().await;
    }
}

fn verified_now(offer: &Offer, key: &NodeKey) -> VerifiedOffer {
    offer.sign(key).unwrap().verify(&OfferContext { now: SystemClock.now(), pools: &[pool()] }).unwrap()
}
