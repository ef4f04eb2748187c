use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use libp2p::identity::Keypair;
use prost::Message as _;
use tributary_market::clock::{Clock, ManualClock};
use tributary_market::envelope::{self, PayloadType};
use tributary_market::negotiate::broken::{Breach, BrokenQuote};
use tributary_market::negotiate::buyer::{NegotiationError, QuoteChannel, Wish, negotiate};
use tributary_market::negotiate::policy::{
    Ask, AttributesPolicy, AvailabilityPolicy, CapacityPolicy, Draft, DurationPolicy, FairnessPolicy, LoadPolicy,
    Policy, PricePolicy, StartPolicy,
};
use tributary_market::negotiate::provider::{Negotiator, QuoteTimes};
use tributary_market::negotiate::{
    AgreedQuote, Compared, CounterOffer, FamilyWanted, FilterWanted, LightpushWanted, Refusal, RefusalCode, Source,
    StoreWanted, Terms, Wanted, binds_until,
};
use tributary_market::offer::{
    Attributes, FamilyAttributes, FilterAttributes, LeaseSale, LightpushAttributes, Offer, OfferId, RateClassId,
    Service, ServiceId, SignedOffer, UsePrice, UseUnit, VerifiedOffer,
};
use tributary_market::property::{Need, Properties, PropertyValue, Rule};
use tributary_market::proto;
use tributary_protocol::amount::{Price, Rate};
use tributary_protocol::time::Seconds;

use crate::common::*;

pub(crate) struct Provider {
    pub(crate) negotiator: Negotiator,
    offer: Arc<VerifiedOffer>,
    capacity: Arc<CapacityPolicy>,
    available: tokio::sync::watch::Sender<bool>,
    clock: ManualClock,
}

pub(crate) fn provider() -> Provider {
    with_policies(Vec::new())
}

fn with_policies(more: Vec<Box<dyn Policy>>) -> Provider {
    let clock = ManualClock::new(now());
    let capacity = CapacityPolicy::new(40, 30);
    let (available, receiver) = tokio::sync::watch::channel(true);
    let mut policies: Vec<Box<dyn Policy>> = vec![
        Box::new(AvailabilityPolicy { available: receiver, retry_after: seconds(30) }),
        Box::new(FairnessPolicy::new(20, 20, seconds(60))),
        Box::new(PricePolicy),
        Box::new(DurationPolicy),
        Box::new(StartPolicy { max_past: seconds(600), max_ahead: seconds(3600) }),
        Box::new(AttributesPolicy),
        Box::new(LoadPolicy),
        Box::new(Arc::clone(&capacity)),
    ];
    policies.extend(more);
    let negotiator = Negotiator::new(
        Arc::new(key(1)),
        crate::common::clock(),
        Arc::new(clock.clone()),
        QuoteTimes { validity: seconds(120), start_grace: seconds(300) },
        policies,
    );
    let offer = verified(&offer(), &key(1));
    negotiator.set_offer(Some(offer.clone()));
    Provider { negotiator, offer, capacity, available, clock }
}

/// Asks a negotiator in the same process, as some source; counts requests, and may change answers.
struct Channel<'a> {
    provider: &'a Provider,
    source: Source,
    requests: AtomicUsize,
    change: Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'a>,
}

impl<'a> Channel<'a> {
    fn to(provider: &'a Provider) -> Self {
        Self {
            provider,
            source: Source::Peer(key(50).public().to_peer_id()),
            requests: AtomicUsize::new(0),
            change: Box::new(|answer| answer),
        }
    }
}

#[async_trait]
impl QuoteChannel for Channel<'_> {
    async fn ask(&self, _offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        Ok((self.change)(self.provider.negotiator.answer(self.source, &request).await.unwrap()))
    }
}

fn wish() -> Wish {
    Wish {
        service: ServiceId::store(),
        wanted: Wanted::Store(StoreWanted {
            retention: seconds(86_400),
            pubsub_topic: SHARD.into(),
            content_topics: vec!["/app/1/chat/proto".into()],
        }),
        rate_class: RateClassId(1),
        start: now(),
        latest_start: time(NOW + 600),
        duration: seconds(3600),
        min_duration: seconds(1800),
        max_duration: seconds(7200),
        load: 10,
        min_load: 5,
        max_ticket_price: Price::new(100).unwrap(),
        max_rate: Rate::new(100).unwrap(),
        max_rounds: 4,
    }
}

async fn agree(channel: &Channel<'_>, wish: &Wish) -> Result<AgreedQuote, NegotiationError> {
    negotiate(channel, &channel.provider.offer, wish, &channel.provider.clock, &mut rng()).await
}

async fn refused(provider: &Provider, change: impl FnOnce(&mut Wish)) -> (Refusal, u32) {
    let mut wish = wish();
    change(&mut wish);
    match agree(&Channel::to(provider), &wish).await {
        Err(NegotiationError::Refused { refusal, rounds }) => (*refusal, rounds),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_quote_keeps_to_the_public_offer() {
    let provider = provider();
    let quote = agree(&Channel::to(&provider), &wish()).await.unwrap();
    assert_eq!(quote.payee, provider.offer.payee);
    assert_eq!(quote.pool, pool());
    assert_eq!(quote.ticket_price, Price::new(60).unwrap());
    assert_eq!(quote.rate, Rate::new(10).unwrap());
    assert_eq!(quote.terms.offer_id, provider.offer.id());
    assert_eq!(quote.terms.load_cap, 10);
    assert_eq!(quote.terms.start_deadline, time(NOW + 300));
    assert_eq!(quote.valid_until, time(NOW + 120));
    assert_eq!(quote.provider(), key(1).public().to_peer_id());
}

#[test]
fn the_terms_hash_binds_every_term() {
    let terms = Terms {
        offer_id: OfferId::of_payload(b"offer"),
        service: ServiceId::store(),
        rate_class: RateClassId(1),
        duration: seconds(3600),
        start_deadline: time(NOW),
        load_cap: 10,
    };
    let changed = [
        Terms { offer_id: OfferId::of_payload(b"other"), ..terms.clone() },
        Terms { service: "filter".parse().unwrap(), ..terms.clone() },
        Terms { rate_class: RateClassId(2), ..terms.clone() },
        Terms { duration: seconds(3601), ..terms.clone() },
        Terms { start_deadline: time(NOW + 1), ..terms.clone() },
        Terms { load_cap: 11, ..terms.clone() },
    ];
    for other in changed {
        assert_ne!(terms.hash(), other.hash(), "{other:?}");
    }
    // Pinned: docs/src/market.md gives this vector.
    assert_eq!(hex::encode(terms.hash()), "fa4ff94e8e2abbd23a8bf5415a64a9f97903a0dc50b0581ccbd42022290b442b");
}

#[tokio::test]
async fn each_refusal_has_its_own_code_and_numbers() {
    let provider = provider();
    let (refusal, _) = refused(&provider, |w| w.service = "turn".parse().unwrap()).await;
    assert_eq!(refusal.code, RefusalCode::UnknownService);
    let (refusal, _) = refused(&provider, |w| w.rate_class = RateClassId(9)).await;
    assert_eq!(refusal.code, RefusalCode::UnknownClass);
    assert_eq!(refusal.compared[0].limit, "1 2");
    let (refusal, _) = refused(&provider, |w| w.max_ticket_price = Price::new(59).unwrap()).await;
    assert_eq!((refusal.code, refusal.compared[0].asked.as_str()), (RefusalCode::PriceTooHigh, "59"));
    let (refusal, _) = refused(&provider, |w| w.max_rate = Rate::new(9).unwrap()).await;
    assert_eq!((refusal.code, refusal.counter), (RefusalCode::RateTooHigh, None));
    let (refusal, rounds) = refused(&provider, |w| {
        w.duration = seconds(90_000);
        w.min_duration = seconds(90_000);
        w.max_duration = seconds(90_000);
    })
    .await;
    assert_eq!((refusal.code, rounds), (RefusalCode::Duration, 1));
    assert_eq!(refusal.counter.unwrap().duration, seconds(86_400));
    let (refusal, _) = refused(&provider, |w| {
        w.start = time(NOW + 5000);
        w.latest_start = time(NOW + 3000);
    })
    .await;
    assert_eq!((refusal.code, refusal.counter.unwrap().start), (RefusalCode::Start, time(NOW + 3600)));
    let (refusal, _) = refused(&provider, |w| {
        w.wanted = Wanted::Store(StoreWanted {
            retention: seconds(30 * 86_400),
            pubsub_topic: "/waku/2/rs/66/1".into(),
            content_topics: Vec::new(),
        });
    })
    .await;
    assert_eq!((refusal.code, refusal.compared.len()), (RefusalCode::Attributes, 2));
    let (refusal, _) = refused(&provider, |w| {
        w.load = 25;
        w.min_load = 25;
    })
    .await;
    assert_eq!((refusal.code, refusal.compared[0].limit.as_str()), (RefusalCode::Load, "10"));
    provider.capacity.set_in_use(36);
    let (refusal, _) = refused(&provider, |_| {}).await;
    assert_eq!((refusal.code, refusal.counter.unwrap().load), (RefusalCode::Capacity, 4));
    provider.available.send(false).unwrap();
    let (refusal, _) = refused(&provider, |_| {}).await;
    assert_eq!((refusal.code, refusal.retry_at), (RefusalCode::Unavailable, Some(time(NOW + 30))));
    provider.available.send(true).unwrap();
    provider.negotiator.set_offer(Some(verified(
        &{
            let mut newer = offer();
            newer.sequence = 8;
            newer
        },
        &key(1),
    )));
    let (refusal, _) = refused(&provider, |_| {}).await;
    assert_eq!(refusal.code, RefusalCode::UnknownOffer);
    provider.negotiator.set_offer(None);
    let (refusal, _) = refused(&provider, |_| {}).await;
    assert_eq!(refusal.code, RefusalCode::Unavailable);
}

/// Attributes of Filter and Lightpush come over the wire and are compared with the offer, each with its numbers.
#[tokio::test]
async fn what_is_wanted_of_filter_and_lightpush_is_compared() {
    let provider = provider();
    let mut sold = offer();
    sold.sequence += 1;
    let lease = |max_quota| Some(LeaseSale { unit: UseUnit::TopicMinute, max_quota, grace: seconds(15) });
    let topics = vec![SHARD.to_owned()];
    sold.services = vec![
        Service {
            id: ServiceId::filter(),
            uses: vec![UsePrice { unit: UseUnit::TopicMinute, quantity: 10, tickets: 1 }],
            attributes: Attributes::Filter(FilterAttributes { pubsub_topics: topics.clone(), lease: lease(20) }),
        },
        Service {
            id: ServiceId::lightpush(),
            uses: vec![UsePrice { unit: UseUnit::Message, quantity: 1, tickets: 1 }],
            attributes: Attributes::Lightpush(LightpushAttributes {
                pubsub_topics: topics,
                lease: None,
                max_payload: 1000,
            }),
        },
    ];
    let provider = Provider { offer: verified(&sold, &key(1)), ..provider };
    provider.negotiator.set_offer(Some(provider.offer.clone()));
    let filter = |topics, shard: &str| Wanted::Filter(FilterWanted { pubsub_topic: shard.to_owned(), topics });
    let push = |payload, shard: &str| Wanted::Lightpush(LightpushWanted { pubsub_topic: shard.to_owned(), payload });
    let ask = |service: ServiceId, wanted: Wanted| Wish { service, wanted, ..wish() };
    let elsewhere = "/waku/2/rs/66/1";

    for (service, wanted) in [(ServiceId::filter(), filter(20, SHARD)), (ServiceId::lightpush(), push(1000, SHARD))] {
        let quote = agree(&Channel::to(&provider), &ask(service.clone(), wanted)).await.unwrap();
        assert_eq!(quote.terms.service, service);
    }
    let compared = |name: &str, asked: &str, limit: &str| Compared::new(name, asked, limit);
    for (service, wanted, missing) in [
        (ServiceId::filter(), filter(21, SHARD), compared("topics", "21", "20")),
        (ServiceId::filter(), filter(1, elsewhere), compared("pubsub_topic", elsewhere, SHARD)),
        (ServiceId::filter(), push(1, SHARD), compared("family", "lightpush", "another")),
        (ServiceId::lightpush(), push(1001, SHARD), compared("payload", "1001", "1000")),
        (ServiceId::lightpush(), push(1, elsewhere), compared("pubsub_topic", elsewhere, SHARD)),
        (ServiceId::lightpush(), filter(1, SHARD), compared("family", "filter", "another")),
    ] {
        match agree(&Channel::to(&provider), &ask(service, wanted)).await {
            Err(NegotiationError::Refused { refusal, .. }) => {
                assert_eq!((refusal.code, refusal.compared), (RefusalCode::Attributes, vec![missing]));
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    // Nobody wants no topic: such a request doesn't come from this program.
    match agree(&Channel::to(&provider), &ask(ServiceId::filter(), filter(0, SHARD))).await {
        Err(NegotiationError::Refused { refusal, .. }) => assert_eq!(refusal.code, RefusalCode::Malformed),
        Err(NegotiationError::Answer { error, .. }) => assert_eq!(error.code(), "TRB-M202"),
        other => panic!("not refused: {other:?}"),
    }
}

/// A family that this crate knows nothing of: what is wanted comes over the wire, and is held against the offer's properties.
#[tokio::test]
async fn what_is_wanted_of_a_family_is_compared() {
    let provider = provider();
    let mut sold = offer();
    sold.sequence += 1;
    let id: ServiceId = "inference/small".parse().unwrap();
    let properties = Properties::new()
        .with("context", PropertyValue::Number(8192))
        .and_then(|all| all.with("models", PropertyValue::Texts(vec!["a".into(), "b".into()])))
        .unwrap();
    let family = FamilyAttributes { name: "inference".parse().unwrap(), lease: None, properties };
    sold.services = vec![Service {
        id: id.clone(),
        uses: vec![UsePrice { unit: UseUnit::KilotokenOut, quantity: 1, tickets: 2 }],
        attributes: Attributes::Family(family),
    }];
    let provider = Provider { offer: verified(&sold, &key(1)), ..provider };
    assert_eq!(provider.offer.services, sold.services, "the offer survives the wire");
    provider.negotiator.set_offer(Some(provider.offer.clone()));
    let wanted = |name: &str, needs: &[(&str, Rule)]| {
        let needs = needs.iter().map(|(name, rule)| Need::new(name, rule.clone()).unwrap()).collect();
        Wish {
            service: id.clone(),
            wanted: Wanted::Family(FamilyWanted { name: name.parse().unwrap(), needs }),
            ..wish()
        }
    };

    let all = wanted("inference", &[("context", Rule::AtLeast(8192)), ("models", Rule::Text("b".into()))]);
    assert_eq!(agree(&Channel::to(&provider), &all).await.unwrap().terms.service, id);
    for (wish, missing) in [
        (wanted("turn", &[]), vec![Compared::new("family", "turn", "another")]),
        (
            wanted("inference", &[("context", Rule::AtLeast(8193))]),
            vec![Compared::new("context", "at least 8193", 8192)],
        ),
        (
            wanted("inference", &[("context", Rule::AtMost(1)), ("models", Rule::Text("c".into()))]),
            vec![Compared::new("context", "at most 1", 8192), Compared::new("models", "c", "a b")],
        ),
        (wanted("inference", &[("loaded", Rule::Flag(true))]), vec![Compared::new("loaded", "true", "absent")]),
    ] {
        match agree(&Channel::to(&provider), &wish).await {
            Err(NegotiationError::Refused { refusal, .. }) => {
                assert_eq!((refusal.code, refusal.compared), (RefusalCode::Attributes, missing));
            }
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[tokio::test]
async fn malformed_requests_get_signed_refusals_too() {
    let provider = provider();
    let code = async |bytes: &[u8]| {
        let answer = provider.negotiator.answer(Source::Sealed, bytes).await.unwrap();
        let opened = envelope::open(PayloadType::Refusal, &answer, 4096).unwrap();
        assert_eq!(opened.signer, key(1).public());
        proto::Refusal::decode(opened.payload.as_slice()).unwrap().code()
    };
    assert_eq!(code(&[0xff]).await, proto::RefusalCode::Malformed);
    assert_eq!(code(&[0; 8193]).await, proto::RefusalCode::Malformed);
    let request = proto::QuoteRequest { version: 1, request_id: vec![1; 16], ..Default::default() };
    assert_eq!(code(&request.encode_to_vec()).await, proto::RefusalCode::Malformed);
    let request = proto::QuoteRequest { version: 2, ..request };
    assert_eq!(code(&request.encode_to_vec()).await, proto::RefusalCode::BadVersion);
}

#[tokio::test]
async fn acceptable_counter_offers_are_followed() {
    let provider = provider();
    let mut fast = wish();
    fast.load = 15;
    fast.min_load = 15;
    let channel = Channel::to(&provider);
    let quote = agree(&channel, &fast).await.unwrap();
    assert_eq!((quote.terms.rate_class, quote.terms.load_cap), (RateClassId(2), 15));
    assert_eq!(channel.requests.load(Ordering::SeqCst), 2);

    let mut long = wish();
    long.duration = seconds(90_000);
    long.max_duration = seconds(90_000);
    let quote = agree(&Channel::to(&provider), &long).await.unwrap();
    assert_eq!(quote.terms.duration, seconds(86_400));
}

/// Always offers something else.
#[derive(Debug, Default)]
struct Haggler(Mutex<u64>);

#[async_trait]
impl Policy for Haggler {
    fn name(&self) -> &'static str {
        "haggler"
    }

    async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let mut step = self.0.lock().unwrap();
        *step += 60;
        let mut refusal = ask.refuse("haggler", RefusalCode::Duration, "a little longer, please");
        refusal.counter = Some(CounterOffer { duration: seconds(3600 + *step), ..ask.counter() });
        Err(refusal)
    }
}

#[tokio::test]
async fn rounds_are_bounded_on_both_sides() {
    let provider = with_policies(vec![Box::new(Haggler::default())]);
    let channel = Channel::to(&provider);
    let mut patient = wish();
    patient.max_rounds = 1000;
    let error = agree(&channel, &patient).await.unwrap_err();
    assert!(matches!(error, NegotiationError::Refused { rounds: 4, .. }), "{error:?}");
    assert_eq!(channel.requests.load(Ordering::SeqCst), 4);
    let channel = Channel::to(&provider);
    patient.max_rounds = 2;
    let error = agree(&channel, &patient).await.unwrap_err();
    assert!(matches!(error, NegotiationError::Refused { rounds: 2, .. }), "{error:?}");

    // A buyer that goes on all the same is told so.
    let request = proto::QuoteRequest {
        version: 1,
        request_id: vec![1; 16],
        offer_id: provider.offer.id().as_bytes().to_vec(),
        service: "store".into(),
        rate_class: 1,
        start: NOW,
        duration: 3600,
        load: 10,
        max_ticket_price: vec![100],
        max_rate: vec![100],
        round: 4,
        ..Default::default()
    };
    let answer = provider.negotiator.answer(Source::Sealed, &request.encode_to_vec()).await.unwrap();
    let opened = envelope::open(PayloadType::Refusal, &answer, 4096).unwrap();
    let refusal = proto::Refusal::decode(opened.payload.as_slice()).unwrap();
    assert_eq!(refusal.code(), proto::RefusalCode::TooManyRounds);
}

#[tokio::test]
async fn a_counter_offer_that_repeats_the_request_ends_the_negotiation() {
    #[derive(Debug)]
    struct Stubborn;
    #[async_trait]
    impl Policy for Stubborn {
        fn name(&self) -> &'static str {
            "stubborn"
        }
        async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
            let mut refusal = ask.refuse("stubborn", RefusalCode::Load, "ask me again");
            refusal.counter = Some(ask.counter());
            Err(refusal)
        }
    }
    let provider = with_policies(vec![Box::new(Stubborn)]);
    let (_, rounds) = refused(&provider, |_| {}).await;
    assert_eq!(rounds, 1);
}

#[tokio::test]
async fn no_policy_can_invent_a_class_or_widen_the_terms() {
    #[derive(Debug)]
    struct Generous;
    #[async_trait]
    impl Policy for Generous {
        fn name(&self) -> &'static str {
            "generous"
        }
        async fn judge(&self, _ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>> {
            draft.load_cap = 1_000_000;
            draft.valid_until = time(NOW + 100_000);
            draft.start_deadline = time(NOW + 100_000);
            Ok(())
        }
    }
    let provider = with_policies(vec![Box::new(Generous)]);
    let quote = agree(&Channel::to(&provider), &wish()).await.unwrap();
    assert_eq!((quote.terms.load_cap, quote.valid_until), (10, time(NOW + 120)));
    assert_eq!(quote.terms.start_deadline, time(NOW + 300));

    #[derive(Debug)]
    struct Inventive;
    #[async_trait]
    impl Policy for Inventive {
        fn name(&self) -> &'static str {
            "inventive"
        }
        async fn judge(&self, ask: &Ask<'_>, _draft: &mut Draft) -> Result<(), Box<Refusal>> {
            let mut refusal = ask.refuse("inventive", RefusalCode::Load, "a class just for you");
            refusal.counter = Some(CounterOffer { rate_class: RateClassId(77), ..ask.counter() });
            Err(refusal)
        }
    }
    let provider = with_policies(vec![Box::new(Inventive)]);
    let (refusal, _) = refused(&provider, |_| {}).await;
    assert_eq!(refusal.counter, None);
}

#[tokio::test]
async fn capacity_is_held_until_the_deadline_and_one_peer_cannot_take_it_all() {
    let provider = provider();
    let first = Channel::to(&provider);
    for _ in 0..3 {
        agree(&first, &wish()).await.unwrap();
    }
    // 30 of 40 are held by one peer: its bound, while another still gets the rest.
    let error = agree(&first, &wish()).await.unwrap_err();
    assert!(
        matches!(&error, NegotiationError::Refused { refusal, .. }
            if refusal.code == RefusalCode::TooManyRequests && refusal.retry_at == Some(time(NOW + 300))),
        "{error:?}"
    );
    let second = Channel { source: Source::Sealed, ..Channel::to(&provider) };
    agree(&second, &wish()).await.unwrap();
    let error = agree(&second, &wish()).await.unwrap_err();
    assert!(
        matches!(&error, NegotiationError::Refused { refusal, .. }
            if refusal.code == RefusalCode::Capacity && refusal.retry_at == Some(time(NOW + 300))),
        "{error:?}"
    );
    provider.clock.set(time(NOW + 300));
    let mut later = wish();
    later.start = time(NOW + 300);
    agree(&first, &later).await.unwrap();
}

#[tokio::test]
async fn a_load_cap_is_lowered_to_what_is_free_but_not_below_what_makes_sense() {
    let provider = provider();
    provider.capacity.set_in_use(33);
    let quote = agree(&Channel::to(&provider), &wish()).await.unwrap();
    assert_eq!(quote.terms.load_cap, 7);
    assert_eq!(provider.capacity.free(now()), 0);
}

#[tokio::test]
async fn a_peer_that_asks_too_often_is_refused_and_others_are_not() {
    let provider = provider();
    let loud = Channel::to(&provider);
    let mut hopeless = wish();
    hopeless.max_ticket_price = Price::new(1).unwrap();
    for _ in 0..20 {
        let error = agree(&loud, &hopeless).await.unwrap_err();
        assert_eq!(error.code(), RefusalCode::PriceTooHigh.code());
    }
    let error = agree(&loud, &hopeless).await.unwrap_err();
    assert!(
        matches!(&error, NegotiationError::Refused { refusal, .. }
            if refusal.code == RefusalCode::TooManyRequests && refusal.retry_at == Some(time(NOW + 60))),
        "{error:?}"
    );
    let quiet = Channel { source: Source::Peer(key(51).public().to_peer_id()), ..Channel::to(&provider) };
    agree(&quiet, &wish()).await.unwrap();
    provider.clock.set(time(NOW + 60));
    agree(&loud, &wish()).await.unwrap();
}

/// An error's code, and what was done to the quote to get it.
type Change = (&'static str, fn(&mut proto::Quote));

/// Negotiates with a provider whose quotes are changed and signed anew, and returns the error.
async fn tampered(change: impl Fn(&mut proto::Quote) + Send + Sync, signer: &Keypair) -> NegotiationError {
    let provider = provider();
    let channel = Channel {
        change: Box::new(|answer| {
            let opened = envelope::open(PayloadType::Quote, &answer, 4096).unwrap();
            let mut quote = proto::Quote::decode(opened.payload.as_slice()).unwrap();
            change(&mut quote);
            envelope::seal(signer, PayloadType::Quote, quote.encode_to_vec()).unwrap()
        }),
        ..Channel::to(&provider)
    };
    agree(&channel, &wish()).await.unwrap_err()
}

#[tokio::test]
async fn a_quote_that_leaves_the_offer_is_refused_and_is_evidence() {
    let changes: [Change; 6] = [
        ("TRB-M205", |q| q.payee = payee(1).to_string()),
        ("TRB-M206", |q| q.pool.as_mut().unwrap().chain_id += 1),
        ("TRB-M207", |q| q.ticket_price = vec![59]),
        ("TRB-M209", |q| q.rate = vec![11]),
        ("TRB-M210", |q| q.terms_hash[0] ^= 1),
        ("TRB-M210", |q| q.load_cap += 1),
    ];
    for (code, change) in changes {
        let error = tampered(change, &key(1)).await;
        assert_eq!(error.code(), code);
        let NegotiationError::Answer { error, answer } = error else { panic!("{error:?}") };
        assert!(error.is_proof_of_fault(), "{error}");
        // The evidence still carries the provider's own signature.
        let opened = envelope::open(PayloadType::Quote, &answer, 4096).unwrap();
        assert_eq!(opened.signer, key(1).public());
    }
}

/// The offer changed and signed later, under the next number.
fn later(at: u64, change: impl FnOnce(&mut Offer), signer: &Keypair) -> SignedOffer {
    let mut offer = offer();
    offer.sequence += 1;
    (offer.issued_at, offer.expires_at) = (time(at), time(at + 3600));
    change(&mut offer);
    offer.sign(signer).unwrap()
}

#[tokio::test]
async fn a_quote_that_is_not_honoured_is_proven_by_two_messages() {
    let provider = provider();
    let quote = agree(&Channel::to(&provider), &wish()).await.unwrap();
    let until = quote.terms.start_deadline.get() + quote.terms.duration.get();
    let dearer = |offer: &mut Offer| offer.ticket_price = Price::new(61).unwrap();

    let proof = BrokenQuote::prove(quote.signed(), &later(NOW + 1, dearer, &key(1))).unwrap();
    assert_eq!(proof.provider, key(1).public().to_peer_id());
    assert_eq!(proof.breach, Breach::TicketPrice { quoted: quote.ticket_price.get(), offered: 61 });
    // Whoever gets the evidence comes to the same verdict.
    assert_eq!(BrokenQuote::prove(&proof.quote, &proof.offer).unwrap(), proof);
    let other_payee = later(until - 1, |offer| offer.payee = payee(9), &key(1));
    assert!(matches!(BrokenQuote::prove(quote.signed(), &other_payee).unwrap().breach, Breach::Payee { .. }));
    let without = later(NOW + 1, |offer| offer.services[0].id = "archive".parse().unwrap(), &key(1));
    assert!(matches!(BrokenQuote::prove(quote.signed(), &without).unwrap().breach, Breach::Service { .. }));
}

#[test]
fn a_quote_binds_for_a_day_at_the_most() {
    assert_eq!(binds_until(now(), seconds(3600)), time(NOW + 3600));
    assert_eq!(binds_until(now(), Seconds::MAX), time(NOW + 86_400));
}

#[tokio::test]
async fn two_messages_that_prove_no_broken_quote_are_told_apart() {
    let provider = provider();
    let quote = agree(&Channel::to(&provider), &wish()).await.unwrap();
    let until = quote.terms.start_deadline.get() + quote.terms.duration.get();
    let dearer = |offer: &mut Offer| offer.ticket_price = Price::new(61).unwrap();
    let code = |quote: &[u8], offer: &SignedOffer| BrokenQuote::prove(quote, offer).unwrap_err().code();

    // Prices may change before a quote and after it, and for other pools.
    for at in [NOW - 1, NOW, until] {
        assert_eq!(code(quote.signed(), &later(at, dearer, &key(1))), "TRB-M217");
    }
    let elsewhere = later(NOW + 1, |offer| (dearer(offer), offer.pool.chain_id += 1).0, &key(1));
    assert_eq!(code(quote.signed(), &elsewhere), "TRB-M216");
    assert_eq!(code(quote.signed(), provider.offer.signed()), "TRB-M216");
    assert_eq!(code(quote.signed(), &later(NOW + 1, |_| {}, &key(1))), "TRB-M216");
    // Nobody else can make either of the two.
    assert_eq!(code(quote.signed(), &later(NOW + 1, dearer, &key(2))), "TRB-M216");
    let mut forged = quote.signed().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(code(&forged, &later(NOW + 1, dearer, &key(1))), "TRB-M013");
    // A refusal promises nothing.
    let refusal = envelope::seal(&key(1), PayloadType::Refusal, vec![]).unwrap();
    assert_eq!(code(&refusal, &later(NOW + 1, dearer, &key(1))), "TRB-M011");
}

#[tokio::test]
async fn quotes_that_do_not_answer_the_request_are_refused() {
    fn rehash(quote: &mut proto::Quote) {
        quote.terms_hash = Terms {
            offer_id: OfferId::from_bytes(&quote.offer_id).unwrap(),
            service: quote.service.parse().unwrap(),
            rate_class: RateClassId(quote.rate_class),
            duration: seconds(quote.duration),
            start_deadline: time(quote.start_deadline),
            load_cap: quote.load_cap,
        }
        .hash()
        .to_vec();
    }
    let changes: [Change; 13] = [
        ("TRB-M003", |q| q.version = 2),
        ("TRB-M202", |q| q.request_id[0] ^= 1),
        ("TRB-M203", |q| q.offer_id[0] ^= 1),
        ("TRB-M204", |q| q.service = "filter".into()),
        ("TRB-M208", |q| q.rate_class = 2),
        ("TRB-M208", |q| q.rate_class = 77),
        ("TRB-M211", |q| {
            q.duration += 1;
            rehash(q);
        }),
        ("TRB-M212", |q| {
            q.load_cap = 4;
            rehash(q);
        }),
        ("TRB-M213", |q| q.valid_until = NOW),
        ("TRB-M213", |q| q.valid_until = NOW + 3601),
        ("TRB-M214", |q| {
            q.start_deadline = NOW - 1;
            rehash(q);
        }),
        ("TRB-M215", |q| q.issued_at = NOW - 61),
        ("TRB-M215", |q| q.issued_at = NOW + 61),
    ];
    for (code, change) in changes {
        let error = tampered(change, &key(1)).await;
        assert_eq!(error.code(), code, "{error}");
        let NegotiationError::Answer { error, .. } = error else { panic!("{error:?}") };
        assert!(!error.is_proof_of_fault(), "{error}");
    }
}

#[tokio::test]
async fn only_the_offers_key_can_answer() {
    let error = tampered(|_| {}, &key(2)).await;
    assert_eq!(error.code(), "TRB-M201");
    let NegotiationError::Answer { error, .. } = error else { panic!("{error:?}") };
    assert!(!error.is_proof_of_fault(), "anybody can sign with a key of its own");

    let provider = provider();
    let channel = Channel {
        change: Box::new(|mut answer| {
            // A byte of the payload, which follows key and type.
            let middle = answer.len() / 2;
            answer[middle] ^= 1;
            answer
        }),
        ..Channel::to(&provider)
    };
    let error = agree(&channel, &wish()).await.unwrap_err();
    assert_eq!(error.code(), "TRB-M013");
    let channel = Channel { change: Box::new(|_| vec![0; 4097]), ..Channel::to(&provider) };
    assert_eq!(agree(&channel, &wish()).await.unwrap_err().code(), "TRB-M001");
    let channel = Channel { change: Box::new(|_| Vec::new()), ..Channel::to(&provider) };
    assert_eq!(agree(&channel, &wish()).await.unwrap_err().code(), "TRB-M011");
}

#[tokio::test]
async fn the_same_seed_makes_the_same_request() {
    let provider = provider();
    let requests = Mutex::new(Vec::new());
    struct Recorder<'a>(Channel<'a>, &'a Mutex<Vec<Vec<u8>>>);
    #[async_trait]
    impl QuoteChannel for Recorder<'_> {
        async fn ask(&self, offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
            self.1.lock().unwrap().push(request.clone());
            self.0.ask(offer, request).await
        }
    }
    for _ in 0..2 {
        let recorder = Recorder(Channel::to(&provider), &requests);
        let clock: &dyn Clock = &provider.clock;
        negotiate(&recorder, &provider.offer, &wish(), clock, &mut rng()).await.unwrap();
    }
    let requests = requests.lock().unwrap();
    assert_eq!(requests[0], requests[1]);
}
