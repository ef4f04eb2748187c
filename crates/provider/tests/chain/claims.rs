//! Claims: on command, on schedule, resumed, and never at a loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tributary_market::clock::ManualClock;
use tributary_protocol::{Seconds, UnixTime};
use tributary_provider::claims::{ClaimPlan, Claimer, Stopped};
use tributary_wallet::{
    DirectSubmitter, Intent, OpenStream, OperationKind, Outcome, PreparedTransaction, Rejection, SendTerms, Submitter,
};

use crate::net::{BURN_BPS, L, amount, rate, time};
use crate::shop::Shop;

/// Sends directly, or swallows what it is given and says nothing, like a relayer that went away.
#[derive(Debug)]
struct Fickle {
    direct: DirectSubmitter,
    silent: AtomicBool,
    fee: u128,
}

#[async_trait]
impl Submitter for Fickle {
    async fn terms(&self, kind: OperationKind) -> Result<SendTerms, Rejection> {
        let terms = self.direct.terms(kind).await?;
        let relayer = if self.fee == 0 { terms.relayer } else { self.direct.sender() };
        Ok(SendTerms { fee: amount(self.fee), relayer, ..terms })
    }
    async fn submit(&self, transaction: &PreparedTransaction) -> Outcome {
        if self.silent.load(Ordering::SeqCst) {
            return Outcome::Unknown { tx_hash: None, reason: "no answer".to_owned() };
        }
        self.direct.submit(transaction).await
    }
}

struct Stand {
    shop: Shop,
    submitter: Arc<Fickle>,
    clock: ManualClock,
    claimer: Claimer,
}

async fn stand(plan: ClaimPlan, fee: u128) -> Stand {
    let shop = Shop::new().await;
    let direct = shop.net.direct(1);
    let submitter = Arc::new(Fickle { direct, silent: AtomicBool::new(false), fee });
    let clock = ManualClock::new(time(1_000));
    let claimer = claimer(&shop, &submitter, &clock, plan);
    Stand { shop, submitter, clock, claimer }
}

fn claimer(shop: &Shop, submitter: &Arc<Fickle>, clock: &ManualClock, plan: ClaimPlan) -> Claimer {
    Claimer::new(
        shop.payee.clone(),
        Arc::clone(submitter) as Arc<dyn Submitter>,
        Arc::new(clock.clone()),
        plan,
        shop.terms().ticket_price,
        shop.path("claims"),
    )
}

impl Stand {
    /// Opens a stream of so much a second since this slot's start.
    async fn open(&self, per_second: u128, slots: u64) {
        let stream = self.shop.net.stream_to(&self.shop.payee, per_second, slots).await;
        self.shop.net.run(&self.shop.payer, 0, Intent::Open(stream)).await;
    }

    async fn owned(&self) -> u128 {
        let balance = self.shop.payee.balance().await.unwrap();
        balance.available.get() + balance.queued.get() + balance.reserved.get()
    }
}

fn confirmed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Confirmed { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_claims_what_accrued_and_then_nothing_more() {
    let stand = stand(ClaimPlan::default(), 0).await;
    for _ in 0..3 {
        stand.open(10, 60).await;
    }
    stand.shop.advance(5 * L).await;
    let seen = stand.claimer.look().await.unwrap();
    assert_eq!((seen.running, seen.tickets_per_slot), (3, 18));
    let report = stand.claimer.claim().await.unwrap();
    assert_eq!(report.stopped, Stopped::NothingLeft);
    let [claim] = &report.claims[..] else { panic!("{report:?}") };
    assert!(confirmed(&claim.outcome) && !claim.resumed);
    assert_eq!(claim.streams, 3);
    assert!(claim.amount >= amount(3 * 10 * 5 * 60));
    stand.shop.net.insert().await;
    stand.shop.payee.sync().await.unwrap();
    let burn = claim.amount.get() * u128::from(BURN_BPS) / 10_000;
    assert_eq!(stand.owned().await, claim.amount.get() - burn);
    assert_eq!(stand.claimer.summary().claimed, claim.amount);
    stand.shop.net.check_books(&[&stand.shop.payer, &stand.shop.payee]).await;
    // More accrues with each second; what accrued within the last block is worth a claim of its own only if it covers the cost.
    let plan = ClaimPlan { least_gain: amount(1_000_000), ..ClaimPlan::default() };
    let careful = claimer(&stand.shop, &stand.submitter, &stand.clock, plan);
    stand.shop.advance(L).await;
    let report = careful.claim().await.unwrap();
    assert!(report.claims.is_empty());
    assert!(matches!(report.stopped, Stopped::NotWorthIt { brings, .. } if brings >= amount(3 * 10 * 60)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_sent_is_handed_in_again_and_paid_once() {
    let stand = stand(ClaimPlan { interval: None, ..ClaimPlan::default() }, 0).await;
    stand.open(10, 60).await;
    stand.shop.advance(3 * L).await;
    stand.submitter.silent.store(true, Ordering::SeqCst);
    let report = stand.claimer.claim().await.unwrap();
    assert_eq!(report.stopped, Stopped::NotConfirmed);
    let operation = report.claims[0].operation;
    assert_eq!(stand.owned().await, 0);
    // Another process, another day; the submitter answers again.
    stand.submitter.silent.store(false, Ordering::SeqCst);
    let again = claimer(&stand.shop, &stand.submitter, &stand.clock, ClaimPlan::default());
    let report = again.claim().await.unwrap();
    assert_eq!((report.claims[0].operation, report.claims[0].resumed), (operation, true));
    assert_eq!(report.claims.len(), 1, "its stream is done for this round");
    assert!(confirmed(&report.claims[0].outcome), "{report:?}");
    stand.shop.net.insert().await;
    stand.shop.net.check_books(&[&stand.shop.payer, &stand.shop.payee]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_at_a_loss() {
    let stand = stand(ClaimPlan::default(), 5_000).await;
    stand.open(10, 60).await;
    stand.shop.advance(2 * L).await;
    let report = stand.claimer.claim().await.unwrap();
    assert!(report.claims.is_empty());
    assert!(matches!(report.stopped, Stopped::NotWorthIt { fee, .. } if fee == amount(5_000)));
    stand.shop.advance(10 * L).await;
    let before = stand.shop.net.tokens(stand.submitter.direct.sender()).await;
    let report = stand.claimer.claim().await.unwrap();
    assert!(confirmed(&report.claims[0].outcome), "{report:?}");
    assert_eq!(stand.shop.net.tokens(stand.submitter.direct.sender()).await, before + 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_come_by_schedule_also_over_restarts() {
    let interval = Seconds::new(3_600).ok();
    let plan = ClaimPlan { interval, ..ClaimPlan::default() };
    let stand = stand(plan, 0).await;
    let due = |now: u64| {
        stand.clock.set(UnixTime::new(now).unwrap());
        claimer(&stand.shop, &stand.submitter, &stand.clock, plan).is_due().unwrap()
    };
    assert!(!due(10_000), "the first start only sets the time");
    assert!(!due(13_599));
    assert!(due(13_600) && due(20_000), "until a round was made");
    stand.open(10, 60).await;
    stand.shop.advance(L).await;
    assert!(due(20_001));
    stand.claimer.claim().await.unwrap();
    assert!(!due(20_002) && !due(23_600));
    assert!(due(23_601));
    assert!(due(19_000), "a clock set back doesn't put claims off for ever");
    let never = ClaimPlan { interval: None, ..plan };
    assert!(!claimer(&stand.shop, &stand.submitter, &stand.clock, never).is_due().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn dust_is_left_alone_and_a_provider_reports_its_streams() {
    let stand = stand(ClaimPlan::default(), 0).await;
    let now = stand.shop.net.now().await / L * L;
    let dust = OpenStream {
        payee: stand.shop.payee.address(),
        rate: rate(1),
        start: time(now),
        end: time(now + L),
        offer: None,
    };
    stand.shop.net.run(&stand.shop.payer, 0, Intent::Open(dust)).await;
    stand.open(10, 60).await;
    stand.shop.advance(2 * L).await;
    let claimer = Arc::new(claimer(&stand.shop, &stand.submitter, &stand.clock, ClaimPlan::default()));
    let (provider, _counter) = stand.shop.open_with(stand.shop.config(), Some(claimer)).await.unwrap();
    provider.turn().await.unwrap();
    let seen = provider.snapshot().streams.unwrap();
    assert_eq!((seen.running, seen.tickets_per_slot), (1, 6));
    let report = provider.claim_now().await.unwrap().unwrap();
    assert!(report.claims.iter().all(|c| confirmed(&c.outcome)));
    assert_eq!(provider.snapshot().streams.unwrap().claims, report.claims.len() as u64);
    provider.stop().await;
}
