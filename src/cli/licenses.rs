//! `roost licenses`: what Roost is made of, and under which terms.

use super::exit::Failure;
use super::out;

/// Prints Roost's own licence and the notices of every crate in the executable.
pub(crate) fn run() -> Result<(), Failure> {
    out::line(include_str!("../../THIRD-PARTY.md").trim_end())
}
