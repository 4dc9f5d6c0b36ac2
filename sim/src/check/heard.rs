//! Nobody calls a node down that everyone heard just now, and that it reached until lately: if packets
//! pass in one direction alone, it is for the others to find out who is not heard.

use super::prompt::NODES_MAX;
use crate::net::MS;
use crate::world::World;

/// Where nodes are near, one is suspected for a second before it is called down.
const JUST_NOW: u64 = 900 * MS;
/// And for two more if it is heard meanwhile.
const LATELY: u64 = 2_900 * MS;

/// When one node heard another last, in which life of either.
pub(crate) type Heard = (u64, [u64; 2]);

impl World {
    /// A datagram arrives.
    pub(crate) fn note_heard(&mut self, ix: usize, from: usize) {
        if self.plan.nodes <= NODES_MAX {
            let lives = [self.hosts[ix].life, self.hosts[from].life];
            self.checks.heard.insert((ix, from), (self.now, lives));
        }
    }

    /// Whether a node hears another, as all do, and reached it until lately.
    pub(super) fn hears(&self, ix: usize, other: usize) -> bool {
        let heard = |ix: usize, from: usize, within: u64| {
            let lives = [self.hosts[ix].life, self.hosts[from].life];
            let last = self.checks.heard.get(&(ix, from)).filter(|(_, of)| *of == lives);
            last.is_some_and(|(at, _)| self.now < at + within)
        };
        let thirds = (0..self.plan.nodes).filter(|third| ![ix, other].contains(third));
        let mut thirds = thirds.filter(|third| self.runs(*third) && self.is_member(*third));
        let leaves = self.nodes[other].control.as_ref().is_none_or(|control| control.leaving());
        let far = !self.plan.net.is_near();
        let rough = far || !self.net.latency.is_empty() || !self.net.slow.is_empty();
        !leaves
            && !rough
            && heard(ix, other, JUST_NOW)
            && heard(other, ix, LATELY)
            && thirds.all(|third| heard(third, other, JUST_NOW))
    }
}
