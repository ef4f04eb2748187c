//! The relayer as clients see it: announced, asked, and refusing with its codes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::rngs::OsRng;
use tributary_market::{
    clock::SystemClock,
    relay::{
        IdempotencyKey, RelayClient, RelayError, RelayFee, RelayOperation, RelayStatus, RelayerCollector,
        VerifiedAnnouncement,
    },
    rpc::{CallPolicy, SealedClient},
    sealed::EncryptionSecret,
    transport::LocalBus,
};
use tributary_protocol::PoolId;
use tributary_relayer::{Engine, RelayerService, ServiceConfig};
use tributary_waku::NodeKey;
use tributary_wallet::SendTerms;

use crate::{
    desk::{Desk, FEE},
    net::amount,
};

/// Nothing here waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    desk: Desk,
    client: RelayClient,
    found: Arc<VerifiedAnnouncement>,
    stop: tokio::sync::oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), tributary_relayer::ServiceError>>,
}

/// A relayer that transfers and closes for [`FEE`], on a bus with its client.
async fn serve() -> Served {
    let desk = Desk::open().await;
    let bus = Arc::new(LocalBus::new());
    let pool = desk.net.ledger.pool();
    let collector = RelayerCollector::new([pool], 8, Arc::new(SystemClock));
    let topic = collector.listen(&*bus).await.unwrap();
    tokio::spawn({
        let collector = collector.clone();
        async move { collector.run(topic).await }
    });
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = tokio::spawn(service(&desk.engine, &bus, pool).run(async { drop(stopped.await) }));
    let find = collector.wait_for(pool, |relayers| relayers.first().cloned());
    let found = tokio::time::timeout(PATIENCE, find).await.expect("it announces itself");
    let policy = CallPolicy { attempts: 2, wait: PATIENCE };
    let sealed = SealedClient::new(bus, Arc::new(SystemClock), policy);
    let client = RelayClient::new(sealed, Arc::new(SystemClock));
    Served { desk, client, found, stop, running }
}

fn service(engine: &Engine, bus: &Arc<LocalBus>, pool: PoolId) -> RelayerService {
    let fee = RelayFee { alone: amount(FEE / 2), with_insertion: amount(FEE) };
    let fees = BTreeMap::from([RelayOperation::Transact, RelayOperation::Close].map(|operation| (operation, fee)));
    let config = ServiceConfig {
        pool,
        fees,
        announcement_lifetime: Duration::from_secs(300),
        announce_every: Duration::from_secs(30),
    };
    let key = Arc::new(NodeKey::generate());
    let secret = EncryptionSecret::random(&mut OsRng);
    RelayerService::new(engine.clone(), bus.clone(), key, secret, Arc::new(SystemClock), config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_finds_it_and_has_a_transaction_sent() {
    let Served { desk, client, found, stop, running } = serve().await;
    assert_eq!(found.announcement().account, desk.engine.account());
    assert_eq!(found.fee(RelayOperation::Transact, false), Some(amount(FEE / 2)));
    assert_eq!(found.fee(RelayOperation::Claim, false), None);

    let quote = client.quote(&found, RelayOperation::Transact, true, amount(FEE)).await.unwrap();
    assert_eq!(quote.quote().fee, amount(FEE));
    // The chain's clock is behind or ahead of the machine's: the deadline must fit both.
    let deadline = desk.net.now().await.max(tributary_ledger::Clock::now(&tributary_ledger::SystemClock)) + 300;
    let terms = SendTerms { deadline: Some(crate::net::time(deadline)), ..desk.terms() };
    let transfer = desk.transfer_on(terms).await;
    let key = IdempotencyKey::random(&mut OsRng);
    client.submit(&found, &quote, key, transfer.calldata.to_vec()).await.unwrap();
    let status = client.wait(&found, key, Duration::from_millis(50), PATIENCE).await;
    let RelayStatus::Confirmed { inserted, .. } = status else { panic!("{status:?}") };
    assert!(inserted);
    assert_eq!(desk.earned().await, FEE);

    // Sent again after it is done: the same answer, and nothing happens.
    let again = client.submit(&found, &quote, key, transfer.calldata.to_vec()).await.unwrap();
    assert_eq!(again, status);
    assert_eq!(desk.sent().await, 1);
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_reach_the_client_with_their_codes() {
    let Served { desk, client, found, stop, running } = serve().await;
    let not_served = client.quote(&found, RelayOperation::Claim, false, amount(FEE)).await.unwrap_err();
    assert_eq!(not_served, RelayError::NotServed { operation: RelayOperation::Claim });

    let quote = client.quote(&found, RelayOperation::Transact, true, amount(FEE)).await.unwrap();
    let rejected = async |call: Vec<u8>| {
        let key = IdempotencyKey::random(&mut OsRng);
        match client.submit(&found, &quote, key, call).await.unwrap() {
            RelayStatus::Rejected { code, retry, .. } => {
                // Nothing was kept, so nothing is known of it.
                let status = client.status(&found, key).await.unwrap();
                assert!(matches!(status, RelayStatus::Unknown { .. }), "{status:?}");
                (code, retry)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(rejected(vec![7; 100]).await, ("unknown_call".to_owned(), false));
    let cheap = desk.transfer_on(SendTerms { fee: amount(FEE - 1), ..desk.terms() }).await;
    assert_eq!(rejected(cheap.calldata.to_vec()).await, ("fee_too_low".to_owned(), false));
    assert_eq!(desk.sent().await, 0);
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
