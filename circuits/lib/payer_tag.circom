// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";

// The payer's tag in a stream note, from the stream's secret.
template PayerTag() {
    signal input ps;
    signal output out;

    out <== Poseidon(2)([TAG_PAYER(), ps]);
}
