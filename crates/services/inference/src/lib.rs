//! AI inference, sold by the prompt.
