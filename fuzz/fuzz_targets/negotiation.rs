//! Quotes, sealed calls and tickets, from arbitrary bytes.

#![no_main]

tributary_fuzz::target!(Negotiation);
