//! Ratings on a real chain, with real proofs of real streams: which count, which don't and why, what a flood of bad ones costs, and the way from one
//! buyer to another's choice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use tributary_client::{
    BATCH, Buyer, BuyerParts, ClientError, ClientStore, RateOrder, RatingDesk, RatingLimits, RatingSettings,
    RatingSource, Settled, Sought, open_reputation,
};
use tributary_market::offer::{
    Attributes, LightpushAttributes, Offer, Service, ServiceId, UsePrice, UseUnit, VerifiedOffer,
};
use tributary_market::proto;
use tributary_market::rating::{MAX_AGE, PresentedRating, Rating, RatingRefusal, RatingScore, RatingVerifier, proven};
use tributary_market::ticket::Reason;
use tributary_protocol::{Circuit, UnixTime};
use tributary_prover::Proof;
use tributary_reputation::{Agreement, NetworkConfig, ProviderName, RatingBounds, ServiceName, Subject};
use tributary_waku::{
    ArchiveConfig, ClusterId, LightPushRequest, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, PeerId, Rate,
    Sharding, StoreConfig,
};
use tributary_wallet::tickets::{PayingStream, TicketMaker};

use crate::net::{L, amount, prover, time};
use crate::shop::Shop;
use crate::{Head, Market, PATIENCE, node, seconds, within};

/// What a usual stream pays in these tests.
const USUAL: u128 = 1024;

/// A shop with a stream that has paid for some slots, and who makes its ratings.
struct Raters {
    shop: Shop,
    stream: PayingStream,
    maker: TicketMaker,
}

impl Raters {
    async fn new() -> Self {
        let shop = Shop::new().await;
        let stream = shop.stream().await;
        shop.advance(2 * L).await;
        let maker = shop.maker().await;
        Self { shop, stream, maker }
    }

    fn now(&self) -> UnixTime {
        self.shop.net.ledger.head_time().unwrap()
    }

    fn peer(&self) -> PeerId {
        self.shop.node.peer_id()
    }

    fn rating(&self, score: u32, revision: u32) -> Rating {
        Rating {
            pool: self.shop.net.ledger.pool(),
            provider: self.peer(),
            service: ServiceId::lightpush(),
            score: RatingScore::new(score).unwrap(),
            measurements: Vec::new(),
            made_at: Rating::hour_of(self.now()),
            revision,
        }
    }

    /// Proves a rating; the message as it is published.
    async fn prove(&self, rating: &Rating) -> Vec<u8> {
        let bytes = rating.encode().unwrap();
        let made = self.maker.rate(&self.stream, &bytes).await.unwrap();
        proven(bytes, &made.statement, &made.proof)
    }

    /// An offer that the shop's provider signed.
    fn offer(&self) -> VerifiedOffer {
        let terms = self.shop.terms();
        let offer = Offer {
            payee: terms.payee,
            pool: terms.pool,
            ticket_price: terms.ticket_price,
            min_streamed: terms.min_streamed,
            rate_classes: terms.rate_classes,
            slot_carry: terms.slot_carry,
            root_depth: terms.root_depth,
            services: vec![Service {
                id: ServiceId::lightpush(),
                uses: vec![UsePrice { unit: UseUnit::Message, quantity: 1, tickets: 1 }],
                attributes: Attributes::Lightpush(LightpushAttributes {
                    pubsub_topics: vec!["/waku/2/rs/42/7".into()],
                    lease: None,
                    max_payload: 1000,
                }),
            }],
            multiaddrs: Vec::new(),
            sequence: 1,
            issued_at: self.now(),
            expires_at: self.now().saturating_add(seconds(3600)),
            encryption_key: None,
        };
        offer.sign(self.shop.node.key()).unwrap().verify_whenever(&[terms.pool]).unwrap()
    }

    fn subject(&self) -> Subject {
        Subject {
            provider: ProviderName::new(self.peer().to_string()).unwrap(),
            service: ServiceName::new("lightpush").unwrap(),
        }
    }

    async fn desk(&self, file: &str, limits: RatingLimits) -> RatingDesk {
        let reputation = open_reputation(&self.shop.path(file)).await.unwrap();
        let key = prover().verifying_key(Circuit::Ticket).unwrap();
        let counting = NetworkConfig::for_stream(amount(USUAL));
        let store = reputation.ratings(RatingBounds::default());
        RatingDesk::open(self.shop.net.ledger.clone(), key, store, counting, limits, self.now()).await.unwrap()
    }

    fn verifier(&self) -> RatingVerifier {
        RatingVerifier { pool: self.shop.net.ledger.pool(), clock: self.shop.net.ledger.clock() }
    }
}

/// The message with a change in its outer part.
fn changed(message: &[u8], change: impl FnOnce(&mut proto::ProvenRating)) -> Vec<u8> {
    let mut outer = proto::ProvenRating::decode(message).unwrap();
    change(&mut outer);
    outer.encode_to_vec()
}

/// The message with a change in the rating itself, which its proof doesn't know of.
fn altered(message: &[u8], change: impl FnOnce(&mut proto::Rating)) -> Vec<u8> {
    changed(message, |outer| {
        let mut inner = proto::Rating::decode(outer.rating.as_slice()).unwrap();
        change(&mut inner);
        outer.rating = inner.encode_to_vec();
    })
}

const LIVE: RatingSource = RatingSource::Live;

#[tokio::test(flavor = "multi_thread")]
async fn a_rating_by_a_stream_that_paid_counts_and_each_wrong_one_has_its_code() {
    let raters = Raters::new().await;
    let good = raters.prove(&raters.rating(900, 1)).await;
    assert!(good.len() <= 1024, "a rating has {} bytes", good.len());
    let desk = raters.desk("first.sqlite", RatingLimits::default()).await;
    let now = raters.now();
    let refused = |payload: &[u8]| desk.take(LIVE, payload, raters.now()).unwrap_err().code();

    // Before an offer of the provider's named the payee, anybody's money could speak of it.
    assert_eq!(refused(&good), "TRB-M471");
    desk.offer(&raters.offer(), now).await.unwrap();

    // What its form tells.
    assert_eq!(refused(&vec![0; 1537]), "TRB-M461");
    assert_eq!(refused(&[0xff]), "TRB-M462");
    assert_eq!(refused(&altered(&good, |rating| rating.score = 1001)), "TRB-M462");
    assert_eq!(refused(&altered(&good, |rating| rating.made_at += 1)), "TRB-M462");
    assert_eq!(refused(&altered(&good, |rating| rating.service = "x".repeat(400))), "TRB-M462");
    assert_eq!(refused(&changed(&good, |outer| outer.version = 2)), "TRB-M463");
    assert_eq!(refused(&altered(&good, |rating| rating.version = 2)), "TRB-M463");
    assert_eq!(refused(&altered(&good, |rating| rating.chain_id += 1)), "TRB-M464");
    assert_eq!(refused(&changed(&good, |outer| outer.slot_start += 1)), "TRB-M465");
    assert_eq!(refused(&changed(&good, |outer| outer.slot_end += L)), "TRB-M465");
    let ahead = |outer: &mut proto::ProvenRating| {
        let slot = raters.shop.net.ledger.clock().slot_of(now).unwrap();
        (outer.slot_start, outer.slot_end) = (slot.start().get(), slot.end().get());
    };
    assert_eq!(refused(&changed(&good, ahead)), "TRB-M466");
    assert_eq!(refused(&altered(&good, |rating| rating.made_at += 2 * 3600)), "TRB-M467");
    let late = time(now.get() + MAX_AGE + 2 * 86_400);
    assert_eq!(desk.take(LIVE, &good, late).unwrap_err().code(), "TRB-M468");
    assert_eq!(refused(&changed(&good, |outer| outer.min_streamed = vec![3])), "TRB-M469");
    assert_eq!(refused(&changed(&good, |outer| outer.nullifier = vec![0; 32])), "TRB-M470");
    // Whom the money went to, and whom the rating speaks of, belong together.
    assert_eq!(refused(&changed(&good, |outer| outer.payee[31] ^= 1)), "TRB-M471");
    let other = NodeKey::generate().peer_id();
    assert_eq!(refused(&altered(&good, |rating| rating.provider = other.to_bytes())), "TRB-M471");
    assert_eq!(refused(&changed(&good, |outer| outer.root[31] ^= 1)), "TRB-M472");
    assert_eq!(desk.settle(now).await.unwrap(), Settled::default(), "nothing of that waits");

    // What the chain and the proof tell. A proof made as a ticket, with a price, is no rating.
    let slot = raters.shop.slot();
    let ticket = raters.maker.take(&raters.stream, slot, 1).await.unwrap();
    let past = |outer: &mut proto::ProvenRating| {
        let start = slot.start().get() - L;
        (outer.slot_start, outer.slot_end) = (start, start + L);
    };
    let sold = proven(raters.rating(900, 1).encode().unwrap(), &ticket.statement, &ticket.proof);
    let sold = changed(&sold, |outer| {
        past(outer);
        outer.min_streamed = vec![2, 0];
        outer.stopped_root = proto::ProvenRating::decode(good.as_slice()).unwrap().stopped_root;
    });
    for (payload, code, what) in [
        (changed(&good, |outer| outer.stopped_root[31] ^= 1), "TRB-M474", "another list"),
        (altered(&good, |rating| rating.score = 0), "TRB-M477", "another score"),
        (altered(&good, |rating| rating.revision = 9), "TRB-M477", "another revision"),
        (changed(&good, |outer| outer.min_streamed = vec![0x40, 0]), "TRB-M477", "more paid"),
        (changed(&good, |outer| outer.nullifier[31] ^= 1), "TRB-M477", "another nullifier"),
        (changed(&good, |outer| outer.proof = vec![0xff; 256]), "TRB-M477", "no points of the curve"),
        (sold, "TRB-M477", "a ticket's proof"),
    ] {
        desk.take(LIVE, &payload, now).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
        let settled = desk.settle(now).await.unwrap();
        assert_eq!(settled.refused.keys().copied().collect::<Vec<_>>(), [code], "{what}");
        assert_eq!((settled.new, settled.replaced, settled.waiting), (0, 0, 0), "{what}");
        if code == "TRB-M477" {
            assert_eq!(refused(&payload), code, "{what} is not verified a second time");
        }
    }
    assert_eq!(desk.store().count().await.unwrap(), 0);

    desk.take(LIVE, &good, now).unwrap();
    assert_eq!(refused(&good), "TRB-M476", "it waits already");
    let settled = desk.settle(now).await.unwrap();
    assert_eq!((settled.new, settled.proofs, settled.refused.len()), (1, 1, 0), "{settled:?}");
    let praised = desk.score(&raters.subject(), Agreement::default(), now).await.unwrap();
    assert_eq!(praised.ratings, 1);
    assert!(praised.value > 0.5 && praised.paid >= 1024.0, "{praised:?}");

    // A second rating by the same stream takes the place of the first, and the first never comes back.
    let newer = raters.prove(&raters.rating(0, 2)).await;
    desk.take(LIVE, &newer, now).unwrap();
    assert_eq!(desk.settle(now).await.unwrap().replaced, 1);
    assert_eq!(desk.store().count().await.unwrap(), 1);
    let scolded = desk.score(&raters.subject(), Agreement::default(), now).await.unwrap();
    assert!(scolded.ratings == 1 && scolded.value < 0.5, "{scolded:?}");
    assert_eq!(refused(&good), "TRB-M475");
    assert_eq!(refused(&newer), "TRB-M476");

    // All of it outlives the process: what counts, who belongs together, what is superseded.
    drop(desk);
    let again = raters.desk("first.sqlite", RatingLimits::default()).await;
    assert_eq!(again.take(LIVE, &good, now).unwrap_err().code(), "TRB-M475");
    assert_eq!(again.take(LIVE, &newer, now).unwrap_err().code(), "TRB-M476");
    assert_eq!(again.score(&raters.subject(), Agreement::default(), now).await.unwrap().ratings, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_ratings_costs_bounded_work_and_keeps_no_good_one_out() {
    let raters = Raters::new().await;
    let good = raters.prove(&raters.rating(900, 0)).await;
    let limits =
        RatingLimits { proofs: Rate::new(1.0, 600.0), waiting: 100, bad_proofs: 32, ..RatingLimits::default() };
    let desk = raters.desk("flood.sqlite", limits).await;
    let now = raters.now();
    desk.offer(&raters.offer(), now).await.unwrap();
    let archive = |_: ()| RatingSource::Archive(NodeKey::generate().peer_id());
    let (hostile, honest) = (archive(()), archive(()));
    let bad = |revision: u32| altered(&good, |rating| rating.revision = revision);
    let mut busy = 0;
    for revision in 1..=300 {
        match desk.take(hostile, &bad(revision), now) {
            Ok(()) => {}
            Err(RatingRefusal::Busy { waiting: 100, limit: 100 }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy, 200, "a source's queue has an end");
    desk.take(honest, &good, now).unwrap();
    let settled = desk.settle(now).await.unwrap();
    assert_eq!(settled.new, 1, "others have their turn: {settled:?}");
    assert_eq!(settled.waiting, 0, "what was left of the hostile source is dropped: {settled:?}");
    // One batch of 64, halved until each of its bad proofs stands alone: seven times its size at the most.
    assert!(settled.proofs <= 64 * 7, "{settled:?}");
    assert_eq!(desk.take(hostile, &bad(1000), now).unwrap_err().code(), "TRB-M478", "it isn't listened to any more");

    // The topic can't be left, because nobody knows who publishes on it; its flood ends with the budget.
    let mut proofs = settled.proofs;
    for round in 0..20_u32 {
        for revision in 0..100 {
            let _ = desk.take(LIVE, &bad(2000 + 100 * round + revision), now);
        }
        proofs += desk.settle(now).await.unwrap().proofs;
    }
    // What a batch takes beyond its own proofs is known only afterwards.
    assert!(proofs <= 600 + 64 * 6, "{proofs} proofs were verified");
    // With time the budget fills up again, and what waits goes on.
    let later = time(now.get() + 70);
    assert!(desk.settle(later).await.unwrap().proofs > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ratings_are_verified_in_a_millisecond_each_in_batches_on_one_core() {
    let raters = Raters::new().await;
    let message = raters.prove(&raters.rating(900, 0)).await;
    let presented: PresentedRating = raters.verifier().decode(&message, raters.now()).unwrap();
    let key = prover().verifying_key(Circuit::Ticket).unwrap();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut each: Vec<f64> = (0..9)
        .map(|_| {
            let started = Instant::now();
            one.install(|| {
                // From the bytes on, as they come from the network.
                let items: Vec<_> = (0..BATCH)
                    .map(|_| {
                        let rating = raters.verifier().decode(&message, raters.now()).unwrap();
                        (rating.statement().public_inputs(), Proof::from_bytes(rating.proof()).unwrap())
                    })
                    .collect();
                key.verify_batch(&items).unwrap();
            });
            started.elapsed().as_secs_f64() * 1e3 / BATCH as f64
        })
        .collect();
    each.sort_by(f64::total_cmp);
    println!(
        "a rating in a batch of {BATCH} on one core: median {:.3} ms, best {:.3} ms; {} bytes, proves {} paid",
        each[4],
        each[0],
        message.len(),
        presented.tier().amount(),
    );
    // Other work on the machine slows all of them; the bound is what the best of them shows.
    assert!(each[0] <= 1.0, "a rating takes {:.3} ms", each[0]);
}

/// A node that keeps messages and answers queries.
async fn archive(market: &Market) -> NodeHandle {
    let node = Node::spawn(NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        archive: Some(ArchiveConfig::new(market.shop.path("archive.sqlite"))),
        store: Some(StoreConfig::default()),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    })
    .await
    .unwrap();
    node.dial_within(&market.seller.listen_addrs()[0], PATIENCE).await.unwrap();
    node
}

/// Another buyer of the same pool, who knows nothing yet.
async fn stranger(market: &Market, seed: u8, peer: &NodeHandle) -> Buyer {
    let client = node(false).await;
    client.dial_within(&peer.listen_addrs()[0], PATIENCE).await.unwrap();
    let (wallet, name) = (market.shop.net.wallet(seed).await, format!("stranger-{seed}"));
    let parts = BuyerParts {
        node: client,
        tickets: wallet.tickets(&market.shop.path(&format!("{name}-tickets.sqlite"))).await.unwrap(),
        wallet,
        store: ClientStore::open(&market.shop.path(&format!("{name}.sqlite"))).await.unwrap(),
        reputation: open_reputation(&market.shop.path(&format!("{name}-reputation.sqlite"))).await.unwrap(),
        clock: Arc::new(Head(market.shop.net.ledger.clone())),
    };
    let key = prover().verifying_key(Circuit::Ticket).unwrap();
    Buyer::new(parts).await.unwrap().with_ratings(RatingSettings::new(key, amount(USUAL))).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyers_rating_reaches_others_live_and_from_an_archive_and_a_failed_provider_is_avoided() {
    let market = Market::new().await;
    let keeper = archive(&market).await;
    let want = Market::want(Sought::Lightpush { messages: 2, payload: 100 });
    market.find(&want).await;
    let order = RateOrder { score: Some(RatingScore::new(950).unwrap()), ..RateOrder::default() };
    assert_eq!(market.buyer.rate(&order).await.unwrap_err().code(), "TRB-C050", "nothing was paid yet");
    market.buy(&want).await;
    let (paid, _) = market.buyer.paid_lightpush(None).await.unwrap();
    within("a push", paid.push(LightPushRequest::new(Some(market.shard()), market.message("rated")))).await.unwrap();
    market.shop.advance(2 * L).await;
    market.shop.net.mine(2).await;
    market.buyer.wallet().sync().await.unwrap();

    let unassessed = RateOrder { score: None, ..order.clone() };
    assert_eq!(market.buyer.rate(&unassessed).await.unwrap_err().code(), "TRB-C051");
    let unsold = RateOrder { service: Some(ServiceId::store()), ..order.clone() };
    assert_eq!(market.buyer.rate(&unsold).await.unwrap_err().code(), "TRB-C009");

    let listener = stranger(&market, 3, &market.seller).await;
    let service = ServiceId::lightpush();
    let offers = async {
        while listener.directory().offer(market.seller.peer_id()).is_err() {
            let _ = market.provider.publisher().publish_now().await;
            listener.directory().discover(tokio::time::sleep(Duration::from_millis(100))).await.unwrap();
        }
    };
    within("the offer", offers).await;
    listener.node().wait_for_mesh(market.shard_of_market(), 1, PATIENCE).await.unwrap();

    // One that is made to wait is written down and not published.
    let delayed = RateOrder { delay: Duration::from_secs(3600), ..order.clone() };
    let waiting = market.buyer.rate(&delayed).await.unwrap();
    assert!(!waiting.published || waiting.due <= market.now());
    // Another one by the same stream takes its place; it is published at once.
    let heard = async {
        let mut ratings = 0;
        while ratings == 0 {
            let found = listener.directory().discover(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
            ratings += found.ratings;
        }
        ratings
    };
    let rating = async {
        // The listener reads by then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let made = market.buyer.rate(&order).await.unwrap();
        if made.due > market.now() {
            market.shop.advance(made.due.get() - market.now().get()).await;
            assert_eq!(market.buyer.publish_ratings().await.unwrap(), 1);
        } else {
            assert!(made.published);
        }
        made
    };
    let (ratings, made) = within("a rating's way", async { tokio::join!(heard, rating) }).await;
    assert!(made.replaces);
    assert_eq!(ratings, 1);
    assert_eq!(market.buyer.publish_ratings().await.unwrap(), 0, "it is published once");
    let known = listener.reputed(market.seller.peer_id(), &service).await.unwrap();
    let network = known.network.unwrap();
    assert_eq!(network.ratings, 1);
    assert!(known.combined.value > 0.5 && known.combined.own_weight == 0.0, "{:?}", known.combined);
    let (_, explanation) = listener.choose(&want).await.unwrap();
    assert!(explanation.to_string().contains("worth"), "{explanation}");

    // Who comes later has it from the archive.
    let latecomer = stranger(&market, 4, &keeper).await;
    let caught_up = async {
        loop {
            latecomer.directory().discover(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
            let known = latecomer.reputed(market.seller.peer_id(), &service).await.unwrap();
            if known.network.is_some_and(|network| network.ratings == 1) {
                break;
            }
        }
    };
    within("the rating from the archive", caught_up).await;

    // A provider that isn't there is noted as such, and the next choice goes elsewhere although it is dearer.
    let gone = market.absent_provider().await;
    // It is the cheapest; one draw in fifty tries somebody else.
    let mut draws = 0;
    let offer = loop {
        let offer = market.buyer.choose(&want).await.unwrap().0.unwrap().offer;
        if offer.peer_id().to_string() == gone {
            break offer;
        }
        draws += 1;
        assert!(draws < 5, "{} is chosen, not the cheapest", offer.peer_id());
    };
    let error = market.buyer.connect(&offer).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(_)), "{error}");
    market.buyer.failed(offer.peer_id(), &service, &error).await.unwrap();
    let known = market.buyer.reputed(offer.peer_id(), &service).await.unwrap();
    assert!(known.combined.value < 0.5 && known.failures.is_some_and(|failures| failures.count == 1));
    for _ in 0..20 {
        let (choice, explanation) = market.buyer.choose(&want).await.unwrap();
        assert_eq!(choice.unwrap().offer.peer_id(), market.seller.peer_id(), "{explanation}");
    }
    // An error of the buyer's own says nothing of the provider.
    let own = ClientError::Refused { reason: Reason::StaleSlot, description: "x".into() };
    market.buyer.failed(market.seller.peer_id(), &service, &own).await.unwrap();
    assert!(market.buyer.reputed(market.seller.peer_id(), &service).await.unwrap().failures.is_none());
    // A refusal of what the offer sells does: the stream pays on.
    let lie = ClientError::Refused { reason: Reason::InvalidProof, description: "x".into() };
    market.buyer.failed(market.seller.peer_id(), &service, &lie).await.unwrap();
    assert!(market.buyer.reputed(market.seller.peer_id(), &service).await.unwrap().failures.is_some());
}

/// Whoever waits for offers may read the database that they are written to: neither stops the other.
#[tokio::test(flavor = "multi_thread")]
async fn offers_are_taken_while_who_waits_for_them_reads_scores() {
    let market = Market::new().await;
    let listener = stranger(&market, 3, &market.seller).await;
    let (service, seller) = (ServiceId::lightpush(), market.seller.peer_id());
    let publishing = async {
        loop {
            let _ = market.provider.publisher().publish_now().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waiting = async {
        while listener.directory().offer(seller).is_err() {
            listener.reputed(seller, &service).await.unwrap();
        }
    };
    let found = tokio::select! {
        found = within("an offer", listener.directory().discover(waiting)) => found.unwrap(),
        () = publishing => unreachable!("it is published forever"),
    };
    assert_eq!(found.offers, 1);
}
