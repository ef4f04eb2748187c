//! Relayers that are absent, dear, slow or lie: the wallet's money depends on none of them (P4).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::primitives::{Address, B256};
use async_trait::async_trait;
use rand::{RngCore as _, rngs::OsRng};
use tributary_client::{ClientStore, Directory, RelaySubmitter};
use tributary_market::{
    clock::{Clock as _, SystemClock},
    node::encryption_secret,
    relay::{
        Announcement, IdempotencyKey, RelayClient, RelayEndpoint, RelayFee, RelayHandler, RelayOperation, RelayQuote,
        RelayStatus, Submission,
    },
    rpc::{CallPolicy, SealedClient, SealedServer, ServerLimits},
    topics::ContentTopic,
    transport::{Broadcast, Keep},
};
use tributary_protocol::{PoolId, Seconds};
use tributary_waku::{ClusterId, Node, NodeConfig, NodeHandle, NodeKey, NodeLimits, Sharding};
use tributary_wallet::{Intent, OperationKind, OperationStatus, Outcome, SendTerms, Submitter as _, Wallet};

use crate::net::{L, Net, amount, confirmed, refused_by_pool};

/// Nothing here waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);

const FEE: u128 = 700;

/// What a relayer does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Says that it has it, and nothing more.
    Stalls,
    /// Says that it will not send it, and keeps it.
    Refuses,
    /// Says that it is mined.
    Boasts,
}

#[derive(Debug)]
struct Relayer {
    manner: Manner,
    account: Address,
    fee: u128,
    kept: Mutex<Vec<Vec<u8>>>,
}

#[async_trait]
impl RelayHandler for Relayer {
    async fn quote(
        &self,
        pool: PoolId,
        operation: RelayOperation,
        with_insertion: bool,
    ) -> Result<RelayQuote, RelayStatus> {
        let mut quote_id = [0; 16];
        OsRng.fill_bytes(&mut quote_id);
        let valid_until = SystemClock.now().saturating_add(Seconds::new(60).unwrap());
        let fee = amount(self.fee);
        Ok(RelayQuote { quote_id, pool, operation, with_insertion, fee, account: self.account, valid_until })
    }

    async fn submit(&self, submission: Submission) -> RelayStatus {
        self.kept.lock().unwrap().push(submission.call);
        self.status(submission.key).await
    }

    async fn status(&self, _: IdempotencyKey) -> RelayStatus {
        match self.manner {
            Manner::Stalls => RelayStatus::Accepted,
            Manner::Refuses => {
                RelayStatus::Rejected { code: "paused".into(), description: "not today".into(), retry: false }
            }
            Manner::Boasts => {
                RelayStatus::Confirmed { transaction: B256::repeat_byte(7), block_number: 1, inserted: true }
            }
        }
    }
}

async fn node() -> NodeHandle {
    let config = NodeConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        limits: NodeLimits::shared_address(),
        ..NodeConfig::new(NodeKey::generate(), ClusterId(42), Sharding::Auto { shards: 8 })
    };
    Node::spawn(config).await.unwrap()
}

/// A relayer's node that serves its manner, and the announcement it makes.
async fn relayer(net: &Net, manner: Manner, fee: u128) -> (NodeHandle, Arc<Relayer>, Vec<u8>) {
    let node = node().await;
    let handler = Arc::new(Relayer { manner, account: net.account(3), fee, kept: Mutex::default() });
    let key = Arc::new(node.key().clone());
    let secret = encryption_secret(node.key());
    let endpoint = RelayEndpoint::new(key.clone(), Arc::new(SystemClock), handler.clone());
    let server = SealedServer::new(
        Arc::new(node.clone()),
        Arc::new(SystemClock),
        secret.clone(),
        Arc::new(endpoint),
        ServerLimits::default(),
    );
    tokio::spawn(Arc::new(server).listen().await.unwrap().serve());
    let now = SystemClock.now();
    let fees = [RelayOperation::Transact, RelayOperation::Close]
        .map(|operation| (operation, RelayFee { alone: amount(fee), with_insertion: amount(fee) }));
    let announcement = Announcement {
        encryption_key: secret.public(),
        pool: net.ledger.pool(),
        account: handler.account,
        fees: BTreeMap::from(fees),
        sequence: 1,
        issued_at: now,
        expires_at: now.saturating_add(Seconds::new(600).unwrap()),
    };
    let signed = announcement.sign(&*key).unwrap();
    (node, handler, signed)
}

struct Buyer {
    net: Net,
    payer: Wallet,
    payee: Wallet,
    node: NodeHandle,
    directory: Directory,
}

impl Buyer {
    /// A wallet with money and a node that knows nobody.
    async fn start() -> Self {
        let net = Net::start().await;
        let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
        net.deposit(&payer, 0, 1_000_000).await;
        let node = node().await;
        let store = ClientStore::open(&net.dir.path().join("client.sqlite")).await.unwrap();
        let pool = net.ledger.pool();
        let directory = Directory::open(node.clone(), store, Arc::new(SystemClock), pool).await.unwrap();
        Self { net, payer, payee, node, directory }
    }

    /// Connects to a relayer and hears its announcement over the network.
    async fn meet(&self, other: &NodeHandle, announcement: &[u8]) {
        let known = self.directory.relayers().len();
        let address = other.listen_addrs().remove(0);
        self.node.dial_within(&address, PATIENCE).await.unwrap();
        let heard = async {
            while self.directory.relayers().len() == known {
                // Until the mesh has formed nobody hears.
                let _ = Broadcast::publish(other, &ContentTopic::relayers(), announcement.to_vec(), Keep::Stored).await;
                let soon = tokio::time::sleep(Duration::from_millis(100));
                self.directory.discover(soon).await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the announcement arrives");
    }

    fn submitter(&self, max_fee: u128, patience: Duration) -> RelaySubmitter {
        let policy = CallPolicy { attempts: 2, wait: PATIENCE };
        let sealed = SealedClient::new(Arc::new(self.node.clone()), Arc::new(SystemClock), policy);
        let client = RelayClient::new(sealed, Arc::new(SystemClock));
        RelaySubmitter::new(client, self.directory.clone(), amount(max_fee), true).patience(patience)
    }

    async fn open_stream(&self) {
        let stream = self.net.stream_to(&self.payee, 10, 50).await;
        let prepared = self.payer.prepare_open(stream, SendTerms::default()).await.unwrap();
        self.net.send(&self.payer, 0, &prepared).await;
    }

    async fn close(&self) -> Intent {
        Intent::Close { stream: self.payer.payer_streams(false).await.unwrap()[0].commitment }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relayer_nothing_is_sent_and_the_wallet_sends_by_itself() {
    let buyer = Buyer::start().await;
    buyer.open_stream().await;
    let rejection = buyer.submitter(FEE, PATIENCE).terms(OperationKind::Close).await.unwrap_err();
    assert_eq!((rejection.code.as_str(), rejection.never_sent), ("no_relayer", true));
    assert!(rejection.reason.contains("--direct"), "{}", rejection.reason);

    // P3 and P4 without anybody: the payer stops, the payee claims, each with an account of its own.
    buyer.net.advance(2 * L).await;
    buyer.net.sync(&[&buyer.payer, &buyer.payee]).await;
    buyer.net.run(&buyer.payer, 0, buyer.close().await).await;
    let streams = buyer.payee.worth_claiming().await.unwrap();
    assert_eq!(streams.len(), 1);
    buyer.net.run(&buyer.payee, 1, Intent::Claim { streams }).await;
    assert!(buyer.payee.balance().await.unwrap().available.get() >= 10 * u128::from(L) * 99 / 100);
    buyer.net.check_books(&[&buyer.payer, &buyer.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_is_too_dear_is_passed_over() {
    let buyer = Buyer::start().await;
    let (dear, _, announcement) = relayer(&buyer.net, Manner::Stalls, FEE + 1).await;
    buyer.meet(&dear, &announcement).await;
    let submitter = buyer.submitter(FEE, PATIENCE);
    let rejection = submitter.terms(OperationKind::Open).await.unwrap_err();
    assert_eq!(rejection.code, "no_relayer");
    assert!(rejection.reason.contains("buyer.max_relay_fee"), "{}", rejection.reason);

    let (cheap, _, announcement) = relayer(&buyer.net, Manner::Stalls, FEE).await;
    buyer.meet(&cheap, &announcement).await;
    let terms = submitter.terms(OperationKind::Open).await.unwrap();
    assert_eq!((terms.relayer, terms.fee), (buyer.net.account(3), amount(FEE)));
    let (chosen, fee) = submitter.last().unwrap();
    assert_eq!((chosen.peer_id(), fee), (cheap.peer_id(), amount(FEE)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_went_away_is_passed_over() {
    let buyer = Buyer::start().await;
    let (gone, _, announcement) = relayer(&buyer.net, Manner::Stalls, FEE).await;
    buyer.meet(&gone, &announcement).await;
    gone.shutdown().await;
    let policy = CallPolicy { attempts: 1, wait: Duration::from_millis(500) };
    let sealed = SealedClient::new(Arc::new(buyer.node.clone()), Arc::new(SystemClock), policy);
    let client = RelayClient::new(sealed, Arc::new(SystemClock));
    let submitter = RelaySubmitter::new(client, buyer.directory.clone(), amount(FEE), true);
    let rejection = submitter.terms(OperationKind::Open).await.unwrap_err();
    assert_eq!((rejection.code.as_str(), rejection.never_sent), ("no_relayer", true));
}

/// What a buyer who asks for its money back sees of a relayer with this manner, and the operation and call that the relayer holds.
async fn close_through(buyer: &Buyer, manner: Manner) -> (Outcome, tributary_wallet::OperationId, Vec<u8>) {
    let (node, handler, announcement) = relayer(&buyer.net, manner, FEE).await;
    buyer.meet(&node, &announcement).await;
    buyer.open_stream().await;
    let submitter = buyer.submitter(FEE, Duration::from_secs(1));
    let terms = submitter.terms(OperationKind::Close).await.unwrap();
    let prepared = buyer.payer.prepare(buyer.close().await, terms).await.unwrap();
    let outcome = buyer.payer.submit(&prepared, &submitter).await.unwrap();
    let kept = handler.kept.lock().unwrap().pop().expect("the relayer has the call");
    assert_eq!(kept, prepared.calldata.to_vec());
    (outcome, prepared.operation, kept)
}

/// The payer closes by itself, and whatever a relayer kept is worth nothing then.
async fn closes_without(buyer: &Buyer, operation: tributary_wallet::OperationId, kept: Vec<u8>) {
    let status = buyer.payer.operation(operation).await.unwrap().status;
    assert_eq!(status, OperationStatus::Sent, "it may still be sent until its deadline");
    let own = buyer.payer.prepare_again(operation, SendTerms::default()).await.unwrap();
    buyer.net.send(&buyer.payer, 0, &own).await;
    let status = buyer.payer.operation(operation).await.unwrap().status;
    assert!(matches!(status, OperationStatus::Confirmed { .. }), "{status:?}");
    let late = buyer.net.direct(3).call(buyer.net.manifest.pool, kept.into()).await;
    assert_eq!(refused_by_pool(&late), "StreamPool_StreamStopped");
    assert_eq!(buyer.net.tokens(buyer.net.account(3)).await, u128::from(crate::net::TOKENS), "no fee was earned");
    buyer.net.check_books(&[&buyer.payer, &buyer.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_stalls_does_not_keep_the_money() {
    let buyer = Buyer::start().await;
    let (outcome, operation, kept) = close_through(&buyer, Manner::Stalls).await;
    assert!(matches!(outcome, Outcome::Unknown { tx_hash: None, .. }), "{outcome:?}");
    closes_without(&buyer, operation, kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_refuses_may_send_it_all_the_same() {
    let buyer = Buyer::start().await;
    let (outcome, operation, kept) = close_through(&buyer, Manner::Refuses).await;
    match &outcome {
        Outcome::Rejected(rejection) => {
            assert_eq!((rejection.code.as_str(), rejection.never_sent), ("paused", false));
        }
        other => panic!("{other:?}"),
    }
    // It lied: the call is mined, and the wallet sees that and does not pay twice.
    confirmed(&buyer.net.direct(3).call(buyer.net.manifest.pool, kept.into()).await);
    buyer.payer.sync().await.unwrap();
    let status = buyer.payer.operation(operation).await.unwrap().status;
    assert!(matches!(status, OperationStatus::Confirmed { .. }), "{status:?}");
    buyer.net.insert().await;
    buyer.net.check_books(&[&buyer.payer, &buyer.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_that_boasts_is_not_believed() {
    let buyer = Buyer::start().await;
    let (_, operation, kept) = close_through(&buyer, Manner::Boasts).await;
    buyer.payer.sync().await.unwrap();
    assert_eq!(buyer.payer.payer_streams(false).await.unwrap()[0].record.stop, None, "the chain knows of no stop");
    closes_without(&buyer, operation, kept).await;
}
