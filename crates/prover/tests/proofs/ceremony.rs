//! Keys from a ceremony enter; keys that only look like one don't.

use std::{fs, path::PathBuf};

use tributary_prover::{Artifacts, Circuit, Error, KeyManifest, ceremony, setup::development_keys};

use super::{
    artefacts::{Copy, edit, hash, section},
    artefacts_dir,
};

/// The development setup's name in its own contribution.
const OWN: &[u8] = b"INSECURE development key from a public seed, never for money";

/// The ticket circuit's artefacts, and a zkey that is changed before it is entered.
struct Ceremony {
    copy: Copy,
    zkey: PathBuf,
}

impl Ceremony {
    fn new(change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let copy = Copy::new();
        let from = Artifacts::new(artefacts_dir());
        fs::copy(from.r1cs(Circuit::Ticket), copy.artifacts.r1cs(Circuit::Ticket)).expect("copied");
        let zkey = copy.artifacts.dir().join("ceremony.zkey");
        fs::copy(from.zkey(Circuit::Ticket), &zkey).expect("copied");
        edit(&zkey, change);
        Self { copy, zkey }
    }

    /// Code and words of the refusal; nothing may have changed.
    fn refused(&self) -> (&'static str, String) {
        let artifacts = &self.copy.artifacts;
        let before = (hash(&artifacts.zkey(Circuit::Ticket)), hash(&artifacts.manifest()));
        let error = Error::from(ceremony::enter(artifacts, Circuit::Ticket, &self.zkey).expect_err("refused"));
        assert_eq!((hash(&artifacts.zkey(Circuit::Ticket)), hash(&artifacts.manifest())), before);
        (error.code(), error.to_string())
    }
}

/// As if somebody else had made it: the key itself is still the development key, which nobody can see.
fn renamed(bytes: &mut [u8]) {
    let at = bytes.windows(OWN.len()).position(|window| window == OWN).expect("the name");
    let name = format!("{:<width$}", "somebody", width = OWN.len());
    bytes[at..at + OWN.len()].copy_from_slice(name.as_bytes());
}

#[test]
fn a_ceremonys_key_takes_the_place_of_the_development_key() {
    let made = Ceremony::new(|bytes| renamed(bytes));
    let artifacts = &made.copy.artifacts;
    let transcript = ceremony::enter(artifacts, Circuit::Ticket, &made.zkey).expect("entered");
    assert_eq!(transcript.names.iter().map(|name| name.trim()).collect::<Vec<_>>(), ["somebody"]);
    let record = &KeyManifest::load(&artifacts.manifest()).expect("a manifest").circuits["ticket"];
    assert!(!record.development);
    assert_eq!(record.zkey_sha256, hash(&made.zkey));
    made.copy.prove().expect("it proves");
    // Setting up again keeps it.
    development_keys(artifacts, &[Circuit::Ticket], |_, _| ()).expect("unchanged");
    assert_eq!(hash(&artifacts.zkey(Circuit::Ticket)), hash(&made.zkey));
}

#[test]
fn the_development_key_does_not_pass_for_one() {
    let (code, text) = Ceremony::new(|_| ()).refused();
    assert_eq!(code, "TRB-P033");
    assert!(text.contains("development setup"), "{text}");
}

#[test]
fn a_key_without_contribution_is_refused() {
    let (code, text) = Ceremony::new(|bytes| {
        let at = section(bytes, 10) + 64;
        bytes[at..at + 4].fill(0);
    })
    .refused();
    assert_eq!(code, "TRB-P033");
    assert!(text.contains("nobody contributed"), "{text}");
}

#[test]
fn a_transcript_that_is_cut_off_is_refused() {
    let (code, text) = Ceremony::new(|bytes| {
        renamed(bytes);
        let at = section(bytes, 10) + 64;
        bytes[at..at + 4].copy_from_slice(&2_u32.to_le_bytes());
    })
    .refused();
    assert_eq!(code, "TRB-P032", "{text}");
}

#[test]
fn a_key_for_another_constraint_system_is_refused() {
    let from = Artifacts::new(artefacts_dir());
    let close = Ceremony::new(|bytes| *bytes = fs::read(from.zkey(Circuit::Close)).expect("a key"));
    let (code, text) = close.refused();
    assert_eq!(code, "TRB-P014", "{text}");

    // One coefficient of one constraint: its wire is another.
    let changed = Ceremony::new(|bytes| {
        renamed(bytes);
        let at = section(bytes, 4) + 4 + 8;
        bytes[at] ^= 1;
    });
    let (code, text) = changed.refused();
    assert_eq!(code, "TRB-P033");
    assert!(text.contains("row 0"), "{text}");
}
