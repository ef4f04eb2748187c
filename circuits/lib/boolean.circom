// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

// in is 0 or 1.
template Boolean() {
    signal input in;

    in * (in - 1) === 0;
}
