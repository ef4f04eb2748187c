// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";

// The pseudonym of a stream on chain.
template RecordTag() {
    signal input cm;
    signal input payerTag;
    signal output tag;

    tag <== Poseidon(3)([TAG_REC(), cm, payerTag]);
}
