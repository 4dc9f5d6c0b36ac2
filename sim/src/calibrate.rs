//! The course of events that whole nodes play as well, over a network in memory
//! (`tests/shell`): how long everything takes there and here is compared.

use std::collections::BTreeSet;
use std::ops::Range;

use roost::id::NodeId;

use crate::net::MS;
use crate::plan::{Fault, Item, Join, Net, Plan, Who};
use crate::run::Watch;
use crate::world::World;

/// The founder starts at the beginning; all others come within this time, invited.
pub const BURST_MS: u64 = 100;
/// When the last node is killed.
pub const KILLED_MS: u64 = 5_000;
/// When it starts again.
pub const BACK_MS: u64 = 9_000;
/// When even and odd nodes are cut from each other.
pub const CUT_MS: u64 = 13_000;
/// When they are whole again.
pub const WHOLE_MS: u64 = 23_000;
/// When it is over.
pub const END_MS: u64 = 29_000;
/// How often everyone is asked whom it sees.
pub const LOOK_MS: u64 = 10;
/// What a node shows of itself is renewed this often at most.
const PUBLISHED: u64 = 50 * MS;

/// Whom a node shows as alive, and from when on it may show others.
#[derive(Default)]
struct Shown {
    life: u64,
    alive: BTreeSet<NodeId>,
    due: u64,
}

/// A mesh, and what can be seen of it from outside.
struct Seen {
    world: World,
    shown: Vec<Shown>,
}

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
    let mut mesh = Seen { world, shown: (0..nodes).map(|_| Shown::default()).collect() };
    let (all, live) = (0..nodes, 0..dead);
    let joined = mesh.until(KILLED_MS, |mesh| mesh.see(all.clone(), all.clone()));
    let mut noticed = None;
    let known = mesh.until(BACK_MS, |mesh| {
        if live.clone().any(|ix| !mesh.sees(ix, dead)) {
            noticed.get_or_insert(mesh.world.now / MS);
        }
        mesh.see(live.clone(), live.clone())
    });
    let back = mesh.until(CUT_MS, |mesh| mesh.see(all.clone(), all.clone()));
    mesh.until(WHOLE_MS, |_| true);
    let healed = mesh.until(END_MS, |mesh| mesh.see(all.clone(), all.clone()));
    let since = |at: Option<u64>, from: u64| at.map(|at| at.saturating_sub(from) as f64 / 1e3);
    Times {
        joined: since(joined, BURST_MS),
        noticed: since(noticed, KILLED_MS),
        known: since(known, KILLED_MS),
        back: since(back, BACK_MS),
        healed: since(healed, WHOLE_MS),
    }
}

impl Seen {
    fn sees(&self, ix: usize, other: usize) -> bool {
        self.shown[ix].alive.contains(&self.world.nodes[other].id)
    }

    /// Each of these sees exactly those.
    fn see(&self, mut who: Range<usize>, live: Range<usize>) -> bool {
        who.all(|ix| {
            self.shown[ix].alive.len() == live.len()
                && live.clone().all(|other| self.sees(ix, other))
        })
    }

    /// Each node shows whom it believes alive, as `node::drive` does: at once if it did not for a
    /// while, and otherwise at its next beat.
    fn publish(&mut self) {
        for (ix, shown) in self.shown.iter_mut().enumerate() {
            let (host, now) = (&self.world.hosts[ix], self.world.now);
            if host.life != shown.life {
                *shown = Shown { life: host.life, ..Shown::default() };
            }
            let alive = self.world.nodes[ix].control.as_ref().map(|control| control.alive());
            if let Some(alive) = alive.filter(|alive| now >= shown.due && **alive != shown.alive) {
                shown.alive = alive.clone();
                shown.due = now + PUBLISHED - (now - host.started) % PUBLISHED;
            }
        }
    }

    /// Plays until then; since when it has been so, in milliseconds of the run.
    fn until(&mut self, end_ms: u64, mut so: impl FnMut(&Self) -> bool) -> Option<u64> {
        let (end, mut since) = (end_ms * MS, None);
        let mut look = self.world.now + LOOK_MS * MS;
        while let Some((at, event)) = self.world.queue.pop() {
            while look <= at.min(end) {
                self.world.now = look;
                self.publish();
                since = if so(self) { since.or(Some(look / MS)) } else { None };
                look += LOOK_MS * MS;
            }
            if at > end {
                self.world.queue.push_first(at, event);
                break;
            }
            self.world.now = at;
            self.world.step(event);
        }
        self.world.now = end;
        since
    }
}
