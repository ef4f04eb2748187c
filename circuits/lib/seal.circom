// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "bitify.circom";
include "escalarmulany.circom";
include "escalarmulfix.circom";
include "poseidon.circom";
include "constants.circom";
include "nonzero.circom";

// Seals a three-word message to the viewing key V of the note's owner: E = esk * Base8, K = esk * V,
// ct_i = message_i + H_SEAL(K, 3j + i). For a V of prime order every step of both multiplications is
// determined (docs/src/circuits.md, "Scalar multiplication"); V is part of the owner, so a bad V hurts its
// owner alone.
template Seal(j) {
    signal input esk;
    signal input viewing[2];
    signal input message[3];
    signal output E[2];
    signal output ct[3];

    var BASE8[2] = [
        5299619240641551281634865583518297030282874472190772894086521144482721001553,
        16950150798460657717958625567821834550301663161624707787222815936182638968203
    ];

    // SE1: esk < 2^250, in bits
    signal bits[ESK_BITS()] <== Num2Bits(ESK_BITS())(esk);
    // SE2: esk != 0
    NonZero()(esk);

    E <== EscalarMulFix(ESK_BITS(), BASE8)(bits);
    signal K[2] <== EscalarMulAny(ESK_BITS())(bits, viewing);

    signal keystream[3];
    for (var i = 0; i < 3; i++) {
        keystream[i] <== Poseidon(5)([TAG_SEAL(), K[0], K[1], 3 * j + i, 0]);
        // SE3: the ciphertext is the message under the keystream
        ct[i] <== message[i] + keystream[i];
    }
}
