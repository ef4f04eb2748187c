// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "../../lib/seal.circom";

component main = Seal(1);
