// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "bitify.circom";

// 0 <= in < 2^n as an integer, n <= 253 (no alias: 2^n < r).
template Range(n) {
    assert(n > 0 && n <= 253);
    signal input in;

    _ <== Num2Bits(n)(in);
}
