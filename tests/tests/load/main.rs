//! Short loads on real nodes: nothing is lost, and no ticket is accepted twice. The speeds are measured by the example `market-bench`, which
//! runs the same code for longer.

mod push;
mod tickets;

use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(3);

#[test]
fn no_ticket_is_accepted_twice_and_no_bad_one_at_all() {
    // A load that a busy machine bears: what counts here is that every answer is the right one.
    let load = tickets::Load {
        valid_per_second: 60,
        attackers: 4,
        bad_per_attacker: 20,
        in_flight: 0,
        ..tickets::Load::full(SECONDS)
    };
    let report = tickets::run(&load, &tickets::Flood::ALL);
    for phase in &report.phases {
        assert_eq!(phase.wrongly_refused, 0, "{}: good tickets refused as bad: {phase:?}", phase.flood);
        assert_eq!(phase.bad_accepted, 0, "{}: {phase:?}", phase.flood);
        assert!(phase.accepted > 0, "{}: nothing was accepted: {phase:?}", phase.flood);
        let attacked = phase.flood == "none" || phase.bad_refused > 0;
        assert!(attacked, "{}: no attack arrived: {phase:?}", phase.flood);
    }
    assert_eq!(report.accepted_twice, 0);
    assert_eq!(report.stored, report.accepted, "each accepted ticket is stored once, and nothing else is");
}

#[test]
fn no_pushed_message_is_lost_on_its_way_to_a_filter_subscriber() {
    let report = push::run(&push::Load { duration: SECONDS, ..push::Load::full() });
    assert_eq!(report.refused, 0, "{report:?}");
    assert_eq!(report.sent, 300, "{report:?}");
    assert_eq!((report.received, report.twice), (report.sent, 0), "{report:?}");
}
