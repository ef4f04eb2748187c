//! Writes what each fuzz target begins with: messages that its decoders understand, and every byte string of the test vectors for each decoder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use tributary_fuzz::Group;

/// Longest byte string that is taken from a vector.
const MAX_VECTOR_BYTES: usize = 4096;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = env::args_os().nth(1).map_or_else(|| root.join("corpus"), PathBuf::from);
    let mut vectors = BTreeSet::new();
    for folder in ["../vectors", "../crates/market/tests/market"] {
        let Ok(files) = fs::read_dir(root.join(folder)) else { continue };
        for file in files {
            let path = file?.path();
            // A witness is numbers of a circuit, not bytes of a peer.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".json") && !name.starts_with("witness") {
                collect(&serde_json::from_slice(&fs::read(&path)?)?, &mut vectors);
            }
        }
    }
    for group in Group::ALL {
        let folder = corpus.join(group.target());
        fs::create_dir_all(&folder)?;
        for (name, input) in group.seeds() {
            fs::write(folder.join(name), input)?;
        }
        // All vectors in one decoder's way each; libfuzzer carries what is useful over to the others.
        let decoders = group.decoders().len();
        for (n, bytes) in vectors.iter().enumerate() {
            let number = u8::try_from(n % decoders).unwrap_or(0);
            fs::write(folder.join(format!("vector-{n}")), [&[number], bytes.as_slice()].concat())?;
        }
    }
    Ok(())
}

/// The byte strings in a vector: hexadecimal, longer than a word.
fn collect(value: &serde_json::Value, into: &mut BTreeSet<Vec<u8>>) {
    match value {
        serde_json::Value::String(text) => {
            let text = text.strip_prefix("0x").unwrap_or(text);
            if let Ok(bytes) = alloy_primitives::hex::decode(text)
                && (33..=MAX_VECTOR_BYTES).contains(&bytes.len())
            {
                into.insert(bytes);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, into)),
        serde_json::Value::Object(fields) => fields.values().for_each(|value| collect(value, into)),
        _ => {}
    }
}
