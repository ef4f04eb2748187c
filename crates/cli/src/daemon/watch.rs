//! What a daemon knows about itself: alive, ready and why not, its numbers. No peer, account, nullifier or tag is named.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy::primitives::U256;
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::timeout};
use tributary_ledger::Ledger;
use tributary_market::{lease, negotiate};
use tributary_provider::daemon::Provider;
use tributary_relayer::Engine;
use tributary_waku::{
    FILTER_SUBSCRIBE_PROTOCOL, LIGHTPUSH_PROTOCOL, LIGHTPUSH_V2_PROTOCOL, METADATA_PROTOCOL, NodeHandle, STORE_PROTOCOL,
};

use super::{Stop, families::Families};
use crate::config::Metrics;

/// Time for a part of the daemon to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Age up to which a number that costs a query is given again.
const FRESH: Duration = Duration::from_secs(5);

/// What runs beside the node.
#[derive(Debug)]
pub(crate) enum Part {
    /// Nothing.
    Node,
    /// A provider, and its ledger.
    Provider(Arc<Provider>, Ledger),
    /// A relayer, and its ledger.
    Relayer(Engine, Ledger),
}

/// A running daemon as its operator sees it.
#[derive(Debug)]
pub(crate) struct Watch {
    node: NodeHandle,
    part: Part,
    settings: Metrics,
    listens: bool,
    stop: Stop,
    started: (Instant, u64),
    balance: Kept<U256>,
    archive: Kept<(u64, u64)>,
}

/// The last answer to a question that costs something.
type Kept<T> = Mutex<Option<(Instant, Result<T, String>)>>;

/// One condition of being ready.
struct Check {
    name: &'static str,
    result: Result<String, String>,
}

impl Watch {
    /// Of a daemon that just started; `listens` tells whether its node is meant to listen.
    pub(crate) fn new(node: NodeHandle, part: Part, settings: Metrics, listens: bool, stop: Stop) -> Self {
        Self {
            node,
            part,
            settings,
            listens,
            stop,
            started: (Instant::now(), unix_now()),
            balance: Mutex::default(),
            archive: Mutex::default(),
        }
    }

    fn role(&self) -> &'static str {
        match self.part {
            Part::Node => "node",
            Part::Provider(..) => "provider",
            Part::Relayer(..) => "relayer",
        }
    }

    fn ledger(&self) -> Option<&Ledger> {
        match &self.part {
            Part::Node => None,
            Part::Provider(_, ledger) | Part::Relayer(_, ledger) => Some(ledger),
        }
    }

    /// Peers, if the node's own task answers.
    async fn peers(&self) -> Option<usize> {
        timeout(ANSWER_LIMIT, self.node.connected_peers()).await.ok().map(|peers| peers.len())
    }

    /// Whether the daemon lives: its node's task answers.
    pub(super) async fn health(&self) -> (bool, Value) {
        let alive = self.peers().await.is_some();
        let reason = (!alive).then(|| format!("the node gave no answer within {} s", ANSWER_LIMIT.as_secs()));
        let value = json!({
            "alive": alive, "role": self.role(), "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.0.elapsed().as_secs(), "reason": reason,
        });
        (alive, value)
    }

    /// Whether it can do its work, and what each condition says.
    pub(super) async fn ready(&self) -> (bool, Value) {
        let mut checks = vec![self.running(), self.listening(), self.enough_peers().await];
        if self.node.archive().is_some() {
            checks.push(self.archived().await);
        }
        if let Some(ledger) = self.ledger() {
            checks.push(self.up_to_date(ledger));
        }
        match &self.part {
            Part::Node => {}
            Part::Provider(provider, _) => checks.push(offer(provider)),
            Part::Relayer(engine, _) => checks.push(self.funded(engine).await),
        }
        let ready = checks.iter().all(|check| check.result.is_ok());
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                let reason = check.result.as_ref().unwrap_or_else(|problem| problem);
                json!({ "check": check.name, "ok": check.result.is_ok(), "reason": reason })
            })
            .collect();
        (ready, json!({ "ready": ready, "role": self.role(), "checks": checks }))
    }

    fn running(&self) -> Check {
        let result =
            if self.stop.is_requested() { Err("the daemon is stopping".into()) } else { Ok("running".to_owned()) };
        Check { name: "running", result }
    }

    fn listening(&self) -> Check {
        let addresses = self.node.listen_addrs().len();
        let result = match (addresses, self.listens) {
            (0, true) => Err("the node listens nowhere: check waku.listen".into()),
            (0, false) => Ok("it is not meant to listen".into()),
            (n, _) => Ok(format!("addresses: {n}")),
        };
        Check { name: "listening", result }
    }

    async fn enough_peers(&self) -> Check {
        let least = self.settings.min_peers;
        let result = match self.peers().await {
            None => Err(format!("the node gave no answer within {} s", ANSWER_LIMIT.as_secs())),
            Some(peers) if peers < least => Err(format!(
                "{peers} peers, at least {least} are wanted: check waku.bootstrap; metrics.min_peers = 0 for a node that may be alone"
            )),
            Some(peers) => Ok(format!("{peers} peers, at least {least} are wanted")),
        };
        Check { name: "peers", result }
    }

    async fn archived(&self) -> Check {
        let result = match self.archive().await {
            None => Err("there is no archive".to_owned()),
            Some(Ok((messages, _))) => Ok(format!("messages: {messages}")),
            Some(Err(error)) => Err(format!("{error}: check waku.archive")),
        };
        Check { name: "archive", result }
    }

    fn up_to_date(&self, ledger: &Ledger) -> Check {
        let most = self.settings.max_behind;
        let result = match ledger.head_time() {
            Err(error) => Err(error.to_string()),
            Ok(head) => {
                let age = unix_now().saturating_sub(head.get());
                if most == 0 || age <= most {
                    Ok(format!("the newest block read is {age} s old"))
                } else {
                    Err(format!(
                        "the newest block read is {age} s old, at most {most} s are allowed: check chain.rpc, or metrics.max_behind"
                    ))
                }
            }
        };
        Check { name: "ledger", result }
    }

    async fn funded(&self, engine: &Engine) -> Check {
        let floor = engine.config().low_balance;
        let result = match self.balance(engine).await {
            Err(error) => Err(error),
            Ok(balance) if balance < floor => {
                Err(format!("the account has {balance} wei, relayer.low_balance is {floor}: send ether to it"))
            }
            Ok(balance) => Ok(format!("the account has {balance} wei, relayer.low_balance is {floor}")),
        };
        Check { name: "balance", result }
    }

    async fn balance(&self, engine: &Engine) -> Result<U256, String> {
        kept(&self.balance, async { engine.balance().await.map_err(|error| error.to_string()) }).await
    }

    /// Messages in the archive, and the bytes that they take.
    async fn archive(&self) -> Option<Result<(u64, u64), String>> {
        let archive = self.node.archive()?;
        let ask = async {
            let failed = |error: tributary_waku::ArchiveError| error.to_string();
            Ok((archive.count().await.map_err(failed)?, archive.used_bytes().await.map_err(failed)?))
        };
        Some(kept(&self.archive, ask).await)
    }

    /// All numbers.
    pub(super) async fn metrics(&self) -> Families {
        let mut out = Families::default();
        out.gauge_of(
            "tributary_build",
            "1, with the program's version and role.",
            &[("version", env!("CARGO_PKG_VERSION")), ("role", self.role())],
            1u64,
        );
        out.gauge("tributary_start_time_seconds", "When the daemon started, Unix time.", self.started.1);
        let (ready, _) = self.ready().await;
        out.gauge("tributary_ready", "1 when /ready says so.", u64::from(ready));
        self.node_metrics(&mut out).await;
        if let Some(ledger) = self.ledger() {
            ledger_metrics(ledger, &mut out);
        }
        match &self.part {
            Part::Node => {}
            Part::Provider(provider, _) => provider_metrics(provider, &mut out),
            Part::Relayer(engine, _) => self.relayer_metrics(engine, &mut out).await,
        }
        out
    }

    async fn node_metrics(&self, out: &mut Families) {
        if let Some(peers) = self.peers().await {
            out.gauge("tributary_node_peers", "Connected peers.", peers);
        }
        let stats = self.node.stats();
        for (outcome, n) in
            [("accepted", stats.relay_accepted), ("rejected", stats.relay_rejected), ("ignored", stats.relay_ignored)]
        {
            let help = "Messages that came in by relay.";
            out.counter_of("tributary_node_relayed_messages", help, &[("outcome", outcome)], n);
        }
        for (outcome, n) in [("sent", stats.relay_published), ("refused", stats.relay_unpublished)] {
            let help = "Messages that the node was to send out by relay, its own and those of lightpush clients.";
            out.counter_of("tributary_node_published_messages", help, &[("outcome", outcome)], n);
        }
        out.counter("tributary_node_archive_lost", "Messages that could not be archived.", stats.archive_lost);
        let help = "Peers disconnected because they belong to another network.";
        out.counter("tributary_node_incompatible_peers", help, stats.incompatible_peers);
        let help = "Filter pushes that nobody asked for.";
        out.counter("tributary_node_unexpected_pushes", help, stats.unexpected_pushes);
        if let Some(Ok((messages, bytes))) = self.archive().await {
            out.gauge("tributary_node_archive_messages", "Messages in the archive.", messages);
            out.gauge("tributary_node_archive_bytes", "Bytes of the archive in use.", bytes);
        }
        if let Some(filter) = self.node.filter_stats() {
            out.gauge("tributary_node_filter_subscribers", "Peers subscribed by Filter.", filter.subscribers);
            for (outcome, n) in [("delivered", filter.pushed), ("lost", filter.lost)] {
                let help = "Messages for Filter subscribers.";
                out.counter_of("tributary_node_filter_messages", help, &[("outcome", outcome)], n);
            }
        }
        for (protocol, id) in [
            ("store", STORE_PROTOCOL),
            ("filter", FILTER_SUBSCRIBE_PROTOCOL),
            ("lightpush", LIGHTPUSH_PROTOCOL),
            ("lightpush_v2", LIGHTPUSH_V2_PROTOCOL),
            ("metadata", METADATA_PROTOCOL),
            ("quote", negotiate::PROTOCOL),
            ("lease", lease::PROTOCOL),
        ] {
            let Some(stats) = self.node.serve_stats(id) else { continue };
            for (outcome, n) in [
                ("answered", stats.answered),
                ("unanswered", stats.unanswered),
                ("rate_limited", stats.rate_limited),
                ("not_listened", stats.not_listened),
                ("busy", stats.busy),
                ("too_large", stats.too_large),
                ("broken", stats.broken),
                ("timeout", stats.handler_timeouts),
                ("answer_too_large", stats.response_too_large),
                ("dropped", stats.dropped),
            ] {
                let help = "Requests of peers.";
                out.counter_of("tributary_node_requests", help, &[("protocol", protocol), ("outcome", outcome)], n);
            }
        }
    }

    async fn relayer_metrics(&self, engine: &Engine, out: &mut Families) {
        if let Ok(balance) = self.balance(engine).await {
            let balance = u128::try_from(balance).unwrap_or(u128::MAX);
            out.gauge("tributary_relayer_balance_wei", "What the account has for gas.", balance);
        }
        let snapshot = match engine.snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "the relayer's numbers can't be read");
                return;
            }
        };
        let requests = snapshot.requests;
        for (state, n) in [
            ("waiting", requests.waiting),
            ("pending", requests.pending),
            ("confirmed", requests.mined),
            ("inserted", requests.inserted),
            ("rejected", requests.rejected),
        ] {
            let help = "Requests by state, as far as they are remembered.";
            out.gauge_of("tributary_relayer_requests", help, &[("state", state)], n);
        }
        for (code, n) in &snapshot.rejected {
            let help = "Requests not taken, or given up.";
            out.counter_of("tributary_relayer_rejected", help, &[("code", code)], *n);
        }
        for (outcome, n) in [("settled", snapshot.settled), ("reverted", snapshot.reverted)] {
            let help = "Transactions of this relayer that are deep in the chain.";
            out.counter_of("tributary_relayer_transactions", help, &[("outcome", outcome)], n);
        }
        let help = "Settled transactions that put leaves into the tree.";
        out.counter("tributary_relayer_insertions", help, snapshot.insertions);
        let help = "Transactions sent again at a higher price.";
        out.counter("tributary_relayer_replaced_transactions", help, snapshot.replaced);
        out.counter("tributary_relayer_gas", "Gas of settled and reverted transactions.", snapshot.gas);
        out.counter("tributary_relayer_gas_wei", "What that gas cost.", snapshot.gas_wei);
    }
}

fn offer(provider: &Provider) -> Check {
    let result = match provider.snapshot().offer {
        Some(_) => Ok("there is a current offer".to_owned()),
        None => Err("there is no current offer yet".into()),
    };
    Check { name: "offer", result }
}

fn ledger_metrics(ledger: &Ledger, out: &mut Families) {
    if let Some(head) = ledger.head() {
        out.gauge("tributary_ledger_block", "Number of the newest block read.", head.number);
    }
    if let Ok(head) = ledger.head_time() {
        let age = unix_now().saturating_sub(head.get());
        out.gauge("tributary_ledger_age_seconds", "Age of the newest block read.", age);
    }
    out.gauge("tributary_ledger_leaves_queued", "Leaves of the pool, inserted ones included.", ledger.queued());
    out.gauge("tributary_ledger_leaves_inserted", "Leaves in the pool's tree.", ledger.inserted());
}

fn provider_metrics(provider: &Provider, out: &mut Families) {
    let snapshot = provider.snapshot();
    let tickets = snapshot.tickets;
    out.counter("tributary_provider_tickets_taken", "Tickets taken.", tickets.tickets);
    out.counter("tributary_provider_payments_taken", "Proofs of payment taken.", tickets.taken);
    for (reason, n) in &tickets.refused {
        let help = "Proofs of payment refused.";
        out.counter_of("tributary_provider_payments_refused", help, &[("code", reason)], *n);
    }
    out.counter("tributary_provider_proofs_verified", "Proofs verified.", tickets.proofs);
    out.counter("tributary_provider_proof_batches", "Batches of proofs verified.", tickets.batches);
    let help = "Batches split for a bad proof.";
    out.counter("tributary_provider_proof_batches_split", help, tickets.split_batches);
    for (service, till) in &snapshot.services {
        for (outcome, n) in [
            ("free", till.free),
            ("paid", till.paid),
            ("served", till.served),
            ("failed", till.failed),
            ("unpaid", till.unpaid),
            ("refused", till.refused),
        ] {
            let help =
                "Uses of a service: let in free or paid, paid ones served or failed, turned away unpaid or refused.";
            out.counter_of("tributary_provider_uses", help, &[("service", service), ("outcome", outcome)], n);
        }
    }
    out.counter("tributary_provider_offers_published", "Times an offer was published.", snapshot.offers_published);
    if let Some(sequence) = snapshot.offer_sequence {
        out.gauge("tributary_provider_offer_sequence", "Number of the current offer.", sequence);
    }
    if let Some(streams) = snapshot.streams {
        let (running, waiting) = (streams.running, streams.waiting);
        for (state, n) in [("running", running), ("waiting", waiting)] {
            out.gauge_of("tributary_provider_streams", "Streams that pay this provider.", &[("state", state)], n);
        }
        let help = "What can be claimed now, token base units.";
        out.gauge("tributary_provider_claimable_base_units", help, streams.claimable.get());
        let help = "What claims paid, before burn and fee, token base units.";
        out.counter("tributary_provider_claimed_base_units", help, streams.claimed.get());
        out.counter("tributary_provider_claims", "Claims confirmed.", streams.claims);
    }
    if let Some(script) = snapshot.script {
        for (verdict, n) in [("accept", script.accepted), ("refuse", script.refused), ("counter", script.countered)] {
            let help = "Verdicts of the policy script.";
            out.counter_of("tributary_provider_script_verdicts", help, &[("verdict", verdict)], n);
        }
        for (code, n) in &script.failed {
            let help = "Requests refused because the policy script gave no verdict.";
            out.counter_of("tributary_provider_script_failures", help, &[("code", code)], *n);
        }
    }
}

/// Asks, unless the last answer is fresh. Those who come meanwhile wait for the same answer.
async fn kept<T: Clone>(kept: &Kept<T>, ask: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let mut kept = kept.lock().await;
    if let Some((at, answer)) = &*kept
        && at.elapsed() < FRESH
    {
        return answer.clone();
    }
    let late = || Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs()));
    let answer = timeout(ANSWER_LIMIT, ask).await.unwrap_or_else(|_| late());
    *kept = Some((Instant::now(), answer.clone()));
    answer
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
