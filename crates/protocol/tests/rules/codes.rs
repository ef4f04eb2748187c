use std::collections::BTreeMap;

/// Users and scripts match on codes: each names one variant, in its topic's band, without gaps left by a removed one.
#[test]
fn each_code_names_one_variant() {
    let source = include_str!("../../src/error.rs");
    let mut seen = BTreeMap::new();
    for line in source.lines().filter(|line| line.contains("=> \"TRB-")) {
        let (variant, code) = line.split_once("=> \"").unwrap();
        let code = code.trim_end_matches("\",");
        assert!(code.len() == 8 && code.starts_with("TRB-1"), "{code}");
        assert_eq!(seen.insert(code.to_owned(), variant.trim().to_owned()), None, "{code} is used twice");
    }
    let variants = source.matches("#[error(").count();
    assert_eq!(seen.len(), variants, "each variant has a code");
}
