//! STUN and TURN, sold by the slot.
