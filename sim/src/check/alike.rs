//! Two nodes that reach each other, and whom every third node reaches alike, never call each other
//! down, whatever happens to the others: what a third node that was cut off believes is no reason.

use super::prompt::NODES_MAX;
use crate::net::SEC;
use crate::world::World;

/// By then what they suspected of each other before is over.
const SETTLED: u64 = 10 * SEC;
/// So much loss is no reason.
const LOSS_MAX: f64 = 0.1;

/// Since when two nodes are alike, in which life of either.
pub(crate) type Alike = (u64, [u64; 2]);

impl World {
    pub(super) fn note_alike(&mut self) {
        let net = &self.net;
        let rough = !net.latency.is_empty() || !net.bursts.is_empty() || !net.slow.is_empty();
        if self.plan.nodes > NODES_MAX || rough || net.loss_share() > LOSS_MAX {
            self.checks.alike.clear();
            return;
        }
        let runs = |ix: &usize| self.runs(*ix) && self.is_member(*ix);
        let members: Vec<usize> = (0..self.plan.nodes).filter(runs).collect();
        let reached = |from: usize| {
            let to = members.iter().filter(|to| !self.net.blocked(from, **to));
            to.fold(0_u32, |set, to| set | 1 << to)
        };
        let reached_from = |to: usize| {
            let from = members.iter().filter(|from| !self.net.blocked(**from, to));
            from.fold(0_u32, |set, from| set | 1 << from)
        };
        let sets: Vec<[u32; 2]> =
            members.iter().map(|ix| [reached(*ix), reached_from(*ix)]).collect();
        let mut alike = std::collections::BTreeMap::new();
        for (a, of_a) in members.iter().zip(&sets) {
            for (b, of_b) in members.iter().zip(&sets).filter(|(b, _)| *b != a) {
                if of_a == of_b {
                    let lives = [self.hosts[*a].life, self.hosts[*b].life];
                    let before = self.checks.alike.get(&(*a, *b));
                    let since = before.filter(|it| it.1 == lives).map_or(self.now, |it| it.0);
                    alike.insert((*a, *b), (since, lives));
                }
            }
        }
        self.checks.alike = alike;
    }

    /// These are about to be down for a reason of their own.
    pub(crate) fn forget_alike(&mut self, hosts: &[usize]) {
        self.checks.alike.retain(|(a, b), _| !hosts.contains(a) && !hosts.contains(b));
    }

    /// Whether two nodes have been alike for so long that the first has no reason to call the other
    /// down.
    pub(super) fn are_alike(&self, a: usize, b: usize) -> bool {
        let lives = [self.hosts[a].life, self.hosts[b].life];
        let since = self.checks.alike.get(&(a, b)).filter(|it| it.1 == lives);
        let leaves = self.nodes[b].control.as_ref().is_none_or(|control| control.leaving());
        !leaves && since.is_some_and(|it| self.now > it.0 + SETTLED)
    }
}
