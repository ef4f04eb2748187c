//! Assessing STUN and TURN: what a paid credential was good for when its buyer tried it.
//!
//! Of STUN it is known whether the binding worked, and whether others see the buyer at the same address. Of TURN, how soon an allocation was there, how many
//! packets came through it and how soon, and whether it stayed as long as it was paid for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tributary_protocol::time::UnixTime;

use crate::assess::{Assessment, AssessmentId, Measurement, Subject, Verdict};
use crate::measure::{MAX_LISTED, count, latency, mean, median, noted, own_fault, scored};

/// How a trial of a server ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnEnding {
    /// What was asked for was done.
    Complete,
    /// The server refused a credential whose lease was held.
    Refused {
        /// What was asked.
        what: String,
        /// The code of RFC 8489 and RFC 8656.
        code: u16,
    },
    /// The allocation was ended while the lease was held.
    Cut {
        /// How long it had lasted, milliseconds.
        after_ms: u64,
    },
    /// The server answered with what is no answer.
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing came from the server.
    Silent {
        /// Whether another server answered at the same time; absent when there was none to ask.
        others_answer: Option<bool>,
    },
    /// The buyer's own host failed.
    BuyerError {
        /// How.
        reason: String,
    },
}

impl TurnEnding {
    fn failure(&self) -> Option<Verdict> {
        let failed = |weight| Some(Verdict::Scored { score: 0.0, weight });
        match self {
            Self::Complete => None,
            // It was paid for.
            Self::Refused { .. } | Self::Cut { .. } | Self::Invalid { .. } => failed(2.0),
            Self::Silent { others_answer: Some(true) } => failed(1.0),
            Self::Silent { .. } => {
                Some(Verdict::NetworkFault { reason: "UDP may not get through: no other server answered".into() })
            }
            Self::BuyerError { reason } => Some(own_fault(reason)),
        }
    }
}

/// The buyer's address as servers see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapped {
    /// As the server under trial says.
    pub here: Option<SocketAddr>,
    /// As others said at the same time, one address each.
    pub elsewhere: Vec<SocketAddr>,
}

/// How an address agrees with those that others said. Ports are not compared: many NATs give one for each destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    /// Nobody was asked, or only who is in another network than the server: behind a NAT, say.
    Unknown,
    Agrees,
    /// One other said something else.
    Differs,
    /// Two others or more said something else, and all the same.
    False,
}

/// How far an address is from here: addresses of different reach may all be right.
fn reach(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => 0,
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64;
            if v4.is_private() || v4.is_link_local() || shared { 1 } else { 2 }
        }
        IpAddr::V6(v6) if v6.is_loopback() => 3,
        IpAddr::V6(v6) => {
            if v6.segments()[0] & 0xE000 == 0x2000 {
                5
            } else {
                4
            }
        }
    }
}

impl Mapped {
    fn agreement(&self) -> Agreement {
        let Some(here) = self.here.map(|address| address.ip()) else { return Agreement::Unknown };
        let others: Vec<IpAddr> =
            self.elsewhere.iter().map(SocketAddr::ip).filter(|ip| reach(*ip) == reach(here)).collect();
        match others[..] {
            [] => Agreement::Unknown,
            _ if others.contains(&here) => Agreement::Agrees,
            [first, _, ..] if others.iter().all(|other| *other == first) => Agreement::False,
            _ => Agreement::Differs,
        }
    }

    fn measured(&self) -> Option<Measurement> {
        let share = match self.agreement() {
            Agreement::Unknown => return None,
            Agreement::Agrees => 1.0,
            Agreement::Differs | Agreement::False => 0.0,
        };
        Some(scored("agreement", share, "share", share, AGREEMENT))
    }

    fn evidence(&self) -> serde_json::Value {
        json!({ "here": self.here, "elsewhere": self.elsewhere.iter().take(MAX_LISTED).collect::<Vec<_>>() })
    }

    /// The verdict on a trial that is worth this much else.
    fn judge(&self, score: f64) -> Verdict {
        match self.agreement() {
            Agreement::False => Verdict::Scored { score: 0.0, weight: FALSE_ADDRESS },
            // Either may be wrong.
            Agreement::Differs => Verdict::Scored { score: score.min(0.5), weight: 0.5 },
            Agreement::Unknown | Agreement::Agrees => Verdict::Scored { score, weight: 1.0 },
        }
    }
}

/// Weights of the parts of a score.
const BOUND: f64 = 0.5;
const BINDING: f64 = 0.3;
const AGREEMENT: f64 = 0.2;
const ALLOCATION: f64 = 0.2;
const DELIVERY: f64 = 0.5;
const ROUND_TRIP: f64 = 0.3;
/// How much a false address counts.
const FALSE_ADDRESS: f64 = 4.0;
/// Loss at which delivery is worth nothing: no call can be understood any more.
const BAD_LOSS: f64 = 0.1;

/// One trial of a STUN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StunObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// From asking to the answer.
    pub binding: Option<Duration>,
    /// The buyer's address.
    pub mapped: Mapped,
    /// How it ended.
    pub ending: TurnEnding,
}

/// One trial of a TURN server: an allocation, and packets that the buyer sent to itself through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnObservation {
    /// Names the use.
    pub id: AssessmentId,
    /// Who served.
    pub subject: Subject,
    /// When.
    pub at: UnixTime,
    /// From asking for the allocation to having it, the challenge included.
    pub allocation: Option<Duration>,
    /// The buyer's address.
    pub mapped: Mapped,
    /// Packets that were sent into the relay.
    pub sent: usize,
    /// How long each one that came back was on its way, through the relay and back through it.
    pub round_trips: Vec<Duration>,
    /// How it ended.
    pub ending: TurnEnding,
}

/// Judges STUN servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StunAssessor {
    /// An answer within this time is as fast as can be wished.
    pub good_latency: Duration,
    /// An answer that takes this long is worth nothing for its speed.
    pub bad_latency: Duration,
}

impl Default for StunAssessor {
    fn default() -> Self {
        Self { good_latency: Duration::from_millis(100), bad_latency: Duration::from_secs(3) }
    }
}

impl StunAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &StunObservation) -> Assessment {
        let mut measurements = Vec::new();
        let works = if observed.ending == TurnEnding::Complete { 1.0 } else { 0.0 };
        measurements.push(scored("bound", works, "share", works, BOUND));
        if let Some(took) = observed.binding {
            measurements.push(latency(took, self.good_latency, self.bad_latency, BINDING));
        }
        measurements.extend(observed.mapped.measured());
        let verdict = observed.ending.failure().unwrap_or_else(|| observed.mapped.judge(mean(&measurements)));
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({ "ending": observed.ending, "mapped": observed.mapped.evidence() }),
        }
    }
}

/// Judges TURN servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TurnAssessor {
    /// An allocation within this time is as fast as can be wished.
    pub good_allocation: Duration,
    /// An allocation that takes this long is worth nothing for its speed.
    pub bad_allocation: Duration,
    /// The same for the median round trip through the relay.
    pub good_round_trip: Duration,
    /// See there.
    pub bad_round_trip: Duration,
}

impl Default for TurnAssessor {
    fn default() -> Self {
        Self {
            good_allocation: Duration::from_millis(300),
            bad_allocation: Duration::from_secs(5),
            good_round_trip: Duration::from_millis(100),
            bad_round_trip: Duration::from_secs(1),
        }
    }
}

impl TurnAssessor {
    /// Judges one use.
    #[must_use]
    pub fn assess(&self, observed: &TurnObservation) -> Assessment {
        let mut measurements = Vec::new();
        let named = |name: &str, measurement: Measurement| Measurement { name: name.to_owned(), ..measurement };
        if let Some(took) = observed.allocation {
            let worth = latency(took, self.good_allocation, self.bad_allocation, ALLOCATION);
            measurements.push(named("allocation", worth));
        }
        let received = observed.round_trips.len().min(observed.sent);
        measurements.push(noted("sent", count(observed.sent), "packets"));
        let mut delivered = None;
        if observed.sent > 0 {
            let share = count(received) / count(observed.sent);
            let worth = (1.0 - (1.0 - share) / BAD_LOSS).max(0.0);
            measurements.push(scored("delivery", share, "share", worth, DELIVERY));
            delivered = Some(worth);
        }
        if let Some(middle) = median(observed.round_trips.clone()) {
            let worth = latency(middle, self.good_round_trip, self.bad_round_trip, ROUND_TRIP);
            measurements.push(named("round_trip", worth));
        }
        measurements.extend(observed.mapped.measured());
        let verdict = observed.ending.failure().unwrap_or_else(|| {
            // Speed doesn't make up for what is lost.
            let score = mean(&measurements).min(delivered.map_or(1.0, |worth| 0.5 + worth / 2.0));
            if observed.sent > 0 && received == 0 {
                Verdict::Scored { score: 0.0, weight: 1.0 }
            } else {
                observed.mapped.judge(score)
            }
        });
        Assessment {
            id: observed.id.clone(),
            subject: observed.subject.clone(),
            at: observed.at,
            measurements,
            verdict,
            evidence: json!({
                "ending": observed.ending,
                "mapped": observed.mapped.evidence(),
                "received": received,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::testing::{self, near};

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn turn() -> TurnObservation {
        TurnObservation {
            id: testing::id(),
            subject: testing::subject("turn"),
            at: UnixTime::new(1000).unwrap(),
            allocation: Some(Duration::from_millis(80)),
            mapped: Mapped { here: Some(address("1.1.1.1:5")), elsewhere: vec![address("1.1.1.1:6")] },
            sent: 20,
            round_trips: vec![Duration::from_millis(40); 20],
            ending: TurnEnding::Complete,
        }
    }

    fn stun() -> StunObservation {
        StunObservation {
            id: testing::id(),
            subject: testing::subject("stun"),
            at: UnixTime::new(1000).unwrap(),
            binding: Some(Duration::from_millis(20)),
            mapped: Mapped { here: Some(address("1.1.1.1:5")), elsewhere: vec![] },
            ending: TurnEnding::Complete,
        }
    }

    fn near_turn(observed: &TurnObservation, score: f64, weight: f64) {
        near(&TurnAssessor::default().assess(observed), score, weight);
    }

    #[test]
    fn a_fast_relay_that_loses_nothing_is_perfect_and_loss_and_slowness_cost_their_part() {
        near_turn(&turn(), 1.0, 1.0);
        // A twentieth lost: half of delivery's worth is gone, and speed can't make up for more.
        near_turn(&TurnObservation { round_trips: vec![Duration::from_millis(40); 19], ..turn() }, 0.75, 1.0);
        near_turn(&TurnObservation { round_trips: vec![Duration::from_millis(40); 10], ..turn() }, 0.5, 1.0);
        near_turn(&TurnObservation { round_trips: vec![Duration::from_secs(2); 20], ..turn() }, 0.75, 1.0);
        near_turn(&TurnObservation { round_trips: vec![], ..turn() }, 0.0, 1.0);
    }

    #[test]
    fn whose_fault_it_was_is_told_apart() {
        let ended = |ending| TurnObservation { ending, round_trips: vec![], allocation: None, ..turn() };
        near_turn(&ended(TurnEnding::Refused { what: "Allocate".into(), code: 401 }), 0.0, 2.0);
        near_turn(&ended(TurnEnding::Cut { after_ms: 50 }), 0.0, 2.0);
        near_turn(&ended(TurnEnding::Silent { others_answer: Some(true) }), 0.0, 1.0);
        let verdict = |ending| TurnAssessor::default().assess(&ended(ending)).verdict;
        for others_answer in [None, Some(false)] {
            assert!(matches!(verdict(TurnEnding::Silent { others_answer }), Verdict::NetworkFault { .. }));
        }
        let own = TurnEnding::BuyerError { reason: "no route".into() };
        assert!(matches!(verdict(own), Verdict::BuyerFault { .. }));
    }

    #[test]
    fn an_address_counts_as_false_when_two_others_agree_on_another_one() {
        let says = |elsewhere: &[&str]| {
            let mapped = Mapped { elsewhere: elsewhere.iter().map(|text| address(text)).collect(), ..stun().mapped };
            StunAssessor::default().assess(&StunObservation { mapped, ..stun() })
        };
        near(&says(&[]), 1.0, 1.0);
        near(&says(&["1.1.1.1:9", "2.2.2.2:1"]), 1.0, 1.0);
        near(&says(&["2.2.2.2:1"]), 0.5, 0.5);
        near(&says(&["2.2.2.2:1", "3.3.3.3:1"]), 0.5, 0.5);
        near(&says(&["2.2.2.2:1", "2.2.2.2:8"]), 0.0, FALSE_ADDRESS);
        // Who is asked within a network sees the address there.
        near(&says(&["10.0.0.1:1", "10.0.0.1:1"]), 1.0, 1.0);
    }
}
