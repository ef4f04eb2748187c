// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "lib/constants.circom";
include "lib/max.circom";
include "lib/merkle_root.circom";
include "lib/min.circom";
include "lib/outputs.circom";
include "lib/payer_tag.circom";
include "lib/range.circom";
include "lib/record_tag.circom";
include "lib/statement.circom";
include "lib/stream_note.circom";
include "lib/stream_terms.circom";
include "lib/value_input.circom";

// The payer stops a stream and takes back what accrues after the stop, with a value note or a dummy beside it; two notes
// out, the first of them a value or a stream note: close, top up, change of rate (protocol.md §4.2).
template Close() {
    signal input digest;
    signal input alpha;
    signal input value;

    signal input root;
    signal input ext;
    signal input stop;
    signal input amountOut;

    signal input payee;
    signal input ps;
    signal input rate;
    signal input start;
    signal input end;
    signal input rho;
    signal input index;
    signal input path[TREE_DEPTH()][3];

    signal input inSk;
    signal input inV[2];
    signal input inAmount;
    signal input inRho;
    signal input inIndex;
    signal input inPath[TREE_DEPTH()][3];

    signal input outIsStream;
    signal input outPk[2];
    signal input outV[2][2];
    signal input outAmount[2];
    signal input outR[2];
    signal input outEsk[2];
    signal input outRate;
    signal input outStart;
    signal input outEnd;
    signal input outPayerTag;

    // C1: stop is a u40, amount_out is a u120
    Range(TIME_BITS())(stop);
    Range(AMOUNT_BITS())(amountOut);

    // C2: the stream's rate is a u96, start and end are u40
    StreamTerms()(rate, start, end);

    // C3: the prover holds the secret of a stream that is in the tree under root
    signal payerTag <== PayerTag()(ps);
    signal cm <== StreamNote()(payee, payerTag, rate, start, end, rho);
    signal noteRoot <== MerkleRoot(TREE_DEPTH())(cm, index, path);
    noteRoot === root;

    // C4: its record's tag
    signal tag <== RecordTag()(cm, payerTag);

    // C5: refund = rate * (end - clamp(stop, start, end)), which is in 0 .. rate * (end - start) when start <= end
    Range(TIME_BITS())(end - start);
    signal notBefore <== Max(TIME_BITS())(stop, start);
    signal stopped <== Min(TIME_BITS())(notBefore, end);
    signal refund <== rate * (end - stopped);

    // C6: the value note is the prover's and in the tree, or a dummy
    signal nf <== ValueInput()(root, inSk, inV, inAmount, inRho, inIndex, inPath);

    // C7: the outputs are well formed and sealed
    signal cmOut[2];
    signal E[2][2];
    signal ct[2][3];
    (cmOut, E, ct) <== Outputs()(
        nf, outIsStream, outPk, outV, outAmount, outR, outEsk, outRate, outStart, outEnd, outPayerTag
    );

    // C8: conservation, between sums below 2^137
    refund + inAmount === outAmount[0] + outAmount[1] + amountOut;

    // C9: the statement
    Statement(TAG_CLOSE(), 18)(digest, alpha, value, [
        root, ext, tag, stop, amountOut, nf, cmOut[0], cmOut[1],
        E[0][0], E[0][1], ct[0][0], ct[0][1], ct[0][2],
        E[1][0], E[1][1], ct[1][0], ct[1][1], ct[1][2]
    ]);
}
