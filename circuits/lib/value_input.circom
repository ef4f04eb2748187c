// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "constants.circom";
include "merkle_root.circom";
include "range.circom";
include "secret_owner.circom";
include "value_note.circom";

// A value note that is spent, or a dummy: a note of amount 0 that needs no place in the tree. Both set
// a nullifier, so nobody can tell them apart.
template ValueInput() {
    signal input root;
    signal input sk;
    signal input viewing[2];
    signal input amount;
    signal input rho;
    signal input index;
    signal input path[TREE_DEPTH()][3];
    signal output nf;

    // VI1: amount is a u120
    Range(AMOUNT_BITS())(amount);

    // VI2: the note belongs to the prover, who knows sk
    signal owner <== SecretOwner()(sk, viewing);
    signal cm <== ValueNote()(amount, owner, rho);

    // VI3: the note is in the tree under root unless its amount is 0
    signal noteRoot <== MerkleRoot(TREE_DEPTH())(cm, index, path);
    (noteRoot - root) * amount === 0;

    // VI4: nullifier
    nf <== Poseidon(3)([TAG_NF(), sk, cm]);
}
