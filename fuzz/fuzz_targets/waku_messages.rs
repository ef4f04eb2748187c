//! Waku's messages, frames, metadata and topics, from arbitrary bytes.

#![no_main]

tributary_fuzz::target!(WakuMessages);
