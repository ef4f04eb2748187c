//! The real program as its users run it, by the scripts that they run. These tests wait more than they compute: they run side by side.

mod demo;
mod killed;
mod send;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Runs one of the repository's scripts on what is built already. Returns what it printed; fails if it did.
fn run(script: &str, arguments: &[&str]) -> String {
    let binary = std::env::var_os("DEMO_BINARY").map_or_else(|| root().join("target/debug/tributary"), PathBuf::from);
    assert!(binary.exists(), "{} is missing: run script/setup", binary.display());
    let Output { status, stdout, stderr } = Command::new(root().join(script))
        .args(arguments)
        .env("DEMO_BINARY", binary)
        .output()
        .unwrap_or_else(|error| panic!("{script} doesn't start: {error}"));
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{script} failed\n{text}\n{}", String::from_utf8_lossy(&stderr));
    text
}
