use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use prost::Message as _;
use rand::rngs::OsRng;
use tributary_market::clock::ManualClock;
use tributary_market::envelope::{self, PayloadType};
use tributary_market::proto;
use tributary_market::relay::{
    self, Announcement, IdempotencyKey, RelayClient, RelayContext, RelayEndpoint, RelayError, RelayFee, RelayHandler,
    RelayOperation, RelayQuote, RelayStatus, RelayerBook, RelayerCollector, Submission, VerifiedAnnouncement,
};
use tributary_market::rpc::{CallPolicy, SealedClient, SealedServer, ServerLimits};
use tributary_market::sealed::{EncryptionKey, EncryptionSecret};
use tributary_market::topics::ContentTopic;
use tributary_market::transport::{Broadcast as _, Keep, LocalBus};
use tributary_protocol::amount::Amount;
use tributary_protocol::keys::PoolId;

use crate::common::*;

fn amount(value: u128) -> Amount {
    Amount::new(value).unwrap()
}

fn account() -> Address {
    Address::repeat_byte(0x22)
}

pub(crate) fn announcement(encryption_key: EncryptionKey, fee: u128) -> Announcement {
    let fees = [RelayOperation::Transact, RelayOperation::Close]
        .map(|operation| (operation, RelayFee { alone: amount(fee), with_insertion: amount(fee * 3) }));
    Announcement {
        encryption_key,
        pool: pool(),
        account: account(),
        fees: BTreeMap::from(fees),
        sequence: 1,
        issued_at: now(),
        expires_at: time(NOW + 600),
    }
}

fn open(bytes: &[u8]) -> Result<VerifiedAnnouncement, RelayError> {
    VerifiedAnnouncement::verify(bytes, &RelayContext { now: now(), pools: &[pool()] })
}

fn announced(key_byte: u8, fee: u128) -> Arc<VerifiedAnnouncement> {
    let secret = EncryptionSecret::random(&mut rng());
    Arc::new(open(&announcement(secret.public(), fee).sign(&key(key_byte)).unwrap()).unwrap())
}

#[test]
fn an_announcement_survives_the_wire() {
    let sent = announcement(EncryptionSecret::random(&mut rng()).public(), 100);
    let got = open(&sent.sign(&key(1)).unwrap()).unwrap();
    assert_eq!(got.announcement(), &sent);
    assert_eq!(got.peer_id(), key(1).public().to_peer_id());
    assert_eq!(got.fee(RelayOperation::Transact, false), Some(amount(100)));
    assert_eq!(got.fee(RelayOperation::Close, true), Some(amount(300)));
    assert_eq!(got.fee(RelayOperation::Claim, false), None);
}

#[test]
fn each_bad_announcement_has_its_own_code() {
    let code = |change: fn(&mut proto::RelayerAnnouncement)| {
        let signed = announcement(EncryptionSecret::random(&mut rng()).public(), 100).sign(&key(1)).unwrap();
        let opened = envelope::open(PayloadType::RelayerAnnouncement, &signed, 4096).unwrap();
        let mut content = proto::RelayerAnnouncement::decode(opened.payload.as_slice()).unwrap();
        change(&mut content);
        let bytes = envelope::seal(&key(1), PayloadType::RelayerAnnouncement, content.encode_to_vec()).unwrap();
        open(&bytes).map(|_| ()).map_err(|e| e.code())
    };
    assert_eq!(code(|_| {}), Ok(()));
    assert_eq!(code(|a| a.version = 9), Err("TRB-M003"));
    assert_eq!(code(|a| a.relayer = key(2).public().encode_protobuf()), Err("TRB-M501"));
    assert_eq!(code(|a| a.encryption_key = vec![1; 31]), Err("TRB-M005"));
    assert_eq!(code(|a| a.account = vec![0; 20]), Err("TRB-M008"));
    assert_eq!(code(|a| a.fees.clear()), Err("TRB-M007"));
    assert_eq!(code(|a| a.fees[1].operation = a.fees[0].operation), Err("TRB-M008"));
    assert_eq!(code(|a| a.fees[0].operation = 0), Err("TRB-M008"));
    assert_eq!(code(|a| a.fees[0].fee = vec![1; 16]), Err("TRB-M006"));
    assert_eq!(code(|a| a.expires_at = a.issued_at), Err("TRB-M503"));
    assert_eq!(code(|a| a.expires_at = a.issued_at + 86_401), Err("TRB-M503"));
    assert_eq!(code(|a| a.issued_at += 61), Err("TRB-M503"));
    assert_eq!(
        code(|a| {
            a.issued_at -= 100;
            a.expires_at = NOW;
        }),
        Err("TRB-M502")
    );
    assert_eq!(code(|a| a.pool.as_mut().unwrap().chain_id = 5), Err("TRB-M504"));
}

#[test]
fn the_book_is_bounded_and_the_newest_announcement_counts() {
    let mut book = RelayerBook::new(4);
    let mut rng = rng();
    let secret = EncryptionSecret::random(&mut rng);
    let numbered = |sequence, fee| {
        let announcement = Announcement { sequence, ..announcement(secret.public(), fee) };
        open(&announcement.sign(&key(1)).unwrap()).unwrap()
    };
    assert!(book.insert(numbered(2, 100), now(), &mut rng));
    assert!(!book.insert(numbered(1, 50), now(), &mut rng));
    assert!(!book.insert(numbered(2, 50), now(), &mut rng));
    assert!(book.insert(numbered(3, 70), now(), &mut rng));
    let fees: Vec<_> = book.live(pool(), now()).map(|a| a.fee(RelayOperation::Transact, false)).collect();
    assert_eq!(fees, [Some(amount(70))]);
    for byte in 2..30 {
        assert!(book.insert((*announced(byte, 1)).clone(), now(), &mut rng));
        assert!(book.live(pool(), now()).count() <= 4);
    }
    assert_eq!(book.live(pool(), time(NOW + 600)).count(), 0);
}

#[test]
fn the_choice_is_drawn_among_the_cheap() {
    let relayers = [announced(1, 100), announced(2, 110), announced(3, 111), announced(4, 500)];
    let mut drawn: HashMap<_, usize> = HashMap::new();
    let mut rng = rng();
    for _ in 0..200 {
        let chosen = relay::choose(&relayers, RelayOperation::Transact, false, amount(1000), &mut rng).unwrap();
        *drawn.entry(chosen.peer_id()).or_default() += 1;
    }
    assert_eq!(drawn.len(), 2);
    assert!(drawn[&relayers[0].peer_id()] > 50 && drawn[&relayers[1].peer_id()] > 50);
    assert!(relay::choose(&relayers, RelayOperation::Transact, false, amount(99), &mut rng).is_none());
    assert!(relay::choose(&relayers, RelayOperation::Claim, false, amount(1000), &mut rng).is_none());
}

/// A relayer that remembers what it was asked to send.
struct Relayer {
    fee: Amount,
    account: Address,
    sent: Mutex<HashMap<IdempotencyKey, (Vec<u8>, u64)>>,
}

#[async_trait]
impl RelayHandler for Relayer {
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus> {
        if operation == RelayOperation::Close {
            return Err(RelayStatus::Rejected {
                code: "paused".into(),
                description: "no closes now".into(),
                retry: true,
            });
        }
        Ok(RelayQuote {
            quote_id: [7; 16],
            pool,
            operation,
            with_insertion,
            fee: self.fee,
            account: self.account,
            valid_until: time(NOW + 120),
        })
    }

    async fn submit(&self, submission: Submission) -> RelayStatus {
        let mut sent = self.sent.lock().unwrap();
        let entry = sent.entry(submission.key).or_insert((submission.call, 0));
        entry.1 += 1;
        RelayStatus::Accepted
    }

    async fn status(&self, key: IdempotencyKey) -> RelayStatus {
        match self.sent.lock().unwrap().get_mut(&key) {
            None => RelayStatus::Unknown { description: "never seen".into() },
            Some((_, asked)) if *asked < 3 => {
                *asked += 1;
                RelayStatus::Pending { transaction: B256::repeat_byte(1) }
            }
            Some(_) => RelayStatus::Confirmed { transaction: B256::repeat_byte(1), block_number: 12, inserted: true },
        }
    }
}

struct Setup {
    bus: Arc<LocalBus>,
    relayer: Arc<Relayer>,
    announcement: VerifiedAnnouncement,
    client: RelayClient,
    clock: ManualClock,
}

impl Setup {
    fn sealed(&self) -> SealedClient {
        sealed_client(&self.bus, &self.clock)
    }
}

fn sealed_client(bus: &Arc<LocalBus>, clock: &ManualClock) -> SealedClient {
    let policy = CallPolicy { attempts: 2, wait: Duration::from_secs(5) };
    SealedClient::new(bus.clone(), Arc::new(clock.clone()), policy)
}

async fn setup(change: impl FnOnce(&mut Relayer)) -> Setup {
    let bus = Arc::new(LocalBus::new());
    let clock = ManualClock::new(now());
    let secret = EncryptionSecret::random(&mut OsRng);
    let announcement = open(&announcement(secret.public(), 100).sign(&key(1)).unwrap()).unwrap();
    let mut relayer = Relayer { fee: amount(90), account: account(), sent: Mutex::default() };
    change(&mut relayer);
    let relayer = Arc::new(relayer);
    let endpoint = RelayEndpoint::new(Arc::new(key(1)), Arc::new(clock.clone()), relayer.clone());
    let server =
        SealedServer::new(bus.clone(), Arc::new(clock.clone()), secret, Arc::new(endpoint), ServerLimits::default());
    let listening = Arc::new(server).listen().await.unwrap();
    tokio::spawn(listening.serve());
    let client = RelayClient::new(sealed_client(&bus, &clock), Arc::new(clock.clone()));
    Setup { bus, relayer, announcement, client, clock }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_quoted_submitted_and_followed_to_its_block() {
    let setup = setup(|_| {}).await;
    let (client, relayer) = (&setup.client, &setup.announcement);
    let quote = client.quote(relayer, RelayOperation::Transact, false, amount(95)).await.unwrap();
    assert_eq!((quote.quote().fee, quote.quote().account), (amount(90), account()));
    let key = IdempotencyKey::random(&mut OsRng);
    let status = client.submit(relayer, &quote, key, vec![1, 2, 3, 4, 5]).await.unwrap();
    assert_eq!(status, RelayStatus::Accepted);
    let status = client.wait(relayer, key, Duration::from_secs(1), Duration::from_secs(60)).await;
    let expected = RelayStatus::Confirmed { transaction: B256::repeat_byte(1), block_number: 12, inserted: true };
    assert_eq!(status, expected);
    assert_eq!(setup.relayer.sent.lock().unwrap()[&key].0, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn quotes_above_the_announcement_or_the_wallets_limit_are_refused() {
    let normal = setup(|_| {}).await;
    let ask = async |setup: &Setup, limit| {
        let quote = setup.client.quote(&setup.announcement, RelayOperation::Transact, false, amount(limit)).await;
        quote.map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(ask(&normal, 90).await, Ok(()));
    assert_eq!(ask(&normal, 89).await, Err("TRB-M507"));
    let greedy = setup(|relayer| relayer.fee = amount(101)).await;
    assert_eq!(ask(&greedy, 1000).await, Err("TRB-M507"));
    let swapped = setup(|relayer| relayer.account = Address::repeat_byte(0x33)).await;
    assert_eq!(ask(&swapped, 1000).await, Err("TRB-M506"));
}

#[tokio::test(start_paused = true)]
async fn refusals_carry_the_relayers_code() {
    let setup = setup(|_| {}).await;
    let ask =
        async |operation| setup.client.quote(&setup.announcement, operation, false, amount(1000)).await.unwrap_err();
    let expected = RelayError::Refused { code: "paused".into(), description: "no closes now".into(), retry: true };
    assert_eq!(ask(RelayOperation::Close).await, expected);
    let expected = RelayError::NotServed { operation: RelayOperation::Claim };
    assert_eq!(ask(RelayOperation::Claim).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_submission_needs_this_relayers_own_quote_in_force() {
    let setup = setup(|_| {}).await;
    let (client, relayer) = (&setup.client, &setup.announcement);
    let quote = client.quote(relayer, RelayOperation::Transact, false, amount(1000)).await.unwrap();
    let key = IdempotencyKey::random(&mut OsRng);
    let call = vec![1; 100];
    assert_eq!(client.submit(relayer, &quote, key, call.clone()).await.unwrap(), RelayStatus::Accepted);

    // When the quote has ended, a known transaction keeps its state, a new one isn't taken.
    setup.clock.set(time(NOW + 120));
    let status = client.submit(relayer, &quote, key, call.clone()).await.unwrap();
    assert_eq!(status, RelayStatus::Pending { transaction: B256::repeat_byte(1) });
    let other = IdempotencyKey::random(&mut OsRng);
    let status = client.submit(relayer, &quote, other, call.clone()).await.unwrap();
    assert!(matches!(&status, RelayStatus::Rejected { code, retry: false, .. } if code == "TRB-M502"), "{status:?}");
    assert_eq!(setup.relayer.sent.lock().unwrap().len(), 1);

    let large = client.submit(relayer, &quote, other, vec![0; 64 * 1024 + 1]).await.unwrap_err();
    assert_eq!(large.code(), "TRB-M007");
    let empty = client.submit(relayer, &quote, other, Vec::new()).await.unwrap_err();
    assert_eq!(empty.code(), "TRB-M007");
}

/// What a relayer says to a submission that no client of ours would make.
async fn forced(setup: &Setup, change: impl FnOnce(&mut proto::RelaySubmit)) -> RelayStatus {
    let quote = setup.client.quote(&setup.announcement, RelayOperation::Transact, false, amount(1000)).await.unwrap();
    let mut submit = proto::RelaySubmit {
        idempotency_key: vec![1; 16],
        quote: quote.signed().to_vec(),
        operation: proto::RelayOperation::Transact.into(),
        with_insertion: false,
        call: vec![1; 100],
    };
    change(&mut submit);
    let request = proto::RelayRequest { version: 1, request: Some(proto::relay_request::Request::Submit(submit)) };
    let answer = setup.sealed().call(&setup.announcement.encryption_key, &request.encode_to_vec()).await.unwrap();
    let response = proto::RelayResponse::decode(answer.as_slice()).unwrap().response.unwrap();
    let proto::relay_response::Response::Status(status) = response else { panic!("no status") };
    match status.state.unwrap() {
        proto::relay_status::State::Accepted(_) => RelayStatus::Accepted,
        proto::relay_status::State::Rejected(rejected) => {
            RelayStatus::Rejected { code: rejected.code, description: rejected.description, retry: rejected.retry }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn submissions_outside_of_their_quote_are_rejected() {
    let setup = setup(|_| {}).await;
    let code = async |change: fn(&mut proto::RelaySubmit)| match forced(&setup, change).await {
        RelayStatus::Rejected { code, .. } => code,
        other => format!("{other:?}"),
    };
    assert_eq!(code(|_| {}).await, "Accepted");
    assert_eq!(code(|s| s.operation = proto::RelayOperation::Close.into()).await, "TRB-M506");
    assert_eq!(code(|s| s.with_insertion = true).await, "TRB-M506");
    assert_eq!(code(|s| s.operation = 99).await, "TRB-M008");
    assert_eq!(code(|s| s.idempotency_key = vec![1; 15]).await, "TRB-M005");
    assert_eq!(code(|s| s.quote.clear()).await, "TRB-M011");
    assert_eq!(code(|s| s.call.truncate(3)).await, "TRB-M007");
    // A fee that another key promised binds nobody.
    let foreign = |s: &mut proto::RelaySubmit| {
        let quote = RelayQuote {
            quote_id: [7; 16],
            pool: pool(),
            operation: RelayOperation::Transact,
            with_insertion: false,
            fee: amount(1),
            account: account(),
            valid_until: time(NOW + 120),
        };
        s.quote = quote.sign(&key(2)).unwrap();
    };
    assert_eq!(code(foreign).await, "TRB-M501");
    assert_eq!(setup.relayer.sent.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn silence_leaves_the_outcome_unknown() {
    let setup = setup(|_| {}).await;
    let secret = EncryptionSecret::random(&mut OsRng);
    let nobody = open(&announcement(secret.public(), 100).sign(&key(1)).unwrap()).unwrap();
    let key = IdempotencyKey::random(&mut OsRng);
    let error = setup.client.status(&nobody, key).await.unwrap_err();
    assert_eq!(error.code(), "TRB-M311");
    let status = setup.client.wait(&nobody, key, Duration::from_secs(1), Duration::from_secs(30)).await;
    assert!(matches!(status, RelayStatus::Unknown { .. }), "{status:?}");
    assert!(!status.is_final());
}

#[tokio::test]
async fn a_collector_fills_its_book_from_the_topic() {
    let bus = LocalBus::new();
    let collector = RelayerCollector::new([pool()], 8, Arc::new(ManualClock::new(now())));
    let topic = collector.listen(&bus).await.unwrap();
    let running = collector.clone();
    let task = tokio::spawn(async move { running.run(topic).await });
    let secret = EncryptionSecret::random(&mut OsRng);
    let signed = announcement(secret.public(), 100).sign(&key(1)).unwrap();
    bus.publish(&ContentTopic::relayers(), vec![1; 10], Keep::Stored).await.unwrap();
    bus.publish(&ContentTopic::relayers(), signed.clone(), Keep::Stored).await.unwrap();
    let found = collector.wait_for(pool(), |relayers| relayers.first().cloned()).await;
    assert_eq!(found.peer_id(), key(1).public().to_peer_id());
    assert!(!collector.take(&signed).unwrap());
    task.abort();
}
