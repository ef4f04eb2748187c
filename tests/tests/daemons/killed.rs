//! A provider of each service is killed while it serves: who paid it is told, pays no further slot, and is served by another.

#[test]
fn who_paid_a_provider_that_is_killed_is_told_pays_no_further_slot_and_is_served_by_another() {
    let text = crate::run("tests/kill/run", &[]);
    for family in ["store", "lightpush", "filter", "stun", "turn", "inference", "http"] {
        let of_it = |line: &&str| line.contains(&format!(" {family}: "));
        let told = text.lines().find(of_it).unwrap_or_else(|| panic!("{family} is missing in\n{text}"));
        assert!(told.ends_with("its stream is stopped, and another one served"), "{told}");
    }
}
