//! Compiles the wire messages in `proto/` with protox, so that no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files: Vec<_> = ["envelope", "offer", "quote", "ticket", "lease", "rating", "relayer", "sealed"]
        .iter()
        .map(|name| root.join(format!("tributary/v1/{name}.proto")))
        .collect();
    let descriptors = protox::compile(&files, [root])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
