//! The operator's script, run for real: shell programs that accept, refuse, propose, hang, babble and crash.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use libp2p::PeerId;
use serde_json::Value;
use tempfile::TempDir;
use tributary_market::clock::ManualClock;
use tributary_market::negotiate::buyer::{NegotiationError, QuoteChannel, Wish, negotiate};
use tributary_market::negotiate::policy::Policy;
use tributary_market::negotiate::provider::{Negotiator, QuoteTimes};
use tributary_market::negotiate::script::{ScriptConfig, ScriptPolicy};
use tributary_market::negotiate::{AgreedQuote, Refusal, RefusalCode, Source, Wanted};
use tributary_market::offer::{RateClassId, ServiceId, VerifiedOffer};
use tributary_protocol::amount::{Price, Rate};

use crate::common::*;

/// Long enough for a shell to start on a busy machine, short enough for a test to wait for its end.
const SHORT: Duration = Duration::from_secs(3);
/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Shop {
    negotiator: Negotiator,
    policy: Arc<ScriptPolicy>,
    offer: Arc<VerifiedOffer>,
    clock: ManualClock,
    folder: TempDir,
}

/// A provider whose only policy is this shell program; the folder for its files is `$1`.
fn shop(script: &str) -> Arc<Shop> {
    shop_with(script, |_| {})
}

fn shop_with(script: &str, change: impl FnOnce(&mut ScriptConfig)) -> Arc<Shop> {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ScriptConfig::new("/bin/sh");
    config.arguments = vec!["-c".into(), script.into(), "policy".into(), folder.path().into()];
    config.time_limit = PATIENCE;
    change(&mut config);
    let clock = ManualClock::new(now());
    let policy = ScriptPolicy::new(config);
    let negotiator = Negotiator::new(
        Arc::new(key(1)),
        crate::common::clock(),
        Arc::new(clock.clone()),
        QuoteTimes { validity: seconds(120), start_grace: seconds(300) },
        vec![Box::new(Arc::clone(&policy)) as Box<dyn Policy>],
    );
    let mut lasting = offer();
    lasting.expires_at = time(NOW + 86_400);
    let offer = verified(&lasting, &key(1));
    negotiator.set_offer(Some(offer.clone()));
    Arc::new(Shop { negotiator, policy, offer, clock, folder })
}

fn buyer(byte: u8) -> PeerId {
    key(byte).public().to_peer_id()
}

struct Channel<'a>(&'a Shop, Source);

#[async_trait]
impl QuoteChannel for Channel<'_> {
    async fn ask(&self, _offer: &VerifiedOffer, request: Vec<u8>) -> Result<Vec<u8>, NegotiationError> {
        Ok(self.0.negotiator.answer(self.1, &request).await.unwrap())
    }
}

fn wish() -> Wish {
    Wish {
        service: ServiceId::store(),
        wanted: Wanted::Anything,
        rate_class: RateClassId(1),
        start: now(),
        latest_start: time(NOW + 600),
        duration: seconds(3600),
        min_duration: seconds(1800),
        max_duration: seconds(7200),
        load: 10,
        min_load: 5,
        max_ticket_price: Price::new(100).unwrap(),
        max_rate: Rate::new(100).unwrap(),
        max_rounds: 2,
    }
}

impl Shop {
    async fn ask(&self, source: Source) -> Result<AgreedQuote, NegotiationError> {
        negotiate(&Channel(self, source), &self.offer, &wish(), &self.clock, &mut rng()).await
    }

    async fn agreed(&self) -> AgreedQuote {
        self.ask(Source::Peer(buyer(50))).await.unwrap()
    }

    async fn refused(&self) -> Refusal {
        self.refused_to(Source::Peer(buyer(50))).await
    }

    async fn refused_to(&self, source: Source) -> Refusal {
        match self.ask(source).await {
            Err(NegotiationError::Refused { refusal, .. }) => *refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The script fails with this code: the buyer is refused and learns it, and it is counted.
    async fn fails_with(&self, code: &'static str) {
        let refusal = self.refused().await;
        assert_eq!((refusal.code, refusal.counter), (RefusalCode::Unavailable, None), "{refusal}");
        assert!(refusal.description.contains(code), "{refusal}");
        assert_eq!(refusal.policy, "script");
        assert_eq!(refusal.retry_at, Some(time(NOW + 30)));
        let counters = self.policy.counters();
        assert_eq!(counters.failed.get(code), Some(&1), "{counters:?}");
        assert_eq!((counters.accepted, counters.refused, counters.countered), (0, 0, 0));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The process numbers that the script wrote.
    async fn pids(&self) -> Vec<u32> {
        let file = self.file("pids");
        until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with("end\n"))).await;
        std::fs::read_to_string(file).unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }
}

/// Looks until it is true.
async fn until(condition: impl Fn() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        while !condition() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it never came true");
}

/// The state letter of a process; `None` when there is none of this number.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

/// No process of this number runs. What the script started may be left to the system's first process, which need not reap it.
async fn is_killed(pid: u32) {
    until(|| matches!(state(pid), None | Some('Z' | 'X'))).await;
}

#[tokio::test]
async fn a_script_accepts_and_may_lower_the_load_cap() {
    let shop_one = shop(r#"echo '{"verdict":"accept"}'"#);
    assert_eq!(shop_one.agreed().await.terms.load_cap, 10);
    assert_eq!(shop_one.policy.counters().accepted, 1);
    let lower = shop(r#"echo '{"verdict":"accept","load_cap":7}'"#);
    assert_eq!(lower.agreed().await.terms.load_cap, 7);
    let higher = shop(r#"echo '{"verdict":"accept","load_cap":4000000000}'"#);
    assert_eq!(higher.agreed().await.terms.load_cap, 10);
    // Less than the buyer can use is a refusal, and the script must say so.
    shop(r#"echo '{"verdict":"accept","load_cap":4}'"#).fails_with("TRB-M257").await;
}

#[tokio::test]
async fn a_script_refuses_with_its_code_and_words() {
    let shop_one =
        shop(r#"printf %s '{"verdict":"refuse","code":"capacity","words":"come back\nlater","retry_after":60}'"#);
    let refusal = shop_one.refused().await;
    assert_eq!((refusal.code, refusal.policy.as_str()), (RefusalCode::Capacity, "script"));
    assert_eq!(refusal.description, "come back later");
    assert_eq!(refusal.retry_at, Some(time(NOW + 60)));
    assert_eq!(shop_one.policy.counters().refused, 1);
    let plain = shop(r#"echo '{"verdict":"refuse"}'"#).refused().await;
    assert_eq!((plain.code, plain.retry_at), (RefusalCode::Unavailable, None));
    let long = shop(r#"printf '{"verdict":"refuse","words":"%0999d"}' 0"#).refused().await;
    assert_eq!(long.description.len(), 256);
    // What a message is about is not a script's to say.
    shop(r#"echo '{"verdict":"refuse","code":"unknown_offer"}'"#).fails_with("TRB-M255").await;
}

#[tokio::test]
async fn a_counter_offer_of_a_script_is_followed() {
    let shop_one = shop(
        r#"case "$(cat)" in
             *'"round":0'*) echo '{"verdict":"counter","rate_class":2,"duration":7200,"load":6,"words":"the fast lane"}' ;;
             *) echo '{"verdict":"accept"}' ;;
           esac"#,
    );
    let quote = shop_one.agreed().await;
    assert_eq!((quote.terms.rate_class, quote.terms.duration), (RateClassId(2), seconds(7200)));
    assert_eq!((quote.terms.load_cap, quote.rate), (6, Rate::new(20).unwrap()));
    let counters = shop_one.policy.counters();
    assert_eq!((counters.countered, counters.accepted), (1, 1));
}

#[tokio::test]
async fn a_script_can_make_no_class_up_and_propose_nothing_that_the_offer_forbids() {
    shop(r#"echo '{"verdict":"counter","rate_class":9}'"#).fails_with("TRB-M256").await;
    shop(r#"echo '{"verdict":"counter","duration":10}'"#).fails_with("TRB-M257").await;
    shop(r#"echo '{"verdict":"counter","load":11}'"#).fails_with("TRB-M257").await;
    shop(r#"echo '{"verdict":"counter","load":0}'"#).fails_with("TRB-M257").await;
    // The same terms again would go round and round.
    shop(r#"echo '{"verdict":"counter"}'"#).fails_with("TRB-M257").await;
    shop(r#"echo '{"verdict":"accept","ticket_price":"1"}'"#).fails_with("TRB-M255").await;
}

#[tokio::test]
async fn a_late_script_is_killed_with_all_that_it_started() {
    let hang = r#"sleep 600 & echo $$ $! end >"$1/pids"; echo '{"verdict":"accept"}'; wait"#;
    let shop_one = shop_with(hang, |config| config.time_limit = SHORT);
    shop_one.fails_with("TRB-M252").await;
    let pids = shop_one.pids().await;
    // Its own process is reaped already: no zombie of ours is left.
    assert_eq!(state(pids[0]), None);
    is_killed(pids[1]).await;
}

#[tokio::test]
async fn what_a_script_leaves_behind_is_killed_and_holds_nothing_up() {
    let shop_one = shop(r#"sleep 600 & echo $$ $! end >"$1/pids"; echo '{"verdict":"accept"}'"#);
    shop_one.agreed().await;
    let pids = shop_one.pids().await;
    assert_eq!(state(pids[0]), None);
    is_killed(pids[1]).await;
}

#[tokio::test]
async fn a_script_that_nobody_waits_for_any_more_is_killed_and_reaped() {
    let shop_one = shop_with(r#"echo $$ end >"$1/pids"; sleep 600"#, |config| config.time_limit = SHORT);
    let asking = tokio::spawn({
        let shop = Arc::clone(&shop_one);
        async move { drop(shop.ask(Source::Sealed).await) }
    });
    let pids = shop_one.pids().await;
    asking.abort();
    until(|| state(pids[0]).is_none()).await;
}

#[tokio::test]
async fn garbage_noise_and_crashes_refuse() {
    shop("echo maybe").fails_with("TRB-M255").await;
    shop("true").fails_with("TRB-M255").await;
    shop(r#"echo '{"verdict":"accept"}{"verdict":"accept"}'"#).fails_with("TRB-M255").await;
    shop("printf '\\377\\376'").fails_with("TRB-M255").await;
    shop("exec yes").fails_with("TRB-M253").await;
    // Complaints are read and dropped, however many.
    shop(r#"head -c 300000 /dev/zero >&2; echo '{"verdict":"accept"}'"#).agreed().await;
    shop(r#"echo '{"verdict":"accept"}'; exit 3"#).fails_with("TRB-M254").await;
    shop(r#"echo '{"verdict":"accept"}'; kill -9 $$"#).fails_with("TRB-M254").await;
    shop_with("", |config| config.program = "/nonexistent/policy".into()).fails_with("TRB-M251").await;
}

#[tokio::test]
async fn a_script_sees_a_pseudonym_of_the_day_and_no_peer_id() {
    let shop_one = shop(r#"cat >"$1/ask"; echo '{"verdict":"accept"}'"#);
    let seen = async |source| {
        drop(shop_one.ask(source).await);
        let text = std::fs::read_to_string(shop_one.file("ask")).unwrap();
        for peer in [50, 51] {
            assert!(!text.contains(&buyer(peer).to_string()), "{text}");
        }
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let pseudonym = |value: &Value| value["buyer"]["pseudonym"].as_str().unwrap().to_owned();
    let first = seen(Source::Peer(buyer(50))).await;
    assert_eq!(first["version"], 1);
    assert_eq!(first["request"]["load"], 10);
    assert_eq!(first["offer"]["ticket_price"], "60");
    assert_eq!(first["offer"]["rate_classes"][1]["tickets_per_slot"], 20);
    assert_eq!(first["draft"]["load_cap"], 10);
    let again = seen(Source::Peer(buyer(50))).await;
    assert_eq!(pseudonym(&first), pseudonym(&again));
    let other = seen(Source::Peer(buyer(51))).await;
    assert_ne!(pseudonym(&first), pseudonym(&other));
    assert_eq!(seen(Source::Sealed).await["buyer"], serde_json::json!({ "kind": "sealed" }));
    shop_one.clock.set(time((NOW / 86_400 + 1) * 86_400));
    let next_day = seen(Source::Peer(buyer(50))).await;
    assert!(next_day["now"].as_u64() > first["now"].as_u64(), "the script was not asked");
    assert_ne!(pseudonym(&first), pseudonym(&next_day));
}

#[tokio::test]
async fn an_operator_may_ask_for_peer_ids() {
    let shop_one = shop_with(r#"cat >"$1/ask"; echo '{"verdict":"accept"}'"#, |config| config.show_peer_id = true);
    shop_one.agreed().await;
    let ask: Value = serde_json::from_str(&std::fs::read_to_string(shop_one.file("ask")).unwrap()).unwrap();
    assert_eq!(ask["buyer"]["peer_id"], buyer(50).to_string());
}

#[tokio::test]
async fn a_script_inherits_nothing_but_the_path() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "run by cargo");
    let shop_one = shop(r#"env >"$1/env"; echo '{"verdict":"accept"}'"#);
    shop_one.agreed().await;
    let env = std::fs::read_to_string(shop_one.file("env")).unwrap();
    assert!(env.contains("PATH=") && !env.contains("CARGO"), "{env}");
}

#[tokio::test]
async fn scripts_at_once_are_bounded_and_no_source_takes_all() {
    let wait = r#"echo . >>"$1/started"; while [ ! -e "$1/go" ]; do sleep 0.05; done; echo '{"verdict":"accept"}'"#;
    let shop_one = shop_with(wait, |config| config.at_once = 2);
    let ask = |source| {
        let shop = Arc::clone(&shop_one);
        tokio::spawn(async move { shop.ask(source).await })
    };
    let started = |n: usize| {
        let file = shop_one.file("started");
        move || std::fs::read_to_string(&file).is_ok_and(|text| text.lines().count() == n)
    };
    let first = ask(Source::Peer(buyer(50)));
    until(started(1)).await;
    let same = shop_one.refused().await;
    assert_eq!((same.code, same.compared[0].limit.as_str()), (RefusalCode::TooManyRequests, "1"));
    assert!(same.description.contains("TRB-M258"), "{same}");
    let second = ask(Source::Sealed);
    until(started(2)).await;
    let third = shop_one.refused_to(Source::Peer(buyer(51))).await;
    assert_eq!((third.code, third.compared[0].limit.as_str()), (RefusalCode::TooManyRequests, "2"));
    std::fs::write(shop_one.file("go"), "").unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    // Places are given back.
    shop_one.agreed().await;
}
