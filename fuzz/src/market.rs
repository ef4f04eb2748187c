//! The market's messages. Where a message is signed or sealed, the bytes are also tried as its content, signed by the right key: nothing else
//! gets past the signature.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use alloy_primitives::Address;
use async_trait::async_trait;
use futures::FutureExt as _;
use libp2p::identity::Keypair;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::{OsRng, StdRng};
use tokio::runtime::{Builder, Runtime};
use tributary_market::clock::ManualClock;
use tributary_market::envelope::{self, PayloadType};
use tributary_market::negotiate::buyer::verify_answer;
use tributary_market::negotiate::policy::{
    AttributesPolicy, CapacityPolicy, DurationPolicy, LoadPolicy, Policy, PricePolicy, StartPolicy,
};
use tributary_market::negotiate::provider::{Negotiator, QuoteTimes};
use tributary_market::negotiate::{QuoteRequest, RequestId, Source, Wanted};
use tributary_market::offer::{
    Attributes, Offer, OfferContext, RateClass, RateClassId, Service, ServiceId, SignedOffer, StoreAttributes,
    UsePrice, UseUnit, VerifiedOffer,
};
use tributary_market::proto;
use tributary_market::relay::{
    Announcement, IdempotencyKey, RelayClient, RelayContext, RelayEndpoint, RelayFee, RelayHandler, RelayOperation,
    RelayQuote, RelayStatus, Submission, VerifiedAnnouncement,
};
use tributary_market::rpc::{CallPolicy, SealedClient, SealedHandler, SealedServer, ServerLimits};
use tributary_market::sealed::{self, EncryptionKey, EncryptionSecret};
use tributary_market::ticket::{PreparedTicket, TicketVerifier, Verdict};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast, Keep, Subscription, TransportError};
use tributary_protocol::ticket::{OfferTerms, TicketMessage};
use tributary_protocol::{
    Amount, Fr, Mnemonic, PaymentAddress, PoolClock, PoolId, PoolScope, Price, ProviderDigest, Rate, Root, Seconds,
    TicketNullifier, TicketStatement, UnixTime,
};

use crate::Decoder;

/// All of them.
pub const DECODERS: &[Decoder] = &[
    ("market_envelope", open_envelope, || vec![signed_offer().as_bytes().to_vec()]),
    ("market_offer", read_offer, || both(PayloadType::Offer, signed_offer().as_bytes())),
    ("market_announcement", read_announcement, || both(PayloadType::RelayerAnnouncement, &signed_announcement())),
    ("market_relay_quote", read_relay_quote, || both(PayloadType::RelayQuote, &signed_relay_quote())),
    ("market_quote_request", answer_quote_request, || vec![request().encode()]),
    ("market_quote_answer", read_quote_answer, quote_answers),
    ("market_relay_request", answer_relay_request, relay_requests),
    ("market_relay_response", read_relay_response, relay_responses),
    ("market_sealed_request", serve_sealed_request, sealed_requests),
    ("market_ticket", read_ticket, tickets),
];

const NOW: u64 = 1_800_000_000;

fn time(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

fn seconds(seconds: u64) -> Seconds {
    Seconds::new(seconds).unwrap()
}

fn pool() -> PoolId {
    PoolId { chain_id: 31_337, address: Address::repeat_byte(0x11) }
}

fn pool_clock() -> PoolClock {
    PoolClock::new(seconds(60), seconds(180), seconds(30)).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(time(NOW)))
}

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([1; 32]).unwrap()
}

fn secret() -> EncryptionSecret {
    EncryptionSecret::random(&mut StdRng::seed_from_u64(5))
}

static PAYEE: LazyLock<PaymentAddress> = LazyLock::new(|| {
    let phrase = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    Mnemonic::parse(phrase).unwrap().seed("").account(PoolScope { pool: pool(), account: 0 }).unwrap().address()
});

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());

/// A signed message and its content.
fn both(kind: PayloadType, signed: &[u8]) -> Vec<Vec<u8>> {
    vec![envelope::open(kind, signed, usize::MAX).unwrap().payload, signed.to_vec()]
}

fn sealed_by_key(kind: PayloadType, payload: &[u8]) -> Vec<u8> {
    envelope::seal(&key(), kind, payload.to_vec()).unwrap()
}

fn offer() -> Offer {
    Offer {
        payee: *PAYEE,
        pool: pool(),
        ticket_price: Price::new(60).unwrap(),
        min_streamed: Amount::new(600).unwrap(),
        rate_classes: vec![RateClass {
            id: RateClassId(1),
            rate: Rate::new(10).unwrap(),
            min_duration: seconds(600),
            max_duration: Some(seconds(86_400)),
        }],
        slot_carry: seconds(30),
        root_depth: 1,
        services: vec![Service {
            id: ServiceId::store(),
            uses: vec![UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 }],
            attributes: Attributes::Store(StoreAttributes {
                retention: seconds(7 * 86_400),
                pubsub_topics: vec!["/waku/2/rs/66/0".into()],
                content_topics: Vec::new(),
                page_size: 100,
            }),
        }],
        multiaddrs: vec!["/ip4/127.0.0.1/tcp/60000".parse().unwrap()],
        sequence: 7,
        issued_at: time(NOW),
        expires_at: time(NOW + 3600),
        encryption_key: Some(secret().public()),
    }
}

fn signed_offer() -> SignedOffer {
    offer().sign(&key()).unwrap()
}

static OFFER: LazyLock<Arc<VerifiedOffer>> =
    LazyLock::new(|| Arc::new(signed_offer().verify(&OfferContext { now: time(NOW), pools: &[pool()] }).unwrap()));

/// A signed envelope of any kind.
pub fn open_envelope(data: &[u8]) -> bool {
    let kinds = [
        PayloadType::Offer,
        PayloadType::Quote,
        PayloadType::Refusal,
        PayloadType::RelayerAnnouncement,
        PayloadType::RelayQuote,
    ];
    envelope::open_any(&kinds, data, 8192).is_ok()
}

/// An offer.
pub fn read_offer(data: &[u8]) -> bool {
    let context = OfferContext { now: time(NOW), pools: &[pool()] };
    let read = |bytes: Vec<u8>| {
        let Ok(read) = SignedOffer::from_bytes(bytes).verify(&context) else { return false };
        let again = read.offer().sign(&key()).unwrap().verify(&context).unwrap();
        assert_eq!(again.offer(), read.offer());
        true
    };
    let bare = read(data.to_vec());
    read(sealed_by_key(PayloadType::Offer, data)) || bare
}

fn signed_announcement() -> Vec<u8> {
    let amount = |value| Amount::new(value).unwrap();
    let fee = RelayFee { alone: amount(100), with_insertion: amount(300) };
    let announcement = Announcement {
        encryption_key: secret().public(),
        pool: pool(),
        account: Address::repeat_byte(0x22),
        fees: BTreeMap::from([(RelayOperation::Transact, fee), (RelayOperation::Close, fee)]),
        sequence: 1,
        issued_at: time(NOW),
        expires_at: time(NOW + 600),
    };
    announcement.sign(&key()).unwrap()
}

/// A relayer's announcement.
pub fn read_announcement(data: &[u8]) -> bool {
    let context = RelayContext { now: time(NOW), pools: &[pool()] };
    let read = |bytes: &[u8]| {
        let Ok(read) = VerifiedAnnouncement::verify(bytes, &context) else { return false };
        let again = read.announcement().sign(&key()).unwrap();
        assert_eq!(VerifiedAnnouncement::verify(&again, &context).unwrap().announcement(), read.announcement());
        true
    };
    let bare = read(data);
    read(&sealed_by_key(PayloadType::RelayerAnnouncement, data)) || bare
}

fn signed_relay_quote() -> Vec<u8> {
    let quote = RelayQuote {
        quote_id: [7; 16],
        pool: pool(),
        operation: RelayOperation::Transact,
        with_insertion: true,
        fee: Amount::new(100).unwrap(),
        account: Address::repeat_byte(1),
        valid_until: time(NOW + 10),
    };
    quote.sign(&key()).unwrap()
}

/// A relayer's quote.
pub fn read_relay_quote(data: &[u8]) -> bool {
    let read = |bytes: &[u8]| {
        let Ok(read) = RelayQuote::verify(bytes, &key().public(), time(NOW)) else { return false };
        let again = read.sign(&key()).unwrap();
        assert_eq!(RelayQuote::verify(&again, &key().public(), time(NOW)).unwrap(), read);
        true
    };
    let bare = read(data);
    read(&sealed_by_key(PayloadType::RelayQuote, data)) || bare
}

fn request() -> QuoteRequest {
    QuoteRequest {
        request_id: RequestId::random(&mut StdRng::seed_from_u64(3)),
        offer_id: OFFER.id(),
        service: ServiceId::store(),
        wanted: Wanted::Anything,
        rate_class: RateClassId(1),
        start: time(NOW),
        duration: seconds(3600),
        load: 10,
        min_load: 1,
        max_ticket_price: Price::new(60).unwrap(),
        max_rate: Rate::new(10).unwrap(),
        round: 0,
    }
}

fn negotiator() -> Negotiator {
    let policies: Vec<Box<dyn Policy>> = vec![
        Box::new(PricePolicy),
        Box::new(DurationPolicy),
        Box::new(StartPolicy { max_past: seconds(600), max_ahead: seconds(3600) }),
        Box::new(AttributesPolicy),
        Box::new(LoadPolicy),
        Box::new(CapacityPolicy::new(40, 30)),
    ];
    let times = QuoteTimes { validity: seconds(120), start_grace: seconds(300) };
    let negotiator = Negotiator::new(Arc::new(key()), pool_clock(), clock(), times, policies);
    negotiator.set_offer(Some(Arc::clone(&OFFER)));
    negotiator
}

fn quote_answer(request: &[u8]) -> Vec<u8> {
    let answer = negotiator().answer(Source::Sealed, request).now_or_never();
    answer.expect("these policies don't wait").expect("the key signs")
}

/// A request for a quote, as the provider judges it; its answer is one that buyers can read.
pub fn answer_quote_request(data: &[u8]) -> bool {
    let answer = quote_answer(data);
    let opened = envelope::open_any(&[PayloadType::Quote, PayloadType::Refusal], &answer, 8192);
    opened.expect("the answer's own signature").0 == PayloadType::Quote
}

fn quote_answers() -> Vec<Vec<u8>> {
    let quote = quote_answer(&request().encode());
    let refusal = quote_answer(&QuoteRequest { load: 1_000_000, min_load: 1_000_000, ..request() }.encode());
    [both(PayloadType::Quote, &quote), both(PayloadType::Refusal, &refusal)].concat()
}

/// A provider's quote or refusal, as the buyer reads it.
pub fn read_quote_answer(data: &[u8]) -> bool {
    let read = |bytes: &[u8]| verify_answer(bytes, &request(), &OFFER, time(NOW)).is_ok();
    let bare = read(data);
    [PayloadType::Quote, PayloadType::Refusal].iter().any(|kind| read(&sealed_by_key(*kind, data))) || bare
}

/// A relayer that takes everything.
struct Willing;

#[async_trait]
impl RelayHandler for Willing {
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus> {
        Ok(RelayQuote {
            quote_id: [7; 16],
            pool,
            operation,
            with_insertion,
            fee: Amount::new(100).unwrap(),
            account: Address::repeat_byte(1),
            valid_until: time(NOW + 10),
        })
    }
    async fn submit(&self, _: Submission) -> RelayStatus {
        RelayStatus::Accepted
    }
    async fn status(&self, _: IdempotencyKey) -> RelayStatus {
        RelayStatus::Accepted
    }
}

/// A request to a relayer, unsealed.
pub fn answer_relay_request(data: &[u8]) -> bool {
    let endpoint = RelayEndpoint::new(Arc::new(key()), clock(), Arc::new(Willing));
    let answer = endpoint.handle(data.to_vec()).now_or_never().expect("it doesn't wait").expect("it answers");
    let response = proto::RelayResponse::decode(answer.as_slice()).unwrap().response.unwrap();
    !matches!(
        response,
        proto::relay_response::Response::Status(proto::RelayStatus {
            state: Some(proto::relay_status::State::Rejected(_)),
            ..
        })
    )
}

fn relay_requests() -> Vec<Vec<u8>> {
    use proto::relay_request::Request;
    let submit = proto::RelaySubmit {
        idempotency_key: vec![4; 16],
        quote: signed_relay_quote(),
        operation: proto::RelayOperation::Transact.into(),
        with_insertion: true,
        call: vec![5; 40],
    };
    let quote = proto::RelayQuoteRequest {
        pool: Some(tributary_market::offer::pool_to_proto(&pool())),
        operation: proto::RelayOperation::Transact.into(),
        with_insertion: true,
    };
    let status = proto::RelayStatusQuery { idempotency_key: vec![4; 16] };
    [Request::Submit(submit), Request::Quote(quote), Request::Status(status)]
        .map(|request| proto::RelayRequest { version: 1, request: Some(request) }.encode_to_vec())
        .into()
}

/// Answers every sealed request with a reply sealed around these bytes: as they are, and as the body of a well-formed reply.
struct Answering {
    data: Vec<u8>,
    replies: Mutex<Option<futures::channel::mpsc::UnboundedSender<Vec<u8>>>>,
}

#[async_trait]
impl Broadcast for Answering {
    async fn publish(&self, _: &ContentTopic, payload: Vec<u8>, _: Keep) -> Result<(), TransportError> {
        let request = secret().open(b"tributary.rpc.request.v1", &payload).unwrap();
        let request = proto::SealedRequest::decode(request.as_slice()).unwrap();
        let to = EncryptionKey::from_bytes("reply_key", &request.reply_key).unwrap();
        let context = [&b"tributary.rpc.reply.v1"[..], &request.request_id].concat();
        let reply = proto::SealedReply { version: 1, request_id: request.request_id, body: self.data.clone() };
        // Taking the sender ends the subscription after these, so that the call never waits.
        if let Some(replies) = self.replies.lock().unwrap().take() {
            for plain in [self.data.clone(), reply.encode_to_vec()] {
                if let Ok(sealed) = sealed::seal(&to, &context, &plain, &mut OsRng) {
                    replies.unbounded_send(sealed).unwrap();
                }
            }
        }
        Ok(())
    }
    async fn subscribe(&self, _: &ContentTopic) -> Result<Subscription, TransportError> {
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        *self.replies.lock().unwrap() = Some(sender);
        Ok(Subscription::new(receiver))
    }
}

/// A relayer's answer, as the wallet reads it.
pub fn read_relay_response(data: &[u8]) -> bool {
    let context = RelayContext { now: time(NOW), pools: &[pool()] };
    let relayer = VerifiedAnnouncement::verify(&signed_announcement(), &context).unwrap();
    let client = || {
        let transport = Arc::new(Answering { data: data.to_vec(), replies: Mutex::default() });
        let policy = CallPolicy { attempts: 1, wait: Duration::from_secs(3600) };
        RelayClient::new(SealedClient::new(transport, clock(), policy), clock())
    };
    RUNTIME.block_on(async {
        let status = client().status(&relayer, IdempotencyKey::from_bytes([4; 16])).await.is_ok();
        let quote = client().quote(&relayer, RelayOperation::Transact, true, Amount::MAX).await.is_ok();
        status || quote
    })
}

fn relay_responses() -> Vec<Vec<u8>> {
    use proto::relay_response::Response;
    let status = proto::RelayStatus {
        idempotency_key: vec![4; 16],
        state: Some(proto::relay_status::State::Pending(proto::RelayPending { transaction: vec![6; 32] })),
    };
    let quote = RelayQuote {
        account: Address::repeat_byte(0x22),
        ..RelayQuote::verify(&signed_relay_quote(), &key().public(), time(NOW)).unwrap()
    };
    [Response::Status(status), Response::Quote(quote.sign(&key()).unwrap())]
        .map(|response| proto::RelayResponse { version: 1, response: Some(response) }.encode_to_vec())
        .into()
}

/// One payload for every subscriber.
struct Once(Vec<u8>);

#[async_trait]
impl Broadcast for Once {
    async fn publish(&self, _: &ContentTopic, _: Vec<u8>, _: Keep) -> Result<(), TransportError> {
        Ok(())
    }
    async fn subscribe(&self, _: &ContentTopic) -> Result<Subscription, TransportError> {
        Ok(Subscription::new(futures::stream::iter([self.0.clone()])))
    }
}

struct Silent;

#[async_trait]
impl SealedHandler for Silent {
    async fn handle(&self, _: Vec<u8>) -> Option<Vec<u8>> {
        None
    }
}

/// A sealed request: the bytes as a box, and as what is in one.
pub fn serve_sealed_request(data: &[u8]) -> bool {
    let serve = |payload: Vec<u8>| {
        let limits = ServerLimits { concurrent: 4, remembered: 16, remembered_bytes: 1 << 16 };
        let server = SealedServer::new(Arc::new(Once(payload)), clock(), secret(), Arc::new(Silent), limits);
        // It ends with its subscription.
        assert!(RUNTIME.block_on(Arc::new(server).run()).is_err());
    };
    serve(data.to_vec());
    if let Ok(sealed) = sealed::seal(&secret().public(), b"tributary.rpc.request.v1", data, &mut OsRng) {
        serve(sealed);
    }
    secret().open(b"", data).is_ok()
        || proto::SealedRequest::decode(data).is_ok_and(|r| ContentTopic::parse_reply(&r.reply_topic).is_ok())
}

fn sealed_requests() -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(9);
    let request = proto::SealedRequest {
        version: 1,
        request_id: vec![1; 16],
        reply_key: secret().public().as_bytes().to_vec(),
        reply_topic: ContentTopic::one_time_reply(&mut rng).to_string(),
        expires_at: NOW + 20,
        body: vec![3; 30],
    }
    .encode_to_vec();
    vec![request.clone(), sealed::seal(&secret().public(), b"", &request, &mut rng).unwrap()]
}

fn verifier() -> TicketVerifier {
    TicketVerifier {
        clock: pool_clock(),
        provider: ProviderDigest::of_peer_id(b"provider"),
        terms: OfferTerms {
            payee: PAYEE.owner(),
            price: Price::new(60).unwrap(),
            min_streamed: Amount::new(600).unwrap(),
        },
        slot_carry: seconds(30),
        root_depth: 1,
    }
}

/// A proof of payment, a paid request, and the words of a refusal.
pub fn read_ticket(data: &[u8]) -> bool {
    let verifier = verifier();
    for code in [200, 402, 503] {
        let _ = Verdict::read(code, &String::from_utf8_lossy(data));
    }
    let paid = verifier.decode_paid_request(data, 1 << 16).map(|(ticket, _)| ticket);
    let Ok(ticket) = verifier.decode(data).or(paid) else { return false };
    assert_eq!(ticket.statement().payee, verifier.terms.payee);
    assert!((1..=4).contains(&ticket.count()));
    assert_eq!(ticket.nullifiers().len(), usize::from(ticket.count()));
    let _ = (verifier.check_terms(&ticket), verifier.check_signature(&ticket, b"request"));
    true
}

fn tickets() -> Vec<Vec<u8>> {
    let (verifier, key) = (verifier(), ed25519_dalek::SigningKey::from_bytes(&[9; 32]));
    let statement = TicketStatement {
        root: Root::new(Fr::from(5_u8)),
        stopped_root: Root::new(Fr::from(6_u8)),
        payee: verifier.terms.payee,
        price: verifier.terms.price,
        slot_start: time(NOW),
        slot_end: time(NOW + 60),
        count: 2,
        min_streamed: verifier.terms.min_streamed,
        message: TicketMessage::of_ticket(&key.verifying_key().to_bytes(), &verifier.provider, time(NOW)),
        nullifiers: [
            TicketNullifier::new(Fr::from(11_u8)),
            TicketNullifier::new(Fr::from(12_u8)),
            TicketNullifier::UNUSED,
            TicketNullifier::UNUSED,
        ],
    };
    let ticket = PreparedTicket { statement, proof: [3; 256], key };
    let paid = ticket.pay_payload(&verifier.provider, b"payload".to_vec()).encode_to_vec();
    vec![ticket.pay(&verifier.provider, b"request"), paid]
}
