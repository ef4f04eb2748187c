// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "comparators.circom";
include "boolean.circom";
include "constants.circom";
include "max.circom";
include "merkle_root.circom";
include "min.circom";
include "range.circom";
include "record_tag.circom";
include "stream_note.circom";
include "stream_terms.circom";

// One stream of a claim: the window t0 .. t1 of a stream to `payee`, or an inactive lane that has tag 0 and pays 0.
template ClaimLane() {
    signal input root;
    signal input payee;
    signal input active;
    signal input payerTag;
    signal input rate;
    signal input start;
    signal input end;
    signal input rho;
    signal input index;
    signal input path[TREE_DEPTH()][3];
    signal input t0;
    signal input t1;
    signal output tag;
    signal output pay;

    // CL1: the flag is a boolean
    Boolean()(active);
    // CL2: rate is a u96, start, end, t0 and t1 are u40
    StreamTerms()(rate, start, end);
    Range(TIME_BITS())(t0);
    Range(TIME_BITS())(t1);
    // CL3: an inactive lane has no rate and no window
    (1 - active) * rate === 0;
    (1 - active) * t0 === 0;
    (1 - active) * t1 === 0;

    // CL4: an active lane's stream is the payee's and in the tree under root
    signal cm <== StreamNote()(payee, payerTag, rate, start, end, rho);
    signal noteRoot <== MerkleRoot(TREE_DEPTH())(cm, index, path);
    active * (noteRoot - root) === 0;

    // CL5: its record's tag, 0 for an inactive lane
    signal recordTag <== RecordTag()(cm, payerTag);
    tag <== active * recordTag;

    // CL6: pays rate * max(0, min(t1, end) - max(t0, start))
    signal from <== Max(TIME_BITS())(t0, start);
    signal to <== Min(TIME_BITS())(t1, end);
    signal hasWindow <== LessThan(TIME_BITS())([from, to]);
    signal window <== hasWindow * (to - from);
    pay <== rate * window;
}
