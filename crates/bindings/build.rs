//! Builds the contracts' artefacts when they are missing or older than their sources.
#![allow(clippy::expect_used, reason = "a build script's panic is its error message")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::SystemTime,
};

/// Sources whose artefacts the bindings are generated from, below the repository root.
const SOURCES: [&str; 3] = [
    "contracts/src/StreamPool.sol",
    "contracts/src/dev/TestToken.sol",
    "contracts/src/interfaces/IGroth16Verifier.sol",
];

/// What the artefacts depend on.
const INPUTS: [&str; 4] = ["contracts/src", "foundry.toml", "script/solc", "package-lock.json"];

/// The artefacts that `src/lib.rs` names.
const ARTEFACTS: [&str; 4] = [
    "contracts/out/StreamPool.sol/StreamPool.json",
    "contracts/out/TestToken.sol/TestToken.json",
    "contracts/out/IERC20Metadata.sol/IERC20Metadata.json",
    "contracts/out/IGroth16Verifier.sol/IGroth16Verifier.json",
];

fn main() -> ExitCode {
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = crate_dir.join("../..");
    for path in INPUTS.iter().chain(&ARTEFACTS) {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }

    let newest_input = INPUTS.iter().filter_map(|path| newest(&root.join(path))).max();
    let oldest_artefact = ARTEFACTS.iter().map(|path| modified(&root.join(path))).min().flatten();
    // `None` sorts first: a missing artefact is older than everything.
    if oldest_artefact >= newest_input && oldest_artefact.is_some() {
        return ExitCode::SUCCESS;
    }

    let Some(forge) = forge(&root) else {
        eprintln!("contracts can't be compiled: forge is missing; run script/setup");
        return ExitCode::FAILURE;
    };
    let status = Command::new(&forge).arg("build").args(SOURCES).current_dir(&root).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            eprintln!("`forge build` ended with {status}; run it in the repository root to see why");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            eprintln!("`{} build` didn't start: {error}", forge.display());
            return ExitCode::FAILURE;
        }
    }
    // forge leaves artefacts alone that come out the same, so their age would call for forge in every build.
    for path in ARTEFACTS {
        let touched = fs::File::options()
            .append(true)
            .open(root.join(path))
            .and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            eprintln!("forge wrote no artefact {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The forge of this platform's npm package. The wrapper in `.bin` ends with 0 whatever forge says.
fn forge(root: &Path) -> Option<PathBuf> {
    fs::read_dir(root.join("node_modules/@foundry-rs"))
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("forge-"))
        .map(|entry| entry.path().join("bin/forge"))
        .find(|path| path.exists())
}

/// The last change of a file, `None` if there is no such file.
fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The last change of a file or of anything below a directory. Generated verifiers don't count: no binding comes from them.
fn newest(path: &Path) -> Option<SystemTime> {
    if path.is_dir() {
        let entries = fs::read_dir(path).ok()?;
        return entries
            .flatten()
            .filter(|entry| entry.file_name() != "generated")
            .filter_map(|entry| newest(&entry.path()))
            .max();
    }
    modified(path)
}
