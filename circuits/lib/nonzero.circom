// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

// in != 0: only a nonzero element has an inverse.
template NonZero() {
    signal input in;
    signal inverse;

    inverse <-- in != 0 ? 1 / in : 0;
    in * inverse === 1;
}
