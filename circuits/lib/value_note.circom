// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";

// Commitment of a value note.
template ValueNote() {
    signal input amount;
    signal input owner;
    signal input rho;
    signal output cm;

    cm <== Poseidon(5)([TAG_VALUE(), amount, owner, rho, 0]);
}
