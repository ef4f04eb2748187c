// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "comparators.circom";
include "poseidon.circom";
include "lib/absent.circom";
include "lib/constants.circom";
include "lib/merkle_root.circom";
include "lib/payer_tag.circom";
include "lib/range.circom";
include "lib/record_tag.circom";
include "lib/stream_note.circom";
include "lib/stream_terms.circom";
include "lib/thermometer.circom";

// Some stream to this payee pays through the slot: one to four tickets for it, or, at price 0, the right to rate the
// payee once (protocol.md §4.5).
template Ticket() {
    signal input root;
    signal input stoppedRoot;
    signal input payee;
    signal input price;
    signal input slotStart;
    signal input slotEnd;
    signal input count;
    signal input minStreamed;
    signal input message;
    signal input nf[4];

    signal input ps;
    signal input rate;
    signal input start;
    signal input end;
    signal input rho;
    signal input index;
    signal input path[TREE_DEPTH()][3];
    signal input low;
    signal input next;
    signal input listIndex;
    signal input listPath[TREE_DEPTH()][3];
    signal input j;

    // K1: price is a u96, the slot's ends are u40, min_streamed is a u136, j is a u32
    Range(RATE_BITS())(price);
    Range(TIME_BITS())(slotStart);
    Range(TIME_BITS())(slotEnd);
    Range(136)(minStreamed);
    Range(32)(j);

    // K2: rate is a u96, start and end are u40
    StreamTerms()(rate, start, end);

    // K3: the prover holds the secret of a stream to this payee that is in the tree under root
    signal payerTag <== PayerTag()(ps);
    signal cm <== StreamNote()(payee, payerTag, rate, start, end, rho);
    signal noteRoot <== MerkleRoot(TREE_DEPTH())(cm, index, path);
    noteRoot === root;

    // K4: its tag is absent from the slot's stopped list
    signal tag <== RecordTag()(cm, payerTag);
    Absent()(stoppedRoot, tag, low, next, listIndex, listPath);

    // K5: start <= slot_start < slot_end <= end
    Range(TIME_BITS())(slotStart - start);
    Range(TIME_BITS())(slotEnd - slotStart - 1);
    Range(TIME_BITS())(end - slotEnd);

    // K6: count is 1 to 4
    signal more[3] <== Thermometer(3)(count - 1);

    // K7: the slot's money covers the tickets: (j + count) * price <= rate * (slot_end - slot_start); the left side is
    // below 2^129, the right side below 2^136
    signal cost <== (j + count) * price;
    signal slotMoney <== rate * (slotEnd - slotStart);
    Range(140)(slotMoney - cost);

    // K8: rate * (slot_end - start) >= min_streamed, both below 2^136
    signal streamed <== rate * (slotEnd - start);
    Range(140)(streamed - minStreamed);

    // K9: price 0 makes a rating, with j = 0 and count = 1
    signal isRating <== IsZero()(price);
    isRating * j === 0;
    isRating * (count - 1) === 0;

    // K10: nullifiers of the tickets j .. j + count - 1, 0 beyond; a rating's is the stream's only one, of slot 0
    signal nfSlot <== (1 - isRating) * slotStart;
    signal nullifiers[4];
    for (var i = 0; i < 4; i++) {
        nullifiers[i] <== Poseidon(5)([TAG_TICKET(), ps, cm, nfSlot, j + i]);
    }
    nf[0] === nullifiers[0];
    for (var i = 1; i < 4; i++) {
        nf[i] === more[i - 1] * nullifiers[i];
    }

    // K11: the message is bound to the proof
    signal messageSquare <== message * message;
}
