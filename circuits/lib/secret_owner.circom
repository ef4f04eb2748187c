// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";
include "owner.circom";

// The owner whose spending key is sk: what authorises the spending of a value note and a payee's claim.
template SecretOwner() {
    signal input sk;
    signal input viewing[2];
    signal output out;

    signal pk <== Poseidon(2)([TAG_PK(), sk]);
    out <== Owner()(pk, viewing);
}
