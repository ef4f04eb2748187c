use std::fmt;

use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::field::{FieldElement, Fr};

/// Named inputs of a witness program, in the order of the encodings page, arrays flattened row by row.
///
/// They hold secrets: `Debug` shows names and shapes only, and drop wipes the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CircuitInputs {
    signals: Vec<Signal>,
}

#[derive(Clone, PartialEq, Eq)]
struct Signal {
    name: &'static str,
    /// Extents of the array, outermost first; empty for a scalar.
    shape: Vec<usize>,
    values: Vec<Fr>,
}

impl CircuitInputs {
    pub(super) fn scalar(&mut self, name: &'static str, value: impl Into<Fr>) {
        self.signals.push(Signal { name, shape: Vec::new(), values: vec![value.into()] });
    }

    pub(super) fn array(&mut self, name: &'static str, shape: &[usize], values: Vec<Fr>) {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len(), "shape of {name}");
        self.signals.push(Signal { name, shape: shape.to_vec(), values });
    }

    /// Every input in order: its name and its values, row-major.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[Fr])> {
        self.signals.iter().map(|signal| (signal.name, signal.values.as_slice()))
    }

    /// The values of one input.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[Fr]> {
        self.iter().find(|(own, _)| *own == name).map(|(_, values)| values)
    }

    /// The values of one input, for tests that spoil them.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut [Fr]> {
        self.signals.iter_mut().find(|signal| signal.name == name).map(|signal| signal.values.as_mut_slice())
    }

    /// The form that snarkjs and other witness calculators read: an object of decimal strings, arrays nested. Secret.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let object: Map<String, Value> =
            self.signals.iter().map(|signal| (signal.name.to_owned(), nest(&signal.shape, &signal.values))).collect();
        Value::Object(object)
    }
}

fn nest(shape: &[usize], values: &[Fr]) -> Value {
    match shape {
        [] => Value::String(values[0].to_decimal()),
        [extent, inner @ ..] => {
            values.chunks(values.len() / extent).map(|part| nest(inner, part)).collect::<Vec<Value>>().into()
        }
    }
}

impl Drop for CircuitInputs {
    fn drop(&mut self) {
        for signal in &mut self.signals {
            signal.values.zeroize();
        }
    }
}

impl fmt::Debug for CircuitInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.signals.iter().map(|signal| (signal.name, &signal.shape))).finish()
    }
}
