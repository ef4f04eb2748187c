//! A provider of each service is killed while it serves, on real daemons: who paid it is told, pays no further slot, and is served by another.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn who_paid_a_provider_that_is_killed_is_told_pays_no_further_slot_and_is_served_by_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let binary = std::env::var_os("DEMO_BINARY").map_or_else(|| root.join("target/debug/tributary"), PathBuf::from);
    assert!(binary.exists(), "{} is missing: run script/setup", binary.display());
    let output =
        Command::new(root.join("tests/kill/run")).env("DEMO_BINARY", binary).output().expect("tests/kill/run starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaint}");
    for family in ["store", "lightpush", "filter", "stun", "turn", "inference", "http"] {
        let left =
            text.lines().any(|line| line.contains(&format!("{family}: ")) && line.contains("its stream is stopped"));
        assert!(left, "{family} is missing in\n{text}");
    }
}
