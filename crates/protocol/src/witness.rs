//! Witnesses of the five circuits.

use crate::field::Fr;

/// Named inputs of a witness program, in the circuit's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitInputs {
    signals: Vec<Signal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signal {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<Fr>,
}
