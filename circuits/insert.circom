// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "lib/constants.circom";
include "lib/merkle_root.circom";
include "lib/range.circom";
include "lib/statement.circom";
include "lib/subtree.circom";
include "lib/thermometer.circom";

// Queued leaves enter the tree: the batch of 64 places at batch_index holds leaf_1 .. leaf_k under the old root and
// leaf_1 .. leaf_m under the new one, m > k, and empty leaves behind them (protocol.md §4.4).
template Insert() {
    signal input digest;
    signal input alpha;
    signal input value;

    signal input oldRoot;
    signal input newRoot;
    signal input batchIndex;
    signal input k;
    signal input m;
    signal input leaf[64];
    signal input path[13][3];

    // I1: k and m are 0 .. 64, as flags of the places taken
    signal old[64] <== Thermometer(64)(k);
    signal new[64] <== Thermometer(64)(m);

    // I2: k < m
    Range(6)(m - k - 1);

    // I3: leaf_i = 0 beyond m, where the tree has its empty leaf
    signal oldLeaf[64];
    signal newLeaf[64];
    for (var i = 0; i < 64; i++) {
        (1 - new[i]) * leaf[i] === 0;
        newLeaf[i] <== leaf[i] + (1 - new[i]) * EMPTY_LEAF();
        oldLeaf[i] <== EMPTY_LEAF() + old[i] * (leaf[i] - EMPTY_LEAF());
    }

    // I4: the same place in both trees, whose other leaves are the same (batch_index < 4^13 in MR1)
    signal oldBatch <== Subtree64()(oldLeaf);
    signal newBatch <== Subtree64()(newLeaf);
    signal oldTree <== MerkleRoot(13)(oldBatch, batchIndex, path);
    oldTree === oldRoot;
    signal newTree <== MerkleRoot(13)(newBatch, batchIndex, path);
    newTree === newRoot;

    // I5: the statement
    signal x[69];
    x[0] <== oldRoot;
    x[1] <== newRoot;
    x[2] <== batchIndex;
    x[3] <== k;
    x[4] <== m;
    for (var i = 0; i < 64; i++) {
        x[5 + i] <== leaf[i];
    }
    Statement(TAG_INSERT(), 69)(digest, alpha, value, x);
}
