//! Leases that are kept up: bought for the running slot, renewed before it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tributary_market::lease::{Lease, LeaseReason, LeaseRequest, LeaseResponse, LeaseTerms, LeaseVerdict, PROTOCOL};
use tributary_market::offer::ServiceId;
use tributary_market::ticket::Remedy;
use tributary_market::transport::Exchange;
use tributary_protocol::{Seconds, Slot, UnixTime};
use tributary_reputation::store::Ending;
use tributary_waku::{
    ContentTopic, FilterHealth, FilterSubscription, Multiaddr, NodeHandle, PeerId, PubsubTopic, ReceivedMessage,
};

use crate::ClientError;
use crate::buyer::unanswered;
use crate::tickets::{TicketSource, pay};

/// Tickets that may be lost on one slot before the buyer leaves it.
const MAX_SPENT: u32 = 3;

/// Between two looks at what the provider says of the lease, seconds: a restarted provider has forgotten it.
const QUERY_INTERVAL: u64 = 15;

/// Between two turns.
const TURN: Duration = Duration::from_secs(1);

/// Tries for the first purchase.
const FIRST_TRIES: u32 = 8;

/// What is leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasePlan {
    /// The provider.
    pub provider: PeerId,
    /// Its addresses, without a `/p2p` part.
    pub addresses: Vec<Multiaddr>,
    /// The service's id in the offer.
    pub service: ServiceId,
    /// How much of it in each slot.
    pub quota: u32,
    /// Tickets for that, as the offer says, 1 to 4.
    pub tickets: u8,
    /// How long before a slot's end the next one is bought.
    pub ahead: Seconds,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseHealth {
    /// Nothing was bought yet.
    None,
    /// The running slot is paid.
    Held {
        /// The service ends then unless it is renewed.
        until: UnixTime,
    },
    /// The running slot is not paid: the service ended, or ends with its grace. It is bought again as soon as that is possible.
    Missed {
        /// The slot.
        slot_start: UnixTime,
        /// Why it couldn't be bought.
        reason: String,
    },
}

/// A request that was sent and not judged: sent again as it is, it is never paid twice.
#[derive(Debug)]
struct Pending {
    slot: Slot,
    request: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    lease: Option<Lease>,
    /// At most one for the running slot and one for the next.
    pending: Vec<Pending>,
    /// Tickets lost on this slot.
    spent: Option<(UnixTime, u32)>,
    /// A slot that buying makes no sense for any more.
    left: Option<UnixTime>,
    /// The latest slot that was counted as missed.
    missed: Option<UnixTime>,
    queried: Option<UnixTime>,
    reason: String,
    /// What the last try to buy says of the provider.
    ending: Option<Ending>,
}

/// Buys a lease slot by slot.
#[derive(Debug)]
pub struct LeaseBuyer {
    node: NodeHandle,
    plan: LeasePlan,
    tickets: Arc<dyn TicketSource>,
    state: Mutex<State>,
    health: watch::Sender<LeaseHealth>,
    missed: watch::Sender<u64>,
    grant: watch::Sender<Option<Vec<u8>>>,
}

impl LeaseBuyer {
    /// A lease for `node`'s own PeerId.
    #[must_use]
    pub fn new(node: NodeHandle, plan: LeasePlan, tickets: Arc<dyn TicketSource>) -> Self {
        let (health, missed) = (watch::Sender::new(LeaseHealth::None), watch::Sender::new(0));
        Self { node, plan, tickets, state: Mutex::default(), health, missed, grant: watch::Sender::new(None) }
    }

    /// What is leased.
    #[must_use]
    pub const fn plan(&self) -> &LeasePlan {
        &self.plan
    }

    /// What the service gives to who holds the lease, as the provider said last, and changes of it.
    #[must_use]
    pub fn watch_grant(&self) -> watch::Receiver<Option<Vec<u8>>> {
        self.grant.subscribe()
    }

    /// How the lease stands, and changes of it.
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<LeaseHealth> {
        self.health.subscribe()
    }

    /// How many slots went by unpaid after the first was paid, and changes of it.
    #[must_use]
    pub fn watch_missed(&self) -> watch::Receiver<u64> {
        self.missed.subscribe()
    }

    /// Asks the provider what the node has.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn query(&self) -> Result<LeaseResponse, ClientError> {
        self.send(&LeaseRequest::Query { service: self.plan.service.clone() }.encode()).await
    }

    /// What the last try to buy a slot says of the provider; `None` before the first.
    pub async fn ending(&self) -> Option<Ending> {
        self.state.lock().await.ending.clone()
    }

    /// Asks the provider at the next turn what the node has: it may have forgotten the lease.
    pub async fn doubt(&self) {
        self.state.lock().await.queried = None;
    }

    /// Does what is due: buys the running slot if it isn't paid, and the next one when the running one is about to end. Failures are in the health and
    /// are tried again by the next turn.
    ///
    /// # Errors
    /// When the time is out of range.
    pub async fn turn(&self) -> Result<LeaseHealth, ClientError> {
        let mut state = self.state.lock().await;
        let now = self.tickets.now()?;
        let clock = self.tickets.clock();
        let running = clock.slot_of(now)?;
        state.pending.retain(|pending| now < pending.slot.end());
        if state.lease.is_some() && state.queried.is_none_or(|at| now < at || now.since(at).get() >= QUERY_INTERVAL) {
            state.queried = Some(now);
            if let Ok(answer) = self.query().await
                && answer.verdict() == LeaseVerdict::Granted
            {
                state.lease = answer.lease.or_else(|| state.lease.take().map(|lease| Lease { slots: vec![], ..lease }));
            }
        }
        if !self.holds(&state, running) {
            self.buy(&mut state, running).await;
        }
        if now.saturating_add(self.plan.ahead) >= running.end() {
            let next = clock.next(running)?;
            if !self.holds(&state, next) {
                self.buy(&mut state, next).await;
            }
        }
        let health = match &state.lease {
            Some(lease) if self.holds(&state, running) => LeaseHealth::Held { until: lease.until },
            None if state.reason.is_empty() => LeaseHealth::None,
            lease => {
                // Before the first slot was paid nothing is missed.
                if lease.is_some() && state.missed.is_none_or(|missed| missed < running.start()) {
                    self.missed.send_modify(|missed| *missed += 1);
                    state.missed = Some(running.start());
                }
                LeaseHealth::Missed { slot_start: running.start(), reason: state.reason.clone() }
            }
        };
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            known.clone_from(&health);
            changed
        });
        Ok(health)
    }

    fn holds(&self, state: &State, slot: Slot) -> bool {
        let leased = state.lease.as_ref().and_then(|lease| lease.in_slot(slot));
        leased.is_some_and(|leased| leased.quota >= self.plan.quota)
    }

    async fn buy(&self, state: &mut State, slot: Slot) {
        if state.left == Some(slot.start()) {
            return;
        }
        let pending = match state.pending.iter().position(|pending| pending.slot == slot) {
            Some(at) => state.pending.swap_remove(at),
            None => match self.bind(slot).await {
                Ok(pending) => pending,
                Err(error) => {
                    state.reason = error.to_string();
                    // No ticket, no stream, no proof: nothing was asked of the provider.
                    state.ending = Some(Ending::BuyerError { reason: brief(&state.reason) });
                    return;
                }
            },
        };
        let answer = match self.send(&pending.request).await {
            Ok(answer) => answer,
            Err(error) => {
                state.reason = error.to_string();
                state.ending = Some(unanswered(&self.node, self.plan.provider).await);
                state.pending.push(pending);
                return;
            }
        };
        if answer.lease.is_some() {
            state.lease.clone_from(&answer.lease);
            state.queried = self.tickets.now().ok();
        }
        state.reason.clone_from(&answer.description);
        state.ending = Some(said(&answer));
        match answer.verdict() {
            LeaseVerdict::Granted => {}
            LeaseVerdict::Payment { reason, .. } => match reason.remedy() {
                Remedy::SendAgain => state.pending.push(pending),
                Remedy::NewTicket | Remedy::Spent => {
                    let spent = state.spent.filter(|(at, _)| *at == slot.start()).map_or(0, |(_, n)| n) + 1;
                    state.spent = Some((slot.start(), spent));
                    if spent >= MAX_SPENT {
                        state.left = Some(slot.start());
                    }
                }
                Remedy::ReadOffer | Remedy::Report => state.left = Some(slot.start()),
            },
            LeaseVerdict::Terms { reason, .. } => {
                // Terms are refused before the ticket is looked at: the same request may be granted later.
                let later = [LeaseReason::Full, LeaseReason::TooManyRequests, LeaseReason::WrongLeaseSlot];
                if later.contains(&reason) {
                    state.pending.push(pending);
                } else {
                    state.left = Some(slot.start());
                }
            }
            LeaseVerdict::Unknown { .. } => state.left = Some(slot.start()),
        }
    }

    async fn bind(&self, slot: Slot) -> Result<Pending, ClientError> {
        let ticket = self.tickets.take(slot, self.plan.tickets).await?;
        let terms = LeaseTerms {
            peer: self.node.peer_id(),
            service: self.plan.service.clone(),
            slot_start: slot.start(),
            quota: self.plan.quota,
        };
        let eligibility_proof = pay(&ticket, &self.tickets.provider(), &terms.signing_bytes());
        let request = LeaseRequest::Buy { terms, eligibility_proof }.encode();
        Ok(Pending { slot, request })
    }

    async fn send(&self, request: &[u8]) -> Result<LeaseResponse, ClientError> {
        let LeasePlan { provider, addresses, .. } = &self.plan;
        let answer = Exchange::request(&self.node, *provider, addresses, PROTOCOL, request.to_vec()).await?;
        let answer = LeaseResponse::decode(&answer)?;
        if answer.grant.is_some() {
            self.grant.send_if_modified(|known| {
                let changed = *known != answer.grant;
                known.clone_from(&answer.grant);
                changed
            });
        }
        Ok(answer)
    }

    /// Buys the running slot, so that the service can be used now.
    ///
    /// # Errors
    /// [`ClientError::NoLease`] with the last reason.
    pub async fn begin(&self) -> Result<UnixTime, ClientError> {
        let mut last = String::new();
        for _ in 0..FIRST_TRIES {
            match self.turn().await? {
                LeaseHealth::Held { until } => return Ok(until),
                LeaseHealth::Missed { reason, slot_start } => {
                    last = reason;
                    if self.state.lock().await.left == Some(slot_start) {
                        break;
                    }
                }
                LeaseHealth::None => {}
            }
            self.tickets.next_try().await;
        }
        let ending = self.ending().await.unwrap_or(Ending::NoAnswer);
        Err(ClientError::NoLease { reason: last, ending })
    }

    /// Keeps the lease up until `shutdown` is done.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(TURN);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let turns = async {
            loop {
                ticks.tick().await;
                if let Err(error) = self.turn().await {
                    tracing::warn!(code = error.code(), %error, "a lease could not be looked after");
                }
            }
        };
        tokio::select! {
            () = shutdown => {}
            () = turns => {}
        }
    }
}

/// What an answer says of the provider.
fn said(answer: &LeaseResponse) -> Ending {
    let reason = brief(&answer.description);
    match answer.verdict() {
        LeaseVerdict::Granted => Ending::Answered,
        LeaseVerdict::Payment { reason: why, .. } => match why.remedy() {
            Remedy::SendAgain => Ending::Unavailable { reason },
            Remedy::Spent | Remedy::ReadOffer | Remedy::Report => Ending::FailedAfterPayment { reason },
            Remedy::NewTicket => Ending::BuyerError { reason },
        },
        LeaseVerdict::Terms { reason: why, .. } => match why {
            LeaseReason::Full | LeaseReason::TooManyRequests => Ending::Unavailable { reason },
            _ => Ending::BuyerError { reason },
        },
        LeaseVerdict::Unknown { .. } => Ending::Unavailable { reason },
    }
}

fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// A lease that is kept up in the background until this is dropped.
#[derive(Debug)]
pub struct KeptLease {
    buyer: Arc<LeaseBuyer>,
    task: JoinHandle<()>,
}

impl KeptLease {
    /// Buys the running slot, then keeps the lease up.
    ///
    /// # Errors
    /// [`ClientError::NoLease`].
    pub async fn begin(buyer: Arc<LeaseBuyer>) -> Result<Self, ClientError> {
        buyer.begin().await?;
        let task = tokio::spawn({
            let buyer = Arc::clone(&buyer);
            async move { buyer.run(std::future::pending()).await }
        });
        Ok(Self { buyer, task })
    }

    /// The buyer.
    #[must_use]
    pub const fn buyer(&self) -> &Arc<LeaseBuyer> {
        &self.buyer
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A Filter subscription and the lease that pays for it.
#[derive(Debug)]
pub struct PaidFilter {
    subscription: FilterSubscription,
    lease: KeptLease,
}

impl PaidFilter {
    /// Buys the lease, subscribes, and keeps both up.
    ///
    /// # Errors
    /// [`ClientError::NoLease`], [`ClientError::Filter`].
    pub async fn open(
        node: &NodeHandle,
        buyer: Arc<LeaseBuyer>,
        pubsub_topic: PubsubTopic,
        content_topics: impl IntoIterator<Item = ContentTopic>,
    ) -> Result<Self, ClientError> {
        let provider = buyer.plan.provider;
        let lease = KeptLease::begin(buyer).await?;
        let subscription = node.filter_subscribe(provider, pubsub_topic, content_topics).await?;
        Ok(Self { subscription, lease })
    }

    /// The next message; `None` after the node's shutdown. While it is waited for, a subscription that was lost is looked after: the provider is asked
    /// whether it still knows the lease, which is bought again if it doesn't, and the subscription is asked for again as soon as the lease is held.
    pub async fn recv(&mut self) -> Option<ReceivedMessage> {
        let Self { subscription, lease } = self;
        let mut subscribed = subscription.watch_health();
        let mut leased = lease.buyer().watch_health();
        loop {
            tokio::select! {
                message = subscription.recv() => return message,
                Ok(()) = subscribed.changed() => {
                    if matches!(*subscribed.borrow_and_update(), FilterHealth::Lost { .. }) {
                        lease.buyer().doubt().await;
                    }
                }
                Ok(()) = leased.changed() => {
                    let held = matches!(*leased.borrow_and_update(), LeaseHealth::Held { .. });
                    if held && matches!(subscription.health(), FilterHealth::Lost { .. }) {
                        subscription.subscribe_again();
                    }
                }
            }
        }
    }

    /// Whether pushes can be expected, as far as is known.
    #[must_use]
    pub fn health(&self) -> FilterHealth {
        self.subscription.health()
    }

    /// The lease.
    #[must_use]
    pub const fn lease(&self) -> &KeptLease {
        &self.lease
    }

    /// Ends the subscription. What is left of the slot stays paid.
    ///
    /// # Errors
    /// [`ClientError::Filter`]; it is ended here anyway.
    pub async fn close(self) -> Result<(), ClientError> {
        Ok(self.subscription.unsubscribe().await?)
    }
}
