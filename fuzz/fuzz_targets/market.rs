//! Envelopes, offers, announcements and relayers' messages, from arbitrary bytes.

#![no_main]

tributary_fuzz::target!(Market);
