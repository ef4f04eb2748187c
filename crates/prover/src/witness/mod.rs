//! Witnesses, from circom's compiled programs but without running WebAssembly: each program becomes a list of field operations once,
//! which is stored beside it and runs natively from then on.

mod field;
mod graph;
#[cfg(test)]
mod tests;
mod trace;
mod wasm;

use std::path::Path;

use ark_bn254::Fr;
use sha2::{Digest, Sha256};

use tributary_protocol::Circuit;

use crate::{ArtifactError, WitnessError, binfile, manifest::write_atomically};
use graph::Graph;

/// A circuit's witness program.
#[derive(Debug)]
pub(crate) struct Program {
    circuit: Circuit,
    graph: Graph,
}

impl Program {
    /// Reads the program at `wasm`, from its stored graph at `stored` when there is one of this very program.
    pub(crate) fn load(circuit: Circuit, wasm: &Path, stored: &Path) -> Result<Self, ArtifactError> {
        let bytes = binfile::read(wasm)?;
        let hash: [u8; 32] = Sha256::digest(&bytes).into();
        let known = std::fs::read(stored).ok();
        if let Some(graph) = known.and_then(|known| Graph::from_bytes(&known, &hash)) {
            return Ok(Self { circuit, graph });
        }
        let graph = compile(&bytes).map_err(|reason| ArtifactError::Format { path: wasm.to_owned(), reason })?;
        // A store that fails (a folder that can't be written) only costs the next start its time.
        if let Err(e) = write_atomically(stored, &graph.to_bytes(&hash)) {
            tracing::warn!(%circuit, error = %e, "the witness program's prepared form was not stored");
        }
        Ok(Self { circuit, graph })
    }

    /// How many values a witness has.
    pub(crate) fn witness_len(&self) -> usize {
        self.graph.witness.len()
    }

    /// The witness for some inputs: wire 0, which is 1, then the public wires, then the private ones.
    pub(crate) fn run<'a>(
        &self,
        inputs: impl IntoIterator<Item = (&'a str, &'a [Fr])>,
    ) -> Result<Vec<Fr>, WitnessError> {
        let circuit = self.circuit;
        let expected = self.graph.input_count as usize;
        let mut elements = vec![Fr::from(0u64); expected];
        let mut seen = vec![false; expected];
        for (name, values) in inputs {
            let Some(input) = self.graph.inputs.get(&name_hash(name)) else {
                return Err(WitnessError::UnknownInput { circuit, name: name.to_owned() });
            };
            let (first, len) = (input.first as usize, input.len as usize);
            if len != values.len() {
                return Err(WitnessError::InputLength {
                    circuit,
                    name: name.to_owned(),
                    got: values.len(),
                    expected: len,
                });
            }
            elements[first..first + len].copy_from_slice(values);
            seen[first..first + len].fill(true);
        }
        let got = seen.iter().filter(|s| **s).count();
        if got != expected {
            return Err(WitnessError::MissingInputs { circuit, got, expected });
        }
        let out = self.graph.run(&elements).map_err(|refused| WitnessError::Unsatisfied {
            circuit,
            message: format!("template {}, line {}", refused.0.template, refused.0.line),
        });
        zeroize::Zeroize::zeroize(&mut elements);
        out
    }
}

fn compile(wasm: &[u8]) -> Result<Graph, String> {
    trace::trace(&wasm::Module::parse(wasm)?)
}

/// 64-bit FNV-1a, by which circom's programs know their inputs.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
