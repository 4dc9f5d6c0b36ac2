//! How a mesh of many nodes behaves: how soon everyone knows everyone, how soon a death and the end
//! of a split are known, and what each plane costs.

use std::collections::{BTreeMap, BTreeSet};

use crate::conn::{Cargo, Kind};
use crate::net::{MS, SEC};
use crate::plan::{Fault, Item, Plan, Who};
use crate::run::Watch;
use crate::world::World;

/// When what a mesh costs at rest is counted from, and for how long.
const QUIET: (u64, u64) = (60 * SEC, 60 * SEC);
/// When all that starts has started, and what starts uneven begins to be evened out.
const STARTED: u64 = 20 * SEC;
/// When a node is killed for good, when halves are cut, and when they are whole again.
const KILLED: u64 = 120 * SEC;
const CUT: u64 = 130 * SEC;
const WHOLE: u64 = 140 * SEC;
const END: u64 = 160 * SEC;

/// What a plane sent.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    /// Datagrams and messages.
    pub packets: u64,
    /// With 60 bytes for what carries each.
    pub bytes: u64,
}

/// What was measured with so many nodes.
#[derive(Debug, Clone, Default)]
pub struct Scaled {
    /// From the last start until everyone knows everyone, in seconds.
    pub converged: Option<f64>,
    /// From a death until everyone knows of it.
    pub detected: Option<f64>,
    /// From the end of a cut into halves until everyone knows everyone again.
    pub healed: Option<f64>,
    /// Of each plane, all nodes together, per second at rest.
    pub planes: BTreeMap<&'static str, Sent>,
    /// Times that an encoder's home changed: to even out, at rest, and after that.
    pub moves: [u64; 3],
    /// Virtual seconds of each part, and what they took of one core.
    pub parts: Vec<(&'static str, f64, f64)>,
}

/// Traffic of links by plane, if somebody counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    planes: BTreeMap<&'static str, Sent>,
}

impl Traffic {
    pub(crate) fn count(&mut self, now: u64, kind: &Kind, cargo: &Cargo) {
        let (from, span) = QUIET;
        if now < from || now >= from + span {
            return;
        }
        let tag = |bytes: &[u8]| bytes.first_chunk().map(|tag| u16::from_le_bytes(*tag));
        let plane = match (kind, cargo) {
            (Kind::Client { .. }, _) => "clients",
            (Kind::Media, _) => "media",
            (Kind::Link(_), Cargo::Datagram(_)) => "liveness",
            // As `wire::LinkMessage` numbers them; to decode each would cost more than to play it.
            (Kind::Link(_), Cargo::Message(bytes)) => match tag(bytes) {
                Some(1) => "liveness, whole state",
                Some(2 | 3) => "directory",
                Some(4 | 5 | 7) => "statements",
                Some(8..=10) => "balance",
                Some(16..) => "ledger",
                _ => "other",
            },
            (Kind::Link(_), _) => "other",
        };
        let sent = self.planes.entry(plane).or_default();
        sent.packets += 1;
        sent.bytes += cargo.bytes() as u64;
    }
}

impl World {
    /// Every node that runs knows exactly those that run.
    fn agrees(&self) -> bool {
        let live = || (0..self.plan.nodes).filter(|ix| self.hosts[*ix].up);
        let ids: BTreeSet<_> = live().map(|ix| self.nodes[ix].id).collect();
        live().all(|ix| {
            let control = self.nodes[ix].control.as_ref();
            control.is_some_and(|control| *control.alive() == ids)
        })
    }

    fn homes(&self) -> Vec<Option<usize>> {
        (0..self.plan.encoders).map(|encoder| self.home_of(encoder)).collect()
    }

    /// Plays until `end`; when everyone agreed first, and did until then.
    fn play_until(&mut self, end: u64) -> Option<u64> {
        let mut agreed = None;
        let mut look = self.now;
        self.stirred = true;
        loop {
            let Some((at, event)) = self.queue.pop() else { return agreed };
            if at > end {
                self.queue.push_first(at, event);
                self.now = end;
                return agreed;
            }
            self.now = at;
            self.step(event);
            if self.now >= look {
                look = self.now + 50 * MS;
                if std::mem::take(&mut self.stirred) {
                    agreed = if self.agrees() { agreed.or(Some(self.now)) } else { None };
                }
            }
        }
    }
}

/// Plays `nodes` that start within a second, lose one for good, are cut into halves, and are whole
/// again. What is known so far is `told` after each part.
pub fn scale(nodes: usize, encoders: usize, seed: u64, told: &mut dyn FnMut(&Scaled)) {
    let mut plan = Plan::calm(seed, nodes, encoders);
    plan.viewers = 0;
    plan.burst_ms = 1000;
    let half = |even: bool| (0..nodes - 1).filter(move |n| (n % 2 == 0) == even).map(Who::Node);
    let cut = Fault::Cut { from: half(true).collect(), to: half(false).collect(), one_way: false };
    plan.faults = vec![
        Item {
            at_ms: KILLED / MS,
            until_ms: None,
            fault: Fault::Crash(vec![Who::Node(nodes - 1)]),
        },
        Item { at_ms: CUT / MS, until_ms: Some(WHOLE / MS), fault: cut },
    ];
    let mut world = World::new(&plan, Watch::Nobody);
    world.unchecked = true;
    world.traffic = Some(Traffic::default());
    let mut scaled = Scaled::default();
    let (mut spent, mut until) = (cpu_seconds(), 0);
    let mut part = |scaled: &mut Scaled, name, end: u64| {
        let (now, then) = (cpu_seconds(), std::mem::replace(&mut until, end));
        let cost = now - std::mem::replace(&mut spent, now);
        scaled.parts.push((name, (end - then) as f64 / 1e9, cost));
        told(scaled);
    };
    let changed = |before: &[Option<usize>], after: &[Option<usize>]| {
        before.iter().zip(after).filter(|(before, after)| before != after).count() as u64
    };
    let since = |at: Option<u64>, from: u64| at.map(|at| at.saturating_sub(from) as f64 / 1e9);
    let settled = world.play_until(STARTED - 1);
    part(&mut scaled, "start", STARTED);
    let homes = world.homes();
    let evened = world.play_until(QUIET.0 - 1);
    let even = world.homes();
    scaled.moves[0] = changed(&homes, &even);
    part(&mut scaled, "evening out", QUIET.0);
    let still = world.play_until(KILLED - 1);
    // What was agreed on before must hold until the end of the rest.
    scaled.converged = since(still.and(evened).and(settled), SEC);
    let quiet = world.homes();
    scaled.moves[1] = changed(&even, &quiet);
    scaled.planes = world.traffic.take().unwrap_or_default().planes;
    for sent in scaled.planes.values_mut() {
        sent.packets = sent.packets * SEC / QUIET.1;
        sent.bytes = sent.bytes * SEC / QUIET.1;
    }
    part(&mut scaled, "rest", KILLED);
    scaled.detected = since(world.play_until(CUT - 1), KILLED);
    part(&mut scaled, "a death", CUT);
    world.play_until(WHOLE - 1);
    part(&mut scaled, "a cut into halves", WHOLE);
    scaled.healed = since(world.play_until(END), WHOLE);
    scaled.moves[2] = changed(&quiet, &world.homes());
    part(&mut scaled, "whole again", END);
}

/// What this thread took of a core so far; zero where `/proc` is not there.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
