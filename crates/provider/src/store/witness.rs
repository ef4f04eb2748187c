//! The witness file beside the database: what a restored backup can't take back.
//!
//! A copy of the database that is put back in place knows nothing of the tickets taken after it was made. The witness lives
//! outside the database and moves forward with every commit, so such a copy is recognised by its lower commit counter, and the
//! highest slot that the witness has seen bounds the slots whose nullifiers may be missing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Length of one record: magic, payee, counter, floor, highest slot, checksum.
const RECORD: usize = 8 + 32 + 8 + 8 + 8 + 32;
/// The two records alternate, so that a torn write (power cut) leaves the other one whole.
const FILE: usize = 2 * RECORD;
const MAGIC: &[u8; 8] = b"TRBWIT01";
/// Stands for "no slot yet"; no slot of the pool's clock has this value (times are u40).
const NO_SLOT: u64 = u64::MAX;

/// What the witness knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The payee key that the store belongs to.
    pub(super) payee: [u8; 32],
    /// Commits of the database so far; never lower than a database that was not moved back.
    pub(super) counter: u64,
    /// Slots at or below it are refused for ever.
    pub(super) floor: Option<u64>,
    /// The highest slot for which a nullifier was ever stored.
    pub(super) highest: Option<u64>,
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut out = [0u8; RECORD];
        out[..8].copy_from_slice(MAGIC);
        out[8..40].copy_from_slice(&self.payee);
        out[40..48].copy_from_slice(&self.counter.to_be_bytes());
        out[48..56].copy_from_slice(&self.floor.unwrap_or(NO_SLOT).to_be_bytes());
        out[56..64].copy_from_slice(&self.highest.unwrap_or(NO_SLOT).to_be_bytes());
        let sum = Sha256::digest(&out[..64]);
        out[64..].copy_from_slice(&sum);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
        if &bytes[..8] != MAGIC || Sha256::digest(&bytes[..64])[..] != bytes[64..] {
            return None;
        }
        let word = |at: usize| {
            let mut w = [0u8; 8];
            w.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(w)
        };
        let slot = |v: u64| (v != NO_SLOT).then_some(v);
        let mut payee = [0u8; 32];
        payee.copy_from_slice(&bytes[8..40]);
        Some(Self { payee, counter: word(40), floor: slot(word(48)), highest: slot(word(56)) })
    }
}

/// An open witness file.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

impl Witness {
    /// The witness file that belongs to a database file.
    pub(super) fn path_for(database: &Path) -> PathBuf {
        let mut name = database.as_os_str().to_owned();
        name.push(".witness");
        PathBuf::from(name)
    }

    /// Opens or creates the file; the record is `None` when it is missing or neither copy is whole.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Record>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0u8; FILE];
        let mut read = 0;
        while read < FILE {
            match file.read_at(&mut bytes[read..], read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        let record =
            [&bytes[..RECORD], &bytes[RECORD..]].into_iter().filter_map(Record::decode).max_by_key(|r| r.counter);
        Ok((Self { file }, record))
    }

    /// Writes the record where the older of the two lies. Survives a killed process at once, a power cut only after [`Self::sync`].
    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let at = (record.counter % 2) * RECORD as u64;
        self.file.write_all_at(&record.encode(), at)
    }

    /// Makes what was written survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counter: u64) -> Record {
        Record { payee: [7; 32], counter, floor: Some(600), highest: Some(counter * 60) }
    }

    #[test]
    fn keeps_the_newest_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let (w, none) = Witness::open(&path).unwrap();
        assert_eq!(none, None);
        for counter in 1..=5 {
            w.write(&record(counter)).unwrap();
        }
        let (_, got) = Witness::open(&path).unwrap();
        assert_eq!(got, Some(record(5)));
    }

    #[test]
    fn a_torn_write_leaves_the_record_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let (w, _) = Witness::open(&path).unwrap();
        w.write(&record(4)).unwrap();
        w.write(&record(5)).unwrap();
        w.file.write_all_at(b"torn", RECORD as u64 + 50).unwrap();
        let (_, got) = Witness::open(&path).unwrap();
        assert_eq!(got, Some(record(4)));
    }

    #[test]
    fn absent_slots_stay_absent() {
        let r = Record { payee: [1; 32], counter: 0, floor: None, highest: None };
        assert_eq!(Record::decode(&r.encode()), Some(r));
    }
}
