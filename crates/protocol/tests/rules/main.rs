//! The protocol's rules, one module a topic. A test of a refusal names the error and its code.

#[path = "../support/mod.rs"]
mod support;

mod clock;
mod codes;
mod field;
mod keys;
mod memos;
mod notes;
mod statements;
mod stopped;
mod tickets;
mod tree;
mod witnesses;
