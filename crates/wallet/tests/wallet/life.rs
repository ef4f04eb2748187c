//! A stream's whole life, with the pool's books checked at each step.

use tributary_protocol::{Price, ProviderDigest, ticket::OfferTerms};
use tributary_wallet::{
    DepositFrom, Intent, SendTerms, StreamState, domain_separator, sign_permit, tickets::PayingStream,
};

use crate::net::{BURN_BPS, L, MARGIN, NOTICE, Net, amount, prover, time};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_deposit_to_withdrawal() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    let both = [&payer, &payee];

    // Deposits: by approval, by permit, by an authorisation that somebody else sends.
    net.deposit(&payer, 0, 1_000_000).await;
    assert_eq!(payer.balance().await.unwrap().available, amount(1_000_000));
    let (token, pool) = (net.manifest.token.address, net.manifest.pool);
    let later = time(net.now().await + 600);
    let permit = sign_permit(&net.provider, token, pool, &net.signer(1), amount(500_000), later).await.unwrap();
    let prepared =
        payer.prepare_deposit(amount(500_000), DepositFrom::Permit(&permit), SendTerms::default()).await.unwrap();
    net.send(&payer, 1, &prepared).await;
    let signer = net.signer(2);
    let domain = domain_separator(&net.provider, token).await.unwrap();
    let from = DepositFrom::Authorization { signer: &signer, domain };
    let relayed = SendTerms { relayer: net.account(3), fee: amount(1_000), deadline: None };
    let prepared = payer.prepare_deposit(amount(250_000), from, relayed).await.unwrap();
    let before = net.tokens(net.account(3)).await;
    net.send(&payer, 3, &prepared).await;
    assert_eq!(net.tokens(net.account(3)).await, before + 1_000, "the relayer has its fee");
    let balance = payer.balance().await.unwrap();
    assert_eq!(balance.available, amount(1_000_000 + 500_000 + 249_000));
    net.check_books(&both).await;

    // Open: 100 base units a second for 20 slots.
    let stream = net.stream_to(&payee, 100, 20).await;
    let offer =
        OfferTerms { payee: payee.address().owner(), price: Price::new(1_000).unwrap(), min_streamed: amount(1) };
    let stream = tributary_wallet::OpenStream { offer: Some(offer), ..stream };
    net.run(&payer, 0, Intent::Open(stream)).await;
    net.sync(&both).await;
    let opened = payer.payer_streams(false).await.unwrap();
    let [opened] = &opened[..] else { panic!("{opened:?}") };
    assert_eq!(opened.state, StreamState::Running);
    assert_eq!(opened.offer, Some(offer));
    let balance = payer.balance().await.unwrap();
    assert_eq!(balance.in_streams, amount(100 * 20 * u128::from(L)));
    assert_eq!(balance.in_streams.get(), balance.accrued.get() + balance.at_risk.get() + balance.refundable.get());
    let incoming = payee.payee_streams(false).await.unwrap();
    let [incoming] = &incoming[..] else { panic!("{incoming:?}") };
    assert_eq!((incoming.commitment, incoming.tag), (opened.commitment, opened.tag), "both see the same stream");
    net.check_books(&both).await;

    // A ticket for the running slot verifies under the ticket key and the slot's list.
    net.advance(MARGIN + 1).await;
    net.sync(&both).await;
    let maker = payer.tickets(&net.dir.path().join("tickets.sqlite")).await.unwrap();
    let paying = PayingStream {
        note: opened.note,
        secret: opened.secret.clone(),
        terms: offer,
        provider: ProviderDigest::of_peer_id(b"a provider"),
        root_depth: 1,
    };
    let clock = net.ledger.clock();
    let slot = clock.slot_of(net.ledger.head_time().unwrap()).unwrap();
    let ticket = maker.take(&paying, slot, 1).await.unwrap();
    assert!(ticket.young, "the stream is younger than its slot's usual root");
    let list = net.ledger.stopped_list(slot).unwrap();
    ticket.statement.check_ticket(&clock, &offer, list.root()).unwrap();
    assert!(net.ledger.known_root(ticket.statement.root).is_some());
    let key = prover().verifying_key(tributary_protocol::Circuit::Ticket).unwrap();
    let proof = tributary_prover::Proof::from_bytes(&ticket.proof).unwrap();
    key.verify(&ticket.statement.public_inputs(), &proof).unwrap();
    ticket.statement.check_message(ticket.key.verifying_key().as_bytes(), &paying.provider).unwrap();

    // Claim what accrued so far.
    let claimable = payee.balance().await.unwrap().claimable.get();
    assert!(claimable > 0);
    let prepared = payee.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&payee, 1, &prepared).await;
    let burnt = claimable * u128::from(BURN_BPS) / 10_000;
    assert_eq!(payee.balance().await.unwrap().available.get(), claimable - burnt);
    net.check_books(&both).await;

    // Close; what will not have accrued comes back at once.
    let balance = payer.balance().await.unwrap();
    let prepared = net.run(&payer, 0, Intent::Close { stream: opened.commitment }).await;
    let closed = payer.payer_stream(opened.commitment).await.unwrap();
    let stop = closed.record.stop.unwrap();
    assert_eq!(closed.state, StreamState::Stopping);
    assert_eq!(prepared.external.deadline.get(), stop.get() - NOTICE);
    assert_eq!(stop.get() % L, 0);
    let refund = closed.note.terms.refund(stop);
    assert!(refund.get() > 0);
    assert_eq!(payer.balance().await.unwrap().available.get(), balance.available.get() + refund.get());
    net.check_books(&both).await;

    // The rest until the stop is the payee's.
    net.advance(stop.get() - net.now().await + 1).await;
    net.sync(&both).await;
    let prepared = payee.prepare_claim(SendTerms::default()).await.unwrap();
    assert_eq!(prepared.claimed_until, vec![stop]);
    net.send(&payee, 1, &prepared).await;
    net.check_books(&both).await;
    assert!(payee.payee_streams(false).await.unwrap().is_empty(), "all is claimed");

    // Transfer, merge, withdraw everything.
    net.run(&payer, 0, Intent::Transfer { to: payee.address(), amount: amount(12_345) }).await;
    net.sync(&both).await;
    net.check_books(&both).await;
    for (n, wallet) in [(5, &payer), (6, &payee)] {
        while wallet.balance().await.unwrap().available.get() > 0 {
            let notes = wallet.balance().await.unwrap().available;
            let intent = Intent::Withdraw { recipient: net.account(n), amount: notes };
            match wallet.prepare(intent, SendTerms::default()).await {
                Ok(prepared) => net.send(wallet, 0, &prepared).await,
                Err(error) => {
                    assert_eq!(error.code(), "TRB-3007", "{error}");
                    net.run(wallet, 0, Intent::Merge).await;
                }
            }
        }
    }
    net.check_books(&both).await;
    let burnt = net.burnt(&both).await;
    assert!(burnt > 0);
    assert_eq!(net.pool_tokens().await, burnt, "only what was burnt is left in the pool");
    let out = net.tokens(net.account(5)).await + net.tokens(net.account(6)).await;
    assert_eq!(out + burnt + 1_000, 1_750_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payer_needs_nobody_to_get_its_money_back() {
    let net = Net::start().await;
    let (payer, payee) = (net.wallet(1).await, net.wallet(2).await);
    let both = [&payer, &payee];
    net.deposit(&payer, 0, 1_000_000).await;
    let now = net.now().await / L * L;
    let open = async |start: u64, end: u64| {
        let stream = net.stream_to(&payee, 10, 1).await;
        let stream = tributary_wallet::OpenStream { start: time(start), end: time(end), ..stream };
        let prepared = net.run(&payer, 0, Intent::Open(stream)).await;
        prepared.commitments[0]
    };

    // Closed before it starts: all of it comes back, and nothing is ever paid.
    let future = open(now + 100 * L, now + 200 * L).await;
    let before = payer.balance().await.unwrap();
    assert_eq!((before.accrued, before.at_risk), (amount(0), amount(0)));
    net.run(&payer, 0, Intent::Close { stream: future }).await;
    let after = payer.balance().await.unwrap();
    assert_eq!(after.available.get(), before.available.get() + 10 * 100 * u128::from(L));
    assert_eq!(after.in_streams, amount(0));

    // One that ends before any stop could come: there is nothing to give back.
    let short = open(now, net.now().await / L * L + 3 * L).await;
    let error = payer.prepare(Intent::Close { stream: short }, SendTerms::default()).await.unwrap_err();
    assert_eq!(error.code(), "TRB-3023", "{error}");

    // A payee that never claims hinders nobody, and loses nothing.
    let long = open(now, now + 200 * L).await;
    net.run(&payer, 0, Intent::Close { stream: long }).await;
    let stop = payer.payer_stream(long).await.unwrap().record.stop.unwrap();
    net.advance(stop.get() + 1_000 - net.now().await).await;
    net.sync(&both).await;
    net.check_books(&both).await;
    let balance = payee.balance().await.unwrap();
    let terms = payer.payer_stream(short).await.unwrap().note.terms;
    assert_eq!(balance.claimable.get(), terms.deposit().get() + 10 * u128::from(stop.get() - now));
    // Long after the stop, in one claim, exactly until the stop.
    let prepared = payee.prepare_claim(SendTerms::default()).await.unwrap();
    net.send(&payee, 1, &prepared).await;
    assert_eq!(payee.balance().await.unwrap().claimable, amount(0));
    net.check_books(&both).await;
}
