//! Find, pay and send: `script/send-bench`, once. How fast it must be is measured by that script on a quiet machine.

#[test]
fn a_cold_buyer_with_one_record_finds_pays_and_sends() {
    let text = crate::run("script/send-bench", &["1", "120"]);
    assert!(text.contains("1 of 1 tries within 120 s"), "{text}");
}
