//! What a wallet has, and where.

use serde::Serialize;
use tributary_protocol::Amount;

use crate::{Wallet, WalletError, store::NoteRow, stream::StreamState};

/// What a wallet has, in token base units.
///
/// A payer's open streams hold `in_streams = accrued + at_risk + refundable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Can be spent now.
    pub available: Amount,
    /// Received, but not in the tree yet.
    pub queued: Amount,
    /// In notes that a pending operation is to spend.
    pub reserved: Amount,
    /// Locked in this payer's streams that still pay.
    pub in_streams: Amount,
    /// Of that, what has accrued to the payees.
    pub accrued: Amount,
    /// Of that, what will accrue to them even if everything is closed now.
    pub at_risk: Amount,
    /// Of that, what closing everything now would give back.
    pub refundable: Amount,
    /// What this payee can claim now, before the burn.
    pub claimable: Amount,
    /// What will accrue to this payee if nobody stops.
    pub to_come: Amount,
}

/// A note that can or could be spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpendableNote {
    pub(crate) row: NoteRow,
    pub(crate) position: u32,
}

/// The wallet's unspent notes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// In the tree and free, the largest first.
    pub(crate) available: Vec<SpendableNote>,
    pub(crate) queued: Amount,
    pub(crate) reserved: Amount,
}

impl Wallet {
    /// Where the wallet's money is.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn balance(&self) -> Result<Balance, WalletError> {
        let notes = self.notes().await?;
        let mut balance = Balance {
            available: Amount::checked_sum(notes.available.iter().map(|note| note.row.note.amount))?,
            queued: notes.queued,
            reserved: notes.reserved,
            ..Balance::default()
        };
        for stream in self.payer_streams(false).await? {
            if stream.state == StreamState::Missing {
                continue;
            }
            balance.accrued = balance.accrued.checked_add(stream.accrued)?;
            balance.at_risk = balance.at_risk.checked_add(stream.at_risk)?;
            balance.refundable = balance.refundable.checked_add(stream.refundable)?;
        }
        balance.in_streams = Amount::checked_sum([balance.accrued, balance.at_risk, balance.refundable])?;
        for stream in self.payee_streams(false).await? {
            if stream.state == StreamState::Missing {
                continue;
            }
            balance.claimable = balance.claimable.checked_add(stream.claimable)?;
            balance.to_come = balance.to_come.checked_add(stream.to_come)?;
        }
        Ok(balance)
    }

    pub(crate) async fn notes(&self) -> Result<Notes, WalletError> {
        let ledger = self.ledger();
        let reserved = self.reserved().await?;
        let inserted = ledger.inserted();
        let mut notes = Notes::default();
        for row in self.inner.store.unsettled_notes(self.inner.keys.owner()).await? {
            if let Some(spent) = ledger.spent(row.nullifier).await? {
                if ledger.depth(spent.block) > ledger.config().reorganisation_depth {
                    self.inner.store.settle_note(row.commitment).await?;
                }
                continue;
            }
            let Some(leaf) = ledger.leaf(row.commitment).await? else { continue };
            let amount = row.note.amount;
            if reserved.contains_key(&row.commitment) {
                notes.reserved = notes.reserved.checked_add(amount)?;
            } else if u64::from(leaf.position) < inserted {
                notes.available.push(SpendableNote { row, position: leaf.position });
            } else {
                notes.queued = notes.queued.checked_add(amount)?;
            }
        }
        notes.available.sort_by_key(|note| (std::cmp::Reverse(note.row.note.amount), note.position));
        Ok(notes)
    }
}
