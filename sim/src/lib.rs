//! Plays partitions, crashes and frozen nodes against Roost's deciding half, in virtual time, the
//! same way every time for the same seed. See `docs/contributing.md`.

pub mod calibrate;
mod check;
mod client;
mod conn;
mod dial;
mod even;
mod explain;
mod faults;
mod join;
mod kept;
mod ledger;
mod links;
mod media;
mod net;
mod node;
pub mod plan;
mod publish;
mod queue;
mod rates;
mod relay;
mod report;
mod rights;
mod rng;
mod run;
mod scale;
mod serve;
mod shrink;
mod signal;
mod steer;
mod storm;
mod story;
mod svg;
mod tables;
mod trace;
mod trust;
mod world;

pub use check::{Evened, MARKS, Measure, Violation};
pub use even::{CHANGES, Evenly, even};
pub use explain::{Explained, explain};
pub use rates::{Rates, SEEDS_RECORDED, courses};
pub use run::{Outcome, Watch, run};
pub use scale::{Scaled, Sent, scale};
pub use shrink::shrink;
