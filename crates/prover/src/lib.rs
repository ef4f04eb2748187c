//! Groth16 proving and verification from circuit artefacts, and the development setup
