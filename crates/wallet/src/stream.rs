//! A wallet's streams, as payer and as payee.

use tributary_ledger::StreamRecord;
use tributary_protocol::{
    Amount, Commitment, PayerSecret, PaymentAddress, ProviderDigest, RecordTag, StreamNote, UnixTime,
    ticket::OfferTerms,
};

use crate::{
    Wallet, WalletError,
    store::{Role, StreamRow},
    tickets::PayingStream,
};

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// Its transaction is not on chain (any more).
    Missing,
    /// Queued, but not in the tree: it can't be closed, claimed or proved yet.
    Queued,
    /// It starts later.
    Scheduled,
    /// It pays.
    Running,
    /// It is stopped, but pays until then.
    Stopping,
    /// It pays nothing any more.
    Over,
}

/// A stream that this wallet pays.
#[derive(Clone, Debug)]
pub struct PayerStream {
    /// Its commitment: its name in this wallet.
    pub commitment: Commitment,
    /// The note.
    pub note: StreamNote,
    /// What closes it and makes its tickets.
    pub secret: PayerSecret,
    /// Its record's key.
    pub tag: RecordTag,
    /// Its place in the tree, if it is on chain.
    pub position: Option<u32>,
    /// Its record.
    pub record: StreamRecord,
    /// Where it stands.
    pub state: StreamState,
    /// What has accrued to the payee by now.
    pub accrued: Amount,
    /// What will accrue until the earliest stop that a close now would have; nothing once it is stopped.
    pub at_risk: Amount,
    /// What a close now would give back; nothing once it is stopped.
    pub refundable: Amount,
    /// The offer that it was opened under, if that is known.
    pub offer: Option<OfferTerms>,
    /// The payee's address, if it is known: a wallet restored from its seed learns it from the payee's offer.
    pub payee: Option<PaymentAddress>,
}

/// A stream that pays this wallet.
#[derive(Clone, Debug)]
pub struct PayeeStream {
    /// Its commitment: its name in this wallet.
    pub commitment: Commitment,
    /// The note.
    pub note: StreamNote,
    /// Its record's key.
    pub tag: RecordTag,
    /// Its place in the tree, if it is on chain.
    pub position: Option<u32>,
    /// Its record.
    pub record: StreamRecord,
    /// Where it stands.
    pub state: StreamState,
    /// What can be claimed at the head of the chain.
    pub claimable: Amount,
    /// What will accrue later if the payer does not stop it.
    pub to_come: Amount,
}

impl Wallet {
    /// The streams that this wallet pays, those that are over left out unless `all`.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn payer_streams(&self, all: bool) -> Result<Vec<PayerStream>, WalletError> {
        let mut streams = Vec::new();
        for row in self.inner.store.streams(Role::Payer, all).await? {
            let stream = self.payer_view(row).await?;
            if all || stream.state != StreamState::Over {
                streams.push(stream);
            } else if self.long_over(&stream.note, &stream.record) {
                self.inner.store.settle_stream(Role::Payer, stream.commitment).await?;
            }
        }
        Ok(streams)
    }

    /// One stream that this wallet pays.
    ///
    /// # Errors
    /// [`WalletError::UnknownStream`].
    pub async fn payer_stream(&self, commitment: Commitment) -> Result<PayerStream, WalletError> {
        let row = self.inner.store.stream(Role::Payer, commitment).await?;
        self.payer_view(row.ok_or(WalletError::UnknownStream { commitment })?).await
    }

    /// The streams that pay this wallet, those with nothing left to claim left out unless `all`.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn payee_streams(&self, all: bool) -> Result<Vec<PayeeStream>, WalletError> {
        let mut streams = Vec::new();
        for row in self.inner.store.streams(Role::Payee, all).await? {
            let stream = self.payee_view(row).await?;
            let paid = stream.state == StreamState::Over && stream.claimable.is_zero();
            if all || !paid {
                streams.push(stream);
            } else if self.long_over(&stream.note, &stream.record) {
                self.inner.store.settle_stream(Role::Payee, stream.commitment).await?;
            }
        }
        Ok(streams)
    }

    /// Remembers the offer under which a stream is paid, the first time, and refuses a dearer one later: the payee could move its price
    /// and see who drops out (protocol section 6).
    ///
    /// # Errors
    /// [`WalletError::OfferRaised`], [`WalletError::WrongPayee`], [`WalletError::UnknownStream`].
    pub async fn bind_offer(&self, commitment: Commitment, offer: &OfferTerms) -> Result<(), WalletError> {
        let row = self.inner.store.stream(Role::Payer, commitment).await?;
        let row = row.ok_or(WalletError::UnknownStream { commitment })?;
        if offer.payee != row.note.terms.payee() {
            return Err(WalletError::WrongPayee);
        }
        let nf_0 =
            row.nf_0.ok_or_else(|| WalletError::Corrupt { what: "a stream without its nullifier".to_owned() })?;
        let Some((bound, _)) = self.inner.store.offer(nf_0, offer.payee).await? else {
            return self.inner.store.bind_offer(nf_0, offer, None).await;
        };
        if offer.price > bound.price || offer.min_streamed > bound.min_streamed {
            return Err(WalletError::OfferRaised {
                price: offer.price.get(),
                min_streamed: offer.min_streamed.get(),
                opened_price: bound.price.get(),
                opened_min_streamed: bound.min_streamed.get(),
            });
        }
        Ok(())
    }

    /// What a [`TicketMaker`](crate::tickets::TicketMaker) needs to pay `provider` from a stream, under `offer`.
    ///
    /// # Errors
    /// As [`Wallet::bind_offer`].
    pub async fn paying_stream(
        &self,
        commitment: Commitment,
        offer: OfferTerms,
        provider: ProviderDigest,
        root_depth: u64,
    ) -> Result<PayingStream, WalletError> {
        self.bind_offer(commitment, &offer).await?;
        let stream = self.payer_stream(commitment).await?;
        Ok(PayingStream { note: stream.note, secret: stream.secret, terms: offer, provider, root_depth })
    }

    /// Over for so long that no reorganisation brings it back.
    fn long_over(&self, note: &StreamNote, record: &StreamRecord) -> bool {
        let end = record.stop.map_or(note.terms.end(), |stop| stop.min(note.terms.end()));
        let depth = self.ledger().config().reorganisation_depth;
        self.ledger().time_at_depth(depth).is_some_and(|time| end < time && record.claimed_until.min(end) <= time)
    }

    async fn view(&self, row: &StreamRow) -> Result<(Option<u32>, StreamRecord, StreamState), WalletError> {
        let ledger = self.ledger();
        let leaf = ledger.leaf(row.commitment).await?;
        let record = ledger.record(row.note.record_tag()).await?;
        let now = ledger.head_time()?;
        let terms = &row.note.terms;
        let state = match leaf {
            None => StreamState::Missing,
            Some(_) if now >= terms.end() || record.stop.is_some_and(|stop| now >= stop) => StreamState::Over,
            Some(leaf) if u64::from(leaf.position) >= ledger.inserted() => StreamState::Queued,
            Some(_) if record.stop.is_some() => StreamState::Stopping,
            Some(_) if now < terms.start() => StreamState::Scheduled,
            Some(_) => StreamState::Running,
        };
        Ok((leaf.map(|leaf| leaf.position), record, state))
    }

    async fn payer_view(&self, row: StreamRow) -> Result<PayerStream, WalletError> {
        let (position, record, state) = self.view(&row).await?;
        let terms = &row.note.terms;
        let nf_0 =
            row.nf_0.ok_or_else(|| WalletError::Corrupt { what: "a stream without its nullifier".to_owned() })?;
        let secret = PayerSecret::derive(&self.inner.keys.payer, nf_0);
        let now = self.now()?;
        let earliest = self.ledger().clock().stop_times(now)?.stop;
        let last = record.stop.unwrap_or(UnixTime::MAX);
        let accrued = terms.payout(UnixTime::ZERO, now.min(last));
        let (at_risk, refundable) = match record.stop {
            Some(stop) => (terms.payout(now.min(stop), stop), Amount::ZERO),
            None => (terms.payout(now, earliest), terms.refund(earliest)),
        };
        let (offer, payee) = match self.inner.store.offer(nf_0, terms.payee()).await? {
            Some((offer, payee)) => (Some(offer), payee),
            None => (None, None),
        };
        Ok(PayerStream {
            commitment: row.commitment,
            tag: row.note.record_tag(),
            note: row.note,
            secret,
            position,
            record,
            state,
            accrued,
            at_risk,
            refundable,
            offer,
            payee,
        })
    }

    async fn payee_view(&self, row: StreamRow) -> Result<PayeeStream, WalletError> {
        let (position, record, state) = self.view(&row).await?;
        let terms = &row.note.terms;
        let last = record.stop.unwrap_or(UnixTime::MAX);
        let until = self.ledger().head_time()?.min(last);
        Ok(PayeeStream {
            commitment: row.commitment,
            tag: row.note.record_tag(),
            claimable: terms.payout(record.claimed_until, until),
            to_come: terms.payout(until, last),
            note: row.note,
            position,
            record,
            state,
        })
    }
}
