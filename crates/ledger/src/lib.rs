//! Follows a pool on chain: events, trees, stopped lists and notes, through reorganisations
