// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "boolean.circom";

// count in 0..n as n flags, out[i] = 1 exactly for i < count.
template Thermometer(n) {
    signal input count;
    signal output out[n];

    var sum = 0;
    for (var i = 0; i < n; i++) {
        out[i] <-- i < count ? 1 : 0;
        // TH1: flags are booleans
        Boolean()(out[i]);
        sum += out[i];
    }
    // TH2: no flag without the one before it, so the ones come first and their number decides them all
    for (var i = 1; i < n; i++) {
        out[i] * (1 - out[i - 1]) === 0;
    }
    // TH3: the flags count to count
    sum === count;
}
