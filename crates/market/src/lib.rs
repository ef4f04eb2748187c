//! Offers, quotes, tickets and leases: messages, their signatures and their verification
