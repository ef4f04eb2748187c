// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";

// Commitment of a stream note.
template StreamNote() {
    signal input payee;
    signal input payerTag;
    signal input rate;
    signal input start;
    signal input end;
    signal input rho;
    signal output cm;

    cm <== Poseidon(7)([TAG_STREAM(), payee, payerTag, rate, start, end, rho]);
}
