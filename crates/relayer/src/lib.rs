//! Sends transactions for a fee and inserts queued leaves
