//! What a provider reads before it computes a pairing.

use tributary_prover::Proof;

use crate::Decoder;

/// All of them.
pub const DECODERS: &[Decoder] = &[("ticket_groth16", groth16, groth16_seeds)];

/// A proof's 256 bytes: canonical coordinates, points of their groups.
pub fn groth16(data: &[u8]) -> bool {
    let Ok(proof) = Proof::from_bytes(data) else { return false };
    assert_eq!(proof.to_bytes()[..], *data, "a proof has one encoding");
    true
}

/// The groups' generators.
fn groth16_seeds() -> Vec<Vec<u8>> {
    let g2 = [
        "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2",
        "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed",
        "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b",
        "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa",
    ];
    let mut g1 = vec![0; 64];
    (g1[31], g1[63]) = (1, 2);
    let g2 = g2.map(|word| alloy_primitives::hex::decode(word).unwrap()).concat();
    vec![[&g1[..], &g2, &g1].concat()]
}
