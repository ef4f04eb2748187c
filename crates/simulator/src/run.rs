//! One market under one attack.

use std::sync::OnceLock;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use tributary_market::choose::{Contender, Parts, Score, draw, low_price, probabilities};
use tributary_protocol::amount::Amount;
use tributary_protocol::time::UnixTime;
use tributary_reputation::{
    Agreement, Decay, Experience, Measure, NetworkConfig, NetworkExperience, NetworkScore, Newcomers, RatingValue,
    ReputationWeights, Usual, combine,
};

use crate::model::{Renewal, Setup, SetupError, Tactic};

/// Usual price of a stream, base units.
const USUAL: f64 = 1_000.0;
/// Offers of strangers that a buyer's book holds.
const BOOK: usize = 1_024;
/// Buyers who share a source of chance, and a book if not all offers fit into one; fixed, so that threads change nothing.
const CHUNK: usize = 1_000;
/// Days before the turn on which saved money begins to be spent.
const SPENDING_BEFORE_TURN: u32 = 2;
/// A cheat is found out when it sells less than this share of what an honest provider sells.
const FOUND_OUT: f64 = 0.25;
/// An honest provider that serves less is among the least reliable: the lowest fifth.
pub const UNRELIABLE: f64 = 0.967;
/// Steps of agreement between which a buyer's view of strangers isn't told apart: who is in the same step shares one draw.
const AGREEMENTS: usize = 8;

/// What happened on a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Day {
    /// Purchases of honest buyers.
    pub purchases: u64,
    /// Those at the attacker's providers.
    pub attacker: u64,
    /// Those at dishonest providers: the attacker's from the day of its turn, served or not, under whatever name.
    pub dishonest: u64,
    /// Those that were cheated.
    pub cheated: u64,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Each day.
    pub days: Vec<Day>,
    /// Share of the judged purchases that went to dishonest providers: all purchases at those that have begun to cheat, served or not.
    pub dishonest: f64,
    /// Share of the judged purchases that were cheated.
    pub cheated: f64,
    /// Share of the judged purchases at the attacker's providers, those included that have cheated nobody yet.
    pub attacker: f64,
    /// The highest share of purchases at dishonest providers of a single judged day.
    pub worst_day: f64,
    /// What the attacker spent, as a share of what honest buyers spent.
    pub spent: f64,
    /// Judged purchases at the least reliable honest providers (those that serve less than [`UNRELIABLE`] of the uses), of what honest
    /// providers sell on average.
    pub least_reliable: f64,
}

#[derive(Debug, Clone)]
struct Provider {
    attacker: bool,
    /// Changes with each new name.
    identity: u32,
    price: u128,
    quality: f64,
    latency_ms: f64,
    turn: u32,
    /// Day from which the name is used.
    since: u32,
    cheating: bool,
    cheated_under_name: bool,
    ratings: NetworkExperience,
}

#[derive(Debug, Clone)]
struct Known {
    slot: u32,
    identity: u32,
    own: Experience,
}

#[derive(Debug, Clone, Default)]
struct Buyer {
    /// Those included whose names are gone: what they taught stays.
    known: Vec<Known>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    sold: u32,
    cheated: u32,
    good: u32,
    bad: u32,
}

/// What everybody sees on a day.
struct Public<'a> {
    now: UnixTime,
    setup: &'a Setup,
    cheating: f64,
    providers: &'a [Provider],
    scores: &'a [NetworkScore],
    usual: Option<Usual>,
    low: Option<u128>,
    weights: ReputationWeights,
    decay: Decay,
}

/// Whom a buyer can go to that it never used, and with which probability.
struct Strangers {
    book: Vec<usize>,
    /// Sums of the probabilities along the book, for each step of agreement; made when first needed.
    sums: [OnceLock<Vec<f64>>; AGREEMENTS + 1],
    trials: Vec<usize>,
}

/// Room for one choice after the other.
#[derive(Default)]
struct Scratch {
    live: Vec<(usize, Experience)>,
    all: Vec<Experience>,
    contenders: Vec<Contender>,
}

fn time(day: u32) -> UnixTime {
    UnixTime::new(u64::from(day) * 86_400).unwrap_or(UnixTime::ZERO)
}

fn amount(units: f64) -> Amount {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Prices of this model have few digits.
    Amount::new(units as u128).unwrap_or(Amount::ZERO)
}

/// Runs one market under one tactic.
///
/// # Errors
/// [`SetupError::Range`].
pub fn simulate(setup: &Setup, tactic: &Tactic) -> Result<Outcome, SetupError> {
    setup.check()?;
    let config = NetworkConfig::for_stream(amount(USUAL));
    let mut chance = ChaCha8Rng::seed_from_u64(setup.seed);
    let mut providers = people(setup, tactic, &mut chance);
    let mut buyers = vec![Buyer::default(); setup.buyers as usize];
    let mut days = Vec::new();
    let (mut spent, mut honest_spending) = (0.0, 0.0);
    let mut sold = vec![0; providers.len()];
    let daily = f64::from(setup.buyers) * setup.purchases * USUAL * setup.spending;
    for day in 0..setup.days {
        let now = time(day + 1);
        for provider in providers.iter_mut().filter(|provider| provider.attacker) {
            provider.cheating = cheats(provider, tactic, day);
        }
        let scores: Vec<_> =
            providers.iter().map(|provider| provider.ratings.score(now, Agreement::default(), &config)).collect();
        let mut prices: Vec<_> = providers.iter().map(|provider| provider.price).collect();
        let public = Public {
            now,
            setup,
            cheating: tactic.cheating,
            providers: &providers,
            scores: &scores,
            usual: Usual::of(&scores),
            low: low_price(&mut prices),
            weights: ReputationWeights { network: setup.network },
            decay: Decay::default(),
        };
        // Where all offers fit into a book, everybody has the same.
        let shared = (providers.len() <= BOOK).then(|| public.strangers((0..providers.len()).collect()));
        let tallies = buyers
            .par_chunks_mut(CHUNK)
            .enumerate()
            .map(|(chunk, buyers)| {
                let place = u64::from(day) << 32 | chunk as u64;
                let mut chance = ChaCha8Rng::seed_from_u64(setup.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place);
                let own_book;
                let strangers = if let Some(shared) = &shared {
                    shared
                } else {
                    let book = rand::seq::index::sample(&mut chance, public.providers.len(), BOOK).into_vec();
                    own_book = public.strangers(book);
                    &own_book
                };
                let mut tallies = vec![Tally::default(); public.providers.len()];
                let mut scratch = Scratch::default();
                for buyer in buyers {
                    if chance.r#gen::<f64>() < setup.churn {
                        buyer.known.clear();
                    }
                    if chance.r#gen::<f64>() < setup.purchases {
                        buy(buyer, &public, strangers, &mut scratch, &mut tallies, &mut chance);
                    }
                }
                tallies
            })
            .reduce(
                || vec![Tally::default(); public.providers.len()],
                |mut sum, part| {
                    for (sum, part) in sum.iter_mut().zip(part) {
                        sum.sold += part.sold;
                        sum.cheated += part.cheated;
                        sum.good += part.good;
                        sum.bad += part.bad;
                    }
                    sum
                },
            );
        let mut sum = Day::default();
        if day >= setup.warm_up {
            for (sold, tally) in sold.iter_mut().zip(&tallies) {
                *sold += u64::from(tally.sold);
            }
        }
        for (provider, tally) in providers.iter_mut().zip(&tallies) {
            sum.purchases += u64::from(tally.sold);
            #[allow(clippy::cast_precision_loss)] // A few digits.
            let price = provider.price as f64;
            honest_spending += f64::from(tally.sold) * price;
            provider.cheated_under_name |= tally.cheated > 0;
            sum.cheated += u64::from(tally.cheated);
            if provider.attacker {
                sum.attacker += u64::from(tally.sold);
                sum.dishonest += if day >= provider.turn { u64::from(tally.sold) } else { 0 };
            }
        }
        days.push(sum);
        let budget = allowance(setup, tactic, day, daily);
        let (praise, slander, cost) = bought(setup, tactic, &providers, &tallies, budget);
        spent += cost;
        providers.par_iter_mut().enumerate().for_each(|(slot, provider)| {
            let tally = tallies[slot];
            let paid = amount(USUAL);
            let mut add = |value: f64, count: u32| {
                let Ok(value) = RatingValue::new(value) else { return };
                provider.ratings = provider.ratings.with_equal(count, value, paid, now, &config);
            };
            add(1.0, tally.good + praise[slot]);
            add(0.0, tally.bad + slander[slot]);
        });
        rename(setup, tactic, day, now, &tallies, &mut providers);
    }
    let judged = days.iter().skip(setup.warm_up as usize);
    let total = |of: fn(&Day) -> u64| judged.clone().map(of).sum::<u64>();
    let purchases = total(|day| day.purchases);
    let share = |count: u64, purchases: u64| {
        #[allow(clippy::cast_precision_loss)] // Below 2^53.
        let share = count as f64 / purchases.max(1) as f64;
        share
    };
    Ok(Outcome {
        dishonest: share(total(|day| day.dishonest), purchases),
        cheated: share(total(|day| day.cheated), purchases),
        attacker: share(total(|day| day.attacker), purchases),
        worst_day: judged.map(|day| share(day.dishonest, day.purchases)).fold(0.0, f64::max),
        spent: if honest_spending > 0.0 { spent / honest_spending } else { 0.0 },
        least_reliable: least_reliable(&providers, &sold),
        days,
    })
}

fn least_reliable(providers: &[Provider], sold: &[u64]) -> f64 {
    let mean = |worst: f64| {
        let of = providers.iter().zip(sold).filter(|(provider, _)| !provider.attacker && provider.quality < worst);
        let (count, sum) = of.fold((0, 0), |(count, sum), (_, sold)| (count + 1, sum + sold));
        #[allow(clippy::cast_precision_loss)] // Below 2^53.
        let mean = sum as f64 / f64::from(count.max(1));
        mean
    };
    let all = mean(f64::INFINITY);
    if all > 0.0 { mean(UNRELIABLE) / all } else { 0.0 }
}

fn people(setup: &Setup, tactic: &Tactic, chance: &mut ChaCha8Rng) -> Vec<Provider> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A share of a u32.
    let dishonest = (f64::from(setup.providers) * setup.dishonest).round() as u32;
    let attackers = dishonest + setup.sybils;
    (0..setup.providers + setup.sybils)
        .map(|slot| {
            let wicked = slot < attackers;
            let factor = if wicked { tactic.price } else { chance.gen_range(0.8..1.25) };
            let front = f64::from(slot) < f64::from(attackers) * tactic.fronts;
            let wave = if tactic.waves > 0 { slot % tactic.waves } else { 0 };
            Provider {
                attacker: wicked,
                identity: 0,
                price: amount(USUAL * factor).get(),
                quality: if wicked { 0.99 } else { chance.gen_range(0.96..0.995) },
                latency_ms: if wicked { 50.0 } else { chance.gen_range(50.0..300.0) },
                turn: tactic.turn.filter(|_| front).map_or(0, |turn| turn + wave),
                since: 0,
                cheating: false,
                cheated_under_name: false,
                ratings: NetworkExperience::none(time(0)),
            }
        })
        .collect()
}

fn cheats(provider: &Provider, tactic: &Tactic, day: u32) -> bool {
    let honest_days = match tactic.renewal {
        Renewal::Found { honest_days } if provider.identity > 0 => honest_days,
        _ => 0,
    };
    let on = tactic.cycle.is_none_or(|days| (day.saturating_sub(provider.turn) / days.max(1)).is_multiple_of(2));
    day >= provider.turn && day - provider.since >= honest_days && on
}

/// What the attacker may spend on a day.
fn allowance(setup: &Setup, tactic: &Tactic, day: u32, daily: f64) -> f64 {
    let Some(turn) = tactic.turn.filter(|_| tactic.saves) else {
        return daily;
    };
    let begin = turn.saturating_sub(SPENDING_BEFORE_TURN).min(setup.days - 1);
    if day < begin { 0.0 } else { daily * f64::from(setup.days) / f64::from(setup.days - begin) }
}

/// Ratings that the attacker buys, by slot: of its own providers, of others; and what they cost.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Counts of ratings, far below 2^32.
fn bought(
    setup: &Setup,
    tactic: &Tactic,
    providers: &[Provider],
    tallies: &[Tally],
    budget: f64,
) -> (Vec<u32>, Vec<u32>, f64) {
    let (mut praise, mut slander) = (vec![0; providers.len()], vec![0; providers.len()]);
    let mut cost = 0.0;
    let fee = USUAL * f64::from(setup.fee_bps) / 10_000.0;
    let mut spread = |ratings: &mut Vec<u32>, slots: &[usize], price: f64, money: f64| {
        if slots.is_empty() || money <= 0.0 || price <= 0.0 {
            return;
        }
        let count = (money / price) as usize;
        for (place, &slot) in slots.iter().enumerate() {
            ratings[slot] = (count / slots.len() + usize::from(place < count % slots.len())) as u32;
        }
        cost += count as f64 * price;
    };
    // Money streamed to oneself comes back but for the burn.
    let washed = USUAL * f64::from(setup.burn_bps) / 10_000.0 + fee;
    let own: Vec<_> = (0..providers.len()).filter(|&slot| providers[slot].attacker).collect();
    spread(&mut praise, &own, washed, budget * tactic.praise);
    let mut others: Vec<_> = (0..providers.len()).filter(|&slot| !providers[slot].attacker).collect();
    others.sort_by_key(|&slot| std::cmp::Reverse(tallies[slot].sold));
    others.truncate(((others.len() as f64 * tactic.focus) as usize).max(1));
    spread(&mut slander, &others, USUAL + fee, budget * tactic.slander);
    (praise, slander, cost)
}

fn rename(setup: &Setup, tactic: &Tactic, day: u32, now: UnixTime, tallies: &[Tally], providers: &mut [Provider]) {
    let honest = providers.iter().zip(tallies).filter(|(provider, _)| !provider.attacker);
    let (count, sold) =
        honest.fold((0.0, 0.0), |(count, sold), (_, tally)| (count + 1.0, sold + f64::from(tally.sold)));
    let usual = if count > 0.0 { sold / count } else { f64::from(setup.buyers) };
    for (provider, tally) in providers.iter_mut().zip(tallies).filter(|(provider, _)| provider.attacker) {
        let renews = match tactic.renewal {
            Renewal::Never => false,
            Renewal::Daily => provider.cheated_under_name,
            Renewal::Found { .. } => provider.cheated_under_name && f64::from(tally.sold) < usual * FOUND_OUT,
        };
        if renews {
            provider.identity += 1;
            provider.since = day + 1;
            provider.cheated_under_name = false;
            provider.ratings = NetworkExperience::none(now);
        }
    }
}

impl Public<'_> {
    fn score(&self, slot: usize, reputation: f64, latency_ms: Option<f64>) -> Score {
        let parts = Parts { unit_price: self.providers[slot].price, reputation, latency_ms, sealed: true };
        parts.score(self.setup.preset, self.low)
    }

    fn contender(&self, slot: usize, own: &Experience, agreement: Agreement, newcomers: Newcomers) -> Contender {
        let network = NetworkScore { agreement, ..self.scores[slot] };
        let combined = combine(own, Some(&network), &self.weights, &Measure { newcomers, usual: self.usual });
        Contender {
            score: self.score(slot, combined.value, own.latency_ms()),
            newcomer: combined.own_weight <= 0.0,
            outdone: combined.outdone.is_some(),
        }
    }

    fn stranger(&self, slot: usize, agreement: Agreement) -> Contender {
        self.contender(slot, &Experience::none(self.now), agreement, Newcomers::default())
    }

    fn strangers(&self, book: Vec<usize>) -> Strangers {
        let tried = |slot: &usize| self.stranger(*slot, Agreement::default()).may_be_tried();
        let trials = book.iter().copied().filter(tried).collect();
        Strangers { book, sums: std::array::from_fn(|_| OnceLock::new()), trials }
    }

    /// Whom the buyer takes.
    fn choose(
        &self,
        buyer: &Buyer,
        strangers: &Strangers,
        scratch: &mut Scratch,
        chance: &mut ChaCha8Rng,
    ) -> Option<usize> {
        let Scratch { live, all, contenders } = scratch;
        live.clear();
        all.clear();
        contenders.clear();
        for known in &buyer.known {
            let (slot, own) = (known.slot as usize, known.own.at(self.now, &self.decay));
            all.push(own);
            // A name that is gone sells nothing more.
            if self.providers[slot].identity == known.identity {
                live.push((slot, own));
            }
        }
        let newcomers = Newcomers::taught_by(&*all);
        let agreement = if self.weights.network > 0.0 {
            Agreement::between(live.iter().map(|(slot, own)| (own, &self.scores[*slot])))
        } else {
            Agreement::default()
        };
        contenders.extend(live.iter().map(|(slot, own)| self.contender(*slot, own, agreement, newcomers)));
        if contenders.iter().any(Contender::is_known_good) {
            // Strangers share one part evenly: first one for all of them, then which it is.
            if !strangers.trials.is_empty() {
                let score = Score { total: 0.0, price: 1.0, reputation: 0.5, latency: 0.5 };
                contenders.push(Contender { score, newcomer: true, outdone: false });
            }
            let place = draw(&probabilities(self.setup.preset, contenders), chance.r#gen())?;
            if let Some((slot, _)) = live.get(place) {
                return Some(*slot);
            }
            let trials = &strangers.trials;
            return unknown(live, || trials[chance.gen_range(0..trials.len())]).or_else(|| Some(live.first()?.0));
        }
        if contenders.iter().any(|contender| !contender.outdone) {
            // Somebody who failed lately and isn't outdone: that one competes with strangers by its score.
            let mut slots: Vec<_> = live.iter().map(|(slot, _)| *slot).collect();
            for &slot in strangers.book.iter().filter(|slot| live.iter().all(|(known, _)| known != *slot)) {
                slots.push(slot);
                contenders.push(self.stranger(slot, agreement));
            }
            return draw(&probabilities(self.setup.preset, contenders), chance.r#gen()).map(|place| slots[place]);
        }
        let sums = self.sums(strangers, agreement);
        let total = *sums.last()?;
        let place = || {
            let point = chance.r#gen::<f64>() * total;
            strangers.book[sums.partition_point(|sum| *sum <= point).min(sums.len() - 1)]
        };
        unknown(live, place).or_else(|| Some(live.first()?.0))
    }

    /// The draw among strangers, for all buyers with about this agreement.
    fn sums<'a>(&self, strangers: &'a Strangers, agreement: Agreement) -> &'a [f64] {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        // 0 to AGREEMENTS.
        let (step, value) = {
            let step = (agreement.value * AGREEMENTS as f64).round().clamp(0.0, AGREEMENTS as f64);
            (step as usize, step / AGREEMENTS as f64)
        };
        strangers.sums[step].get_or_init(|| {
            let agreement = Agreement { value, ..agreement };
            let contenders: Vec<_> = strangers.book.iter().map(|&slot| self.stranger(slot, agreement)).collect();
            let mut sum = 0.0;
            let add = |probability: f64| {
                sum += probability;
                sum
            };
            probabilities(self.setup.preset, &contenders).into_iter().map(add).collect()
        })
    }
}

/// The first drawn whom the buyer doesn't know.
fn unknown(live: &[(usize, Experience)], mut drawn: impl FnMut() -> usize) -> Option<usize> {
    const TRIES: usize = 1_000;
    (0..TRIES).map(|_| drawn()).find(|slot| live.iter().all(|(known, _)| known != slot))
}

fn buy(
    buyer: &mut Buyer,
    public: &Public<'_>,
    strangers: &Strangers,
    scratch: &mut Scratch,
    tallies: &mut [Tally],
    chance: &mut ChaCha8Rng,
) {
    let Some(slot) = public.choose(buyer, strangers, scratch, chance) else {
        return;
    };
    let provider = &public.providers[slot];
    let cheated = provider.cheating && chance.r#gen::<f64>() < public.cheating;
    let good = !cheated && chance.r#gen::<f64>() < provider.quality;
    let value = if good { 1.0 } else { 0.0 };
    let tally = &mut tallies[slot];
    tally.sold += 1;
    tally.cheated += u32::from(cheated);
    if chance.r#gen::<f64>() < public.setup.rated {
        tally.good += u32::from(good);
        tally.bad += u32::from(!good);
    }
    let latency = good.then_some(provider.latency_ms);
    let add = |own: &Experience| own.with(value, 1.0, latency, public.now, &public.decay);
    let same = |known: &&mut Known| known.slot as usize == slot && known.identity == provider.identity;
    match buyer.known.iter_mut().find(same) {
        Some(known) => known.own = add(&known.own),
        None => buyer.known.push(Known {
            #[allow(clippy::cast_possible_truncation)] // Slots are counted in a u32.
            slot: slot as u32,
            identity: provider.identity,
            own: add(&Experience::none(public.now)),
        }),
    }
}
