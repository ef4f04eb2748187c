//! The process ends between any two writes.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;
use tributary_wallet::{
    DirectSubmitter, Intent, OperationKind, OperationStatus, Outcome, PreparedTransaction, Rejection, SendTerms,
    Submitter,
};

use crate::net::{L, Net, amount, code, confirmed, refused_by_pool};

/// Sends, and then the line is dead.
#[derive(Debug)]
struct SendsAndHangs {
    direct: DirectSubmitter,
    sent: Arc<Notify>,
}

#[async_trait]
impl Submitter for SendsAndHangs {
    async fn terms(&self, kind: OperationKind) -> Result<SendTerms, Rejection> {
        self.direct.terms(kind).await
    }

    async fn submit(&self, transaction: &PreparedTransaction) -> Outcome {
        confirmed(&self.direct.submit(transaction).await);
        self.sent.notify_one();
        std::future::pending().await
    }
}

/// Takes a transaction and keeps it, as a relayer that never sends.
#[derive(Debug)]
struct NeverSends;

#[async_trait]
impl Submitter for NeverSends {
    async fn terms(&self, _: OperationKind) -> Result<SendTerms, Rejection> {
        Ok(SendTerms::default())
    }

    async fn submit(&self, _: &PreparedTransaction) -> Outcome {
        Outcome::Unknown { tx_hash: None, reason: "no answer".to_owned() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reserved_for_a_proof_that_never_came_is_free_again() {
    let net = Net::start().await;
    let wallet = net.wallet(1).await;
    net.deposit(&wallet, 0, 1_000).await;
    let intent = Intent::Withdraw { recipient: net.account(5), amount: amount(600) };
    let proving = {
        let (wallet, intent) = (wallet.clone(), intent.clone());
        tokio::spawn(async move { wallet.prepare(intent, SendTerms::default()).await })
    };
    while wallet.operations().await.unwrap().iter().all(|op| op.status != OperationStatus::Preparing) {
        tokio::task::yield_now().await;
    }
    assert_eq!(wallet.balance().await.unwrap().reserved, amount(1_000));
    assert_eq!(code(wallet.prepare(intent.clone(), SendTerms::default()).await), "TRB-3006");
    wallet.reconcile().await.unwrap();
    assert_eq!(wallet.balance().await.unwrap().reserved, amount(1_000), "it is still being proved");
    proving.abort();
    assert!(proving.await.unwrap_err().is_cancelled());
    drop(wallet);

    // Another process might be proving it still.
    let wallet = net.reopen(1).await;
    wallet.reconcile().await.unwrap();
    assert_eq!(wallet.balance().await.unwrap().reserved, amount(1_000));
    net.advance(121).await;
    wallet.sync().await.unwrap();
    assert_eq!(wallet.balance().await.unwrap().available, amount(1_000));
    net.run(&wallet, 0, intent).await;
    assert_eq!(net.tokens(net.account(5)).await, 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_outlives_its_process() {
    let net = Net::start().await;
    let wallet = net.wallet(1).await;
    net.deposit(&wallet, 0, 1_000).await;
    let intent = Intent::Withdraw { recipient: net.account(5), amount: amount(600) };
    let prepared = wallet.prepare(intent, SendTerms::default()).await.unwrap();
    drop(wallet);

    let wallet = net.reopen(1).await;
    wallet.sync().await.unwrap();
    let operation = wallet.operations().await.unwrap().into_iter().find(|op| op.id == prepared.operation).unwrap();
    assert_eq!(operation.status, OperationStatus::Prepared);
    assert_eq!(wallet.balance().await.unwrap().reserved, amount(1_000));
    let kept = wallet.attempts(operation.id).await.unwrap();
    assert_eq!(kept, std::slice::from_ref(&prepared));

    // Sent, and the process ends before the outcome is written.
    let sent = Arc::new(Notify::new());
    let submitter = SendsAndHangs { direct: net.direct(0), sent: Arc::clone(&sent) };
    let sending = {
        let (wallet, prepared) = (wallet.clone(), kept[0].clone());
        tokio::spawn(async move { wallet.submit(&prepared, &submitter).await })
    };
    sent.notified().await;
    sending.abort();
    let _ = sending.await;
    drop(wallet);

    let wallet = net.reopen(1).await;
    assert_eq!(wallet.operation(prepared.operation).await.unwrap().status, OperationStatus::Sent);
    wallet.sync().await.unwrap();
    let status = wallet.operation(prepared.operation).await.unwrap().status;
    assert!(matches!(status, OperationStatus::Confirmed { .. }), "{status:?}");
    net.insert().await;
    wallet.sync().await.unwrap();
    let balance = wallet.balance().await.unwrap();
    assert_eq!((balance.available, balance.reserved), (amount(400), amount(0)));
    assert_eq!(code(wallet.prepare_again(prepared.operation, SendTerms::default()).await), "TRB-3019");
    assert_eq!(code(wallet.abandon(prepared.operation).await), "TRB-3019");

    // Deep enough, it is done with.
    net.mine(12).await;
    wallet.sync().await.unwrap();
    assert!(wallet.operations().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_attempts_at_a_deposit_one_is_mined() {
    let net = Net::start().await;
    let wallet = net.wallet(1).await;
    let (token, pool) = (net.manifest.token.address, net.manifest.pool);
    tributary_wallet::approve(&net.provider, token, pool, net.account(0), amount(10_000)).await.unwrap();
    let first = wallet.prepare(Intent::Deposit { amount: amount(1_000) }, SendTerms::default()).await.unwrap();
    let outcome = wallet.submit(&first, &NeverSends).await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown { .. }));
    drop(wallet);

    // A deposit has dummies only; they are kept, so the second attempt spends the same first nullifier.
    let wallet = net.reopen(1).await;
    let second = wallet.prepare_again(first.operation, SendTerms::default()).await.unwrap();
    assert_eq!(second.nullifiers, first.nullifiers);
    assert_ne!(second.commitments, first.commitments, "all randomness is fresh");
    assert_ne!(second.attempt, first.attempt);
    net.send(&wallet, 0, &second).await;
    assert_eq!(wallet.balance().await.unwrap().available, amount(1_000));

    // The silent relayer wakes up.
    let outcome = net.direct(0).submit(&first).await;
    assert_eq!(refused_by_pool(&outcome), "StreamPool_NullifierSpent");
    assert_eq!(net.pool_tokens().await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_sent_again_with_a_later_stop() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 1_000_000).await;
    let stream = net.stream_to(&payee, 10, 100).await;
    net.run(&payer, 0, Intent::Open(stream)).await;
    payer.sync().await.unwrap();
    let commitment = payer.payer_streams(false).await.unwrap()[0].commitment;
    let first = payer.prepare(Intent::Close { stream: commitment }, SendTerms::default()).await.unwrap();
    payer.submit(&first, &NeverSends).await.unwrap();
    assert_eq!(
        code(payer.prepare(Intent::Close { stream: commitment }, SendTerms::default()).await),
        "TRB-3014",
        "one close at a time"
    );
    assert_eq!(code(payer.abandon(first.operation).await), "TRB-3018", "the relayer may still send it");

    net.advance(2 * L).await;
    payer.sync().await.unwrap();
    let outcome = net.direct(0).submit(&first).await;
    assert_eq!(refused_by_pool(&outcome), "StreamPool_DeadlinePassed");
    let second = payer.prepare_again(first.operation, SendTerms::default()).await.unwrap();
    assert_eq!(second.nullifiers, first.nullifiers);
    assert_eq!(second.tags, first.tags);
    assert!(second.external.deadline > first.external.deadline);
    net.send(&payer, 0, &second).await;
    let stop = payer.payer_stream(commitment).await.unwrap().record.stop.unwrap();
    assert_eq!(stop.get(), second.external.deadline.get() + crate::net::NOTICE);
    assert_eq!(
        code(payer.prepare(Intent::Close { stream: commitment }, SendTerms::default()).await),
        "TRB-3013",
        "a stop is for ever"
    );
    net.check_books(&[&payer, &payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_operation_gives_its_inputs_back() {
    let net = Net::start().await;
    let wallet = net.wallet(1).await;
    net.deposit(&wallet, 0, 1_000).await;
    let intent = Intent::Withdraw { recipient: net.account(5), amount: amount(600) };
    let deadline = crate::net::time(net.now().await + 100);
    let terms = SendTerms { deadline: Some(deadline), ..SendTerms::default() };
    let prepared = wallet.prepare(intent.clone(), terms).await.unwrap();
    wallet.submit(&prepared, &NeverSends).await.unwrap();
    net.advance(101).await;
    wallet.sync().await.unwrap();
    assert_eq!(
        wallet.operation(prepared.operation).await.unwrap().status,
        OperationStatus::Sent,
        "a reorganisation could still bring it"
    );
    assert_eq!(wallet.balance().await.unwrap().reserved, amount(1_000));
    net.mine(12).await;
    wallet.sync().await.unwrap();
    assert_eq!(wallet.operation(prepared.operation).await.unwrap().status, OperationStatus::Expired);
    assert_eq!(wallet.balance().await.unwrap().available, amount(1_000));
    net.run(&wallet, 0, intent).await;

    // Refused before it was sent: nobody else has it, so it can be given up at once.
    let intent = Intent::Deposit { amount: amount(77) };
    let prepared = wallet.prepare(intent, SendTerms::default()).await.unwrap();
    let outcome = wallet.submit(&prepared, &net.direct(2)).await.unwrap();
    assert!(matches!(&outcome, Outcome::Rejected(r) if r.never_sent), "nothing was approved: {outcome:?}");
    wallet.abandon(prepared.operation).await.unwrap();
    assert_eq!(wallet.operation(prepared.operation).await.unwrap().status, OperationStatus::Abandoned);
}
