//! `tributary init`.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::json;
use tributary_wallet::{Password, PasswordCost, Vault, WalletFolder};

use crate::{
    args::{Cli, Init},
    config::{Config, FILE_NAME, SAMPLE},
    context::{Context, FRESH, write_new},
    error::CliError,
    output::Format,
};

/// Writes the configuration and a new wallet's seed.
pub(crate) fn run(cli: &Cli, args: &Init) -> Result<(), CliError> {
    let home = &cli.home;
    let file = home.join(FILE_NAME);
    let folder = WalletFolder::new(home.clone());
    for existing in [&file, &folder.seed()] {
        if existing.exists() {
            return Err(CliError::Exists { file: existing.clone() });
        }
    }
    make_private_folder(home)?;
    if args.node {
        write_new(&file, &configuration(args)?, 0o600)?;
        let format = if cli.json { Format::Json } else { Format::Text };
        format.emit(&format!("wrote {}", file.display()), &json!({ "config": file, "seed": null }));
        return Ok(());
    }
    let context = Context::with_config(cli, Config::default())?;
    let mnemonic = match &args.restore_from {
        Some(phrase) => {
            let text = fs::read_to_string(phrase).map_err(|error| CliError::Read { file: phrase.clone(), error })?;
            tributary_protocol::Mnemonic::parse(text.trim())
                .map_err(|error| CliError::Input { reason: error.to_string() })?
        }
        None => tributary_protocol::Mnemonic::generate(&mut rand::rngs::OsRng),
    };
    let phrase = mnemonic.expose().to_string();
    if args.restore_from.is_none() {
        match &args.phrase_file {
            Some(path) => write_new(path, &format!("{phrase}\n"), 0o600)?,
            None if cli.json => {
                return Err(CliError::Input {
                    reason: "with --json the recovery phrase goes to a file: add --phrase-file".into(),
                });
            }
            None => println!("Recovery phrase (write it down; whoever has it has the money):\n\n  {phrase}\n"),
        }
    }
    let password = Password::new(context.password()?);
    Vault::create(&folder.seed(), mnemonic, "", &password, PasswordCost::default())?;
    if args.restore_from.is_none() {
        write_new(&home.join(FRESH), "", 0o600)?;
    }
    write_new(&file, &configuration(args)?, 0o600)?;
    let text = format!("wrote {} and {}", file.display(), folder.seed().display());
    context.format.emit(&text, &json!({ "config": file, "seed": folder.seed() }));
    Ok(())
}

/// The sample with the given values put in.
fn configuration(args: &Init) -> Result<String, CliError> {
    let mut out = SAMPLE.to_owned();
    let mut set = |section: &str, key: &str, value: String| {
        let commented = out
            .lines()
            .scan(String::new(), |current, line| {
                if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    name.clone_into(current);
                }
                Some((current.clone(), line.to_owned()))
            })
            .map(|(current, line)| {
                let is_it = current == section
                    && line.strip_prefix('#').is_some_and(|rest| rest.starts_with(&format!("{key} =")));
                if is_it { format!("{key} = {value}") } else { line }
            });
        let mut text = String::new();
        for line in commented {
            let _ = writeln!(text, "{line}");
        }
        out = text;
    };
    let quoted = |text: &str| format!("{text:?}");
    let list = |items: &[String]| format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "));
    let path = |path: &Path| -> Result<String, CliError> {
        let full = std::path::absolute(path).map_err(|error| CliError::Read { file: path.to_owned(), error })?;
        Ok(quoted(&full.display().to_string()))
    };
    if let Some(dir) = &args.artifacts {
        set("", "artifacts", path(dir)?);
    }
    if let Some(rpc) = &args.rpc {
        set("chain", "rpc", quoted(rpc));
    }
    if let Some(manifest) = &args.manifest {
        set("chain", "manifest", path(manifest)?);
    }
    if let Some(keystore) = &args.keystore {
        set("chain", "keystore", path(keystore)?);
    }
    if let Some(file) = &args.keystore_password_file {
        set("chain", "password_file", path(file)?);
    }
    if !args.bootstrap.is_empty() {
        set("waku", "bootstrap", list(&args.bootstrap));
    }
    if !args.listen.is_empty() {
        set("waku", "listen", list(&args.listen));
    }
    if args.archive {
        set("waku", "archive", "true".into());
    }
    Ok(out)
}

fn make_private_folder(home: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .map_err(|error| CliError::Write { file: home.to_owned(), error })
}
