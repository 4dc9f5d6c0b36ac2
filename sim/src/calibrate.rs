//! The course of events that whole nodes play as well, over a network in memory
//! (`tests/shell`): how long everything takes there and here is compared.

use crate::net::MS;
use crate::plan::{Fault, Item, Join, Net, Plan, Who};
use crate::run::Watch;
use crate::world::World;

/// The founder starts at the beginning; all others come within this time, invited.
pub const BURST_MS: u64 = 1_000;
/// When the last node is killed.
pub const KILLED_MS: u64 = 12_000;
/// When it starts again.
pub const BACK_MS: u64 = 24_000;
/// When even and odd nodes are cut from each other.
pub const CUT_MS: u64 = 36_000;
/// When they are whole again.
pub const WHOLE_MS: u64 = 46_000;
/// When it is over.
pub const END_MS: u64 = 76_000;
/// How often everyone is asked whom it sees.
pub const LOOK_MS: u64 = 10;

/// How long things took, in seconds; nothing for what never came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    /// From the end of the burst until everyone sees everyone.
    pub joined: Option<f64>,
    /// From the death until the first sees it.
    pub noticed: Option<f64>,
    /// From the death until all see it.
    pub known: Option<f64>,
    /// From the start of the dead until everyone sees everyone.
    pub back: Option<f64>,
    /// From the end of the cut until everyone sees everyone.
    pub healed: Option<f64>,
}

impl Times {
    /// All of them, by name.
    pub fn named(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("join, all see all", self.joined),
            ("death, the first sees it", self.noticed),
            ("death, all see it", self.known),
            ("return, all see all", self.back),
            ("cut healed, all see all", self.healed),
        ]
    }
}

/// Plays it with so many nodes.
pub fn calibrate(nodes: usize, net: Net, seed: u64) -> Times {
    let mut plan = Plan::calm(seed, nodes, 0);
    plan.viewers = 0;
    plan.net = net;
    plan.join = Join::Invited;
    plan.burst_ms = BURST_MS;
    let dead = nodes - 1;
    let half = |odd: usize| (0..nodes).filter(move |n| n % 2 == odd).map(Who::Node).collect();
    plan.faults = vec![
        Item {
            at_ms: KILLED_MS,
            until_ms: Some(BACK_MS),
            fault: Fault::Crash(vec![Who::Node(dead)]),
        },
        Item {
            at_ms: CUT_MS,
            until_ms: Some(WHOLE_MS),
            fault: Fault::Cut { from: half(0), to: half(1), one_way: false },
        },
    ];
    let mut world = World::new(&plan, Watch::Nobody);
    world.unchecked = true;
    let (all, live) = (0..nodes, 0..dead);
    let joined = world.until(KILLED_MS, |world| world.see(all.clone(), all.clone()));
    let mut noticed = None;
    let known = world.until(BACK_MS, |world| {
        if live.clone().any(|ix| !world.sees(ix, dead)) {
            noticed.get_or_insert(world.now / MS);
        }
        world.see(live.clone(), live.clone())
    });
    let back = world.until(CUT_MS, |world| world.see(all.clone(), all.clone()));
    world.until(WHOLE_MS, |_| true);
    let healed = world.until(END_MS, |world| world.see(all.clone(), all.clone()));
    let since = |at: Option<u64>, from: u64| at.map(|at| at.saturating_sub(from) as f64 / 1e3);
    Times {
        joined: since(joined, BURST_MS),
        noticed: since(noticed, KILLED_MS),
        known: since(known, KILLED_MS),
        back: since(back, BACK_MS),
        healed: since(healed, WHOLE_MS),
    }
}

impl World {
    fn sees(&self, ix: usize, other: usize) -> bool {
        let control = self.nodes[ix].control.as_ref();
        control.is_some_and(|control| control.alive().contains(&self.nodes[other].id))
    }

    /// Each of these sees exactly those.
    fn see(&self, who: std::ops::Range<usize>, live: std::ops::Range<usize>) -> bool {
        who.into_iter().all(|ix| {
            let control = self.nodes[ix].control.as_ref();
            control.is_some_and(|control| control.alive().len() == live.len())
                && live.clone().all(|other| self.sees(ix, other))
        })
    }

    /// Plays until then; since when it has been so, in milliseconds of the run.
    fn until(&mut self, end_ms: u64, mut so: impl FnMut(&Self) -> bool) -> Option<u64> {
        let (end, mut since) = (end_ms * MS, None);
        let mut look = self.now + LOOK_MS * MS;
        while let Some((at, event)) = self.queue.pop() {
            while look <= at.min(end) {
                self.now = look;
                since = if so(self) { since.or(Some(look / MS)) } else { None };
                look += LOOK_MS * MS;
            }
            if at > end {
                self.queue.push_first(at, event);
                break;
            }
            self.now = at;
            self.step(event);
        }
        self.now = end;
        since
    }
}
