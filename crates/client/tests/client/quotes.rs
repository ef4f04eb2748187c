//! Quotes that their provider does not honour.

use std::sync::Arc;

use async_trait::async_trait;
use rand::{SeedableRng as _, rngs::StdRng};
use tributary_client::{Buyer, BuyerParts, ClientStore, open_reputation};
use tributary_ledger::Clock as _;
use tributary_market::{
    clock::ManualClock,
    negotiate::{
        Source, Wanted,
        buyer::{NegotiationError, QuoteChannel, Wish, negotiate},
        provider::{Negotiator, QuoteTimes},
    },
    offer::{
        Attributes, Offer, OfferContext, RateClass, RateClassId, Service, ServiceId, StoreAttributes, UsePrice,
        UseUnit, VerifiedOffer,
    },
};
use tributary_protocol::{Price, Seconds, UnixTime};
use tributary_reputation::ProviderName;
use tributary_waku::{ClusterId, Node, NodeConfig, NodeKey, Sharding};

use crate::net::{L, Net, amount, rate};

fn seconds(s: u64) -> Seconds {
    Seconds::new(s).unwrap()
}

/// A provider in the same process.
#[derive(Debug)]
struct Provider(Negotiator);

#[async_trait]
impl QuoteChannel for Provider {
    async fn ask(&self, _offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
        Ok(self.0.answer(Source::Sealed, &request).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_leaves_its_quote_is_suspended() {
    let net = Net::start().await;
    net.clock.set(net.now().await);
    let now = UnixTime::new(net.clock.now()).unwrap();
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    let key = Arc::new(NodeKey::generate());
    let class = RateClass { id: RateClassId(1), rate: rate(10), min_duration: seconds(L), max_duration: None };
    let attributes = StoreAttributes {
        retention: seconds(3600),
        pubsub_topics: vec!["/waku/2/rs/42/7".to_owned()],
        content_topics: vec![],
        page_size: 20,
    };
    let mut offer = Offer {
        payee: payee.address(),
        pool: net.ledger.pool(),
        ticket_price: Price::new(100).unwrap(),
        min_streamed: amount(0),
        rate_classes: vec![class],
        slot_carry: seconds(20),
        root_depth: 1,
        services: vec![Service {
            id: ServiceId::store(),
            uses: vec![UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 }],
            attributes: Attributes::Store(attributes),
        }],
        multiaddrs: vec!["/ip4/127.0.0.1/tcp/60000".parse().unwrap()],
        sequence: 1,
        issued_at: now,
        expires_at: now.saturating_add(seconds(3600)),
        encryption_key: None,
    };
    let context = OfferContext { now, pools: &[net.ledger.pool()] };
    let quoted = Arc::new(offer.sign(&*key).unwrap().verify(&context).unwrap());
    let clock = ManualClock::new(now);
    let times = QuoteTimes { validity: seconds(120), start_grace: seconds(300) };
    let negotiator = Negotiator::new(key.clone(), net.ledger.clock(), Arc::new(clock.clone()), times, vec![]);
    negotiator.set_offer(Some(quoted.clone()));
    let wish = Wish {
        service: ServiceId::store(),
        wanted: Wanted::Anything,
        rate_class: RateClassId(1),
        start: now,
        latest_start: now.saturating_add(seconds(600)),
        duration: seconds(600),
        min_duration: seconds(600),
        max_duration: seconds(600),
        load: 1,
        min_load: 1,
        max_ticket_price: Price::new(100).unwrap(),
        max_rate: rate(10),
        max_rounds: 4,
    };
    let agreed = negotiate(&Provider(negotiator), &quoted, &wish, &clock, &mut StdRng::from_entropy()).await.unwrap();

    let dir = net.dir.path();
    let store = ClientStore::open(&dir.join("client.sqlite")).await.unwrap();
    let peer = key.peer_id();
    store.put_quote(peer, quoted.signed().as_bytes(), agreed.signed(), b"{}", net.clock.now()).await.unwrap();
    let reputation = open_reputation(&dir.join("reputation.sqlite")).await.unwrap();
    let name = ProviderName::new(peer.to_string()).unwrap();
    let node = NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 });
    let node = Node::spawn(NodeConfig { relay: false, ..node }).await.unwrap();
    let tickets = payer.tickets(&dir.join("tickets.sqlite")).await.unwrap();
    let parts = || BuyerParts {
        node: node.clone(),
        wallet: payer.clone(),
        tickets: tickets.clone(),
        store: store.clone(),
        reputation: reputation.clone(),
        clock: Arc::new(net.clock.clone()),
    };

    // The same terms under a new number: nothing is wrong.
    (offer.sequence, offer.issued_at) = (2, now.saturating_add(seconds(10)));
    store.put_offer(peer, offer.sign(&*key).unwrap().as_bytes(), net.clock.now()).await.unwrap();
    Buyer::new(parts()).await.unwrap();
    assert_eq!(reputation.suspension(&name, now).await.unwrap(), None);

    // Dearer while the quote's terms run.
    (offer.sequence, offer.ticket_price) = (3, Price::new(101).unwrap());
    store.put_offer(peer, offer.sign(&*key).unwrap().as_bytes(), net.clock.now()).await.unwrap();
    let buyer = Buyer::new(parts()).await.unwrap();
    let suspended = reputation.suspension(&name, now).await.unwrap().expect("suspended");
    // Seen again, it counts once.
    buyer.report_evidence().await.unwrap();
    assert_eq!(reputation.suspension(&name, now).await.unwrap(), Some(suspended));
}
