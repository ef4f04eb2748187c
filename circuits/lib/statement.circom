// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";

// Binds a statement of n elements to the three public inputs (protocol.md §4): the digest commits to the prover's
// own vector before alpha, a hash of the digest and the verifier's vector, exists; equal values of the two
// polynomials at alpha then mean equal vectors, but for a chance of n / r.
template Statement(tag, n) {
    signal input digest;
    signal input alpha;
    signal input value;
    signal input x[n];

    var blocks = (n + 10) \ 11;
    signal state[blocks + 1];
    state[0] <== tag;
    for (var b = 0; b < blocks; b++) {
        var block[12];
        block[0] = state[b];
        for (var i = 0; i < 11; i++) {
            block[i + 1] = 11 * b + i < n ? x[11 * b + i] : 0;
        }
        state[b + 1] <== Poseidon(12)(block);
    }
    // S1: digest = sponge(x)
    digest === state[blocks];

    signal partial[n];
    partial[0] <== x[0];
    for (var i = 1; i < n; i++) {
        partial[i] <== partial[i - 1] * alpha + x[i];
    }
    // S2: value = sum x_i alpha^(n - i)
    value === partial[n - 1];
}
