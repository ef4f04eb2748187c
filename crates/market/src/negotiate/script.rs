//! An operator's own policy: a program that reads the request for a quote as JSON on standard input and writes its verdict as JSON.
//!
//! The program can refuse, propose other terms of the same public offer, or let the request pass with a lower load cap. It can't set
//! a price or make a class up, and whatever goes wrong with it (late, crashed, unreadable) refuses. `docs/src/operating.md`
//! describes the input and the verdicts.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::RngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tributary_protocol::time::Seconds;

use super::policy::{Ask, Draft, Policy};
use super::{Compared, CounterOffer, Refusal, RefusalCode, Source};
use crate::offer::{RateClass, RateClassId};
use crate::program::{Program, ProgramError, tidy};

/// Largest verdict, bytes.
pub const MAX_VERDICT_BYTES: usize = 4096;
/// Bytes of a script's words that a refusal carries.
const MAX_WORDS_BYTES: usize = 256;
/// After how long a buyer may ask again when the script couldn't answer, seconds.
const RETRY_AFTER: u64 = 30;
const DAY: u64 = 86_400;
const NAME: &str = "script";

/// How an operator's script is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptConfig {
    /// The program. It is run without a shell, in a process group of its own, with no environment but `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Time for a verdict, from the start of the program to its end. Then its process group is killed, and the request is refused.
    pub time_limit: Duration,
    /// Runs at once, at least 1; one source gets at most half of them. Requests beyond that are refused.
    pub at_once: usize,
    /// Whether the script is told the buyer's peer id. Otherwise it sees a pseudonym that changes every day and at each start.
    pub show_peer_id: bool,
}

impl ScriptConfig {
    /// The program without arguments, two seconds, four at once, pseudonyms.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            time_limit: Duration::from_secs(2),
            at_once: 4,
            show_peer_id: false,
        }
    }
}

/// Why a script gave no verdict that counts. Each refuses the request; the buyer learns the code and no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// It doesn't start.
    #[error("{} doesn't start: {reason}; check the path, and that the file is executable", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It took too long.
    #[error("no verdict within {limit_ms} ms: the script was killed; make it faster, or raise its time limit")]
    Late {
        /// The limit, milliseconds.
        limit_ms: u128,
    },
    /// It wrote too much.
    #[error("the script wrote more than {max} bytes and was killed; a verdict is one JSON object")]
    TooMuchOutput {
        /// The limit, bytes.
        max: usize,
    },
    /// It failed.
    #[error("the script failed ({status}); it must end with status 0 after its verdict")]
    Failed {
        /// How it ended.
        status: ExitStatus,
    },
    /// Its verdict can't be read.
    #[error("the verdict can't be read: {reason}")]
    BadVerdict {
        /// Why.
        reason: String,
    },
    /// It named a class that isn't in the offer.
    #[error("the verdict names rate class {named}, the offer has {offered}; prices are the same for all buyers")]
    ForeignClass {
        /// The verdict's class.
        named: RateClassId,
        /// Those of the offer.
        offered: String,
    },
    /// It proposed what the offer's own terms don't allow, or what was asked anyway.
    #[error("the verdict proposes {name} {proposed}, possible is {possible}")]
    BadCounter {
        /// What is wrong.
        name: &'static str,
        /// The verdict's number.
        proposed: u64,
        /// What would do.
        possible: String,
    },
    /// Too many are running.
    #[error("{running} scripts are running, at most {max} may; raise their number, or make the script faster")]
    Busy {
        /// Those running for this source, or for all.
        running: usize,
        /// The limit for this source, or for all.
        max: usize,
    },
}

impl ScriptError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Start { .. } => "TRB-M251",
            Self::Late { .. } => "TRB-M252",
            Self::TooMuchOutput { .. } => "TRB-M253",
            Self::Failed { .. } => "TRB-M254",
            Self::BadVerdict { .. } => "TRB-M255",
            Self::ForeignClass { .. } => "TRB-M256",
            Self::BadCounter { .. } => "TRB-M257",
            Self::Busy { .. } => "TRB-M258",
        }
    }
}

impl From<ProgramError> for ScriptError {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::Start { program, reason } => Self::Start { program, reason },
            ProgramError::Late { limit_ms } => Self::Late { limit_ms },
            ProgramError::TooMuchOutput { max } => Self::TooMuchOutput { max },
            ProgramError::Failed { status } => Self::Failed { status },
        }
    }
}

/// What a script said so far, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScriptCounters {
    /// Requests that it let pass.
    pub accepted: u64,
    /// Requests that it refused.
    pub refused: u64,
    /// Requests for which it proposed other terms.
    pub countered: u64,
    /// Requests refused because it gave no verdict, by [`ScriptError::code`].
    pub failed: BTreeMap<&'static str, u64>,
}

/// What a script writes.
#[derive(Debug, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case", deny_unknown_fields)]
enum Verdict {
    /// The request passes.
    Accept {
        /// Lowers the load cap.
        load_cap: Option<u32>,
    },
    /// It doesn't.
    Refuse {
        code: Option<RefusalCode>,
        #[serde(default)]
        words: String,
        /// Seconds after which asking again may help.
        retry_after: Option<u64>,
    },
    /// It doesn't, but with these terms it would. What is left out stays as asked.
    Counter {
        rate_class: Option<u32>,
        duration: Option<u64>,
        load: Option<u32>,
        #[serde(default)]
        words: String,
    },
}

/// Asks an operator's script. Put it behind the cheap policies, so that only requests that could be agreed to start a process.
pub struct ScriptPolicy {
    config: ScriptConfig,
    permits: Arc<Semaphore>,
    /// Runs at once by source; entries live as long as a run.
    running: Arc<Mutex<HashMap<Source, usize>>>,
    salt: Mutex<Salt>,
    counters: Mutex<ScriptCounters>,
}

/// Makes pseudonyms of one day; forgotten after it.
struct Salt {
    day: u64,
    secret: [u8; 32],
}

impl fmt::Debug for ScriptPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptPolicy").field("config", &self.config).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptPolicy {
    /// A policy that asks the program of `config`.
    #[must_use]
    pub fn new(mut config: ScriptConfig) -> Arc<Self> {
        config.at_once = config.at_once.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(config.at_once)),
            running: Arc::default(),
            salt: Mutex::new(Salt { day: u64::MAX, secret: [0; 32] }),
            counters: Mutex::default(),
            config,
        })
    }

    /// What the script said so far.
    #[must_use]
    pub fn counters(&self) -> ScriptCounters {
        lock(&self.counters).clone()
    }

    /// What the script is told.
    fn input(&self, ask: &Ask<'_>, draft: &Draft) -> Vec<u8> {
        let (request, offer) = (ask.request, ask.offer);
        let classes: Vec<_> = offer
            .rate_classes
            .iter()
            .map(|class| {
                json!({
                    "id": class.id, "rate": class.rate.get().to_string(), "min_duration": class.min_duration,
                    "max_duration": class.max_duration, "tickets_per_slot": ask.tickets_per_slot(class),
                })
            })
            .collect();
        let buyer = match ask.source {
            Source::Sealed => json!({ "kind": "sealed" }),
            Source::Peer(peer) if self.config.show_peer_id => json!({ "kind": "peer", "peer_id": peer.to_string() }),
            Source::Peer(peer) => {
                json!({ "kind": "peer", "pseudonym": self.pseudonym(&peer.to_bytes(), ask.now.get() / DAY) })
            }
        };
        json!({
            "version": 1,
            "now": ask.now,
            "slot_length": ask.clock.slot_length(),
            "buyer": buyer,
            "offer": {
                "id": offer.id().to_string(), "ticket_price": offer.ticket_price.get().to_string(), "rate_classes": classes,
            },
            "request": {
                "service": request.service.as_str(), "wanted": request.wanted, "rate_class": request.rate_class,
                "start": request.start, "duration": request.duration, "load": request.load,
                "min_load": request.min_load, "max_ticket_price": request.max_ticket_price.get().to_string(),
                "max_rate": request.max_rate.get().to_string(), "round": request.round,
            },
            "draft": {
                "load_cap": draft.load_cap, "start_deadline": draft.start_deadline, "valid_until": draft.valid_until,
            },
        })
        .to_string()
        .into_bytes()
    }

    /// The same for one peer during one day of one process, and of no use after it.
    fn pseudonym(&self, peer: &[u8], day: u64) -> String {
        let mut salt = lock(&self.salt);
        if salt.day != day {
            salt.day = day;
            OsRng.fill_bytes(&mut salt.secret);
        }
        let hash = Sha256::new()
            .chain_update(b"tributary.script.buyer.v1")
            .chain_update(salt.secret)
            .chain_update(peer)
            .finalize();
        hex::encode(&hash[..16])
    }

    /// A place among the scripts at work.
    fn enter(&self, source: Source) -> Result<Place, ScriptError> {
        let max = (self.config.at_once / 2).max(1);
        let mut running = lock(&self.running);
        let own = running.get(&source).copied().unwrap_or(0);
        if own >= max {
            return Err(ScriptError::Busy { running: own, max });
        }
        let all = self.config.at_once;
        let permit =
            Arc::clone(&self.permits).try_acquire_owned().map_err(|_| ScriptError::Busy { running: all, max: all })?;
        running.insert(source, own + 1);
        drop(running);
        Ok(Place { source, running: Arc::clone(&self.running), _permit: permit })
    }

    async fn ask(&self, ask: &Ask<'_>, draft: &Draft) -> Result<Verdict, ScriptError> {
        let place = self.enter(ask.source)?;
        let (config, input) = (self.config.clone(), self.input(ask, draft));
        // A task of its own: it reaps its process even when nobody waits for the answer any more.
        let run = tokio::spawn(async move {
            let program = Program {
                path: config.program,
                arguments: config.arguments,
                time_limit: config.time_limit,
                max_output: MAX_VERDICT_BYTES,
            };
            let verdict = program.run(input).await;
            drop(place);
            verdict
        });
        let output = run.await.map_err(|error| ScriptError::BadVerdict { reason: error.to_string() })??;
        serde_json::from_slice(&output).map_err(|error| ScriptError::BadVerdict { reason: error.to_string() })
    }

    fn apply(verdict: Verdict, ask: &Ask<'_>, draft: &mut Draft) -> Result<Option<Box<Refusal>>, ScriptError> {
        match verdict {
            Verdict::Accept { load_cap } => {
                let cap = load_cap.unwrap_or(draft.load_cap).min(draft.load_cap);
                let least = ask.request.min_load.max(1);
                if cap < least {
                    return Err(ScriptError::BadCounter {
                        name: "load_cap",
                        proposed: cap.into(),
                        possible: format!("at least {least}, or a refusal"),
                    });
                }
                draft.load_cap = cap;
                Ok(None)
            }
            Verdict::Refuse { code, words, retry_after } => {
                let mut refusal =
                    ask.refuse(NAME, refusable(code)?, &tidy(&words, MAX_WORDS_BYTES, "the provider's policy refuses"));
                refusal.retry_at = match retry_after {
                    None => None,
                    Some(after) => Seconds::new(after).ok().map(|after| ask.now.saturating_add(after)),
                };
                Ok(Some(refusal))
            }
            Verdict::Counter { rate_class, duration, load, words } => {
                let counter = counter(ask, rate_class, duration, load)?;
                let asked = ask.counter();
                let (code, compared) = if counter.rate_class == asked.rate_class && counter.load == asked.load {
                    (RefusalCode::Duration, Compared::new("duration", asked.duration, counter.duration))
                } else {
                    (RefusalCode::Load, Compared::new("tickets_per_slot", asked.load, counter.load))
                };
                let mut refusal =
                    ask.refuse(NAME, code, &tidy(&words, MAX_WORDS_BYTES, "the provider would agree to other terms"));
                refusal.compared = vec![compared];
                refusal.counter = Some(counter);
                Ok(Some(refusal))
            }
        }
    }
}

/// The terms that a verdict proposes, if this provider's own offer allows them.
fn counter(
    ask: &Ask<'_>,
    rate_class: Option<u32>,
    duration: Option<u64>,
    load: Option<u32>,
) -> Result<CounterOffer, ScriptError> {
    let asked = ask.counter();
    let id = rate_class.map_or(asked.rate_class, RateClassId);
    let Some(class) = ask.offer.rate_class(id) else {
        let offered: Vec<_> = ask.offer.rate_classes.iter().map(|class| class.id.to_string()).collect();
        return Err(ScriptError::ForeignClass { named: id, offered: offered.join(" ") });
    };
    let bad = |name, proposed, possible| ScriptError::BadCounter { name, proposed, possible };
    let seconds = duration.unwrap_or(asked.duration.get());
    let duration = Seconds::new(seconds).ok().filter(|d| class.allows(*d) && *d >= ask.clock.slot_length());
    let duration = duration.ok_or_else(|| bad("duration", seconds, durations(class)))?;
    let load = load.unwrap_or(asked.load);
    let payable = ask.tickets_per_slot(class);
    if load == 0 || u64::from(load) > payable {
        return Err(bad("load", load.into(), format!("1 to {payable}")));
    }
    let counter = CounterOffer { rate_class: id, duration, load, ..asked };
    if counter == asked {
        return Err(bad("load", load.into(), "other terms than those asked for; accept them instead".to_owned()));
    }
    Ok(counter)
}

fn durations(class: &RateClass) -> String {
    match class.max_duration {
        Some(longest) => format!("{} to {longest} s", class.min_duration),
        None => format!("at least {} s", class.min_duration),
    }
}

/// Codes that a script may refuse with: those about terms. The others are about the message itself.
fn refusable(code: Option<RefusalCode>) -> Result<RefusalCode, ScriptError> {
    use RefusalCode as C;
    match code.unwrap_or(C::Unavailable) {
        code @ (C::PriceTooHigh
        | C::RateTooHigh
        | C::Duration
        | C::Start
        | C::Capacity
        | C::Attributes
        | C::Load
        | C::TooManyRequests
        | C::Unavailable) => Ok(code),
        other => Err(ScriptError::BadVerdict { reason: format!("a script can't refuse with the code {other:?}") }),
    }
}

#[async_trait]
impl Policy for Arc<ScriptPolicy> {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn judge(&self, ask: &Ask<'_>, draft: &mut Draft) -> Result<(), Box<Refusal>> {
        let judged = match self.ask(ask, draft).await {
            Ok(verdict) => ScriptPolicy::apply(verdict, ask, draft),
            Err(error) => Err(error),
        };
        let mut counters = lock(&self.counters);
        match judged {
            Ok(None) => {
                counters.accepted += 1;
                Ok(())
            }
            Ok(Some(refusal)) => {
                let kind = if refusal.counter.is_some() { &mut counters.countered } else { &mut counters.refused };
                *kind += 1;
                Err(refusal)
            }
            Err(error) => {
                *counters.failed.entry(error.code()).or_insert(0) += 1;
                drop(counters);
                tracing::warn!(code = error.code(), %error, "the policy script gave no verdict: refused");
                Err(no_verdict(ask, &error))
            }
        }
    }
}

/// The refusal for a script that failed: its code, and nothing of the provider's inner life.
fn no_verdict(ask: &Ask<'_>, error: &ScriptError) -> Box<Refusal> {
    let code = match error {
        ScriptError::Busy { .. } => RefusalCode::TooManyRequests,
        _ => RefusalCode::Unavailable,
    };
    let description = format!("the provider's policy gave no verdict [{}]", error.code());
    let mut refusal = ask.refuse(NAME, code, &description);
    refusal.compared = match error {
        ScriptError::Busy { running, max } => vec![Compared::new("scripts_running", running, max)],
        ScriptError::Late { limit_ms } => vec![Compared::new("script_ms", format!("more than {limit_ms}"), limit_ms)],
        _ => Vec::new(),
    };
    refusal.retry_at = Seconds::new(RETRY_AFTER).ok().map(|after| ask.now.saturating_add(after));
    refusal
}

/// A run's place, given back with it.
struct Place {
    source: Source,
    running: Arc<Mutex<HashMap<Source, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        if let Some(own) = running.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.source);
            }
        }
    }
}
