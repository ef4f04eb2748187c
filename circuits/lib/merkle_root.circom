// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "bitify.circom";
include "merkle_level.circom";

// The root of a 4-ary tree of the given depth in which `leaf` stands at `index`. The depth is fixed, so no inner
// node passes for a leaf; the index is a (2 * depth)-bit integer, so no position has two names.
template MerkleRoot(depth) {
    signal input leaf;
    signal input index;
    signal input path[depth][3];
    signal output root;

    // MR1: index < 4^depth, in bits
    signal bits[2 * depth] <== Num2Bits(2 * depth)(index);

    signal nodes[depth + 1];
    nodes[0] <== leaf;
    for (var l = 0; l < depth; l++) {
        nodes[l + 1] <== MerkleLevel()(nodes[l], path[l], bits[2 * l], bits[2 * l + 1]);
    }
    root <== nodes[depth];
}
