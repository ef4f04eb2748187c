//! Every decoder of bytes that somebody else made, grouped into fuzz targets.
//!
//! An input is the number of a decoder in its group (one byte, modulo their number) and the bytes that it reads. Decoders assert what must hold of bytes
//! that they understand, so a panic is a finding.

#![allow(unreachable_pub, reason = "the lists of decoders are shared with the tests")]

mod market;
#[path = "../../crates/protocol/tests/support/decoders.rs"]
mod protocol;
mod provider;

/// A decoder: its name, its reading of bytes (whether they were understood), and bytes that it understands.
pub type Decoder = (&'static str, fn(&[u8]) -> bool, fn() -> Vec<Vec<u8>>);

/// Decoders that one fuzz target runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Envelopes, offers, announcements and relayers' messages.
    Market,
    /// Quotes, sealed calls and tickets.
    Negotiation,
    /// Memos, addresses and proofs.
    Notes,
    /// Waku's messages, frames, metadata and topics.
    WakuMessages,
    /// Waku's service protocols.
    WakuServices,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Market, Self::Negotiation, Self::Notes, Self::WakuMessages, Self::WakuServices];

    /// The name of its fuzz target.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::Market => "market",
            Self::Negotiation => "negotiation",
            Self::Notes => "notes",
            Self::WakuMessages => "waku_messages",
            Self::WakuServices => "waku_services",
        }
    }

    fn has(self, decoder: &str) -> bool {
        let negotiation = ["market_quote", "market_sealed", "market_ticket"];
        let services = ["waku_store", "waku_filter", "waku_lightpush"];
        let starts = |names: &[&str]| names.iter().any(|name| decoder.starts_with(name));
        match self {
            Self::Market => decoder.starts_with("market_") && !starts(&negotiation),
            Self::Negotiation => starts(&negotiation),
            Self::Notes => !starts(&["market_", "waku_"]),
            Self::WakuMessages => decoder.starts_with("waku_") && !starts(&services),
            Self::WakuServices => starts(&services),
        }
    }

    /// Its decoders. Each decoder is in exactly one group.
    #[must_use]
    pub fn decoders(self) -> Vec<Decoder> {
        let waku = tributary_waku::fuzzing::DECODERS.iter().map(|decoder| (decoder.name, decoder.read, decoder.seeds));
        let ours = [market::DECODERS, protocol::DECODERS, provider::DECODERS].concat();
        ours.into_iter().chain(waku).filter(|(name, ..)| self.has(name)).collect()
    }

    /// Reads an input.
    #[must_use]
    pub fn read(self, decoders: &[Decoder], input: &[u8]) -> bool {
        let Some((number, data)) = input.split_first() else { return false };
        (decoders[usize::from(*number) % decoders.len()].1)(data)
    }

    /// Inputs that are understood, each with a name: of each decoder its own seeds.
    #[must_use]
    pub fn seeds(self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for (number, (name, _, seeds)) in self.decoders().into_iter().enumerate() {
            for (n, seed) in seeds().into_iter().enumerate() {
                all.push((format!("{name}-{n}"), [&[u8::try_from(number).unwrap_or(0)], seed.as_slice()].concat()));
            }
        }
        all
    }
}

/// The fuzz target of a group.
#[macro_export]
macro_rules! target {
    ($group:ident) => {
        #[allow(unsafe_code, unreachable_pub, missing_docs, reason = "libfuzzer's entry points")]
        mod entry {
            use std::sync::LazyLock;

            use $crate::{Decoder, Group};

            static DECODERS: LazyLock<Vec<Decoder>> = LazyLock::new(|| Group::$group.decoders());

            libfuzzer_sys::fuzz_target!(|data: &[u8]| {
                let _ = Group::$group.read(&DECODERS, data);
            });
        }
    };
}
