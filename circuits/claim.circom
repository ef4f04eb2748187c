// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "poseidon.circom";
include "lib/claim_lane.circom";
include "lib/constants.circom";
include "lib/range.circom";
include "lib/secret_owner.circom";
include "lib/statement.circom";
include "lib/value_output.circom";

// The payee takes what accrued on up to K streams, less the pool's burn, into one note of its own and an amount paid
// out (protocol.md §4.3).
template Claim(K) {
    assert(K >= 1 && K <= 16);

    signal input digest;
    signal input alpha;
    signal input value;

    signal input root;
    signal input ext;
    signal input amountOut;
    signal input burnBps;

    signal input sk;
    signal input v[2];
    signal input active[K];
    signal input payerTag[K];
    signal input rate[K];
    signal input start[K];
    signal input end[K];
    signal input rho[K];
    signal input index[K];
    signal input path[K][TREE_DEPTH()][3];
    signal input t0[K];
    signal input t1[K];
    signal input burn;
    signal input rem;
    signal input outAmount;
    signal input outR;
    signal input outEsk;

    // M1: amount_out is a u120
    Range(AMOUNT_BITS())(amountOut);

    // M2: the prover is the payee, who knows sk
    signal payee <== SecretOwner()(sk, v);

    // M3: each lane is a stream of the payee's, or inactive
    signal tag[K];
    signal pay[K];
    var sum = 0;
    for (var i = 0; i < K; i++) {
        (tag[i], pay[i]) <== ClaimLane()(
            root, payee, active[i], payerTag[i], rate[i], start[i], end[i], rho[i], index[i], path[i], t0[i], t1[i]
        );
        sum += pay[i];
    }

    // M4: the first lane is active: (tag_1, t0_1) makes the output's seed unique
    active[0] === 1;

    // M5: burn_bps <= 10000
    Range(14)(burnBps);
    Range(14)(10000 - burnBps);

    // M6: sum * burn_bps = 10000 * burn + rem, 0 <= rem < 10000. Each lane pays below 2^136, so sum < 2^140 and both sides
    // are below 2^155: the quotient is the integer one
    Range(140)(burn);
    Range(14)(rem);
    Range(14)(9999 - rem);
    sum * burnBps === 10000 * burn + rem;

    // M7: conservation. burn <= sum, so both sides are sums of unsigned integers below 2^140
    outAmount + amountOut === sum - burn;

    // M8: the output is the payee's, well formed and sealed
    signal outRho <== Poseidon(5)([TAG_RHO_CLAIM(), tag[0], t0[0], outR, 0]);
    signal cm;
    signal E[2];
    signal ct[3];
    (cm, E, ct) <== ValueOutput(0)(payee, v, outAmount, outRho, outEsk);

    // M9: the statement
    signal x[10 + 3 * K];
    x[0] <== root;
    x[1] <== ext;
    x[2] <== amountOut;
    x[3] <== burnBps;
    x[4] <== cm;
    x[5] <== E[0];
    x[6] <== E[1];
    for (var i = 0; i < 3; i++) {
        x[7 + i] <== ct[i];
    }
    for (var i = 0; i < K; i++) {
        x[10 + 3 * i] <== tag[i];
        x[11 + 3 * i] <== t0[i];
        x[12 + 3 * i] <== t1[i];
    }
    Statement(TAG_CLAIM(), 10 + 3 * K)(digest, alpha, value, x);
}
