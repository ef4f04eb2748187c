//! What a buyer finds out of servers that are good, refuse, drop, cut, or keep silent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tributary_protocol::UnixTime;
use tributary_reputation::turn::{StunAssessor, StunObservation, TurnAssessor, TurnEnding, TurnObservation};
use tributary_reputation::{AssessmentId, ProviderName, ServiceName, Subject, Verdict};
use tributary_service_turn::{
    Allowance, Backend, Credential, Embedded, EmbeddedConfig, Grant, Limits, StunTried, Trial, TurnTried,
};

use crate::{PLENTY, issue, loopback, server, until};

const QUICK: Trial =
    Trial { packets: 20, size: 160, interval: Duration::from_millis(5), patience: Duration::from_secs(2) };

fn grant(server: SocketAddr, credential: &Credential) -> Grant {
    Grant {
        v: 1,
        urls: vec![format!("turn:{server}?transport=udp"), format!("stun:{server}")],
        username: credential.username.clone(),
        credential: credential.password.clone(),
        realm: "tributary".into(),
    }
}

fn named() -> (AssessmentId, Subject) {
    let subject =
        Subject { provider: ProviderName::new("provider").unwrap(), service: ServiceName::new("turn").unwrap() };
    (AssessmentId::new("trial").unwrap(), subject)
}

fn turn_verdict(tried: TurnTried) -> Verdict {
    let (id, subject) = named();
    let TurnTried { allocation, mapped, sent, round_trips, ending } = tried;
    let observed = TurnObservation { id, subject, at: UnixTime::MAX, allocation, mapped, sent, round_trips, ending };
    TurnAssessor::default().assess(&observed).verdict
}

fn stun_verdict(tried: StunTried) -> Verdict {
    let (id, subject) = named();
    let StunTried { binding, mapped, ending } = tried;
    StunAssessor::default().assess(&StunObservation { id, subject, at: UnixTime::MAX, binding, mapped, ending }).verdict
}

#[track_caller]
fn scored(verdict: &Verdict) -> (f64, f64) {
    match verdict {
        Verdict::Scored { score, weight } => (*score, *weight),
        other => panic!("not scored: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_server_scores_well_and_gets_its_allocation_back() {
    let (good, other) = (server(&["127.0.0.0/8"]).await, server(&[]).await);
    let (lease, credential) = issue(&good, PLENTY);
    let grant = grant(good.udp_addresses()[0], &credential);
    let tried = QUICK.turn(&grant, other.udp_addresses()).await;
    assert_eq!((tried.ending.clone(), tried.sent, tried.round_trips.len()), (TurnEnding::Complete, 20, 20));
    assert_eq!(tried.mapped.elsewhere.len(), 1, "the other server was asked");
    let used = good.usage(lease).bytes;
    assert_eq!(used, 4 * 20 * 160, "each packet went out and in of two allocations, and back");
    assert!(good.list().is_empty());
    let (score, weight) = scored(&turn_verdict(tried));
    assert!(score > 0.9 && weight >= 1.0, "{score} {weight}");

    // A relay of another address than the buyer's takes one allocation.
    let elsewhere = "127.0.0.3".parse().unwrap();
    let config = EmbeddedConfig {
        relay_bind: elsewhere,
        relay_address: elsewhere,
        allowed_peers: vec!["127.0.0.0/8".parse().unwrap()],
        ..EmbeddedConfig::new(loopback())
    };
    let away = Embedded::start(config).await.unwrap();
    let (lease_away, credential) = issue(&away, Allowance { allocations: 1, ..PLENTY });
    let tried = QUICK.turn(&self::grant(away.udp_addresses()[0], &credential), &[]).await;
    assert_eq!((tried.ending, tried.round_trips.len()), (TurnEnding::Complete, 20));
    assert_eq!(away.usage(lease_away).bytes, 2 * 20 * 160);

    let tried = QUICK.stun(&grant, other.udp_addresses()).await;
    assert_eq!(tried.ending, TurnEnding::Complete);
    assert_eq!(good.usage(lease).bindings, 1, "the credential was shown");
    let (score, _) = scored(&stun_verdict(tried));
    assert!(score > 0.9, "{score}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_drops_or_cuts_is_at_fault() {
    let refusing = server(&["127.0.0.0/8"]).await;
    let (_, mut credential) = issue(&refusing, PLENTY);
    credential.password.push('x');
    let refused = grant(refusing.udp_addresses()[0], &credential);
    let tried = QUICK.turn(&refused, &[]).await;
    assert_eq!(tried.ending, TurnEnding::Refused { what: "Allocate".into(), code: 401 });
    assert_eq!(scored(&turn_verdict(tried)), (0.0, 2.0));
    let tried = QUICK.stun(&refused, &[]).await;
    assert_eq!(tried.ending, TurnEnding::Refused { what: "Binding".into(), code: 401 });
    assert_eq!(scored(&stun_verdict(tried)), (0.0, 2.0));
    let (_, credential) = issue(&refusing, Allowance { allocations: 0, ..PLENTY });
    let tried = QUICK.turn(&grant(refusing.udp_addresses()[0], &credential), &[]).await;
    assert!(tried.is_occupied(), "{:?}", tried.ending);

    // It allocates, and hardly anything comes through.
    let config = EmbeddedConfig {
        allowed_peers: vec!["127.0.0.0/8".parse().unwrap()],
        limits: Limits { bytes_per_second: 1, ..Limits::default() },
        ..EmbeddedConfig::new(loopback())
    };
    let dropping = Embedded::start(config).await.unwrap();
    let (_, credential) = issue(&dropping, PLENTY);
    let trial = Trial { patience: Duration::from_millis(200), ..QUICK };
    let tried = trial.turn(&grant(dropping.udp_addresses()[0], &credential), &[]).await;
    assert_eq!((tried.ending.clone(), tried.sent, tried.round_trips.len()), (TurnEnding::Complete, 20, 0));
    assert_eq!(scored(&turn_verdict(tried)), (0.0, 1.0));

    let cutting = server(&["127.0.0.0/8"]).await;
    let (lease, credential) = issue(&cutting, PLENTY);
    let grant = grant(cutting.udp_addresses()[0], &credential);
    // Three seconds, so that the cut comes before the end.
    let trial = Trial { packets: 600, patience: Duration::from_millis(500), ..QUICK };
    let trying = tokio::spawn(async move { trial.turn(&grant, &[]).await });
    until("a relayed packet", || cutting.usage(lease).bytes > 0).await;
    cutting.cut(lease).await.unwrap();
    let tried = trying.await.unwrap();
    assert!(matches!(tried.ending, TurnEnding::Cut { .. }), "{:?}", tried.ending);
    assert_eq!(scored(&turn_verdict(tried)), (0.0, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_the_servers_fault_only_while_others_answer() {
    let other = server(&[]).await;
    // A socket that nobody reads.
    let silent = UdpSocket::bind(loopback()).await.unwrap();
    let credential = Credential { username: "u".into(), password: "p".into() };
    let grant = grant(silent.local_addr().unwrap(), &credential);
    let trial = Trial { patience: Duration::from_millis(600), ..QUICK };
    let unread = [silent.local_addr().unwrap()];
    let (alone, beside, nobody) =
        tokio::join!(trial.turn(&grant, &[]), trial.turn(&grant, other.udp_addresses()), trial.stun(&grant, &unread),);
    assert_eq!(alone.ending, TurnEnding::Silent { others_answer: None });
    assert!(matches!(turn_verdict(alone), Verdict::NetworkFault { .. }));
    assert_eq!(beside.ending, TurnEnding::Silent { others_answer: Some(true) });
    assert_eq!(scored(&turn_verdict(beside)), (0.0, 1.0));
    assert_eq!(nobody.ending, TurnEnding::Silent { others_answer: Some(false) });
    assert!(matches!(stun_verdict(nobody), Verdict::NetworkFault { .. }));
}
