//! Measures tickets under load and flood, and lightpush to relay to Filter, and holds each figure against its bar. Ends with status 1 when one is
//! missed.
//!
//! `market-bench [--seconds N] [--quick] [--json]`: N seconds for each flood and for each of the other loads, 60 unless said otherwise;
//! `--quick` is 5 seconds, and of the floods only bad proofs and the mixed one. There is a quiet phase before, between and after the floods, of
//! 20 seconds at most, and a flood is compared with the two around it: other work on the machine comes and goes. The load is made on the same
//! processors; their time is told apart. The flood of peers that come back under new names has no bar: nothing but the price of a connection bounds
//! their number.

#[path = "../tests/load/push.rs"]
mod push;
#[path = "../tests/load/tickets.rs"]
mod tickets;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tickets::{Flood, Phase};

/// Good tickets a second, accepted.
const CAPACITY: f64 = 600.0;
/// Of the throughput without a flood.
const UNDER_FLOOD: f64 = 0.8;
const PUSH_P99_MS: f64 = 50.0;

enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure and what it must be.
struct Bar {
    what: String,
    measured: f64,
    limit: Limit,
    unit: &'static str,
}

impl Bar {
    fn at_least(what: impl Into<String>, measured: f64, bar: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, limit: Limit::AtLeast(bar), unit }
    }

    fn at_most(what: impl Into<String>, measured: f64, bar: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, limit: Limit::AtMost(bar), unit }
    }

    /// A figure that isn't a number meets nothing.
    fn met(&self) -> bool {
        match self.limit {
            Limit::AtLeast(bar) => self.measured >= bar,
            Limit::AtMost(bar) => self.measured <= bar,
        }
    }

    fn parts(&self) -> (&'static str, f64) {
        match self.limit {
            Limit::AtLeast(bar) => (">=", bar),
            Limit::AtMost(bar) => ("<=", bar),
        }
    }

    fn json(&self) -> Value {
        let (is, bar) = self.parts();
        json!({
            "what": self.what, "measured": self.measured, "unit": self.unit, "must_be": is, "bar": bar, "met": self.met(),
        })
    }

    fn line(&self) -> String {
        let (is, bar) = self.parts();
        let verdict = if self.met() { "met" } else { "MISSED" };
        format!("{:<56} {:>8.1} {:<3} {is} {bar:>6.1}  {verdict}", self.what, self.measured, self.unit)
    }
}

fn main() -> ExitCode {
    let (mut seconds, mut quick, mut as_json) = (None, false, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().and_then(|n| n.parse::<u64>().ok()).filter(|n| (1..=600).contains(n)),
            "--quick" => quick = true,
            "--json" => as_json = true,
            _ => usage(),
        }
        if arg == "--seconds" && seconds.is_none() {
            usage();
        }
    }
    let duration = Duration::from_secs(seconds.unwrap_or(if quick { 5 } else { 60 }));
    let mut floods = Flood::ALL[1..].to_vec();
    if quick {
        floods = vec![Flood::BadProof, Flood::Mixed];
    }
    floods.push(Flood::NewNames);
    let turns: Vec<Flood> =
        floods.into_iter().flat_map(|flood| [Flood::None, flood]).chain(std::iter::once(Flood::None)).collect();

    let before = load_average();
    let pushed = push::run(&push::Load { duration, ..push::Load::full() });
    let sold = tickets::run(&tickets::Load::full(duration), &turns);

    let ms = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let lost = pushed.sent.saturating_sub(pushed.received);
    let mut bars = vec![
        Bar::at_most("lightpush to Filter, p99", ms(pushed.percentile(99)), PUSH_P99_MS, "ms"),
        Bar::at_most("lightpush to Filter, lost or refused", (lost + pushed.refused) as f64, 0.0, ""),
        Bar::at_least("good tickets", sold.capacity.unwrap_or(f64::NAN), CAPACITY, "/s"),
    ];
    for (at, phase) in sold.phases.iter().enumerate().skip(1).step_by(2) {
        if phase.flood == "new_names" {
            continue;
        }
        let what = format!("good tickets, flood of {}, of those without", phase.flood);
        bars.push(Bar::at_least(what, 100.0 * of_quiet(&sold.phases, at), 100.0 * UNDER_FLOOD, "%"));
    }
    let sum = |n: fn(&Phase) -> u64| sold.phases.iter().map(n).sum::<u64>() as f64;
    bars.extend([
        Bar::at_most("good tickets refused as bad", sum(|p| p.wrongly_refused), 0.0, ""),
        Bar::at_most("bad tickets accepted", sum(|p| p.bad_accepted), 0.0, ""),
        Bar::at_most("tickets accepted twice", sold.accepted_twice as f64, 0.0, ""),
    ]);

    if as_json {
        let phases: Vec<_> = (0..sold.phases.len()).map(|at| phase_json(&sold.phases, at)).collect();
        let report = json!({
            "seconds": duration.as_secs(),
            "load_average_before": before,
            "load_average_after": load_average(),
            "bars": bars.iter().map(Bar::json).collect::<Vec<_>>(),
            "push": {
                "sent": pushed.sent,
                "refused": pushed.refused,
                "lost": lost,
                "twice": pushed.twice,
                "p50_ms": ms(pushed.percentile(50)),
                "p99_ms": ms(pushed.percentile(99)),
                "max_ms": ms(pushed.latencies.last().copied()),
            },
            "tickets": {
                "proofs": "of a key with a known trapdoor, verified by the real pairing equation",
                "capacity": sold.capacity,
                "phases": phases,
                "accepted_twice": sold.accepted_twice,
                "accepted": sold.accepted,
                "stored": sold.stored,
                "counters": sold.counters,
            },
        });
        println!("{report:#}");
    } else {
        bars.iter().for_each(|bar| println!("{}", bar.line()));
        println!("\nlightpush to Filter, p50: {:.1} ms", ms(pushed.percentile(50)));
        println!(
            "{:<14} {:>7} {:>8} {:>9} {:>8} {:>8} {:>9} {:>9} {:>12} {:>12}",
            "flood",
            "good/s",
            "of known",
            "of quiet",
            "p50 ms",
            "p99 ms",
            "bad sent",
            "bad cut",
            "provider CPU",
            "senders' CPU"
        );
        for (at, p) in sold.phases.iter().enumerate() {
            println!(
                "{:<14} {:>7.1} {:>8.1} {:>8.0}% {:>8.1} {:>8.1} {:>9} {:>9} {:>11.0}% {:>11.0}%",
                p.flood,
                p.throughput(),
                p.accepted_of_known as f64 / p.seconds,
                100.0 * if p.flood == "none" { 1.0 } else { of_quiet(&sold.phases, at) },
                ms(Some(p.p50)),
                ms(Some(p.p99)),
                p.bad_sent,
                p.bad_cut,
                100.0 * p.cpu.provider / p.seconds,
                100.0 * p.cpu.peers / p.seconds
            );
        }
        println!("load average {} before, {} after", before.unwrap_or_default(), load_average().unwrap_or_default());
    }
    if bars.iter().all(Bar::met) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A phase's throughput over that of the quiet phases beside it.
fn of_quiet(phases: &[Phase], at: usize) -> f64 {
    let quiet = phases[at - 1..=at + 1].iter().filter(|phase| phase.flood == "none");
    let (accepted, seconds) = quiet.fold((0, 0.0), |(n, s), phase| (n + phase.accepted, s + phase.seconds));
    phases[at].throughput() / (accepted as f64 / seconds)
}

fn phase_json(phases: &[Phase], at: usize) -> Value {
    let p = &phases[at];
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "flood": p.flood,
        "seconds": p.seconds,
        "valid_per_second": p.throughput(),
        "of_quiet": (p.flood != "none").then(|| of_quiet(phases, at)),
        "offered": p.offered,
        "accepted": p.accepted,
        "accepted_of_known_buyers": p.accepted_of_known,
        "accepted_late": p.accepted_late,
        "unavailable": p.unavailable,
        "unavailable_why": p.why,
        "wrongly_refused": p.wrongly_refused,
        "unanswered": p.unanswered,
        "bad_sent": p.bad_sent,
        "bad_refused": p.bad_refused,
        "bad_cut": p.bad_cut,
        "bad_accepted": p.bad_accepted,
        "p50_ms": ms(p.p50),
        "p99_ms": ms(p.p99),
        "provider_cpu_seconds": p.cpu.provider,
        "senders_cpu_seconds": p.cpu.peers,
        "provider_cpu_ms_per_good_ticket": 1e3 * p.cpu.provider / p.accepted as f64,
        "proof_checks": p.checks.0,
        "proof_checks_ms": p.checks.1,
    })
}

fn usage() -> ! {
    eprintln!("usage: market-bench [--seconds 1..600] [--quick] [--json]");
    std::process::exit(2)
}

fn load_average() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
