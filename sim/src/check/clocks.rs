//! Mesh time is right while most clocks are, however wrong the others.

use super::SLACK;
use crate::net::{MS, SEC};
use crate::plan::{Fault, Item};
use crate::world::{READINGS, SKEWS, WALL, World};

/// A link tells what time it is at the other end when it comes up, and mesh time is worked out soon
/// after.
const SETTLED: u64 = 5 * SEC;
/// A reading may be so old when it comes, in milliseconds.
const LATE: u64 = 60_000;

impl World {
    pub(super) fn check_clocks(&mut self) {
        let off = self.clocks_off.keys().chain(self.drifts.keys()).copied();
        let off = off.filter(|host| *host < self.plan.nodes);
        self.checks.wrong_clocks.extend(off.map(|host| (host, self.now)));
        // What is right again is known by new readings, where nodes report and nothing else happens.
        let clocks = |item: &Item| matches!(item.fault, Fault::Clock(..));
        if self.plan.viewers > 0 && self.plan.faults.iter().all(clocks) {
            self.checks.wrong_clocks.retain(|_, at| self.now < *at + READINGS);
        }
        let limit = SETTLED * self.patience() + SLACK;
        let true_times = WALL + self.now / MS;
        let right = true_times.saturating_sub(LATE)..true_times + SKEWS + LATE;
        for ix in 0..self.plan.nodes {
            let Some(time) = self.mostly_right(ix) else {
                self.checks.mostly_right.remove(&ix);
                continue;
            };
            let since = *self.checks.mostly_right.entry(ix).or_insert(self.now);
            if self.now > since + limit && !right.contains(&time) {
                let ahead = i128::from(time) - i128::from(true_times);
                let text = format!("to n{ix} the time in the mesh is {} s ahead", ahead / 1000);
                return self.fail("clocks", text);
            }
        }
    }

    /// What time it is in the mesh to a node, if more of the live ones that it is linked with, and
    /// itself, have had a right clock long enough than there are others in the mesh.
    fn mostly_right(&self, ix: usize) -> Option<u64> {
        let control = self.nodes[ix].control.as_ref().filter(|_| self.runs(ix))?;
        let wrong = &self.checks.wrong_clocks;
        let linked = control.linked().iter().filter(|peer| control.alive().contains(*peer));
        let linked = linked.filter_map(|peer| self.index.get(peer));
        let right = linked.chain([&ix]).filter(|node| !wrong.contains_key(node)).count();
        (right > wrong.len().max(1)).then(|| control.time(self.clock(ix)))
    }
}
