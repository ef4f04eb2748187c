// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "../../claim.circom";

component main { public [digest, alpha, value] } = Claim(2);
