//! Waku services sold through the provider's Service trait
