//! Find, pay and send with the real program: `script/send-bench`, once. How fast it must be is measured by that script on a quiet machine.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

#[test]
fn a_cold_buyer_with_one_record_finds_pays_and_sends() {
    let binary = std::env::var_os("DEMO_BINARY").map_or_else(|| root().join("target/debug/tributary"), PathBuf::from);
    assert!(binary.exists(), "{} is missing: run script/setup", binary.display());
    let output = Command::new(root().join("script/send-bench"))
        .args(["1", "120"])
        .env("DEMO_BINARY", binary)
        .output()
        .expect("script/send-bench starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaint}");
    assert!(text.contains("1 of 1 tries within 120 s"), "{text}");
}
