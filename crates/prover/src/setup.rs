//! The development setup: a Groth16 key from a fixed public seed, in snarkjs' zkey format.
//!
//! INSECURE by construction: whoever reads this file knows the trapdoor and can forge proofs. It exists so that a clean clone is
//! proving within seconds. Keys for real money come from a ceremony with the ecosystem's tools; the prover reads those as they are.

use std::path::Path;

use ark_bn254::{Fr, G1Affine, G1Projective, G2Affine, G2Projective};
use ark_ec::{CurveGroup, PrimeGroup, scalar_mul::BatchMulPreprocessing};
use ark_ff::{FftField, Field, One, PrimeField, Zero, batch_inversion};
use sha2::{Digest, Sha256, Sha512};

use tributary_protocol::Circuit;

use crate::{
    ArtifactError, Artifacts, KeyError, VerifyingKey,
    binfile::{self, BinWriter},
    manifest::{KeyManifest, KeyRecord, sha256_hex, write_atomically},
    proof::hex,
    r1cs::{Matrix, R1cs},
    raw,
    witness::Program,
};

/// The public seed of every development key.
const SEED: &[u8] = b"tributary.development.setup.v1: INSECURE, everybody knows this seed";

/// The contribution's name in the zkey, at most 64 bytes; `snarkjs zkey` commands show it.
pub(crate) const CONTRIBUTION: &str = "INSECURE development key from a public seed, never for money";

const NOTICE: &str =
    "Entries with development = true are INSECURE: their trapdoor is public, anybody can forge proofs.";

/// A key just made.
pub(crate) struct Made {
    pub(crate) zkey: Vec<u8>,
    pub(crate) vkey: VerifyingKey,
}

struct Trapdoor {
    tau: Fr,
    alpha: Fr,
    beta: Fr,
    delta: Fr,
}

impl Trapdoor {
    /// Bound to the circuit's name and its constraint system, so that no two keys share a secret.
    fn derive(circuit: Circuit, r1cs_hash: &[u8; 32], domain: usize) -> Self {
        let element = |label: &str| {
            for counter in 0u32.. {
                let mut h = Sha512::new();
                for part in [SEED, circuit.name().as_bytes(), r1cs_hash, label.as_bytes()] {
                    h.update((part.len() as u64).to_be_bytes());
                    h.update(part);
                }
                h.update(counter.to_be_bytes());
                let x = Fr::from_be_bytes_mod_order(&h.finalize());
                // 0 and 1 make degenerate keys, and a tau in the domain makes a polynomial vanish.
                if !x.is_zero() && !x.is_one() && x.pow([2 * domain as u64]) != Fr::one() {
                    return x;
                }
            }
            unreachable!("half of all field elements qualify")
        };
        Self { tau: element("tau"), alpha: element("alpha"), beta: element("beta"), delta: element("delta") }
    }
}

/// The evaluations at `tau` of every Lagrange polynomial over the domain of `n` points.
fn lagrange_at(tau: Fr, n: usize) -> Vec<Fr> {
    let root = root_of_unity(n);
    let mut points = Vec::with_capacity(n);
    let mut w = Fr::one();
    for _ in 0..n {
        points.push(w);
        w *= root;
    }
    let mut out: Vec<Fr> = points.iter().map(|w| tau - w).collect();
    batch_inversion(&mut out);
    let scale = (tau.pow([n as u64]) - Fr::one()) / Fr::from(n as u64);
    for (l, w) in out.iter_mut().zip(&points) {
        *l *= scale * w;
    }
    out
}

/// The primitive root of unity of order `n`, a power of two up to 2^28, that snarkjs uses too.
pub(crate) fn root_of_unity(n: usize) -> Fr {
    Fr::get_root_of_unity(n as u64).unwrap_or_else(|| unreachable!("{n} is a power of two below 2^28"))
}

fn accumulate(matrix: &Matrix, lagrange: &[Fr], out: &mut [Fr]) {
    for (row, weight) in lagrange.iter().enumerate().take(matrix.row_start.len() - 1) {
        for (column, value) in matrix.row(row) {
            out[column] += *weight * value;
        }
    }
}

/// Makes the key of a constraint system, given as an r1cs file's bytes.
pub(crate) fn make(circuit: Circuit, path: &Path, r1cs: &[u8]) -> Result<Made, ArtifactError> {
    let system = R1cs::parse(path, r1cs)?;
    if system.publics != circuit.public_inputs() {
        return Err(ArtifactError::Key {
            path: path.to_owned(),
            source: KeyError::PublicInputs { got: system.publics, expected: circuit.public_inputs() },
        });
    }
    // Each public wire, and the constant, gets a row of its own beyond the constraints, so that it takes part in the proof
    // whatever the circuit does with it.
    let rows = system.constraints + system.publics + 1;
    let domain = rows.next_power_of_two();
    if domain > 1 << 27 {
        return Err(ArtifactError::Format {
            path: path.to_owned(),
            reason: format!("{rows} rows, more than the field's roots of unity allow"),
        });
    }
    let trapdoor = Trapdoor::derive(circuit, &Sha256::digest(r1cs).into(), domain);
    let scalars = Scalars::new(&system, domain, &trapdoor);
    let points = Points::new(&scalars, &trapdoor);
    let vkey = VerifyingKey::new(points.alpha_1, points.beta_2, points.gamma_2, points.delta_2, points.ic.clone())
        .map_err(|source| ArtifactError::Key { path: path.to_owned(), source })?;
    let zkey = write_zkey(&system, domain, &points, r1cs);
    Ok(Made { zkey, vkey })
}

/// The discrete logarithms of the key's points.
struct Scalars {
    a: Vec<Fr>,
    b: Vec<Fr>,
    ic: Vec<Fr>,
    l: Vec<Fr>,
    h: Vec<Fr>,
}

impl Scalars {
    fn new(system: &R1cs, domain: usize, t: &Trapdoor) -> Self {
        let lagrange = lagrange_at(t.tau, domain);
        let zero = || vec![Fr::zero(); system.wires];
        let (mut a, mut b, mut c) = (zero(), zero(), zero());
        accumulate(&system.a, &lagrange, &mut a);
        accumulate(&system.b, &lagrange, &mut b);
        accumulate(&system.c, &lagrange, &mut c);
        for (wire, weight) in lagrange[system.constraints..].iter().enumerate().take(system.publics + 1) {
            a[wire] += weight;
        }
        let mut ic: Vec<Fr> = (0..system.wires).map(|i| t.beta * a[i] + t.alpha * b[i] + c[i]).collect();
        let delta_inverse = Fr::one() / t.delta;
        let l = ic.split_off(system.publics + 1).into_iter().map(|x| x * delta_inverse).collect();
        // The prover evaluates A B - C, which vanishes on the domain, on the odd points of the domain twice as large.
        let h = lagrange_at(t.tau, 2 * domain).into_iter().skip(1).step_by(2).map(|x| x * delta_inverse).collect();
        Self { a, b, ic, l, h }
    }
}

struct Points {
    alpha_1: G1Affine,
    beta_1: G1Affine,
    beta_2: G2Affine,
    gamma_2: G2Affine,
    delta_1: G1Affine,
    delta_2: G2Affine,
    a: Vec<G1Affine>,
    b_1: Vec<G1Affine>,
    b_2: Vec<G2Affine>,
    ic: Vec<G1Affine>,
    l: Vec<G1Affine>,
    h: Vec<G1Affine>,
}

impl Points {
    fn new(s: &Scalars, t: &Trapdoor) -> Self {
        let (g1, g2) = (G1Projective::generator(), G2Projective::generator());
        let table_1 = BatchMulPreprocessing::new(g1, s.a.len());
        let table_2 = BatchMulPreprocessing::new(g2, s.b.len());
        let many = |scalars: &[Fr]| table_1.batch_mul(scalars);
        Self {
            alpha_1: (g1 * t.alpha).into_affine(),
            beta_1: (g1 * t.beta).into_affine(),
            beta_2: (g2 * t.beta).into_affine(),
            // gamma stays 1, as in every key that snarkjs makes; delta is never 1 (see Trapdoor).
            gamma_2: g2.into_affine(),
            delta_1: (g1 * t.delta).into_affine(),
            delta_2: (g2 * t.delta).into_affine(),
            a: many(&s.a),
            b_1: many(&s.b),
            b_2: table_2.batch_mul(&s.b),
            ic: many(&s.ic),
            l: many(&s.l),
            h: many(&s.h),
        }
    }
}

fn write_zkey(system: &R1cs, domain: usize, p: &Points, r1cs: &[u8]) -> Vec<u8> {
    let mut w = BinWriter::new(b"zkey");
    w.section(1, &1u32.to_le_bytes());

    let mut header = Vec::new();
    header.extend_from_slice(&32u32.to_le_bytes());
    header.extend_from_slice(&raw::limb_bytes(&ark_bn254::Fq::MODULUS));
    header.extend_from_slice(&32u32.to_le_bytes());
    header.extend_from_slice(&raw::limb_bytes(&Fr::MODULUS));
    for n in [system.wires, system.publics, domain] {
        header.extend_from_slice(&(n as u32).to_le_bytes());
    }
    raw::write_g1(&p.alpha_1, &mut header);
    raw::write_g1(&p.beta_1, &mut header);
    raw::write_g2(&p.beta_2, &mut header);
    raw::write_g2(&p.gamma_2, &mut header);
    raw::write_g1(&p.delta_1, &mut header);
    raw::write_g2(&p.delta_2, &mut header);
    w.section(2, &header);

    let g1 = |points: &[G1Affine]| {
        let mut out = Vec::with_capacity(points.len() * raw::G1_LEN);
        for p in points {
            raw::write_g1(p, &mut out);
        }
        out
    };
    w.section(3, &g1(&p.ic));
    w.section(4, &coefficients(system));
    w.section(5, &g1(&p.a));
    w.section(6, &g1(&p.b_1));
    let mut b_2 = Vec::with_capacity(p.b_2.len() * raw::G2_LEN);
    for p in &p.b_2 {
        raw::write_g2(p, &mut b_2);
    }
    w.section(7, &b_2);
    w.section(8, &g1(&p.l));
    w.section(9, &g1(&p.h));

    let mut contributions = Vec::new();
    let mut cs_hash = Sha512::new();
    cs_hash.update(SEED);
    cs_hash.update(r1cs);
    contributions.extend_from_slice(&cs_hash.finalize());
    contributions.extend_from_slice(&1u32.to_le_bytes());
    raw::write_g1(&p.delta_1, &mut contributions);
    raw::write_g1(&G1Projective::generator().into_affine(), &mut contributions);
    raw::write_g1(&p.delta_1, &mut contributions);
    raw::write_g2(&p.delta_2, &mut contributions);
    contributions.extend_from_slice(&[0; 64]);
    contributions.extend_from_slice(&0u32.to_le_bytes());
    contributions.extend_from_slice(&(CONTRIBUTION.len() as u32 + 2).to_le_bytes());
    contributions.push(1);
    contributions.push(CONTRIBUTION.len() as u8);
    contributions.extend_from_slice(CONTRIBUTION.as_bytes());
    w.section(10, &contributions);
    w.finish()
}

fn coefficients(system: &R1cs) -> Vec<u8> {
    let count = system.a.value.len() + system.b.value.len() + system.publics + 1;
    let mut out = Vec::with_capacity(4 + 44 * count);
    out.extend_from_slice(&(count as u32).to_le_bytes());
    let mut entry = |matrix: u32, row: usize, wire: usize, value: Fr| {
        for n in [matrix, row as u32, wire as u32] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&raw::write_fr_double_montgomery(value));
    };
    for row in 0..system.constraints {
        for (m, matrix) in [(0, &system.a), (1, &system.b)] {
            for (wire, value) in matrix.row(row) {
                entry(m, row, wire, *value);
            }
        }
    }
    for wire in 0..=system.publics {
        entry(0, system.constraints + wire, wire, Fr::one());
    }
    out
}

/// What [`development_keys`] did about one circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key on disk is the one of this constraint system.
    Unchanged,
    /// A key was made.
    Made,
}

/// Makes the development keys of `circuits` whose constraint system changed, and records them in the key manifest.
///
/// The keys are deterministic: the same constraint system always gets the same key. **They are insecure: their trapdoor is public.**
///
/// # Errors
/// When an artefact can't be read or written, or when the manifest says that the key on disk is not a development key: it is
/// never overwritten.
pub fn development_keys(
    artifacts: &Artifacts,
    circuits: &[Circuit],
    mut report: impl FnMut(Circuit, Outcome),
) -> Result<(), ArtifactError> {
    let manifest_path = artifacts.manifest();
    let mut manifest = if manifest_path.exists() { KeyManifest::load(&manifest_path)? } else { KeyManifest::default() };
    manifest.notice = NOTICE.to_owned();
    for &circuit in circuits {
        let r1cs_path = artifacts.r1cs(circuit);
        let r1cs = binfile::read(&r1cs_path)?;
        let r1cs_sha256 = sha256_hex(&r1cs);
        let old = manifest.circuits.get(circuit.name());
        let holds = |path: &Path, hash: &str| std::fs::read(path).is_ok_and(|data| sha256_hex(&data) == hash);
        // The prover would prepare the witness program at its first proof; here nobody waits for that.
        Program::load(circuit, &artifacts.wasm(circuit), &artifacts.graph(circuit))?;
        if old.is_some_and(|old| {
            old.r1cs_sha256 == r1cs_sha256
                && holds(&artifacts.vkey(circuit), &old.vkey_sha256)
                && holds(&artifacts.zkey(circuit), &old.zkey_sha256)
        }) {
            report(circuit, Outcome::Unchanged);
            continue;
        }
        if let Some(old) = old.filter(|old| !old.development) {
            return Err(ArtifactError::Mismatch {
                path: manifest_path,
                reason: format!(
                    "the {circuit} key (r1cs {}) is not a development key and is not overwritten; remove its entry to do so",
                    old.r1cs_sha256
                ),
            });
        }
        let made = make(circuit, &r1cs_path, &r1cs)?;
        let mut vkey = serde_json::to_vec_pretty(&made.vkey.to_snarkjs()).unwrap_or_default();
        vkey.push(b'\n');
        write_atomically(&artifacts.zkey(circuit), &made.zkey)?;
        write_atomically(&artifacts.vkey(circuit), &vkey)?;
        manifest.circuits.insert(
            circuit.name().to_owned(),
            KeyRecord {
                r1cs_sha256,
                zkey_sha256: sha256_hex(&made.zkey),
                vkey_sha256: sha256_hex(&vkey),
                vkey_hash: format!("0x{}", hex(&made.vkey.hash())),
                development: true,
            },
        );
        // Recorded one by one: an interrupted run keeps what it finished.
        manifest.store(&manifest_path)?;
        report(circuit, Outcome::Made);
    }
    Ok(())
}
