//! The buyer's caps on spending, and what was spent today.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tributary_protocol::UnixTime;

use crate::error::InferenceError;

const DAY: u64 = 86_400;

/// What a buyer spends at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendingCaps {
    /// Tickets on one prompt, with all slices of its answer.
    pub tickets_per_prompt: u64,
    /// Tickets from midnight to midnight, UTC.
    pub tickets_per_day: u64,
    /// Tokens of one answer.
    pub tokens_per_prompt: u32,
}

impl Default for SpendingCaps {
    fn default() -> Self {
        Self { tickets_per_prompt: 32, tickets_per_day: 1000, tokens_per_prompt: 8192 }
    }
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    /// Days since 1970.
    day: u64,
    tickets: u64,
}

/// What was spent today, on disk. Written before a ticket is sent: a kill may count one too many, never one too few.
#[derive(Debug)]
pub struct SpendingBook {
    path: PathBuf,
    day: Mutex<Day>,
}

impl SpendingBook {
    /// Opens the book, or begins one.
    ///
    /// # Errors
    /// [`InferenceError::Book`], also when the file is damaged: what was spent isn't guessed.
    pub fn open(path: &Path) -> Result<Self, InferenceError> {
        let failed = |reason: String| InferenceError::Book { path: path.to_owned(), reason };
        let day = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Day::default(),
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok(Self { path: path.to_owned(), day: Mutex::new(day) })
    }

    /// Tickets spent on the day of `now`.
    #[must_use]
    pub fn spent(&self, now: UnixTime) -> u64 {
        let day = *self.day.lock();
        if day.day >= now.get() / DAY { day.tickets } else { 0 }
    }

    /// Counts tickets before they are sent.
    ///
    /// # Errors
    /// [`InferenceError::DayCap`]; [`InferenceError::Book`] when it can't be written. Nothing is counted then.
    pub fn spend(&self, tickets: u64, cap: u64, now: UnixTime) -> Result<(), InferenceError> {
        let mut day = self.day.lock();
        // A clock that is set back begins no new day.
        let today = day.day.max(now.get() / DAY);
        let spent = if day.day == today { day.tickets } else { 0 };
        let after = spent.saturating_add(tickets);
        if after > cap {
            return Err(InferenceError::DayCap { spent, asked: tickets, cap });
        }
        let next = Day { day: today, tickets: after };
        self.write(next)?;
        *day = next;
        Ok(())
    }

    /// Takes back what was counted for a ticket that the provider refused unspent.
    ///
    /// # Errors
    /// [`InferenceError::Book`].
    pub fn give_back(&self, tickets: u64) -> Result<(), InferenceError> {
        let mut day = self.day.lock();
        let next = Day { tickets: day.tickets.saturating_sub(tickets), ..*day };
        self.write(next)?;
        *day = next;
        Ok(())
    }

    fn write(&self, day: Day) -> Result<(), InferenceError> {
        let failed =
            |error: std::io::Error| InferenceError::Book { path: self.path.clone(), reason: error.to_string() };
        let temporary = self.path.with_extension("new");
        let bytes = serde_json::to_vec(&day).map_err(|error| failed(error.into()))?;
        let mut file = fs::File::create(&temporary).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, &self.path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::new(seconds).unwrap()
    }

    #[test]
    fn a_day_has_its_cap_and_keeps_it_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spending.json");
        let book = SpendingBook::open(&path).unwrap();
        book.spend(3, 5, at(DAY)).unwrap();
        let refused = book.spend(3, 5, at(DAY + 1)).unwrap_err();
        assert!(matches!(refused, InferenceError::DayCap { spent: 3, asked: 3, cap: 5 }), "{refused}");
        drop(book);
        let book = SpendingBook::open(&path).unwrap();
        assert_eq!(book.spent(at(DAY + 2)), 3);
        assert_eq!(book.spend(3, 5, at(DAY + 2)).unwrap_err().code(), "TRB-N006");
        book.give_back(1).unwrap();
        book.spend(3, 5, at(DAY + 2)).unwrap();
        // The clock goes back: the day stays. It goes on: a new one begins.
        assert_eq!(book.spend(1, 5, at(1)).unwrap_err().code(), "TRB-N006");
        book.spend(5, 5, at(2 * DAY)).unwrap();
        fs::write(&path, b"{").unwrap();
        assert_eq!(SpendingBook::open(&path).unwrap_err().code(), "TRB-N010");
    }
}
