//! Attacks on reputation and choice, simulated.
//!
//! Buyers choose by `tributary-market`'s choice and remember and weigh by `tributary-reputation`'s scores: nothing of either is written
//! again here. What is modelled is who sells, who buys, and what an attacker with money does. The same seed gives the same result, however
//! many threads run.

pub mod model;
pub mod plot;
pub mod report;
pub mod run;

pub use model::{Attack, Setup, SetupError, Tactic};
pub use plot::{PlotError, write_plots};
pub use report::{BAR, Cell, Plan, Point, Report, Worst, study};
pub use run::{Day, Outcome, simulate};
