// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "comparators.circom";

// The greater of two integers, both already known to be < 2^n.
template Max(n) {
    signal input a;
    signal input b;
    signal output out;

    signal aIsLess <== LessThan(n)([a, b]);
    out <== a + aIsLess * (b - a);
}
