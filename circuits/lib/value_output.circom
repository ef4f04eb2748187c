// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "constants.circom";
include "range.circom";
include "seal.circom";
include "value_note.circom";

// A new value note with its memo, output j of its transaction.
template ValueOutput(j) {
    signal input owner;
    signal input viewing[2];
    signal input amount;
    signal input rho;
    signal input esk;
    signal output cm;
    signal output E[2];
    signal output ct[3];

    // VO1: amount is a u120
    Range(AMOUNT_BITS())(amount);

    cm <== ValueNote()(amount, owner, rho);

    // VO2: the memo holds this very note
    (E, ct) <== Seal(j)(esk, viewing, [2 * amount, rho, 0]);
}
