// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "lib/constants.circom";
include "lib/nonzero.circom";
include "lib/outputs.circom";
include "lib/range.circom";
include "lib/statement.circom";
include "lib/value_input.circom";

// Two value notes in, two notes out, the first of them a value or a stream note: deposit, transfer, merge,
// withdraw and open (protocol.md §4.1).
template Transact() {
    signal input digest;
    signal input alpha;
    signal input value;

    signal input root;
    signal input ext;
    signal input amountIn;
    signal input amountOut;

    signal input inSk[2];
    signal input inV[2][2];
    signal input inAmount[2];
    signal input inRho[2];
    signal input inIndex[2];
    signal input inPath[2][TREE_DEPTH()][3];

    signal input outIsStream;
    signal input outPk[2];
    signal input outV[2][2];
    signal input outAmount[2];
    signal input outR[2];
    signal input outEsk[2];
    signal input rate;
    signal input start;
    signal input end;
    signal input payerTag;

    // T1: amount_in and amount_out are u120
    Range(AMOUNT_BITS())(amountIn);
    Range(AMOUNT_BITS())(amountOut);

    // T2: each input is the prover's and in the tree, or a dummy
    signal nf[2];
    for (var i = 0; i < 2; i++) {
        nf[i] <== ValueInput()(root, inSk[i], inV[i], inAmount[i], inRho[i], inIndex[i], inPath[i]);
    }

    // T3: the inputs differ
    NonZero()(nf[0] - nf[1]);

    // T4: the outputs are well formed and sealed
    signal cm[2];
    signal E[2][2];
    signal ct[2][3];
    (cm, E, ct) <== Outputs()(
        nf[0], outIsStream, outPk, outV, outAmount, outR, outEsk, rate, start, end, payerTag
    );

    // T5: conservation, between sums of u120
    inAmount[0] + inAmount[1] + amountIn === outAmount[0] + outAmount[1] + amountOut;

    // T6: the statement
    Statement(TAG_TRANSACT(), 18)(digest, alpha, value, [
        root, ext, amountIn, amountOut, nf[0], nf[1], cm[0], cm[1],
        E[0][0], E[0][1], ct[0][0], ct[0][1], ct[0][2],
        E[1][0], E[1][1], ct[1][0], ct[1][1], ct[1][2]
    ]);
}
