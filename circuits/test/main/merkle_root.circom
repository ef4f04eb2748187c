// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "../../lib/merkle_root.circom";

component main = MerkleRoot(3);
