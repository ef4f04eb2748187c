//! Offers are published again and again, and no number is ever given to two different ones.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use rand::SeedableRng as _;
use tributary_market::clock::ManualClock;
use tributary_market::offer::{
    Attributes, OfferContext, RateClass, RateClassId, Service, ServiceId, SignedOffer, StoreAttributes, UsePrice,
    UseUnit, VerifiedOffer,
};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast as _, LocalBus, Subscription};
use tributary_protocol::{Amount, Mnemonic, PoolId, PoolScope, Price, Rate, Seconds, UnixTime};
use tributary_provider::offers::{OfferContent, OfferPublisher, OfferTimes, SaleTerms};
use tributary_waku::NodeKey;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

fn pool() -> PoolId {
    PoolId { chain_id: 31_337, address: [0xaa; 20].into() }
}

fn content() -> OfferContent {
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let scope = PoolScope { pool: pool(), account: 0 };
    let payee = Mnemonic::generate(&mut rng).seed("").account(scope).unwrap().address();
    let class =
        RateClass { id: RateClassId(1), rate: Rate::new(100).unwrap(), min_duration: seconds(60), max_duration: None };
    let terms = SaleTerms {
        payee,
        pool: pool(),
        ticket_price: Price::new(50).unwrap(),
        min_streamed: Amount::new(400).unwrap(),
        rate_classes: vec![class],
        slot_carry: seconds(20),
        root_depth: 1,
    };
    let store = Service {
        id: ServiceId::store(),
        uses: vec![UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 }],
        attributes: Attributes::Store(StoreAttributes {
            retention: seconds(3600),
            pubsub_topics: vec!["/waku/2/rs/42/7".to_owned()],
            content_topics: vec![],
            page_size: 20,
        }),
    };
    OfferContent {
        terms,
        services: vec![store],
        addresses: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()],
        encryption_key: None,
    }
}

struct Stand {
    clock: ManualClock,
    publisher: OfferPublisher,
    heard: Subscription,
}

async fn stand(folder: &Path, now: u64) -> Stand {
    let bus = LocalBus::new();
    let heard = bus.subscribe(&ContentTopic::offers()).await.unwrap();
    let clock = ManualClock::new(at(now));
    let publisher = OfferPublisher::new(
        content(),
        OfferTimes { lifetime: seconds(600), interval: seconds(60) },
        Arc::new(NodeKey::from_bytes([7; 32]).unwrap()),
        Arc::new(bus),
        Arc::new(clock.clone()),
        folder.join("offer-sequence"),
    );
    Stand { clock, publisher, heard }
}

impl Stand {
    /// What a reader gets from a turn at `now`: a verified offer, or nothing.
    async fn turn(&mut self, now: u64) -> Option<VerifiedOffer> {
        self.clock.set(at(now));
        self.publisher.turn().await.unwrap();
        let bytes = futures::FutureExt::now_or_never(self.heard.next())??;
        let context = OfferContext { now: at(now), pools: &[pool()] };
        Some(SignedOffer::from_bytes(bytes).verify(&context).unwrap())
    }
}

#[tokio::test]
async fn an_offer_is_repeated_and_renewed_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = stand(dir.path(), NOW).await;
    let first = stand.turn(NOW).await.unwrap();
    assert_eq!(stand.turn(NOW + 59).await, None);
    assert_eq!(stand.turn(NOW + 60).await.as_ref(), Some(&first));
    assert_eq!(*stand.publisher.current_id().borrow(), Some(first.id()));
    let second = stand.turn(NOW + 300).await.unwrap();
    assert_ne!(second.id(), first.id());
    assert!(second.sequence > first.sequence);
    assert_eq!(second.expires_at, at(NOW + 900));
    assert_eq!(*stand.publisher.current_id().borrow(), Some(second.id()));
}

#[tokio::test]
async fn numbers_rise_through_restarts_lost_files_and_clocks_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for now in [NOW, NOW, NOW - 5000, NOW + 1] {
        let offer = stand(dir.path(), now).await.turn(now).await.unwrap();
        assert!(offer.sequence > last, "{} after {last}", offer.sequence);
        last = offer.sequence;
    }
    std::fs::remove_file(dir.path().join("offer-sequence")).unwrap();
    let offer = stand(dir.path(), NOW + 10).await.turn(NOW + 10).await.unwrap();
    assert!(offer.sequence > last);
}

#[tokio::test]
async fn a_clock_set_back_makes_an_offer_that_readers_take() {
    let dir = tempfile::tempdir().unwrap();
    let mut stand = stand(dir.path(), NOW).await;
    stand.turn(NOW).await.unwrap();
    assert_eq!(stand.turn(NOW - 1000).await.unwrap().issued_at, at(NOW - 1000));
}

#[tokio::test]
async fn no_offer_is_published_whose_number_can_not_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let mut stand = stand(&gone, NOW).await;
    let error = stand.publisher.turn().await.unwrap_err();
    assert_eq!(error.code(), "TRB-5401");
    assert_eq!(*stand.publisher.current_id().borrow(), None);
    std::fs::create_dir(&gone).unwrap();
    assert!(stand.turn(NOW).await.is_some());
}
