// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "bitify.circom";
include "poseidon.circom";
include "constants.circom";
include "merkle_root.circom";
include "range.circom";

// The tag's low 248 bits are no member of the stopped list under `root`: a leaf (low, next) of the indexed tree
// encloses them (protocol.md §6).
template Absent() {
    signal input root;
    signal input tag;
    signal input low;
    signal input next;
    signal input index;
    signal input path[TREE_DEPTH()][3];

    // AB1: the key is the tag's low 248 bits, by the one decomposition below r
    signal bits[254] <== Num2Bits_strict()(tag);
    var key = 0;
    for (var i = 0; i < 248; i++) {
        key += bits[i] * 2 ** i;
    }

    // AB2: low is a 248-bit integer
    Range(248)(low);

    // AB3: low < key < next, strictly: key - low - 1 and next - key - 1 are 248-bit integers. The second makes next an
    // integer below 2^249, so it needs no range of its own
    Range(248)(key - low - 1);
    Range(248)(next - key - 1);

    // AB4: (low, next) is a leaf of the list
    signal leaf <== Poseidon(3)([TAG_LIST(), low, next]);
    signal leafRoot <== MerkleRoot(TREE_DEPTH())(leaf, index, path);
    leafRoot === root;
}
