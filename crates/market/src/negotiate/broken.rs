//! Proof that a provider left its quote: the quote, and an offer that it signed while the quote's terms ran.

use libp2p::PeerId;
use tributary_protocol::time::{Seconds, UnixTime};

use super::{MAX_RESPONSE_BYTES, binds_until};
use crate::envelope::{self, EnvelopeError, PayloadType};
use crate::offer::{self, OfferError, OfferId, SignedOffer};
use crate::proto;
use crate::wire::{self, WireError};

/// In what the later offer leaves the quote. Tickets of a stream opened under the quote are refused while it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breach {
    /// Another payee is paid.
    Payee {
        /// The quote's.
        quoted: String,
        /// The later offer's.
        offered: String,
    },
    /// A ticket costs something else.
    TicketPrice {
        /// The quote's.
        quoted: u128,
        /// The later offer's.
        offered: u128,
    },
    /// The service isn't sold any more.
    Service {
        /// The quote's.
        quoted: String,
    },
}

/// A quote and a later offer of the same provider that doesn't keep to it. Anybody can check the two messages; nobody but the provider
/// can make them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenQuote {
    /// The provider.
    pub provider: PeerId,
    /// In what.
    pub breach: Breach,
    /// The quote's signed envelope.
    pub quote: Vec<u8>,
    /// The offer that leaves it.
    pub offer: SignedOffer,
}

/// Why two messages prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoBreach {
    /// The quote's envelope or signature is bad.
    #[error("the quote is invalid: {0}")]
    Envelope(#[from] EnvelopeError),
    /// A field of the quote is malformed.
    #[error("the quote is invalid: {0}")]
    Quote(#[from] WireError),
    /// The offer is invalid.
    #[error("the offer is invalid: {0}")]
    Offer(#[from] OfferError),
    /// Both are good, and don't contradict each other.
    #[error("the offer keeps to the quote: {reason}")]
    Kept {
        /// In what they agree or what keeps them apart.
        reason: &'static str,
    },
    /// The offer was signed before the quote, or after its terms were over.
    #[error("the offer was issued at {issued_at}, the quote holds from {from} until {until}")]
    OtherTime {
        /// Of the offer.
        issued_at: UnixTime,
        /// When the quote was signed.
        from: UnixTime,
        /// [`binds_until`].
        until: UnixTime,
    },
}

impl NoBreach {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Quote(error) => error.code(),
            Self::Offer(error) => error.code(),
            Self::Kept { .. } => "TRB-M216",
            Self::OtherTime { .. } => "TRB-M217",
        }
    }
}

impl BrokenQuote {
    /// Judges a quote's envelope and a later offer, whatever their age. A quote binds from its signature until
    /// [`binds_until`].
    ///
    /// # Errors
    /// [`NoBreach`] when they prove nothing.
    pub fn prove(quote: &[u8], later: &SignedOffer) -> Result<Self, NoBreach> {
        let opened = envelope::open(PayloadType::Quote, quote, MAX_RESPONSE_BYTES)?;
        let wire_quote: proto::Quote = wire::decode("quote", &opened.payload, MAX_RESPONSE_BYTES)?;
        wire::check_version("quote", wire_quote.version)?;
        let offer = later.verify_content()?;
        let kept = |reason| Err(NoBreach::Kept { reason });
        if opened.signer.to_peer_id() != offer.peer_id() {
            return kept("two providers");
        }
        if offer::pool_from_proto(wire_quote.pool.as_ref())? != offer.pool {
            return kept("two pools");
        }
        if OfferId::from_bytes(&wire_quote.offer_id)? == offer.id() {
            return kept("it is the offer that was quoted");
        }
        if wire_quote.issued_at == 0 {
            return kept("the quote doesn't say when it was signed");
        }
        let from = offer::time("issued_at", wire_quote.issued_at)?;
        let until = binds_until(
            offer::time("start_deadline", wire_quote.start_deadline)?,
            offer::seconds("duration", wire_quote.duration, Seconds::MAX.get())?,
        );
        // In the second of the quote itself nobody can tell which came first.
        if offer.issued_at <= from || offer.issued_at >= until {
            return Err(NoBreach::OtherTime { issued_at: offer.issued_at, from, until });
        }
        let price = wire::amount_from_bytes("ticket_price", &wire_quote.ticket_price, 128)?;
        let payee = wire::text("payee", &wire_quote.payee, 256)?;
        let service = wire::text("service", &wire_quote.service, 64)?;
        let breach = if payee != offer.payee.to_string() {
            Breach::Payee { quoted: payee, offered: offer.payee.to_string() }
        } else if price != offer.ticket_price.get() {
            Breach::TicketPrice { quoted: price, offered: offer.ticket_price.get() }
        } else if !offer.services.iter().any(|sold| sold.id.as_str() == service) {
            Breach::Service { quoted: service }
        } else {
            return kept("payee, ticket price and service are the same");
        };
        Ok(Self { provider: offer.peer_id(), breach, quote: quote.to_vec(), offer: later.clone() })
    }
}
