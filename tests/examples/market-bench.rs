//! Measures tickets under load and flood, and lightpush to relay to Filter. Prints one JSON object.
//!
//! `market-bench [--seconds N] [--quick]`: N seconds for each phase, 60 unless said otherwise; `--quick` is 5 seconds, and of the floods only
//! bad proofs and the mixed one.

#[path = "../tests/load/push.rs"]
mod push;
#[path = "../tests/load/tickets.rs"]
mod tickets;

use std::time::Duration;

use serde_json::json;
use tickets::Flood;

fn main() {
    let (mut seconds, mut quick) = (None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().and_then(|n| n.parse::<u64>().ok()).filter(|n| (1..=600).contains(n)),
            "--quick" => quick = true,
            _ => usage(),
        }
        if arg == "--seconds" && seconds.is_none() {
            usage();
        }
    }
    let duration = Duration::from_secs(seconds.unwrap_or(if quick { 5 } else { 60 }));
    let floods: &[Flood] = if quick { &[Flood::None, Flood::BadProof, Flood::Mixed] } else { &Flood::ALL };

    let before = load_average();
    let pushed = push::run(&push::Load { duration, ..push::Load::full() });
    let sold = tickets::run(&tickets::Load::full(duration), floods);
    let quiet = sold.phases.first().map_or(0.0, tickets::Phase::throughput);
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let phases: Vec<_> = sold
        .phases
        .iter()
        .map(|p| {
            json!({
                "flood": p.flood,
                "valid_per_second": p.throughput(),
                "of_quiet": p.throughput() / quiet,
                "offered": p.offered,
                "accepted": p.accepted,
                "accepted_late": p.accepted_late,
                "unavailable": p.unavailable,
                "wrongly_refused": p.wrongly_refused,
                "unanswered": p.unanswered,
                "bad_sent": p.bad_sent,
                "bad_refused": p.bad_refused,
                "bad_cut": p.bad_cut,
                "bad_accepted": p.bad_accepted,
                "p50_ms": ms(Some(p.p50)),
                "p99_ms": ms(Some(p.p99)),
            })
        })
        .collect();
    let report = json!({
        "seconds": duration.as_secs(),
        "load_average_before": before,
        "load_average_after": load_average(),
        "push": {
            "sent": pushed.sent,
            "refused": pushed.refused,
            "lost": pushed.sent.saturating_sub(pushed.received),
            "twice": pushed.twice,
            "p50_ms": ms(pushed.percentile(50)),
            "p99_ms": ms(pushed.percentile(99)),
            "max_ms": ms(pushed.latencies.last().copied()),
        },
        "tickets": {
            "proofs": "of a key with a known trapdoor, verified by the real pairing equation",
            "phases": phases,
            "accepted_twice": sold.accepted_twice,
            "accepted": sold.accepted,
            "stored": sold.stored,
            "counters": sold.counters,
        },
    });
    println!("{report:#}");
}

fn usage() -> ! {
    eprintln!("usage: market-bench [--seconds 1..600] [--quick]");
    std::process::exit(2)
}

fn load_average() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
