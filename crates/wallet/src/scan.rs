//! Finding one's own in the pool's events.

use tributary_ledger::{EventRecord, EventSeq, PoolEvent};
use tributary_protocol::{AccountKeys, Commitment, Note, Nullifier, StreamNote, ValueNote, memo::PayerMemoBytes};

use crate::{
    Wallet, WalletConfig, WalletError, blocking,
    store::{Role, insert_note, insert_stream, set_meta},
};

/// Events in one step.
const CHUNK: u32 = 512;

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Events read.
    pub events: u64,
    /// Notes of this wallet, change included.
    pub notes: u64,
    /// Streams to this payee.
    pub payee_streams: u64,
    /// Streams of this payer.
    pub payer_streams: u64,
}

/// What one chunk of events holds for an account.
#[derive(Debug, Default)]
struct Found {
    notes: Vec<(ValueNote, Commitment, Nullifier)>,
    payee: Vec<(StreamNote, Commitment)>,
    payer: Vec<(StreamNote, Commitment, Nullifier)>,
}

impl Wallet {
    /// Tries every new memo in the ledger with the account's keys. A note counts only when it recomputes to the commitment on chain; whatever
    /// else a memo says is ignored.
    ///
    /// # Errors
    /// [`WalletError`]; what was found before the error is kept.
    pub async fn scan(&self) -> Result<ScanReport, WalletError> {
        let _one = self.inner.scanning.lock().await;
        let mut report = ScanReport::default();
        let mut cursor = self.cursor().await?;
        loop {
            let events = self.ledger().events_after(cursor, CHUNK).await?;
            let Some(last) = events.last() else { break };
            cursor = last.seq;
            report.events += events.len() as u64;
            let keys = self.inner.keys.clone();
            let config = self.inner.config;
            let found = blocking(move || Found::read(&keys, &config, &events)).await?;
            report.notes += found.notes.len() as u64;
            report.payee_streams += found.payee.len() as u64;
            report.payer_streams += found.payer.len() as u64;
            let mut tx = self.inner.store.begin().await?;
            for (note, commitment, nullifier) in &found.notes {
                insert_note(&mut tx, note, *commitment, *nullifier).await?;
            }
            for (note, commitment) in &found.payee {
                insert_stream(&mut tx, Role::Payee, note, *commitment, None).await?;
            }
            for (note, commitment, nf_0) in &found.payer {
                insert_stream(&mut tx, Role::Payer, note, *commitment, Some(*nf_0)).await?;
            }
            let mut value = self.ledger().id().to_vec();
            value.extend_from_slice(&cursor.0.to_be_bytes());
            set_meta(&mut tx, "cursor", &value).await?;
            tx.commit().await?;
        }
        Ok(report)
    }

    /// Where the last scan stopped; the start, if that was in another ledger.
    async fn cursor(&self) -> Result<EventSeq, WalletError> {
        let Some(value) = self.inner.store.meta("cursor").await? else { return Ok(EventSeq::default()) };
        let Some((id, seq)) = value.split_at_checked(16) else {
            return Err(WalletError::Corrupt { what: "the scan's cursor".to_owned() });
        };
        if id != self.ledger().id() {
            return Ok(EventSeq::default());
        }
        let seq: [u8; 8] = seq.try_into().map_err(|_| WalletError::Corrupt { what: "the scan's cursor".to_owned() })?;
        Ok(EventSeq(u64::from_be_bytes(seq)))
    }
}

impl Found {
    fn read(keys: &AccountKeys, config: &WalletConfig, events: &[EventRecord]) -> Self {
        let mut found = Self::default();
        for record in events {
            for output in record.event.outputs() {
                if output.position.is_none() {
                    continue; // dropped: there is nothing to spend
                }
                match output.memo.open(&keys.view, keys.owner(), output.index, output.commitment) {
                    Ok(Note::Value(note)) if note.amount >= config.least_note && !note.amount.is_zero() => {
                        found.notes.push((note, output.commitment, note.nullifier(&keys.spend)));
                    }
                    Ok(Note::Stream(note)) if note.terms.deposit() >= config.least_stream => {
                        found.payee.push((note, output.commitment));
                    }
                    _ => {}
                }
            }
            match &record.event {
                PoolEvent::Transacted { nullifiers, outputs, payer_memo, .. } => {
                    found.payer.extend(recover(keys, payer_memo, nullifiers[0], outputs[0].commitment));
                }
                PoolEvent::Closed { nullifier, outputs, payer_memo, .. } => {
                    found.payer.extend(recover(keys, payer_memo, *nullifier, outputs[0].commitment));
                }
                _ => {}
            }
        }
        found
    }
}

fn recover(
    keys: &AccountKeys,
    memo: &PayerMemoBytes,
    nf_0: Nullifier,
    commitment: Commitment,
) -> Option<(StreamNote, Commitment, Nullifier)> {
    let memo = memo.decrypt(&keys.memo).ok()?;
    let stream = memo.recover(&keys.payer, nf_0, commitment)?;
    Some((stream.note, commitment, nf_0))
}
