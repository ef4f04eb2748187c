//! A paid HTTP reverse proxy.
