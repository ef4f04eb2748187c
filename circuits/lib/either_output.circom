// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "constants.circom";
include "boolean.circom";
include "range.circom";
include "seal.circom";
include "stream_note.circom";
include "stream_terms.circom";
include "value_note.circom";

// Output 0 of a transaction: a value note, or a stream note whose payee is `owner` and whose deposit is `amount`.
template EitherOutput() {
    signal input isStream;
    signal input owner;
    signal input viewing[2];
    signal input amount;
    signal input rho;
    signal input esk;
    signal input rate;
    signal input start;
    signal input end;
    signal input payerTag;
    signal output cm;
    signal output E[2];
    signal output ct[3];

    // EO1: the kind is a boolean
    Boolean()(isStream);
    // EO2: amount is a u120
    Range(AMOUNT_BITS())(amount);
    // EO3: rate is a u96, start and end are u40
    StreamTerms()(rate, start, end);

    // EO4: a value note has no stream terms
    (1 - isStream) * rate === 0;
    (1 - isStream) * start === 0;
    (1 - isStream) * end === 0;
    (1 - isStream) * payerTag === 0;

    // EO5: a stream's rate is not 0
    signal rateInverse;
    rateInverse <-- rate != 0 ? 1 / rate : 0;
    rate * rateInverse === isStream;

    // EO6: a stream has start < end (a value note has 0 = 0)
    Range(TIME_BITS())(end - start - isStream);

    // EO7: a stream's deposit is rate * (end - start) < 2^136, so EO2 holds it to a u120
    signal deposit <== rate * (end - start);
    isStream * (amount - deposit) === 0;

    signal valueCm <== ValueNote()(amount, owner, rho);
    signal streamCm <== StreamNote()(owner, payerTag, rate, start, end, rho);
    // EO8: the commitment is the one of its kind
    cm <== valueCm + isStream * (streamCm - valueCm);

    // EO9: the memo holds this very note. A value note's terms are 0, so the words of both kinds share one form
    signal valueWord <== (1 - isStream) * 2 * amount;
    signal word <== valueWord + isStream + 2 * rate + 2 ** 97 * start + 2 ** 137 * end;
    (E, ct) <== Seal(0)(esk, viewing, [word, rho, payerTag]);
}
