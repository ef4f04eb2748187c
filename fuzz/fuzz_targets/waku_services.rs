//! Waku's service protocols, from arbitrary bytes.

#![no_main]

tributary_fuzz::target!(WakuServices);
