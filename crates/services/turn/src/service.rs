//! TURN sold by calls and minutes, STUN by minutes of so many bindings.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use tributary_market::lease::Lease;
use tributary_market::offer::{
    Attributes, FamilyAttributes, LeaseSale, MAX_LEASE_GRACE, MAX_LEASE_QUOTA, Service as OfferService, ServiceId,
    UsePrice, UseUnit,
};
use tributary_market::property::{FamilyName, Properties, PropertyValue};
use tributary_market::wire::WireError;
use tributary_protocol::{Seconds, UnixTime};
use tributary_provider::free::FreeTierLimits;
use tributary_provider::lease::{LeaseBook, LeaseGrants, LeaseRules};
use tributary_provider::service::{Service, ServiceError};
use tributary_provider::till::Till;
use tributary_waku::PeerId;

use crate::backend::{Allowance, Backend, Usage};
use crate::credential::{Grant, LeaseId};

/// How TURN is sold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnServiceConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// Addresses that clients are given: `turn:host:port?transport=udp` and the like, 1 to 8.
    pub urls: Vec<String>,
    /// Transports between client and server, as the offer names them: `udp`, `tcp`.
    pub transports: Vec<String>,
    /// Call-minutes that `tickets` pay for, at least 1.
    pub call_minutes: u32,
    /// Tickets for that much, 1 to 4.
    pub tickets: u32,
    /// Calls that a peer may lease in one slot.
    pub max_calls: u32,
    /// Bytes that a call may relay in a minute, both directions together; a slot's share can be used at any time in the slot.
    pub bytes_per_minute: u64,
    /// Allocations of a call: its two ends may be on the same lease, and each may try more than one transport.
    pub allocations_per_call: u32,
    /// Bytes a second that an allocation relays at most, as the offer says it.
    pub bytes_per_second: u64,
    /// How long calls go on after the last leased slot, at most 10 minutes.
    pub grace: Seconds,
    /// Peers that may hold a lease at once.
    pub max_leases: usize,
}

impl TurnServiceConfig {
    /// The usual: a ticket for a call of a minute and 75 MB.
    #[must_use]
    pub fn new(id: ServiceId, urls: Vec<String>) -> Self {
        Self {
            id,
            urls,
            transports: vec!["udp".into(), "tcp".into()],
            call_minutes: 1,
            tickets: 1,
            max_calls: 4,
            bytes_per_minute: 75_000_000,
            allocations_per_call: 4,
            bytes_per_second: 1_250_000,
            grace: Seconds::new(15).unwrap_or(Seconds::ZERO),
            max_leases: 100,
        }
    }
}

/// How STUN is sold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunServiceConfig {
    /// Id of the service in the offer.
    pub id: ServiceId,
    /// Addresses that clients are given: `stun:host:port`, 1 to 8.
    pub urls: Vec<String>,
    /// Minutes that `tickets` pay for, at least 1.
    pub minutes: u32,
    /// Tickets for that much, 1 to 4.
    pub tickets: u32,
    /// Shares that a peer may lease in one slot.
    pub max_shares: u32,
    /// Binding requests that a share has in a minute; those of a slot can be used at any time in the slot.
    pub bindings_per_minute: u64,
    /// How long after the last leased slot the credential is good, at most 10 minutes.
    pub grace: Seconds,
    /// Peers that may hold a lease at once.
    pub max_leases: usize,
}

impl StunServiceConfig {
    /// The usual: a ticket for ten minutes of 600 bindings.
    #[must_use]
    pub fn new(id: ServiceId, urls: Vec<String>) -> Self {
        Self {
            id,
            urls,
            minutes: 10,
            tickets: 1,
            max_shares: 4,
            bindings_per_minute: 600,
            grace: Seconds::new(15).unwrap_or(Seconds::ZERO),
            max_leases: 1000,
        }
    }
}

/// What a lease is for, each minute and unit of its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goods {
    /// A call: bytes a minute, and allocations at once.
    Call { bytes: u64, allocations: u32 },
    /// Bindings a minute.
    Bindings { bindings: u64 },
}

/// What both families have in common.
#[derive(Clone, Debug)]
struct Sale {
    id: ServiceId,
    family: FamilyName,
    properties: Properties,
    urls: Vec<String>,
    goods: Goods,
    rules: LeaseRules,
}

fn in_range(field: &'static str, got: u64, min: u64, max: u64) -> Result<(), TurnServiceConfigError> {
    if (min..=max).contains(&got) { Ok(()) } else { Err(TurnServiceConfigError::Range { field, got, min, max }) }
}

/// Why it can't be sold like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnServiceConfigError {
    /// A number is out of range.
    #[error("{field} is {got}, possible are {min} to {max}")]
    Range {
        /// The setting.
        field: &'static str,
        /// The value.
        got: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// The server doesn't count bindings.
    #[error("bindings can't be sold of a server that doesn't count them: take the embedded one")]
    Uncounted,
    /// What it is can't be said in an offer.
    #[error("the offer can't say this: {0}")]
    Offer(#[from] WireError),
}

impl TurnServiceConfigError {
    /// The stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Range { .. } => "TRB-5721",
            Self::Offer(_) => "TRB-5722",
            Self::Uncounted => "TRB-5723",
        }
    }
}

/// Sells a server: its relays ([`TurnService::new`]), or its bindings ([`TurnService::stun`]). Both can be sold of one server.
pub struct TurnService {
    sale: Sale,
    backend: Arc<dyn Backend>,
    book: Arc<LeaseBook>,
    desk: OnceLock<Arc<Desk>>,
}

impl fmt::Debug for TurnService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnService").field("sale", &self.sale).finish_non_exhaustive()
    }
}

impl TurnService {
    /// Prepares to sell what `backend` relays.
    ///
    /// # Errors
    /// [`TurnServiceConfigError`].
    pub fn new(backend: Arc<dyn Backend>, config: TurnServiceConfig) -> Result<Self, TurnServiceConfigError> {
        in_range("call_minutes", config.call_minutes.into(), 1, u32::MAX.into())?;
        in_range("max_calls", config.max_calls.into(), 1, MAX_LEASE_QUOTA.into())?;
        in_range("bytes_per_minute", config.bytes_per_minute, 1, 1 << 40)?;
        in_range("allocations_per_call", config.allocations_per_call.into(), 1, 64)?;
        let properties = Properties::new()
            .with("realm", PropertyValue::Text(backend.realm().to_owned()))?
            .with("urls", PropertyValue::Texts(config.urls.clone()))?
            .with("transports", PropertyValue::Texts(config.transports))?
            .with("bytes_per_minute", PropertyValue::Number(config.bytes_per_minute))?
            .with("bytes_per_second", PropertyValue::Number(config.bytes_per_second))?
            .with("allocations", PropertyValue::Number(config.allocations_per_call.into()))?;
        let rules = LeaseRules {
            sale: LeaseSale { unit: UseUnit::Minute, max_quota: config.max_calls, grace: config.grace },
            price: UsePrice { unit: UseUnit::Minute, quantity: config.call_minutes, tickets: config.tickets },
            max_leases: config.max_leases,
        };
        let goods = Goods::Call { bytes: config.bytes_per_minute, allocations: config.allocations_per_call };
        let family = "turn".parse()?;
        Self::of(backend, Sale { id: config.id, family, properties, urls: config.urls, goods, rules })
    }

    /// Prepares to sell the bindings that `backend` answers to those who show a credential. [`Backend::counts_bindings`] must hold.
    ///
    /// # Errors
    /// [`TurnServiceConfigError`].
    pub fn stun(backend: Arc<dyn Backend>, config: StunServiceConfig) -> Result<Self, TurnServiceConfigError> {
        if !backend.counts_bindings() {
            return Err(TurnServiceConfigError::Uncounted);
        }
        in_range("minutes", config.minutes.into(), 1, u32::MAX.into())?;
        in_range("max_shares", config.max_shares.into(), 1, MAX_LEASE_QUOTA.into())?;
        in_range("bindings_per_minute", config.bindings_per_minute, 1, 1 << 32)?;
        let properties = Properties::new()
            .with("realm", PropertyValue::Text(backend.realm().to_owned()))?
            .with("urls", PropertyValue::Texts(config.urls.clone()))?
            .with("bindings_per_minute", PropertyValue::Number(config.bindings_per_minute))?;
        let rules = LeaseRules {
            sale: LeaseSale { unit: UseUnit::Minute, max_quota: config.max_shares, grace: config.grace },
            price: UsePrice { unit: UseUnit::Minute, quantity: config.minutes, tickets: config.tickets },
            max_leases: config.max_leases,
        };
        let goods = Goods::Bindings { bindings: config.bindings_per_minute };
        let family = "stun".parse()?;
        Self::of(backend, Sale { id: config.id, family, properties, urls: config.urls, goods, rules })
    }

    fn of(backend: Arc<dyn Backend>, sale: Sale) -> Result<Self, TurnServiceConfigError> {
        in_range("tickets", sale.rules.price.tickets.into(), 1, 4)?;
        in_range("grace", sale.rules.sale.grace.get(), 0, MAX_LEASE_GRACE)?;
        in_range("max_leases", sale.rules.max_leases as u64, 1, 1 << 20)?;
        in_range("urls", sale.urls.len() as u64, 1, 8)?;
        let book = Arc::new(LeaseBook::new(sale.id.clone(), sale.rules));
        Ok(Self { sale, backend, book, desk: OnceLock::new() })
    }
}

#[async_trait]
impl Service for TurnService {
    fn entry(&self) -> OfferService {
        let rules = self.book.rules();
        OfferService {
            id: self.sale.id.clone(),
            uses: vec![rules.price],
            attributes: Attributes::Family(FamilyAttributes {
                name: self.sale.family.clone(),
                lease: Some(rules.sale),
                properties: self.sale.properties.clone(),
            }),
        }
    }

    fn free_tier(&self) -> FreeTierLimits {
        FreeTierLimits::NONE
    }

    async fn start(&self, till: Till) -> Result<(), ServiceError> {
        let slot_length = till.checker().verifier().clock.slot_length();
        let desk = self.desk.get_or_init(|| {
            Arc::new(Desk {
                till,
                backend: Arc::clone(&self.backend),
                urls: self.sale.urls.clone(),
                goods: self.sale.goods,
                minutes: slot_length.get().div_ceil(60),
                accounts: Mutex::default(),
            })
        });
        self.book.give(Arc::clone(desk) as Arc<dyn LeaseGrants>);
        Ok(())
    }

    /// Ends all calls.
    async fn stop(&self) {
        self.backend.stop().await;
    }

    fn leases(&self) -> Option<Arc<LeaseBook>> {
        Some(Arc::clone(&self.book))
    }

    /// Ends calls that aren't paid for any more, or have used their quota.
    async fn turn(&self) {
        if let Some(desk) = self.desk.get() {
            desk.turn(&self.book).await;
        }
    }
}

/// What one peer's lease has, as counted until now.
#[derive(Clone, Copy, Debug)]
struct Account {
    lease: LeaseId,
    /// Start of the slot that the allowance is for, and the quota counted in it.
    slot: Option<(UnixTime, u32)>,
    allowance: Allowance,
}

struct Desk {
    till: Till,
    backend: Arc<dyn Backend>,
    urls: Vec<String>,
    goods: Goods,
    /// Minutes of a slot; a begun one counts whole.
    minutes: u64,
    /// As many as there are leases.
    accounts: Mutex<HashMap<PeerId, Account>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("goods", &self.goods).finish_non_exhaustive()
    }
}

impl Desk {
    /// The account's allowance with so much of the running slot's more than `before`.
    fn more(&self, before: Usage, quota: u32, added: u32) -> Allowance {
        let times = self.minutes.saturating_mul(added.into());
        match self.goods {
            Goods::Call { bytes, allocations } => Allowance {
                bytes: before.bytes.saturating_add(bytes.saturating_mul(times)),
                allocations: allocations.saturating_mul(quota),
                bindings: 0,
            },
            Goods::Bindings { bindings } => Allowance {
                bindings: before.bindings.saturating_add(bindings.saturating_mul(times)),
                ..Allowance::NONE
            },
        }
    }

    /// Gives the account what its running slot pays for: of a new slot all, of one that was enlarged the difference.
    fn settle(&self, account: &mut Account, lease: &Lease, now: UnixTime) {
        let Some(running) = lease.slots.iter().rev().find(|slot| slot.start <= now) else { return };
        let quota = running.quota;
        account.allowance = match account.slot {
            Some((start, counted)) if start == running.start => {
                if quota == counted {
                    return;
                }
                let before = Usage { bytes: account.allowance.bytes, bindings: account.allowance.bindings };
                self.more(before, quota, quota.saturating_sub(counted))
            }
            // What was left of the last slot is gone with it.
            _ => self.more(self.backend.usage(account.lease), quota, quota),
        };
        account.slot = Some((running.start, quota));
        self.backend.allow(account.lease, account.allowance);
    }

    async fn turn(&self, book: &LeaseBook) {
        let now = self.till.checker().now();
        book.prune(now);
        let holders: HashMap<_, _> = book.holders(now).into_iter().collect();
        let ended: Vec<LeaseId> = {
            let mut accounts = self.accounts.lock();
            for (peer, account) in accounts.iter_mut() {
                if let Some(lease) = holders.get(peer) {
                    self.settle(account, lease, now);
                }
            }
            accounts.extract_if(|peer, _| !holders.contains_key(peer)).map(|(_, account)| account.lease).collect()
        };
        for lease in ended {
            if let Err(error) = self.backend.revoke(lease).await {
                tracing::warn!(code = error.code(), %error, "a call that isn't paid for could not be ended yet");
            }
        }
        if let Err(error) = self.backend.poll().await {
            tracing::warn!(code = error.code(), %error, "the TURN server can't be looked after");
        }
    }
}

impl LeaseGrants for Desk {
    fn grant(&self, peer: PeerId, lease: &Lease, now: UnixTime) -> Option<Vec<u8>> {
        let mut accounts = self.accounts.lock();
        let account = accounts.entry(peer).or_insert_with(|| Account {
            lease: LeaseId::random(),
            slot: None,
            allowance: Allowance::NONE,
        });
        let credential = self.backend.issue(account.lease, lease.until);
        self.settle(account, lease, now);
        let grant = Grant {
            v: 1,
            urls: self.urls.clone(),
            username: credential.username,
            credential: credential.password,
            realm: self.backend.realm().to_owned(),
        };
        Some(grant.encode())
    }
}
