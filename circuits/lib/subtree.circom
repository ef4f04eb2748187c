// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";

// Root of the full 4-ary tree over 64 leaves.
template Subtree64() {
    signal input leaf[64];
    signal output root;

    signal low[16];
    for (var i = 0; i < 16; i++) {
        low[i] <== Poseidon(4)([leaf[4 * i], leaf[4 * i + 1], leaf[4 * i + 2], leaf[4 * i + 3]]);
    }
    signal high[4];
    for (var i = 0; i < 4; i++) {
        high[i] <== Poseidon(4)([low[4 * i], low[4 * i + 1], low[4 * i + 2], low[4 * i + 3]]);
    }
    root <== Poseidon(4)(high);
}
