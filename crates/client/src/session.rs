//! Sessions: a provider that sells what is wanted, is paid and answers now; bought within caps if none is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use tributary_market::{negotiate::policy::missing_attributes, node::connect, offer::ServiceId, offer::VerifiedOffer};
use tributary_protocol::{Amount, Seconds, UnixTime};
use tributary_reputation::{Assessment, AssessmentId, Verdict};
use tributary_waku::{Multiaddr, PeerId};
use tributary_wallet::PayerStream;

use crate::{
    Buyer, ClientError, LeaseBuyer, Opened, PaidLightpush, PaidStore, TicketSource, Want,
    buyer::{Start, running_streams, subject},
    store::Purchase,
};

/// How long a purchase looks for somebody to buy from: offers and announcements are repeated well within it.
const FIND_LIMIT: Duration = Duration::from_secs(30);

/// How long it looks for another one after that: what there is has been heard meanwhile, as good as all of it.
const FIND_ANOTHER_LIMIT: Duration = Duration::from_secs(5);

/// How long a stream's leaf may take to get into the tree.
const INSERTION_LIMIT: Duration = Duration::from_secs(120);

/// How long a newer offer is looked for when a provider isn't where its last one says.
const NEWER_OFFER_WITHIN: Duration = Duration::from_secs(2);

/// Purchases in one call: each provider after the first was paid for nothing.
const MAX_PURCHASES: usize = 3;

/// For how long a provider that failed is left out, seconds.
const AVOIDED_FOR: u64 = 600;

/// Providers that are left out at once, at the most; the one that would come back first makes room.
const MAX_AVOIDED: usize = 256;

/// What may be spent without asking. Counted are deposits and relayers' fees of all streams that this buyer opened, also before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpendingCaps {
    /// Most for one purchase: its deposit and the highest fee of a relayer. Zero: nothing is bought.
    pub purchase: Amount,
    /// Most for the purchases of any 24 hours.
    pub day: Amount,
    /// Most for a relayer, insertion included.
    pub relay_fee: Amount,
}

impl SpendingCaps {
    /// Nothing is bought.
    pub const NOTHING: Self = Self { purchase: Amount::ZERO, day: Amount::ZERO, relay_fee: Amount::ZERO };

    /// Whether anything may be bought.
    #[must_use]
    pub const fn allow_buying(&self) -> bool {
        !self.purchase.is_zero() && !self.day.is_zero()
    }
}

/// How a provider failed a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It can't be reached, or keeps silent.
    Unreachable,
    /// It took a ticket and gave nothing, or too little, for it.
    Broken {
        /// What it did, in a few words.
        reason: String,
    },
    /// It said that it can't serve what is paid.
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// It failed, and the service's assessor has judged it.
    Assessed,
    /// It may be all right; another one shall be tried.
    Unsuitable,
}

/// A provider that is left out.
#[derive(Debug, Clone, Copy)]
struct Avoided {
    until: u64,
    /// Whether it failed; else another one shall just be tried.
    failed: bool,
}

/// Who is left out, until when; and the lock that makes purchases one at a time.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    avoided: Mutex<HashMap<(PeerId, ServiceId), Avoided>>,
    buying: tokio::sync::Mutex<()>,
    /// Held while streams are being stopped.
    pub(crate) stopping: Arc<tokio::sync::Mutex<()>>,
}

impl Sessions {
    fn avoid(&self, provider: PeerId, service: &ServiceId, failed: bool, now: u64) {
        let mut avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.retain(|_, avoided| avoided.until > now);
        if avoided.len() >= MAX_AVOIDED
            && let Some(first) = avoided.iter().min_by_key(|(_, avoided)| avoided.until).map(|(at, _)| at.clone())
        {
            avoided.remove(&first);
        }
        avoided.insert((provider, service.clone()), Avoided { until: now.saturating_add(AVOIDED_FOR), failed });
    }

    fn avoided(&self, service: &ServiceId, now: u64) -> Vec<PeerId> {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let live = avoided.iter().filter(|((_, of), avoided)| of == service && avoided.until > now);
        live.map(|((peer, _), _)| *peer).collect()
    }

    /// Whether a provider is left out, and then whether because it failed.
    fn avoided_as(&self, provider: PeerId, service: &ServiceId, now: u64) -> Option<bool> {
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        avoided.get(&(provider, service.clone())).filter(|avoided| avoided.until > now).map(|avoided| avoided.failed)
    }
}

/// A provider that is paid for what is wanted, and is connected if the service needs that.
#[derive(Debug, Clone)]
pub struct Session {
    /// The offer that the stream was opened under: its prices hold until the stream ends.
    pub offer: Arc<VerifiedOffer>,
    /// The stream.
    pub stream: PayerStream,
    /// Its tickets.
    pub tickets: Arc<dyn TicketSource>,
    /// Where the provider is: by its newest offer, then by the one that the stream was opened under. Without a `/p2p` part.
    pub addresses: Vec<Multiaddr>,
    /// The purchase, if it was made for this session.
    pub opened: Option<Opened>,
    want: Want,
    first_slot: UnixTime,
    caps: SpendingCaps,
    buyer: Buyer,
}

impl Session {
    /// The provider.
    #[must_use]
    pub fn provider(&self) -> PeerId {
        self.offer.peer_id()
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        self.want.service.id()
    }

    /// Where the first slot begins that the stream pays for. Only a renewed session's may lie ahead.
    #[must_use]
    pub const fn pays_from(&self) -> UnixTime {
        self.first_slot
    }

    /// The end of the last slot that the stream pays for.
    #[must_use]
    pub fn pays_until(&self) -> UnixTime {
        self.buyer.wallet().ledger().clock().floor(self.stream.note.terms.end())
    }

    /// Whether no more than `ahead` is left of what is paid. A purchase takes seconds, and longer when a provider refuses: two slots are a good
    /// choice.
    ///
    /// # Errors
    /// [`ClientError::Range`].
    pub fn is_due(&self, ahead: Seconds) -> Result<bool, ClientError> {
        Ok(self.buyer.now()?.saturating_add(ahead) >= self.pays_until())
    }

    /// Reports that the provider failed: it is assessed, the next session is with another one, and the stream to it is stopped if anything may be
    /// spent.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn failed(&self, failure: &Failure) -> Result<(), ClientError> {
        let own = match failure {
            Failure::Unsuitable => true,
            Failure::Unreachable => self.buyer.is_offline().await,
            Failure::Broken { .. } | Failure::Unavailable { .. } | Failure::Assessed => false,
        };
        let stop = self.caps.allow_buying() && !own;
        if stop {
            self.buyer.leave(self.stream.commitment).await?;
        }
        self.buyer.avoid(self.provider(), &self.service(), failure).await?;
        if stop {
            self.buyer.stop_left_meanwhile(self.caps.relay_fee);
        }
        Ok(())
    }

    /// Goes on with what this session is for: buys a stream that takes over in the slot after the last that this one pays for, from the same
    /// provider if it answers and has room, else from another. Both streams' sessions can be used meanwhile: each pays for its slots, see
    /// [`Self::pays_from`].
    ///
    /// # Errors
    /// As [`Buyer::session`].
    pub async fn renew(&self, caps: &SpendingCaps, tell: &(dyn Fn(&str) + Sync)) -> Result<Self, ClientError> {
        let _one = self.buyer.sessions.buying.lock().await;
        let takes_over = self.pays_until();
        let same = [self.provider()];
        if self.buyer.avoided(&self.service())?.contains(&self.provider()) {
            return Box::pin(self.buyer.buy_session(&self.want, &[], Some(takes_over), caps, tell)).await;
        }
        match Box::pin(self.buyer.buy_session(&self.want, &same, Some(takes_over), caps, tell)).await {
            Err(
                error @ (ClientError::Negotiation(_) | ClientError::Transport(_) | ClientError::NoCandidate { .. }),
            ) => {
                tell(&format!("no renewal with {}: {error} [{}]", self.provider(), error.code()));
                let mut want = self.want.clone();
                want.ignore.push(self.provider());
                Box::pin(self.buyer.buy_session(&want, &[], Some(takes_over), caps, tell)).await
            }
            done => done,
        }
    }

    /// Queries of the provider's Store.
    ///
    /// # Errors
    /// [`ClientError::NotSold`].
    pub fn store(&self) -> Result<PaidStore, ClientError> {
        self.buyer.store_with(Arc::clone(&self.tickets), &self.offer, self.addresses.clone())
    }

    /// Messages that the provider publishes.
    ///
    /// # Errors
    /// [`ClientError::NotSold`].
    pub fn lightpush(&self) -> Result<PaidLightpush, ClientError> {
        self.buyer.lightpush_with(Arc::clone(&self.tickets), &self.offer, self.addresses.clone())
    }

    /// A lease of `quota` of the session's service for this node, not bought yet.
    ///
    /// # Errors
    /// [`ClientError::NotSold`], [`ClientError::LeaseTooLarge`].
    pub fn lease(&self, quota: u32) -> Result<LeaseBuyer, ClientError> {
        self.buyer.lease_with(Arc::clone(&self.tickets), &self.offer, self.addresses.clone(), self.service(), quota)
    }
}

impl Buyer {
    /// A provider that sells what is wanted, is paid and answers now. An open stream is used if there is one that pays for it; else one is bought
    /// within `caps`: found, chosen, agreed, opened, and waited for until its tickets count. A provider that stays away is assessed as
    /// unreachable and left out of the next choices. With `provider` only that one is considered. `tell` hears what happens.
    ///
    /// Follow the ledger meanwhile (`Ledger::run`), or its time and tree stand still.
    ///
    /// # Errors
    /// [`ClientError::NoStream`] and [`ClientError::Away`] when nothing may be bought, [`ClientError::PurchaseCap`], [`ClientError::DayCap`],
    /// [`ClientError::NoCandidate`]; the last provider's refusal when each one refused.
    pub async fn session(
        &self,
        want: &Want,
        provider: Option<PeerId>,
        caps: &SpendingCaps,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Session, ClientError> {
        let mut away = None;
        if let Some(session) = Box::pin(self.open_session(want, provider, caps, &mut away, tell)).await? {
            return Ok(session);
        }
        let only: Vec<PeerId> = provider.into_iter().collect();
        if !caps.allow_buying() {
            let name =
                provider.map_or_else(|| format!("any provider of {}", want.service.id()), |peer| peer.to_string());
            return Err(away.unwrap_or(ClientError::NoStream { provider: name }));
        }
        let _one = self.sessions.buying.lock().await;
        // Another task may have bought it while this one waited.
        if let Some(session) = Box::pin(self.open_session(want, provider, caps, &mut away, tell)).await? {
            return Ok(session);
        }
        // Boxed, here and below: a purchase is a large future, and each that awaits it would hold it whole.
        Box::pin(self.buy_session(want, &only, None, caps, tell)).await
    }

    /// A session on an open stream.
    async fn open_session(
        &self,
        want: &Want,
        provider: Option<PeerId>,
        caps: &SpendingCaps,
        away: &mut Option<ClientError>,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Option<Session>, ClientError> {
        self.wallet().sync().await?;
        let service = want.service.id();
        let (clock, now) = (self.wallet().ledger().clock(), self.now()?);
        let running = clock.slot_of(now)?;
        let wanted = self.wanted(want)?;
        if caps.allow_buying() && !self.store().left().await?.is_empty() {
            self.stop_left_meanwhile(caps.relay_fee);
        }
        let mut fitting = Vec::new();
        for (purchase, stream, offer) in running_streams(self.wallet(), self.store(), provider, Some(&service)).await? {
            let first = self.first_slot(&stream, &offer)?;
            let pays = clock.floor(stream.note.terms.end()) >= running.end()
                && first.start() <= running.end().saturating_add(clock.slot_length());
            let sells =
                offer.service(&service).is_some_and(|sold| missing_attributes(&wanted, &sold.attributes).is_empty());
            let a_slot = stream.note.terms.rate().get().saturating_mul(u128::from(clock.slot_length().get()));
            let tickets = a_slot / offer.ticket_price.get();
            let enough = want
                .service
                .tickets_per_slot(&offer, clock.slot_length())
                .is_ok_and(|load| tickets >= u128::from(load));
            // A stream that pays for less than is wanted is better than none, if no other can be had.
            if pays && sells && (enough || !caps.allow_buying()) && !want.ignore.contains(&purchase.provider) {
                fitting.push((!enough, first.start().max(running.start()), purchase, stream, offer));
            }
        }
        fitting.sort_by_key(|(short, first, ..)| (*short, *first));
        for (_, _, purchase, stream, offer) in fitting {
            let peer = purchase.provider;
            if provider.is_none()
                && let Some(failed) = self.sessions.avoided_as(peer, &service, now.get())
            {
                // It was found to fail when nothing might be spent.
                if failed && caps.allow_buying() {
                    self.leave(stream.commitment).await?;
                    self.stop_left_meanwhile(caps.relay_fee);
                }
                continue;
            }
            match self.reach(want, &offer).await {
                Ok(addresses) => {
                    tell(&format!("a stream to {peer} is open"));
                    return self
                        .enter(want, &purchase, stream, offer, addresses, None, true, caps, tell)
                        .await
                        .map(Some);
                }
                Err(error) => {
                    tell(&format!("{peer}, which a stream pays, stays away: {error} [{}]", error.code()));
                    if self.is_offline().await {
                        return Err(ClientError::Away { provider: peer, reason: error.to_string() });
                    }
                    if caps.allow_buying() {
                        self.leave(stream.commitment).await?;
                        self.stop_left_meanwhile(caps.relay_fee);
                    }
                    self.avoid(peer, &service, &Failure::Unreachable).await?;
                    *away = Some(ClientError::Away { provider: peer, reason: error.to_string() });
                }
            }
        }
        Ok(None)
    }

    /// Buys, and enters the session. The caller holds the purchases' lock.
    async fn buy_session(
        &self,
        want: &Want,
        only: &[PeerId],
        takes_over: Option<UnixTime>,
        caps: &SpendingCaps,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Session, ClientError> {
        let mut want = want.clone();
        if only.is_empty() {
            want.ignore.extend(self.avoided(&want.service.id())?);
        }
        let mut last = None;
        for _ in 0..MAX_PURCHASES {
            tell(&format!("looking for providers of {} and for relayers", want.service.id()));
            let limit = if last.is_none() { FIND_LIMIT } else { FIND_ANOTHER_LIMIT };
            self.find_among(&want, only, false, limit).await?;
            let (agreed, explanation) = match Box::pin(self.agree_among(&want, only, takes_over, tell)).await {
                Ok(agreed) => agreed,
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let Some((choice, _)) = agreed else {
                let none = ClientError::NoCandidate { candidates: explanation.considered.len() };
                return Err(last.unwrap_or(none));
            };
            let peer = choice.offer.peer_id();
            tell(&format!("chosen, and agreed with: {peer}"));
            let start = takes_over.map_or(Start::Hurried, Start::PayingFrom);
            let opened = match Box::pin(self.open_relayed_from(caps.relay_fee, start, Some(caps), tell)).await {
                Ok(opened) => opened,
                Err(error @ ClientError::PurchaseCap { .. }) => {
                    tell(&format!("{peer} is too dear: {error} [{}]", error.code()));
                    want.ignore.push(peer);
                    last = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            tell("the stream is open; waiting until its tickets count");
            self.wait_until_usable(opened.commitment, u64::from(choice.offer.root_depth), INSERTION_LIMIT).await?;
            let bought = running_streams(self.wallet(), self.store(), Some(peer), Some(&want.service.id())).await?;
            let bought = bought.into_iter().find(|(_, stream, _)| stream.commitment == opened.commitment);
            let (purchase, stream, offer) = bought.ok_or(ClientError::NoStream { provider: peer.to_string() })?;
            match self.reach(&want, &offer).await {
                Ok(addresses) => {
                    let at_once = takes_over.is_none();
                    let opened = Some(opened);
                    return self.enter(&want, &purchase, stream, offer, addresses, opened, at_once, caps, tell).await;
                }
                Err(error) => {
                    tell(&format!("{peer} stays away: {error} [{}]", error.code()));
                    if self.is_offline().await {
                        return Err(error);
                    }
                    self.leave(stream.commitment).await?;
                    self.avoid(peer, &want.service.id(), &Failure::Unreachable).await?;
                    self.stop_left_meanwhile(caps.relay_fee);
                    want.ignore.push(peer);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(ClientError::NoProvider))
    }

    /// Waits until a stream's tickets count, if the session is for now.
    #[allow(clippy::too_many_arguments, reason = "the parts of a session")]
    async fn enter(
        &self,
        want: &Want,
        purchase: &Purchase,
        stream: PayerStream,
        offer: VerifiedOffer,
        addresses: Vec<Multiaddr>,
        opened: Option<Opened>,
        at_once: bool,
        caps: &SpendingCaps,
        tell: &(dyn Fn(&str) + Sync),
    ) -> Result<Session, ClientError> {
        let first_slot = self.first_slot(&stream, &offer)?.start();
        if at_once {
            self.wait_until_usable(stream.commitment, u64::from(offer.root_depth), INSERTION_LIMIT).await?;
            let mut told = false;
            let mut heads = self.wallet().ledger().heads();
            while let now = self.now()?
                && now < first_slot
            {
                if !std::mem::replace(&mut told, true) {
                    tell(&format!("the stream's first slot begins in {} s: waiting", first_slot.since(now).get()));
                }
                let _ = tokio::time::timeout(Duration::from_millis(500), heads.changed()).await;
            }
        }
        let tickets = Arc::new(self.tickets_of(purchase, &stream, &offer));
        let (offer, buyer) = (Arc::new(offer), self.clone());
        Ok(Session { offer, stream, tickets, addresses, opened, want: want.clone(), first_slot, caps: *caps, buyer })
    }

    /// Connects to the provider of an offer: where its newest one says that it is, then where this one does. If it is at neither, a newer offer is
    /// listened for. What is wanted may forbid to connect.
    async fn reach(&self, want: &Want, offer: &VerifiedOffer) -> Result<Vec<Multiaddr>, ClientError> {
        let known = self.addresses_of(offer);
        if !want.service.is_dialled() {
            return Ok(known);
        }
        let Err(error) = connect(self.node(), offer.peer_id(), &known).await else { return Ok(known) };
        self.directory().discover(tokio::time::sleep(NEWER_OFFER_WITHIN)).await?;
        let newer = self.addresses_of(offer);
        if newer == known {
            return Err(error.into());
        }
        connect(self.node(), offer.peer_id(), &newer).await?;
        Ok(newer)
    }

    fn addresses_of(&self, offer: &VerifiedOffer) -> Vec<Multiaddr> {
        let mut addresses =
            self.directory().offer(offer.peer_id()).map_or_else(|_| Vec::new(), |newest| newest.multiaddrs.clone());
        for address in &offer.multiaddrs {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    fn avoided(&self, service: &ServiceId) -> Result<Vec<PeerId>, ClientError> {
        Ok(self.sessions.avoided(service, self.now()?.get()))
    }

    /// Whether nobody is connected: then the own network is down, as far as can be told, and nothing is said of who isn't reached.
    async fn is_offline(&self) -> bool {
        self.node().connected_peers().await.is_empty()
    }

    /// Leaves a provider out for a while, and remembers how it failed.
    async fn avoid(&self, provider: PeerId, service: &ServiceId, failure: &Failure) -> Result<(), ClientError> {
        let at = self.now()?;
        let offline = *failure == Failure::Unreachable && self.is_offline().await;
        self.sessions.avoid(provider, service, *failure != Failure::Unsuitable && !offline, at.get());
        let brief = |reason: &str| reason.get(..reason.floor_char_boundary(256)).unwrap_or_default().to_owned();
        let bad = |weight, reason: &str| (Verdict::Scored { score: 0.0, weight }, brief(reason));
        let (verdict, reason) = match failure {
            Failure::Unsuitable | Failure::Assessed => return Ok(()),
            Failure::Broken { reason } => bad(1.0, reason),
            Failure::Unavailable { reason } => bad(0.5, reason),
            Failure::Unreachable if offline => {
                let reason = "no other peer is connected";
                (Verdict::NetworkFault { reason: reason.to_owned() }, reason.to_owned())
            }
            Failure::Unreachable => bad(1.0, "not reached while another peer was connected"),
        };
        let id = format!("session-{:032x}", rand::thread_rng().r#gen::<u128>());
        let assessment = Assessment {
            id: AssessmentId::new(id)?,
            subject: subject(provider, service)?,
            at,
            measurements: Vec::new(),
            verdict,
            evidence: serde_json::json!({ "reason": reason }),
        };
        self.reputation().record(&assessment).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_at_one_service_is_not_left_out_of_another() {
        let (sessions, provider) = (Sessions::default(), PeerId::random());
        let [http, ask]: [ServiceId; 2] = ["http", "inference"].map(|name| name.parse().unwrap());
        sessions.avoid(provider, &http, true, 1000);
        assert_eq!(sessions.avoided(&http, 1000), [provider]);
        assert_eq!(sessions.avoided(&ask, 1000), []);
        assert_eq!(sessions.avoided_as(provider, &http, 1000 + AVOIDED_FOR - 1), Some(true));
        assert_eq!(sessions.avoided_as(provider, &ask, 1000), None);
        assert_eq!(sessions.avoided_as(provider, &http, 1000 + AVOIDED_FOR), None, "for a while");
        // As many as are remembered, and the first to come back makes room.
        for n in 1..=MAX_AVOIDED as u64 {
            sessions.avoid(PeerId::random(), &http, false, 1000 + n);
        }
        assert_eq!(sessions.avoided(&http, 1000 + MAX_AVOIDED as u64).len(), MAX_AVOIDED);
        assert_eq!(sessions.avoided_as(provider, &http, 1000 + MAX_AVOIDED as u64), None);
    }
}
