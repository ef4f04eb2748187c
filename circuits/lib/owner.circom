// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";

// The owner of a note: H_OWNER(pk, V).
template Owner() {
    signal input pk;
    signal input viewing[2];
    signal output out;

    out <== Poseidon(5)([TAG_OWNER(), pk, viewing[0], viewing[1], 0]);
}
