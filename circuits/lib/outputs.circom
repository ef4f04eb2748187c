// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";
include "either_output.circom";
include "owner.circom";
include "value_output.circom";

// The two notes that a transact or a close creates. nf0 is the transaction's first nullifier: unique on chain, so are
// the seeds and the notes.
template Outputs() {
    signal input nf0;
    signal input isStream;
    signal input pk[2];
    signal input viewing[2][2];
    signal input amount[2];
    signal input r[2];
    signal input esk[2];
    signal input rate;
    signal input start;
    signal input end;
    signal input payerTag;
    signal output cm[2];
    signal output E[2][2];
    signal output ct[2][3];

    signal owner[2];
    signal rho[2];
    for (var j = 0; j < 2; j++) {
        owner[j] <== Owner()(pk[j], viewing[j]);
        rho[j] <== Poseidon(5)([TAG_RHO(), nf0, j, r[j], 0]);
    }

    (cm[0], E[0], ct[0]) <== EitherOutput()(
        isStream, owner[0], viewing[0], amount[0], rho[0], esk[0], rate, start, end, payerTag
    );
    (cm[1], E[1], ct[1]) <== ValueOutput(1)(owner[1], viewing[1], amount[1], rho[1], esk[1]);
}
