//! The market's messages as their readers see them: each refusal by its own code, forged and tampered messages, bounds.

mod book;
mod choose;
mod common;
mod fuzz;
mod negotiate;
mod node;
mod offer;
mod relay;
mod script;
mod ticket;
mod vectors;
