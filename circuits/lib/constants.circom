// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

// Hash tags: the first input of every tagged Poseidon (docs/src/encodings.md, "Hash tags"). Tree nodes
// are the only untagged hash and the only one of four inputs.
function TAG_PK() { return 1; }
function TAG_OWNER() { return 2; }
function TAG_RHO() { return 3; }
function TAG_VALUE() { return 4; }
function TAG_NF() { return 5; }
function TAG_STREAM() { return 6; }
function TAG_PAYER() { return 7; }
function TAG_REC() { return 9; }
function TAG_SEAL() { return 10; }
function TAG_RHO_CLAIM() { return 11; }
function TAG_LIST() { return 12; }
function TAG_TICKET() { return 13; }
function TAG_TRANSACT() { return 21; }
function TAG_CLOSE() { return 22; }
function TAG_CLAIM() { return 23; }
function TAG_INSERT() { return 24; }

function TREE_DEPTH() { return 16; }

// Widths in bits of the protocol's integers (protocol.md, notation).
function AMOUNT_BITS() { return 120; }
function RATE_BITS() { return 96; }
function TIME_BITS() { return 40; }
function ESK_BITS() { return 250; }

// keccak256("tributary.empty.leaf") mod r; the tests recompute it.
function EMPTY_LEAF() { return 19323785597670524325190285008088141435706255754550956605249218583460170935425; }
