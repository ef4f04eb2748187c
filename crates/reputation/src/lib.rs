//! Scores of providers from experience, and why
