//! Who sells, who buys, and what attackers do.

use std::fmt;

use serde::Serialize;
use tributary_market::choose::Preset;

/// Why a simulation can't run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A number lies outside its range.
    #[error("{what} is {value}; allowed are {min} to {max}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The least allowed.
        min: f64,
        /// The most allowed.
        max: f64,
    },
}

impl SetupError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Range { .. } => "TRB-M690",
        }
    }
}

/// A market.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setup {
    /// Providers, honest and dishonest; 4 to 100,000.
    pub providers: u32,
    /// Share of them that the attacker runs, 0 to below 1.
    pub dishonest: f64,
    /// Identities that the attacker offers with beside, each as a provider of its own; 0 to 100,000.
    pub sybils: u32,
    /// Honest buyers; 1 to 1,000,000.
    pub buyers: u32,
    /// Days that are simulated; 2 to 1,000.
    pub days: u32,
    /// Days before the purchases that are judged; below `days`.
    pub warm_up: u32,
    /// Purchases of a buyer a day, 0 to 1: each is a stream, assessed once.
    pub purchases: f64,
    /// Share of the buyers that leave each day, and others without experience come for them; 0 to 1.
    pub churn: f64,
    /// Share of the honest purchases that are rated, 0 to 1.
    pub rated: f64,
    /// What the pool burns of claims; 0 to 10,000 (100 is one in a hundred).
    pub burn_bps: u32,
    /// What gas and relayers cost of a usual stream, in the same unit.
    pub fee_bps: u32,
    /// What the attacker spends over the whole time, as a share of what honest buyers spend; 0 to 100.
    pub spending: f64,
    /// How much buyers weigh the ratings of others, 0 (not at all) to 1.
    pub network: f64,
    /// What matters to buyers.
    #[serde(skip)]
    pub preset: Preset,
    /// Where chance starts.
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            providers: 1_000,
            dishonest: 0.2,
            sybils: 0,
            buyers: 100_000,
            days: 60,
            warm_up: 30,
            purchases: 1.0,
            churn: 0.01,
            rated: 0.5,
            burn_bps: 100,
            fee_bps: 10,
            spending: 0.1,
            network: 1.0,
            preset: Preset::Trusted,
            seed: 1,
        }
    }
}

impl Setup {
    /// Checks every number.
    ///
    /// # Errors
    /// [`SetupError::Range`] with the first one outside its range.
    pub fn check(&self) -> Result<(), SetupError> {
        let within = |what, value: f64, min, max| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(SetupError::Range { what, value, min, max }) }
        };
        within("the number of providers", self.providers.into(), 4.0, 100_000.0)?;
        within("the dishonest share", self.dishonest, 0.0, 0.95)?;
        within("the number of identities beside", self.sybils.into(), 0.0, 100_000.0)?;
        within("the number of buyers", self.buyers.into(), 1.0, 1_000_000.0)?;
        within("the number of days", self.days.into(), 2.0, 1_000.0)?;
        within("the days before judging", self.warm_up.into(), 0.0, f64::from(self.days) - 1.0)?;
        within("purchases a day", self.purchases, 0.0, 1.0)?;
        within("the share of buyers that leave a day", self.churn, 0.0, 1.0)?;
        within("the rated share", self.rated, 0.0, 1.0)?;
        within("burn_bps", self.burn_bps.into(), 0.0, 10_000.0)?;
        within("fee_bps", self.fee_bps.into(), 0.0, 10_000.0)?;
        within("attack spending", self.spending, 0.0, 100.0)?;
        within("the weight of ratings", self.network, 0.0, 1.0)
    }
}

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// Dishonest providers take money and serve nothing; nobody spends on ratings.
    Plain,
    /// They stream money to themselves and praise themselves.
    BallotStuffing,
    /// They buy from honest providers and rate them badly.
    BadMouthing,
    /// They come back under new names.
    Whitewashing,
    /// They serve honestly, then not, at once or by turns or now and then.
    OnOff,
    /// They praise each other and run others down together, some of them as honest fronts that turn later.
    Collusion,
    /// All of it.
    All,
}

impl Attack {
    /// Every attack.
    pub const EVERY: [Self; 7] = [
        Self::Plain,
        Self::BallotStuffing,
        Self::BadMouthing,
        Self::Whitewashing,
        Self::OnOff,
        Self::Collusion,
        Self::All,
    ];

    /// What attackers of this kind may do; of these the one that works best is taken.
    #[must_use]
    pub fn tactics(self, warm_up: u32) -> Vec<Tactic> {
        let plain = Tactic::PLAIN;
        let turn = Tactic { turn: Some(warm_up), ..plain };
        match self {
            Self::Plain => vec![
                plain,
                Tactic { name: "cheats, dumps prices", price: DUMPED, ..plain },
                Tactic { name: "cheats one in three", cheating: 1.0 / 3.0, ..plain },
                Tactic { name: "cheats one in ten", cheating: 0.1, ..plain },
            ],
            Self::BallotStuffing => vec![
                Tactic { name: "praise", praise: 1.0, ..plain },
                Tactic { name: "praise, dumps prices", praise: 1.0, price: DUMPED, ..plain },
                Tactic { name: "praise, cheats one in three", praise: 1.0, cheating: 1.0 / 3.0, ..plain },
                Tactic { name: "praise, cheats one in ten", praise: 1.0, cheating: 0.1, ..plain },
            ],
            Self::BadMouthing => vec![
                Tactic { name: "slander of all", slander: 1.0, ..plain },
                Tactic { name: "slander of the busiest tenth", slander: 1.0, focus: 0.1, price: DUMPED, ..plain },
                Tactic { name: "slander of the busiest half", slander: 1.0, focus: 0.5, ..plain },
                Tactic {
                    name: "slander of the busiest half, cheats one in ten",
                    slander: 1.0,
                    focus: 0.5,
                    cheating: 0.1,
                    ..plain
                },
            ],
            Self::Whitewashing => vec![
                Tactic { name: "a new name each day", renewal: Renewal::Daily, ..plain },
                Tactic { name: "a new name each day, dumps prices", renewal: Renewal::Daily, price: DUMPED, ..plain },
                Tactic { name: "a new name when found out", renewal: Renewal::Found { honest_days: 0 }, ..plain },
                Tactic {
                    name: "a new name when found out, honest for five days",
                    renewal: Renewal::Found { honest_days: 5 },
                    ..plain
                },
                Tactic {
                    name: "a new name when found out, cheats one in ten",
                    renewal: Renewal::Found { honest_days: 0 },
                    cheating: 0.1,
                    ..plain
                },
            ],
            Self::OnOff => vec![
                Tactic { name: "honest until judged, then all turn", ..turn },
                Tactic { name: "turn one after the other", waves: 20, ..turn },
                Tactic { name: "turn by turns of three days", cycle: Some(3), ..turn },
                Tactic { name: "turn, then cheat one in three", cheating: 1.0 / 3.0, ..turn },
                Tactic { name: "turn, then cheat one in ten", cheating: 0.1, ..turn },
            ],
            Self::Collusion => vec![
                Tactic { name: "fronts that turn later", fronts: 0.5, praise: 0.5, slander: 0.5, waves: 20, ..turn },
                Tactic { name: "fronts that turn at once", fronts: 0.5, praise: 0.5, slander: 0.5, ..turn },
                Tactic {
                    name: "all fronts, turn at once, slander of the busiest tenth",
                    praise: 0.1,
                    slander: 0.9,
                    focus: 0.1,
                    ..turn
                },
                Tactic {
                    name: "fronts that turn at once, then cheat one in ten",
                    fronts: 0.5,
                    praise: 0.5,
                    slander: 0.5,
                    cheating: 0.1,
                    ..turn
                },
            ],
            Self::All => {
                let every = Tactic { praise: 0.5, slander: 0.5, price: DUMPED, saves: true, ..turn };
                vec![
                    Tactic { name: "all turn, then new names each day", renewal: Renewal::Daily, ..every },
                    Tactic {
                        name: "all turn, new names when found out",
                        renewal: Renewal::Found { honest_days: 0 },
                        ..every
                    },
                    Tactic {
                        name: "turn in waves, new names when found out, honest for three days",
                        waves: 20,
                        renewal: Renewal::Found { honest_days: 3 },
                        ..every
                    },
                    Tactic {
                        name: "half are fronts, the others change names, all praised, the busiest tenth slandered",
                        fronts: 0.5,
                        renewal: Renewal::Found { honest_days: 0 },
                        praise: 0.2,
                        slander: 0.8,
                        focus: 0.1,
                        ..every
                    },
                    Tactic {
                        name: "all turn, then cheat one in three, praised, the busiest half slandered",
                        focus: 0.5,
                        cheating: 1.0 / 3.0,
                        ..every
                    },
                    Tactic {
                        name: "all turn, then cheat one in ten, praised, the busiest half slandered",
                        focus: 0.5,
                        cheating: 0.1,
                        ..every
                    },
                ]
            }
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "none but cheating",
            Self::BallotStuffing => "ballot stuffing",
            Self::BadMouthing => "bad-mouthing",
            Self::Whitewashing => "whitewashing",
            Self::OnOff => "on-off",
            Self::Collusion => "collusion",
            Self::All => "all together",
        })
    }
}

/// Price of one who dumps, of the usual price.
const DUMPED: f64 = 0.3;

/// When a dishonest provider takes a new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewal {
    /// Never.
    Never,
    /// Every day that it cheats.
    Daily,
    /// When it cheated and its sales fell below a quarter of an honest provider's.
    Found {
        /// Days that the new name serves honestly.
        honest_days: u32,
    },
}

/// What attackers do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tactic {
    /// In words.
    pub name: &'static str,
    /// Day from which they cheat; from the first if absent.
    pub turn: Option<u32>,
    /// Days over which they turn, one after the other; 0 for all at once.
    pub waves: u32,
    /// Share of them that waits for `turn`; the others cheat from the first day.
    pub fronts: f64,
    /// Days of cheating and of serving honestly by turns.
    pub cycle: Option<u32>,
    /// Share of uses that are cheated while cheating.
    pub cheating: f64,
    /// New names.
    pub renewal: Renewal,
    /// Price, of the usual.
    pub price: f64,
    /// Share of the money that goes to praise of themselves.
    pub praise: f64,
    /// Share of the money that goes to bad ratings of honest providers, who are paid for it.
    pub slander: f64,
    /// Share of the honest providers that is slandered, the busiest first.
    pub focus: f64,
    /// Whether the money is kept until shortly before the turn.
    pub saves: bool,
}

impl Tactic {
    /// Whether a cheating provider serves some uses nonetheless: it can't be told from an unreliable one but by counting.
    #[must_use]
    pub fn serves_in_part(&self) -> bool {
        self.cheating < 1.0
    }

    /// Takes money, serves nothing.
    pub const PLAIN: Self = Self {
        name: "cheats",
        turn: None,
        waves: 0,
        fronts: 1.0,
        cycle: None,
        cheating: 1.0,
        renewal: Renewal::Never,
        price: 0.8,
        praise: 0.0,
        slander: 0.0,
        focus: 1.0,
        saves: false,
    };
}
