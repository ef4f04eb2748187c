//! Verifies tickets, serves what they buy, and claims from the streams that pay
