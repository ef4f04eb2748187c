// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";

// One level of a 4-ary tree: the parent of `node` standing at child `low + 2 * high`, the siblings in child
// order. low and high must be booleans.
template MerkleLevel() {
    signal input node;
    signal input siblings[3];
    signal input low;
    signal input high;
    signal output parent;

    // Differences that the low bit selects: in the left pair (high = 0) and in the right pair (high = 1).
    signal left <== low * (node - siblings[0]);
    signal right <== low * (node - siblings[2]);

    signal child0 <== siblings[0] + (1 - high) * (node - siblings[0] - left);
    signal child1 <== siblings[1] + (1 - high) * (siblings[0] - siblings[1] + left);
    signal child3 <== siblings[2] + high * right;
    // The four children are the node and its siblings, so the sum gives the last one.
    signal child2 <== node + siblings[0] + siblings[1] + siblings[2] - child0 - child1 - child3;

    parent <== Poseidon(4)([child0, child1, child2, child3]);
}
