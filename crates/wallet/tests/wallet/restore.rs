//! From the seed alone; and what others write into memos.

use tributary_bindings::StreamPool;
use tributary_ledger::{Ledger, LedgerConfig, PoolEvent};
use tributary_protocol::{
    Amount, PayerMemoBytes,
    witness::{Dummy, Output, TransactRequest, ValueInput, Witness as _},
};
use tributary_wallet::{Intent, Outcome, SendTerms, Services, StreamState, Wallet};

use crate::net::{L, Net, amount, code, confirmed, prover};

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_is_restored_from_its_seed_with_streams_open() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    net.deposit(&payer, 0, 1_000_000).await;
    for per_second in [10, 20, 30] {
        let stream = net.stream_to(&payee, per_second, 50).await;
        net.run(&payer, 0, Intent::Open(stream)).await;
    }
    net.advance(L).await;
    net.sync(&[&payer, &payee]).await;
    let prepared = payee.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&payee, 1, &prepared).await;
    payer.sync().await.unwrap();
    let closed = payer.payer_streams(false).await.unwrap()[0].commitment;
    net.run(&payer, 0, Intent::Close { stream: closed }).await;
    net.sync(&[&payer, &payee]).await;

    for (seed, original) in [(1, &payer), (2, &payee)] {
        let restored = net.restored(seed, &format!("restored-{seed}")).await;
        assert!(restored.restored_at().is_some());
        assert!(original.restored_at().is_none());
        restored.sync().await.unwrap();
        assert_eq!(restored.address(), original.address());
        assert_eq!(restored.balance().await.unwrap(), original.balance().await.unwrap());
        let of = async |wallet: &Wallet| {
            let payer: Vec<_> = wallet.payer_streams(true).await.unwrap();
            let payee: Vec<_> = wallet.payee_streams(true).await.unwrap();
            let payer = payer.iter().map(|s| format!("{} {:?} {:?} {:?}", s.tag, s.note, s.state, s.record));
            let payee = payee.iter().map(|s| format!("{} {:?} {:?} {:?}", s.tag, s.note, s.state, s.record));
            payer.chain(payee).collect::<Vec<_>>()
        };
        let (streams, expected) = (of(&restored).await, of(original).await);
        assert_eq!(streams, expected);
        assert_eq!(streams.len(), 3);
    }

    // What is restored can be used: the payer closes, the payee claims.
    let restored = net.restored(1, "restored-1").await;
    let open = restored.payer_streams(false).await.unwrap();
    let open = open.iter().find(|stream| stream.state == StreamState::Running).unwrap().commitment;
    net.run(&restored, 0, Intent::Close { stream: open }).await;
    assert!(restored.payer_stream(open).await.unwrap().record.stop.is_some());
    net.advance(L).await;
    let restored = net.restored(2, "restored-2").await;
    restored.sync().await.unwrap();
    let prepared = restored.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&restored, 1, &prepared).await;
    net.check_books(&[&payer, &payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ledger_is_read_from_its_start() {
    let net = Net::start().await;
    let payer = net.wallet(1).await;
    net.deposit(&payer, 0, 1_000).await;
    let scope = payer.keys().scope;
    let before = payer.balance().await.unwrap();
    drop(payer);
    // Another ledger has other event numbers.
    let path = net.dir.path().join("another.sqlite");
    let ledger =
        Ledger::open(&path, net.provider.clone(), net.manifest.clone(), LedgerConfig::default()).await.unwrap();
    assert_ne!(ledger.id(), net.ledger.id());
    let services = Services { ledger, ..net.services() };
    let keys = Net::mnemonic(1).seed("").account(scope).unwrap();
    let database = net.folder("wallet-1").database(&scope);
    let payer =
        Wallet::with_keys(&database, keys, services, Default::default(), tributary_wallet::Origin::New).await.unwrap();
    payer.sync().await.unwrap();
    assert_eq!(payer.balance().await.unwrap(), before);
    // A database is one wallet's.
    let others = Net::mnemonic(2).seed("").account(scope).unwrap();
    let refused =
        Wallet::with_keys(&database, others, net.services(), Default::default(), tributary_wallet::Origin::New).await;
    assert_eq!(code(refused), "TRB-3004");
}

/// A transact whose payer's memo is `memo`, sent past the wallet.
async fn send_with_memo(net: &Net, from: &Wallet, outputs: [Output; 2], memo: PayerMemoBytes) -> Outcome {
    let mut rng = rand::rngs::OsRng;
    let dummies = [ValueInput::dummy(&Dummy::random(&mut rng)), ValueInput::dummy(&Dummy::random(&mut rng))];
    let amount_in = outputs.iter().map(|output| match output {
        Output::Value { amount, .. } => *amount,
        Output::Stream { payee, rate, start, end } => {
            tributary_protocol::StreamTerms::new(payee.owner(), *rate, *start, *end).unwrap().deposit()
        }
    });
    let amount_in = Amount::checked_sum(amount_in).unwrap();
    let (token, pool) = (net.manifest.token.address, net.manifest.pool);
    tributary_wallet::approve(&net.provider, token, pool, net.account(0), amount_in).await.unwrap();
    let external = tributary_protocol::ExternalTerms {
        recipient: alloy::primitives::Address::ZERO,
        relayer: alloy::primitives::Address::ZERO,
        fee: Amount::ZERO,
        deadline: crate::net::time(net.now().await + 600),
        may_drop_outputs: false,
    };
    let request = TransactRequest {
        root: net.ledger.newest_root().root,
        inputs: dummies,
        amount_in,
        amount_out: Amount::ZERO,
        outputs,
        external,
    };
    let mut witness = request.build(from.keys(), &mut rng).unwrap();
    witness.external.memo = Some(memo);
    let prepared = witness.prepare().unwrap();
    let proof = prover().prove(prepared.circuit, &prepared.inputs).unwrap();
    let calldata = call(&prepared.statement, &witness.external, &proof.to_bytes());
    net.direct(0).call(pool, calldata).await
}

/// The call `transact`, put together independently of the wallet.
fn call(
    statement: &tributary_protocol::TransactStatement,
    external: &tributary_protocol::ExternalData,
    proof: &[u8; 256],
) -> alloy::primitives::Bytes {
    use alloy::{primitives::U256, sol_types::SolCall};
    use tributary_protocol::{FieldElement, Statement};
    let words: Vec<U256> = proof.chunks_exact(32).map(U256::from_be_slice).collect();
    let memo = |i: usize| {
        let [ex, ey, c0, c1, c2] = statement.outputs[i].memo.elements().map(|e| e.to_u256());
        StreamPool::SealedMemo { ex, ey, c0, c1, c2 }
    };
    let args = StreamPool::TransactArgs {
        proof: StreamPool::Proof {
            a: [words[0], words[1]],
            b: [[words[2], words[3]], [words[4], words[5]]],
            c: [words[6], words[7]],
        },
        digest: statement.digest().to_u256(),
        root: statement.root.into(),
        amountIn: statement.amount_in.into(),
        amountOut: statement.amount_out.into(),
        nullifiers: statement.nullifiers.map(Into::into),
        commitments: [statement.outputs[0].commitment.into(), statement.outputs[1].commitment.into()],
        memos: [memo(0), memo(1)],
    };
    let ext = StreamPool::Ext {
        recipient: external.terms.recipient,
        relayer: external.terms.relayer,
        fee: external.terms.fee.into(),
        deadline: external.terms.deadline.into(),
        mayDropOutputs: external.terms.may_drop_outputs,
        memo: external.memo_bytes(),
    };
    StreamPool::transactCall { args, ext }.abi_encode().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_who_garbles_its_own_memo_harms_itself_alone() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    let stream = net.stream_to(&payee, 10, 50).await;
    let output = Output::Stream { payee: stream.payee, rate: stream.rate, start: stream.start, end: stream.end };
    let nothing = Output::Value { to: payer.address(), amount: Amount::ZERO };
    let garbage = PayerMemoBytes::filler(&mut rand::rngs::OsRng);
    confirmed(&send_with_memo(&net, &payer, [output, nothing], garbage).await);
    net.insert().await;
    net.advance(L).await;
    net.sync(&[&payer, &payee]).await;
    assert!(payer.payer_streams(true).await.unwrap().is_empty(), "the payer can't find its own stream any more");
    let streams = payee.payee_streams(false).await.unwrap();
    assert_eq!(streams.len(), 1, "the payee can");
    let claimable = streams[0].claimable.get();
    assert!(claimable > 0);
    let prepared = payee.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&payee, 1, &prepared).await;
    assert_eq!(payee.balance().await.unwrap().available.get(), claimable - claimable / 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memo_copied_by_somebody_else_makes_no_stream() {
    let net = Net::start().await;
    let (payer, payee, attacker) = (net.wallet(1).await, net.wallet(2).await, net.wallet(3).await);
    net.deposit(&payer, 0, 1_000_000).await;
    let stream = net.stream_to(&payee, 10, 50).await;
    net.run(&payer, 0, Intent::Open(stream)).await;
    let copied = net.events().await.into_iter().rev().find_map(|event| match event {
        PoolEvent::Transacted { payer_memo, .. } => Some(payer_memo),
        _ => None,
    });
    let copied = copied.unwrap();
    assert!(copied.decrypt(&payer.keys().memo).is_ok(), "it is the payer's own memo");
    // The same terms to the same payee, so that only rho and payer tag differ.
    let output = Output::Stream { payee: stream.payee, rate: stream.rate, start: stream.start, end: stream.end };
    let nothing = Output::Value { to: attacker.address(), amount: Amount::ZERO };
    confirmed(&send_with_memo(&net, &attacker, [output, nothing], copied).await);
    net.insert().await;
    net.sync(&[&payer, &payee, &attacker]).await;
    assert_eq!(payer.payer_streams(true).await.unwrap().len(), 1, "the copy is nobody's stream");
    assert_eq!(payee.payee_streams(true).await.unwrap().len(), 2, "the payee is paid by both");
    assert!(attacker.payer_streams(true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn dust_is_left_alone() {
    let net = Net::start().await;
    let config = tributary_wallet::WalletConfig {
        least_note: amount(100),
        least_stream: amount(10_000),
        least_claim: amount(1_000),
        ..Default::default()
    };
    let payer = net.wallet(1).await;
    let scope = payer.keys().scope;
    let keys = Net::mnemonic(2).seed("").account(scope).unwrap();
    let path = net.dir.path().join("payee.sqlite");
    let payee = Wallet::with_keys(&path, keys, net.services(), config, tributary_wallet::Origin::New).await.unwrap();
    net.deposit(&payer, 0, 1_000_000).await;
    net.run(&payer, 0, Intent::Transfer { to: payee.address(), amount: amount(99) }).await;
    net.run(&payer, 0, Intent::Transfer { to: payee.address(), amount: amount(100) }).await;
    let small = net.stream_to(&payee, 1, 100).await; // 6,000
    net.run(&payer, 0, Intent::Open(small)).await;
    let large = net.stream_to(&payee, 10, 100).await;
    net.run(&payer, 0, Intent::Open(large)).await;
    payee.sync().await.unwrap();
    assert_eq!(payee.balance().await.unwrap().available, amount(100));
    assert_eq!(payee.payee_streams(true).await.unwrap().len(), 1);
    let start = large.start.get();
    net.advance(start + 99 - net.now().await).await;
    payee.sync().await.unwrap();
    assert_eq!(code(payee.prepare_claim(SendTerms::default()).await), "TRB-3016", "990 are not worth a lane");
    net.advance(1).await;
    payee.sync().await.unwrap();
    assert_eq!(payee.worth_claiming().await.unwrap().len(), 1);
}
