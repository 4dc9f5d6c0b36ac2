//! No survivor is stampeded by the encoders of a node that died.

use crate::check::even::FILLED;
use crate::net::SEC;
use crate::world::{BEGIN, World};

/// By then everyone is at home somewhere.
const PLACED: u64 = 5 * SEC;
/// With fewer encoders for each node, chance alone makes counts uneven.
const MANY: usize = 50;
/// The fullest node has at most so many per thousand of the mean.
const FULLEST: usize = 1_250;

impl World {
    /// In a large mesh, some seconds after anything happened, counts are nearly even. A node that
    /// came lately is filled later.
    pub(super) fn check_spread(&mut self) {
        let touched: Vec<u64> =
            self.hosts[..self.plan.nodes].iter().map(|host| host.touched).collect();
        // Whatever happens to any of them begins the period anew for all.
        if touched.iter().all(|at| self.now >= at + FILLED) {
            self.checks.filled.clone_from(&touched);
        }
        let filled = |(ix, at): &(usize, &u64)| {
            **at == BEGIN || self.checks.filled.get(*ix).is_some_and(|since| since == *at)
        };
        let settled = touched.iter().enumerate().filter(filled).map(|(ix, _)| &self.nodes[ix]);
        let loads = settled.filter_map(|node| node.control.as_ref());
        let loads: Vec<usize> =
            loads.map(|control| control.directory().count(control.me())).collect();
        let (total, most) = (loads.iter().sum::<usize>(), loads.iter().max().copied());
        if total < MANY * loads.len()
            || total == 0
            || self.is_pooled()
            // Nodes take as many as they are wished to.
            || self.plan.has_wishes()
            // Whoever says that it is busy gets fewer, and its share later.
            || self.plan.has_boasts()
            || !self.whole()
            || !self.calm_for(PLACED)
        {
            return;
        }
        let share = most.unwrap_or_default() * loads.len() * 1_000 / total;
        self.measure("thousandths of the mean at the fullest node", share as u64);
        if share > FULLEST {
            let text = format!("{share} thousandths of the mean at the fullest of {loads:?}");
            self.fail("spread", text);
        }
    }
}
