//! Memos, addresses and proofs, from arbitrary bytes.

#![no_main]

tributary_fuzz::target!(Notes);
