//! The commands, one module for each part of the marketplace.

pub(crate) mod bench;
pub(crate) mod buyer;
pub(crate) mod doctor;
pub(crate) mod gateway;
pub(crate) mod inference;
pub(crate) mod init;
pub(crate) mod node;
pub(crate) mod paid;
pub(crate) mod provider;
pub(crate) mod rate;
pub(crate) mod relayer;
pub(crate) mod sim;
pub(crate) mod tickets;
pub(crate) mod turn;
pub(crate) mod wallet;
