//! Rust bindings of the contracts, generated from their build artefacts
