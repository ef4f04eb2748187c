use std::sync::Arc;

use alloy_primitives::Address;
use libp2p::identity::Keypair;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tributary_market::offer::{
    Attributes, Offer, OfferContext, RateClass, RateClassId, Service, ServiceId, SignedOffer, StoreAttributes,
    UsePrice, UseUnit, VerifiedOffer,
};
use tributary_protocol::amount::{Amount, Price, Rate};
use tributary_protocol::keys::{Mnemonic, PaymentAddress, PoolId, PoolScope};
use tributary_protocol::slot::PoolClock;
use tributary_protocol::time::{Seconds, UnixTime};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const SHARD: &str = "/waku/2/rs/66/0";

pub(crate) fn time(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

pub(crate) fn now() -> UnixTime {
    time(NOW)
}

pub(crate) fn seconds(seconds: u64) -> Seconds {
    Seconds::new(seconds).unwrap()
}

pub(crate) fn rng() -> StdRng {
    StdRng::seed_from_u64(1)
}

pub(crate) fn pool() -> PoolId {
    PoolId { chain_id: 31337, address: Address::repeat_byte(0x11) }
}

pub(crate) fn other_pool() -> PoolId {
    PoolId { chain_id: 1, ..pool() }
}

/// L = 60 s.
pub(crate) fn clock() -> PoolClock {
    PoolClock::new(seconds(60), seconds(180), seconds(30)).unwrap()
}

pub(crate) fn payee(account: u32) -> PaymentAddress {
    let mnemonic = Mnemonic::parse(
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
    );
    let scope = PoolScope { pool: pool(), account };
    mnemonic.unwrap().seed("").account(scope).unwrap().address()
}

pub(crate) fn key(byte: u8) -> Keypair {
    Keypair::ed25519_from_bytes([byte; 32]).unwrap()
}

pub(crate) fn class(id: u32, rate: u128) -> RateClass {
    RateClass {
        id: RateClassId(id),
        rate: Rate::new(rate).unwrap(),
        min_duration: seconds(600),
        max_duration: Some(seconds(86_400)),
    }
}

/// A ticket costs 60: a stream of class 1 (10 a second) pays for 10 tickets in a slot of 60 s, class 2 for 20.
pub(crate) fn offer() -> Offer {
    Offer {
        payee: payee(0),
        pool: pool(),
        ticket_price: Price::new(60).unwrap(),
        min_streamed: Amount::new(600).unwrap(),
        rate_classes: vec![class(1, 10), class(2, 20)],
        slot_carry: seconds(30),
        root_depth: 1,
        services: vec![Service {
            id: ServiceId::store(),
            uses: vec![UsePrice { unit: UseUnit::Page, quantity: 1, tickets: 1 }],
            attributes: Attributes::Store(StoreAttributes {
                retention: seconds(7 * 86_400),
                pubsub_topics: vec![SHARD.into()],
                content_topics: Vec::new(),
                page_size: 100,
            }),
        }],
        multiaddrs: vec!["/ip4/127.0.0.1/tcp/60000".parse().unwrap()],
        sequence: 7,
        issued_at: now(),
        expires_at: time(NOW + 3600),
        encryption_key: None,
    }
}

pub(crate) fn verified(offer: &Offer, key: &Keypair) -> Arc<VerifiedOffer> {
    Arc::new(verify(&offer.sign(key).unwrap()))
}

pub(crate) fn verify(signed: &SignedOffer) -> VerifiedOffer {
    signed.verify(&OfferContext { now: now(), pools: &[pool(), other_pool()] }).unwrap()
}
