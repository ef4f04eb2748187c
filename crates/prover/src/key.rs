//! Proving keys, from snarkjs' zkey files.
//!
//! A zkey holds points as raw Montgomery limbs, which is the form in memory too: loading is a copy with checks. It is read whole
//! and not mapped, so that nobody can change what was checked.

use std::path::Path;

use ark_bn254::{Fq, Fq2, Fr, G1Affine, G2Affine};
use ark_ec::{
    AffineRepr,
    short_weierstrass::{Affine, SWCurveConfig},
};
use ark_ff::PrimeField;
use rayon::prelude::*;

use crate::{
    ArtifactError, VerifyingKey,
    binfile::BinFile,
    msm::Point,
    r1cs::Matrix,
    raw::{self, G1_LEN, G2_LEN},
};

/// Points of one query that are not the identity, and which wires they belong to.
#[derive(Debug)]
pub(crate) struct Query<F> {
    pub(crate) wires: Vec<u32>,
    pub(crate) points: Vec<Point<F>>,
}

#[derive(Debug)]
pub(crate) struct ProvingKey {
    pub(crate) wires: usize,
    pub(crate) domain: usize,
    /// Rows of A and B, the public wires' own rows included; rows beyond are empty.
    pub(crate) a_matrix: Matrix,
    pub(crate) b_matrix: Matrix,
    pub(crate) alpha_1: G1Affine,
    pub(crate) beta_1: G1Affine,
    pub(crate) delta_1: G1Affine,
    pub(crate) beta_2: G2Affine,
    pub(crate) delta_2: G2Affine,
    pub(crate) a: Query<Fq>,
    pub(crate) b_1: Query<Fq>,
    pub(crate) b_2: Query<Fq2>,
    /// Private wires only, by wire.
    pub(crate) l: Query<Fq>,
    /// By odd point of the domain twice as large.
    pub(crate) h: Query<Fq>,
}

/// The sections before the queries.
struct Header {
    wires: usize,
    publics: usize,
    domain: usize,
    alpha_1: G1Affine,
    beta_1: G1Affine,
    beta_2: G2Affine,
    delta_1: G1Affine,
    delta_2: G2Affine,
    /// The verifying key that the file holds.
    vkey: VerifyingKey,
}

impl Header {
    fn read(file: &BinFile<'_>, path: &Path) -> Result<Self, ArtifactError> {
        if file.section(1)?.u32()? != 1 {
            return Err(file.bad("its protocol is not Groth16"));
        }
        let mut header = file.section(2)?;
        let q = (header.u32()?, header.take(32)?);
        let r = (header.u32()?, header.take(32)?);
        if (q.0, r.0) != (32, 32) || raw::limbs(q.1) != Fq::MODULUS || raw::limbs(r.1) != Fr::MODULUS {
            return Err(file.bad("its curve is not BN254"));
        }
        let wires = header.u32()? as usize;
        let publics = header.u32()? as usize;
        let domain = header.u32()? as usize;
        if publics >= wires || !domain.is_power_of_two() || domain > 1 << 27 {
            return Err(file.bad(format!("{wires} wires, {publics} of them public, in a domain of {domain}")));
        }
        let g1 = |bytes: &[u8]| raw::read_g1(bytes).ok_or_else(|| file.bad("a point of G1 is not on the curve"));
        let g2 = |bytes: &[u8]| raw::read_g2(bytes).ok_or_else(|| file.bad("a point of G2 is not on the curve"));
        let alpha_1 = g1(header.take(G1_LEN)?)?;
        let beta_1 = g1(header.take(G1_LEN)?)?;
        let beta_2 = g2(header.take(G2_LEN)?)?;
        let gamma_2 = g2(header.take(G2_LEN)?)?;
        let delta_1 = g1(header.take(G1_LEN)?)?;
        let delta_2 = g2(header.take(G2_LEN)?)?;

        let ic = file.items(3, publics + 1, G1_LEN)?.chunks_exact(G1_LEN).map(g1).collect::<Result<Vec<_>, _>>()?;
        let vkey = VerifyingKey::new(alpha_1, beta_2, gamma_2, delta_2, ic)
            .map_err(|source| ArtifactError::Key { path: path.to_owned(), source })?;
        Ok(Self { wires, publics, domain, alpha_1, beta_1, beta_2, delta_1, delta_2, vkey })
    }
}

impl ProvingKey {
    /// The verifying key inside a zkey.
    pub(crate) fn verifying_key(path: &Path, data: &[u8]) -> Result<VerifyingKey, ArtifactError> {
        Ok(Header::read(&BinFile::parse(path, data, b"zkey")?, path)?.vkey)
    }

    /// Parses a zkey and holds it against the circuit's verifying key.
    pub(crate) fn parse(path: &Path, data: &[u8], vkey: &VerifyingKey) -> Result<Self, ArtifactError> {
        let file = BinFile::parse(path, data, b"zkey")?;
        let Header { wires, publics, domain, alpha_1, beta_1, beta_2, delta_1, delta_2, vkey: inside } =
            Header::read(&file, path)?;
        if inside != *vkey {
            return Err(ArtifactError::Mismatch {
                path: path.to_owned(),
                reason: format!(
                    "its verifying key has hash {}, vkey.json's has {}",
                    crate::proof::hex(&inside.hash()),
                    crate::proof::hex(&vkey.hash())
                ),
            });
        }

        // Checked before anything is allocated by the header's word.
        file.items(9, domain, G1_LEN)?;
        let (a_matrix, b_matrix) = matrices(&file, wires, domain)?;
        let off_curve = |section: u32| file.bad(format!("section {section} has a point off its curve"));
        let query_1 = |section: u32, count: usize, first: usize| {
            query(file.items(section, count, G1_LEN)?, G1_LEN, first, raw::read_g1).ok_or_else(|| off_curve(section))
        };
        Ok(Self {
            wires,
            domain,
            a_matrix,
            b_matrix,
            alpha_1,
            beta_1,
            delta_1,
            beta_2,
            delta_2,
            a: query_1(5, wires, 0)?,
            b_1: query_1(6, wires, 0)?,
            b_2: query(file.items(7, wires, G2_LEN)?, G2_LEN, 0, raw::read_g2).ok_or_else(|| off_curve(7))?,
            l: query_1(8, wires - publics - 1, publics + 1)?,
            h: query_1(9, domain, 0)?,
        })
    }
}

/// The points that are not the identity; `None` when one is off its curve.
fn query<P: SWCurveConfig>(
    bytes: &[u8],
    len: usize,
    first: usize,
    read: impl Fn(&[u8]) -> Option<Affine<P>> + Send + Sync,
) -> Option<Query<P::BaseField>> {
    let all: Vec<Affine<P>> = bytes.par_chunks_exact(len).map(read).collect::<Option<_>>()?;
    let mut out = Query { wires: Vec::with_capacity(all.len()), points: Vec::with_capacity(all.len()) };
    for (i, p) in all.into_iter().enumerate() {
        if !p.is_zero() {
            out.wires.push((first + i) as u32);
            out.points.push(p.into());
        }
    }
    Some(out)
}

fn matrices(file: &BinFile<'_>, wires: usize, domain: usize) -> Result<(Matrix, Matrix), ArtifactError> {
    const ENTRY: usize = 44;
    let mut section = file.section(4)?;
    let count = section.u32()? as usize;
    let body = section.rest();
    if Some(body.len()) != count.checked_mul(ENTRY) {
        return Err(file.bad(format!("section 4 does not hold {count} coefficients")));
    }
    let field =
        |entry: &[u8], i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]) as usize;
    // Counted first, so that each entry goes straight to its place whatever the order in the file.
    let mut counts = [vec![0u32; domain + 1], vec![0u32; domain + 1]];
    for entry in body.chunks_exact(ENTRY) {
        let (m, row, wire) = (field(entry, 0), field(entry, 4), field(entry, 8));
        if m > 1 || row >= domain || wire >= wires {
            return Err(file.bad(format!("coefficient of matrix {m}, row {row}, wire {wire} is out of range")));
        }
        counts[m][row + 1] += 1;
    }
    let mut out = counts.map(|mut row_start| {
        for i in 1..row_start.len() {
            row_start[i] += row_start[i - 1];
        }
        let n = row_start[domain] as usize;
        Matrix { row_start, column: vec![0; n], value: vec![Fr::from(0u64); n] }
    });
    let mut next = [out[0].row_start.clone(), out[1].row_start.clone()];
    for entry in body.chunks_exact(ENTRY) {
        let (m, row, wire) = (field(entry, 0), field(entry, 4), field(entry, 8));
        let at = next[m][row] as usize;
        next[m][row] += 1;
        out[m].column[at] = wire as u32;
        out[m].value[at] = raw::read_fr_double_montgomery(&entry[12..])
            .ok_or_else(|| file.bad("a coefficient is not below the field modulus"))?;
    }
    let [a, b] = out;
    Ok((a, b))
}
