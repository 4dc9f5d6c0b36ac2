//! Nobody calls a node down that everyone heard just now, and that it reached until lately: if packets
//! pass in one direction alone, it is for the others to find out who is not heard.

use super::prompt::NODES_MAX;
use crate::net::MS;
use crate::world::World;

/// Where nodes are near, one is suspected for a second before it is called down.
const JUST_NOW: u64 = 900 * MS;
/// And for two more if it is heard meanwhile.
const LATELY: u64 = 2_900 * MS;

/// What waits for a path to be open again is sent again within two seconds: by then who is suspected
/// wrongly has been asked.
const RESUMED: u64 = 2_500 * MS;

/// When one node heard another last, and since when without a pause, in which life of either.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    last: u64,
    since: u64,
    lives: [u64; 2],
}

impl World {
    /// A datagram arrives.
    pub(crate) fn note_heard(&mut self, ix: usize, from: usize) {
        if self.plan.nodes <= NODES_MAX {
            let lives = [self.hosts[ix].life, self.hosts[from].life];
            let fresh = Heard { last: self.now, since: self.now, lives };
            let heard = self.checks.heard.entry((ix, from)).or_insert(fresh);
            if heard.lives != lives || self.now > heard.last + JUST_NOW {
                *heard = fresh;
            }
            heard.last = self.now;
        }
    }

    /// Whether a node hears another, as all do, and reached it until lately.
    pub(super) fn hears(&self, ix: usize, other: usize) -> bool {
        let of = |ix: usize, from: usize| {
            let lives = [self.hosts[ix].life, self.hosts[from].life];
            self.checks.heard.get(&(ix, from)).filter(|heard| heard.lives == lives)
        };
        let heard = |ix: usize, from: usize, within: u64| {
            of(ix, from).is_some_and(|heard| self.now < heard.last + within)
        };
        // Who did not hear another for a while may have called it down rightly.
        let resumed = |ix: usize, from: usize| {
            of(ix, from).is_some_and(|heard| self.now < heard.since + RESUMED)
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
            && !resumed(other, ix)
            && thirds.all(|third| heard(third, other, JUST_NOW) && !resumed(third, other))
    }
}
