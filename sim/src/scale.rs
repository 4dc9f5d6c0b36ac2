//! How a mesh of many nodes behaves: how soon everyone knows everyone, how soon a death and the end
//! of a split are known, and what each plane costs.

use std::collections::BTreeMap;

use roost::wire::{LinkMessage, Message as _};

use crate::conn::{Cargo, Kind};
use crate::net::{MS, SEC};
use crate::plan::{Fault, Item, Plan, Who};
use crate::run::Watch;
use crate::world::World;

/// When what a mesh costs at rest is counted from, and for how long.
const QUIET: (u64, u64) = (20 * SEC, 20 * SEC);
/// When a node is killed for good, when halves are cut, and when they are whole again.
const KILLED: u64 = 42 * SEC;
const CUT: u64 = 52 * SEC;
const WHOLE: u64 = 62 * SEC;
const END: u64 = 82 * SEC;

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
    /// Virtual seconds that were played.
    pub seconds: f64,
}

/// Traffic of links by plane, if somebody counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    planes: BTreeMap<&'static str, Sent>,
}

impl Traffic {
    pub(crate) fn count(&mut self, now: u64, kind: &Kind, cargo: &Cargo) {
        let (from, span) = QUIET;
        if !matches!(kind, Kind::Link(_)) || now < from || now >= from + span {
            return;
        }
        let plane = match cargo {
            Cargo::Datagram(_) => "liveness",
            Cargo::Message(bytes) => match LinkMessage::decode(bytes) {
                Ok(LinkMessage::Members(_)) => "liveness, whole state",
                Ok(LinkMessage::DirectoryDigest(_) | LinkMessage::DirectoryDelta(_)) => "directory",
                Ok(
                    LinkMessage::Statements(_)
                    | LinkMessage::StatementDigest(_)
                    | LinkMessage::StatementsKnown(_),
                ) => "statements",
                Ok(
                    LinkMessage::BalanceAsk(_)
                    | LinkMessage::BalanceAnswer(_)
                    | LinkMessage::BalanceRelease(_),
                ) => "balance",
                Ok(LinkMessage::Goodbye(_)) | Err(_) => "other",
                Ok(_) => "ledger",
            },
            _ => "other",
        };
        let sent = self.planes.entry(plane).or_default();
        sent.packets += 1;
        sent.bytes += cargo.bytes() as u64;
    }
}

impl World {
    /// Every node that runs knows exactly those that run.
    fn agrees(&self) -> bool {
        let live: Vec<usize> = (0..self.plan.nodes).filter(|ix| self.hosts[*ix].up).collect();
        live.iter().all(|ix| {
            let alive = self.nodes[*ix].control.as_ref().map(|control| control.alive());
            alive.is_some_and(|alive| {
                alive.len() == live.len()
                    && live.iter().all(|other| alive.contains(&self.nodes[*other].id))
            })
        })
    }

    /// Plays until `end`; when everyone agreed first, and did until then.
    fn play_until(&mut self, end: u64) -> Option<u64> {
        let mut agreed = None;
        let mut look = self.now;
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
                agreed = if self.agrees() { agreed.or(Some(self.now)) } else { None };
            }
        }
    }
}

/// Plays `nodes` that start within a second, lose one for good, are cut into halves, and are whole
/// again.
pub fn scale(nodes: usize, encoders: usize, seed: u64) -> Scaled {
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
    let since = |at: Option<u64>, from: u64| at.map(|at| at.saturating_sub(from) as f64 / 1e9);
    let converged = since(world.play_until(KILLED - 1), SEC);
    let detected = since(world.play_until(CUT - 1), KILLED);
    world.play_until(WHOLE - 1);
    let healed = since(world.play_until(END), WHOLE);
    let mut planes = world.traffic.take().unwrap_or_default().planes;
    for sent in planes.values_mut() {
        sent.packets = sent.packets * SEC / QUIET.1;
        sent.bytes = sent.bytes * SEC / QUIET.1;
    }
    Scaled { converged, detected, healed, planes, seconds: END as f64 / 1e9 }
}
