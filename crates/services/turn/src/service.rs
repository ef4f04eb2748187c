//! TURN sold by calls and minutes.

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

use crate::backend::{Allowance, Backend};
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

/// Why TURN can't be sold like this.
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
        }
    }
}

/// Sells a TURN server.
pub struct TurnService {
    config: TurnServiceConfig,
    properties: Properties,
    family: FamilyName,
    backend: Arc<dyn Backend>,
    book: Arc<LeaseBook>,
    desk: OnceLock<Arc<Desk>>,
}

impl fmt::Debug for TurnService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TurnService {
    /// Prepares to sell what `backend` relays.
    ///
    /// # Errors
    /// [`TurnServiceConfigError`].
    pub fn new(backend: Arc<dyn Backend>, config: TurnServiceConfig) -> Result<Self, TurnServiceConfigError> {
        let in_range = |field, got: u64, min, max| {
            if (min..=max).contains(&got) {
                Ok(())
            } else {
                Err(TurnServiceConfigError::Range { field, got, min, max })
            }
        };
        in_range("call_minutes", config.call_minutes.into(), 1, u32::MAX.into())?;
        in_range("tickets", config.tickets.into(), 1, 4)?;
        in_range("max_calls", config.max_calls.into(), 1, MAX_LEASE_QUOTA.into())?;
        in_range("bytes_per_minute", config.bytes_per_minute, 1, 1 << 40)?;
        in_range("allocations_per_call", config.allocations_per_call.into(), 1, 64)?;
        in_range("grace", config.grace.get(), 0, MAX_LEASE_GRACE)?;
        in_range("max_leases", config.max_leases as u64, 1, 1 << 20)?;
        in_range("urls", config.urls.len() as u64, 1, 8)?;
        let properties = Properties::new()
            .with("realm", PropertyValue::Text(backend.realm().to_owned()))?
            .with("urls", PropertyValue::Texts(config.urls.clone()))?
            .with("transports", PropertyValue::Texts(config.transports.clone()))?
            .with("bytes_per_minute", PropertyValue::Number(config.bytes_per_minute))?
            .with("bytes_per_second", PropertyValue::Number(config.bytes_per_second))?
            .with("allocations", PropertyValue::Number(config.allocations_per_call.into()))?;
        let rules = LeaseRules {
            sale: LeaseSale { unit: UseUnit::Minute, max_quota: config.max_calls, grace: config.grace },
            price: UsePrice { unit: UseUnit::Minute, quantity: config.call_minutes, tickets: config.tickets },
            max_leases: config.max_leases,
        };
        let book = Arc::new(LeaseBook::new(config.id.clone(), rules));
        Ok(Self { config, properties, family: "turn".parse()?, backend, book, desk: OnceLock::new() })
    }
}

#[async_trait]
impl Service for TurnService {
    fn entry(&self) -> OfferService {
        let rules = self.book.rules();
        OfferService {
            id: self.config.id.clone(),
            uses: vec![rules.price],
            attributes: Attributes::Family(FamilyAttributes {
                name: self.family.clone(),
                lease: Some(rules.sale),
                properties: self.properties.clone(),
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
                config: self.config.clone(),
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
    config: TurnServiceConfig,
    /// Minutes of a slot; a begun one counts whole.
    minutes: u64,
    /// As many as there are leases.
    accounts: Mutex<HashMap<PeerId, Account>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Desk {
    fn bytes(&self, calls: u32) -> u64 {
        self.config.bytes_per_minute.saturating_mul(self.minutes).saturating_mul(calls.into())
    }

    /// Gives the account what its running slot pays for: of a new slot all, of one that was enlarged the difference.
    fn settle(&self, account: &mut Account, lease: &Lease, now: UnixTime) {
        let Some(running) = lease.slots.iter().rev().find(|slot| slot.start <= now) else { return };
        let quota = running.quota;
        let bytes = match account.slot {
            Some((start, counted)) if start == running.start => {
                if quota == counted {
                    return;
                }
                account.allowance.bytes.saturating_add(self.bytes(quota.saturating_sub(counted)))
            }
            // What was left of the last slot is gone with it.
            _ => self.backend.usage(account.lease).bytes.saturating_add(self.bytes(quota)),
        };
        let allocations = self.config.allocations_per_call.saturating_mul(quota);
        account.allowance = Allowance { bytes, allocations, bindings: 0 };
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
            urls: self.config.urls.clone(),
            username: credential.username,
            credential: credential.password,
            realm: self.backend.realm().to_owned(),
        };
        Some(grant.encode())
    }
}
