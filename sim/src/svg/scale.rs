//! How time becomes width.

use std::collections::BTreeSet;

use super::{LEFT, WIDTH};
use crate::net::{MS, SEC};

/// Moments closer than this are drawn as one.
const SAME: u64 = MS;
/// Before the first fault only whole tenths of a second are told apart.
const SAME_BEFORE: u64 = 400 * MS;
/// A stretch without anything that is longer than this is marked as calm.
pub(super) const CALM: u64 = 2 * SEC;

/// How time becomes width.
pub(super) struct Scale {
    /// Moments and where they are, in order.
    pub(super) at: Vec<(u64, f64)>,
}

impl Scale {
    pub(super) fn new(moments: BTreeSet<u64>, first_fault: u64, end: u64) -> Self {
        let mut kept = vec![0];
        for at in moments {
            let same = if at < first_fault { SAME_BEFORE } else { SAME };
            if at > kept.last().copied().unwrap_or(0) + same && at < end {
                kept.push(at);
            }
        }
        kept.push(end);
        let mut place = 0.0;
        let mut at = vec![(0, 0.0)];
        for pair in kept.windows(2) {
            let ms = (pair[1] - pair[0]) as f64 / 1e6;
            place += 9.0 * (1.0 + ms / 4.0).ln();
            at.push((pair[1], place));
        }
        let stretch = place.clamp(WIDTH.0, WIDTH.1) / place.max(1.0);
        at.iter_mut().for_each(|(_, x)| *x = LEFT + *x * stretch);
        Self { at }
    }

    pub(super) fn x(&self, at: u64) -> f64 {
        let after = self.at.partition_point(|(moment, _)| *moment <= at);
        let Some(&(from, left)) = self.at.get(after.saturating_sub(1)) else { return LEFT };
        match self.at.get(after) {
            Some(&(to, right)) => {
                left + (right - left) * (at - from) as f64 / (to - from).max(1) as f64
            }
            None => left,
        }
    }

    pub(super) fn right(&self) -> f64 {
        self.at.last().map_or(LEFT, |(_, x)| *x)
    }

    /// Times worth writing: round ones, with room between them.
    pub(super) fn ticks(&self, end: u64) -> Vec<(u64, f64)> {
        let mut placed: Vec<(u64, f64)> = Vec::new();
        for step in [10_000, 5_000, 1_000, 500, 100, 50, 20, 10].map(|ms| ms * MS) {
            for number in 0..=end / step {
                let at = number * step;
                let x = self.x(at);
                // What is pressed together needs no more than its ends.
                let near = self.x(at.saturating_sub(step)).max(self.x(0));
                let clear = placed.iter().all(|(_, other)| (other - x).abs() > 58.0);
                if clear && (x - near > 6.0 || at == 0) {
                    placed.push((at, x));
                }
            }
        }
        placed
    }
}
