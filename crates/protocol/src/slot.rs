//! The pool's clock: slots, the stop and deadline rules, finality of stopped lists (protocol section 6).

use serde::{Deserialize, Serialize};

use crate::{
    error::SlotError,
    time::{Seconds, UnixTime},
};

/// A pool's time parameters. `notice >= 2 * slot_length + margin` and `slot_length >= 1` always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "UncheckedClock")]
pub struct PoolClock {
    slot_length: Seconds,
    notice: Seconds,
    margin: Seconds,
}

#[derive(Deserialize)]
struct UncheckedClock {
    slot_length: Seconds,
    notice: Seconds,
    margin: Seconds,
}

impl TryFrom<UncheckedClock> for PoolClock {
    type Error = SlotError;
    fn try_from(clock: UncheckedClock) -> Result<Self, SlotError> {
        Self::new(clock.slot_length, clock.notice, clock.margin)
    }
}

/// A slot of a pool's clock: `[start, start + L)`, start a multiple of L. Made by a [`PoolClock`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Slot {
    start: UnixTime,
    end: UnixTime,
}

impl Slot {
    /// First second of the slot.
    #[must_use]
    pub const fn start(&self) -> UnixTime {
        self.start
    }

    /// First second after the slot.
    #[must_use]
    pub const fn end(&self) -> UnixTime {
        self.end
    }
}

/// When to stop a stream and until when the close must be mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    /// The stop, a multiple of L.
    pub stop: UnixTime,
    /// `stop - NOTICE`: the last second at which the contract takes it.
    pub deadline: UnixTime,
}

impl PoolClock {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`SlotError::BadClock`].
    pub const fn new(slot_length: Seconds, notice: Seconds, margin: Seconds) -> Result<Self, SlotError> {
        let (l, n, m) = (slot_length.get(), notice.get(), margin.get());
        if l == 0 || n < 2 * l + m {
            return Err(SlotError::BadClock { slot_length: l, notice: n, margin: m });
        }
        Ok(Self { slot_length, notice, margin })
    }

    /// L.
    #[must_use]
    pub const fn slot_length(&self) -> Seconds {
        self.slot_length
    }

    /// NOTICE: how far ahead a stop must lie.
    #[must_use]
    pub const fn notice(&self) -> Seconds {
        self.notice
    }

    /// How long after the boundary block a stopped list becomes final.
    #[must_use]
    pub const fn margin(&self) -> Seconds {
        self.margin
    }

    /// The slot that `time` lies in.
    ///
    /// # Errors
    /// [`SlotError::Range`] at the very end of the 40-bit range.
    pub fn slot_of(&self, time: UnixTime) -> Result<Slot, SlotError> {
        self.slot_from(self.floor(time))
    }

    /// The slot that starts at `start`.
    ///
    /// # Errors
    /// [`SlotError::NotOnBoundary`].
    pub fn slot_at(&self, start: UnixTime) -> Result<Slot, SlotError> {
        self.check_boundary(start)?;
        self.slot_from(start)
    }

    /// The slot `start..end` of a ticket.
    ///
    /// # Errors
    /// [`SlotError::NotOnBoundary`] or [`SlotError::NotOneSlot`].
    pub fn slot_of_ticket(&self, start: UnixTime, end: UnixTime) -> Result<Slot, SlotError> {
        let slot = self.slot_at(start)?;
        if slot.end != end {
            let slot_length = self.slot_length.get();
            return Err(SlotError::NotOneSlot { start: start.get(), end: end.get(), slot_length });
        }
        Ok(slot)
    }

    /// The slot after this one.
    ///
    /// # Errors
    /// [`SlotError::Range`].
    pub fn next(&self, slot: Slot) -> Result<Slot, SlotError> {
        self.slot_from(slot.end)
    }

    /// Refuses a time that is no multiple of L.
    ///
    /// # Errors
    /// [`SlotError::NotOnBoundary`].
    pub const fn check_boundary(&self, time: UnixTime) -> Result<(), SlotError> {
        if !time.get().is_multiple_of(self.slot_length.get()) {
            return Err(SlotError::NotOnBoundary { time: time.get(), slot_length: self.slot_length.get() });
        }
        Ok(())
    }

    /// The last multiple of L at or before `time`.
    #[must_use]
    pub fn floor(&self, time: UnixTime) -> UnixTime {
        UnixTime::new(time.get() - time.get() % self.slot_length.get()).expect("not later than a time")
    }

    /// The first multiple of L at or after `time`.
    ///
    /// # Errors
    /// [`SlotError::Range`].
    pub fn ceil(&self, time: UnixTime) -> Result<UnixTime, SlotError> {
        let floor = self.floor(time);
        Ok(if floor == time { time } else { floor.checked_add(self.slot_length)? })
    }

    /// A close made at `now`: the first multiple of L at or after `now + NOTICE + L`, and the deadline `stop - NOTICE`.
    ///
    /// # Errors
    /// [`SlotError::Range`].
    pub fn stop_times(&self, now: UnixTime) -> Result<StopTimes, SlotError> {
        let stop = self.ceil(now.checked_add(self.notice)?.checked_add(self.slot_length)?)?;
        Ok(StopTimes { stop, deadline: stop.checked_sub(self.notice)? })
    }

    /// The latest deadline of an open: `max(start, sending time) + 2L`.
    ///
    /// # Errors
    /// [`SlotError::Range`].
    pub fn latest_open_deadline(&self, start: UnixTime, now: UnixTime) -> Result<UnixTime, SlotError> {
        Ok(start.max(now).checked_add(self.slot_length)?.checked_add(self.slot_length)?)
    }

    /// Checks the terms of an open: start and end multiples of L, the deadline not too late.
    ///
    /// # Errors
    /// [`SlotError::NotOnBoundary`] or [`SlotError::DeadlineTooLate`].
    pub fn check_open(
        &self,
        start: UnixTime,
        end: UnixTime,
        deadline: UnixTime,
        now: UnixTime,
    ) -> Result<(), SlotError> {
        self.check_boundary(start)?;
        self.check_boundary(end)?;
        let latest = self.latest_open_deadline(start, now)?;
        if deadline > latest {
            return Err(SlotError::DeadlineTooLate { deadline: deadline.get(), latest: latest.get() });
        }
        Ok(())
    }

    /// The timestamp at which a slot's boundary block B begins to be possible: `slot_end - NOTICE`. B is the first
    /// block at or after it.
    #[must_use]
    pub fn boundary(&self, slot: Slot) -> UnixTime {
        slot.end.saturating_sub(self.notice)
    }

    /// Whether the slot's stopped list is final, given the timestamp of its boundary block B (if there is one yet)
    /// and the head's.
    #[must_use]
    pub fn is_list_final(&self, boundary_block: Option<UnixTime>, head: UnixTime) -> bool {
        boundary_block.is_some_and(|b| head >= b.saturating_add(self.margin))
    }

    /// The latest slot whose list is final, given the timestamp of the newest block that is at least the margin older
    /// than the head.
    ///
    /// Every block timestamp at or before `settled` makes the slots with `slot_end <= settled + NOTICE` final, so
    /// this is the slot that ends at the last multiple of L there.
    ///
    /// # Errors
    /// [`SlotError::Range`] before the first slot has ended or at the end of the range.
    pub fn latest_final_slot(&self, settled: UnixTime) -> Result<Slot, SlotError> {
        let end = self.floor(settled.checked_add(self.notice)?);
        self.slot_at(end.checked_sub(self.slot_length)?)
    }

    /// Blocks with a timestamp below this count for a ticket's root in `slot`: `slot_start - L` (wallet rule).
    #[must_use]
    pub fn root_cutoff(&self, slot: Slot) -> UnixTime {
        slot.start.saturating_sub(self.slot_length)
    }

    /// The slot to rate with (wallet rule): the first slot of the latest UTC day that the stream covers, else of the
    /// latest hour, else of the latest ten minutes, else its last full slot. A slot counts only when it is over at
    /// `until`, the earliest of now, the stream's end and its stop.
    ///
    /// # Errors
    /// [`SlotError::NoFullSlot`].
    pub fn rating_slot(&self, start: UnixTime, until: UnixTime) -> Result<RatingSlot, SlotError> {
        let last = self.floor(until.checked_sub(self.slot_length).map_err(|_| SlotError::NoFullSlot)?);
        for crowd in [RatingCrowd::Day, RatingCrowd::Hour, RatingCrowd::TenMinutes] {
            let first = self.first_of_latest(crowd.period(), last)?;
            if let Some(first) = first.filter(|first| *first >= start) {
                return Ok(RatingSlot { slot: self.slot_at(first)?, crowd });
            }
        }
        if last < start {
            return Err(SlotError::NoFullSlot);
        }
        Ok(RatingSlot { slot: self.slot_at(last)?, crowd: RatingCrowd::Slot })
    }

    /// The latest slot start at or before `last` that is the first in a period (counted from 1970).
    fn first_of_latest(&self, period: Seconds, last: UnixTime) -> Result<Option<UnixTime>, SlotError> {
        if self.slot_length >= period {
            return Ok(Some(last)); // every slot is the first one after some period began
        }
        let began = last.saturating_sub(Seconds::new(last.get() % period.get())?);
        let first = self.ceil(began)?;
        if first <= last {
            return Ok(Some(first));
        }
        let earlier = began.checked_sub(period).ok(); // its first slot ends before the later period's
        earlier.map(|earlier| self.ceil(earlier)).transpose()
    }

    fn slot_from(&self, start: UnixTime) -> Result<Slot, SlotError> {
        Ok(Slot { start, end: start.checked_add(self.slot_length)? })
    }
}

/// A rating's slot and how many others probably rate with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatingSlot {
    /// The slot.
    pub slot: Slot,
    /// The crowd that it hides in.
    pub crowd: RatingCrowd,
}

/// Among whom a rating hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RatingCrowd {
    /// Streams that cover the last full slot only: wallets warn.
    Slot,
    /// Streams that cover the same ten minutes' first slot.
    TenMinutes,
    /// Streams that cover the same hour's first slot.
    Hour,
    /// Streams that cover the same UTC day's first slot.
    Day,
}

impl RatingCrowd {
    /// Streams that cover the same period's first slot hide each other.
    const fn period(self) -> Seconds {
        match self {
            Self::Slot => Seconds::ZERO,
            Self::TenMinutes => Seconds::TEN_MINUTES,
            Self::Hour => Seconds::HOUR,
            Self::Day => Seconds::DAY,
        }
    }
}
