// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "constants.circom";
include "range.circom";

// The ranges of a stream's terms. Streams in the tree have them since they were opened; they are checked
// again wherever a stream is used, so that no comparison or product leans on another circuit.
template StreamTerms() {
    signal input rate;
    signal input start;
    signal input end;

    // ST1: rate is a u96
    Range(RATE_BITS())(rate);
    // ST2: start is a u40
    Range(TIME_BITS())(start);
    // ST3: end is a u40
    Range(TIME_BITS())(end);
}
