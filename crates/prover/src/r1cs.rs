//! circom's r1cs files: the constraint system as three sparse matrices.

use std::path::Path;

use ark_bn254::Fr;
use ark_ff::{PrimeField, Zero};

use crate::{
    ArtifactError,
    binfile::{BinFile, Cursor},
    raw,
};

/// A sparse matrix by rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// Row `i` holds the entries `row_start[i]..row_start[i + 1]`.
    pub(crate) row_start: Vec<u32>,
    pub(crate) column: Vec<u32>,
    pub(crate) value: Vec<Fr>,
}

impl Matrix {
    pub(crate) fn row(&self, i: usize) -> impl Iterator<Item = (usize, &Fr)> {
        let range = self.row_start[i] as usize..self.row_start[i + 1] as usize;
        self.column[range.clone()].iter().map(|c| *c as usize).zip(&self.value[range])
    }

    pub(crate) fn dot(&self, i: usize, witness: &[Fr]) -> Fr {
        let mut sum = Fr::zero();
        for (column, value) in self.row(i) {
            sum += witness[column] * value;
        }
        sum
    }
}

/// A constraint system `A w * B w = C w`; wire 0 is the constant 1, then come the public wires.
#[derive(Debug)]
pub(crate) struct R1cs {
    pub(crate) wires: usize,
    pub(crate) publics: usize,
    pub(crate) constraints: usize,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
}

impl R1cs {
    pub(crate) fn parse(path: &Path, data: &[u8]) -> Result<Self, ArtifactError> {
        let file = BinFile::parse(path, data, b"r1cs")?;
        let mut header = file.section(1)?;
        let size = header.u32()?;
        if size != 32 || raw::limbs(header.take(32)?) != Fr::MODULUS {
            return Err(file.bad("its field is not the scalar field of BN254"));
        }
        let wires = header.u32()? as usize;
        let publics = header.u32()? as usize + header.u32()? as usize;
        let _private = header.u32()?;
        let _labels = header.u64()?;
        let constraints = header.u32()? as usize;
        if publics >= wires {
            return Err(file.bad(format!("{publics} public wires among {wires}")));
        }
        let mut out =
            Self { wires, publics, constraints, a: Matrix::default(), b: Matrix::default(), c: Matrix::default() };
        let mut body = file.section(2)?;
        for m in [&mut out.a, &mut out.b, &mut out.c] {
            m.row_start.push(0);
        }
        for _ in 0..constraints {
            for m in [&mut out.a, &mut out.b, &mut out.c] {
                read_row(m, &mut body, wires).and_then(|ok| {
                    ok.then_some(()).ok_or_else(|| file.bad("a constraint names a wire or a coefficient out of range"))
                })?;
            }
        }
        if !body.rest().is_empty() {
            return Err(file.bad("bytes are left after the last constraint"));
        }
        Ok(out)
    }

    /// The first constraint that `witness` doesn't satisfy.
    pub(crate) fn first_unsatisfied(&self, witness: &[Fr]) -> Option<usize> {
        (0..self.constraints).find(|&i| self.a.dot(i, witness) * self.b.dot(i, witness) != self.c.dot(i, witness))
    }
}

fn read_row(m: &mut Matrix, body: &mut Cursor<'_>, wires: usize) -> Result<bool, ArtifactError> {
    let n = body.u32()?;
    for _ in 0..n {
        let column = body.u32()?;
        let value = raw::read_fr_plain(body.take(32)?);
        let (true, Some(value)) = ((column as usize) < wires, value) else {
            return Ok(false);
        };
        m.column.push(column);
        m.value.push(value);
    }
    let Ok(end) = u32::try_from(m.column.len()) else {
        return Ok(false);
    };
    m.row_start.push(end);
    Ok(true)
}
