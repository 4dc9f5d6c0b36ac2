//! A plan becomes a world, the world runs, and what came of it.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt as _;
use roost::admission::{Invitation, Roster};
use roost::id::{InviteId, MeshId};

use crate::check::{Checks, Measure, Violation};
use crate::client::{Browser, Encoder, Seen, Viewer};
use crate::net::{MS, Net, SEC};
use crate::node::Node;
use crate::plan::{Fault, Join, Plan};
use crate::publish::Publisher;
use crate::queue::Queue;
use crate::rates::Tally;
use crate::rng::{For, stream};
use crate::tables::Conns;
use crate::trace::Trace;
use crate::world::{BEGIN, Ev, Host, PROBE, World};

/// Who reads what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Nobody: only the hash is made.
    Nobody,
    /// Lines are kept.
    Keep,
    /// Lines are printed at once.
    Print,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of everything that was sent and decided.
    pub hash: u64,
    /// The first thing that must hold and did not.
    pub violation: Option<Violation>,
    /// Things that happened.
    pub events: u64,
    /// Virtual time that passed, in seconds.
    pub seconds: f64,
    /// What happened that should happen sometimes, and how often.
    pub marks: BTreeMap<&'static str, u64>,
    /// Hashes of everything until each tenth of a second, if lines were kept.
    pub hashes: Vec<u64>,
    /// How often everything happened.
    pub counts: BTreeMap<String, u64>,
    /// Numbers by name.
    pub measured: BTreeMap<&'static str, Measure>,
    /// The longest time that any viewer stood still, in milliseconds, after its first picture.
    pub longest_gap_ms: u64,
    /// Lines for people, if they were kept.
    pub lines: Vec<String>,
}

/// Plays a plan.
pub fn run(plan: &Plan, watch: Watch) -> Outcome {
    let mut world = World::new(plan, watch);
    world.run();
    world.outcome()
}

impl World {
    /// What came of it.
    pub(crate) fn outcome(&mut self) -> Outcome {
        (0..self.plan.nodes).for_each(|ix| self.tally_life(ix));
        let gaps = self.viewers.iter().map(|viewer| viewer.seen.longest_gap);
        Outcome {
            hash: self.trace.hash(),
            events: self.events,
            seconds: self.now as f64 / 1e9,
            longest_gap_ms: gaps.max().unwrap_or(0) / MS,
            marks: std::mem::take(&mut self.checks.marks),
            hashes: self.trace.take_hashes(),
            counts: self.tally.take(),
            measured: std::mem::take(&mut self.checks.measured),
            lines: self.trace.take_lines(),
            violation: self.violation.take(),
        }
    }

    pub(crate) fn new(plan: &Plan, watch: Watch) -> Self {
        let seed = plan.seed;
        let twins = if plan.has_twins() { plan.encoders } else { 0 };
        let count = plan.nodes + plan.encoders + plan.viewers + twins;
        let hosts = (0..count)
            .map(|host| Host {
                up: false,
                stopping: false,
                life: 0,
                frozen: false,
                frozen_at: BEGIN,
                thawed: 0,
                holds: 0,
                inbox: VecDeque::new(),
                draining: false,
                touched: BEGIN,
                armed: 0,
                started: 0,
                rng: stream(seed, For::Host(host, 0)),
            })
            .collect();
        let nodes: Vec<Node> = (0..plan.nodes).map(|ix| Node::new(seed, ix)).collect();
        let index = nodes.iter().enumerate().map(|(ix, node)| (node.id, ix)).collect();
        let mut encoders: Vec<Encoder> =
            (0..plan.encoders).map(|e| Encoder::new(seed, plan.nodes + e, e, plan)).collect();
        encoders.extend(
            (0..twins).map(|e| Encoder::new(seed, plan.nodes + e, e, plan)).collect::<Vec<_>>(),
        );
        let first_viewer = plan.nodes + plan.encoders;
        let watched = plan.encoders.max(1);
        let viewers = (0..plan.viewers)
            .map(|v| Viewer::new(seed, first_viewer + v, v % watched, plan.nodes))
            .collect();
        let watches = (0..plan.browsers).map(|b| b % watched);
        let watches = watches.chain((0..plan.publishers).map(|p| plan.encoders + p));
        let browsers =
            watches.map(|watches| Browser { watches, at: None, seen: Seen::default() }).collect();
        let publishers =
            (0..plan.publishers).map(|p| Publisher::new(seed, p, plan.camera)).collect();
        let mut world = Self {
            now: BEGIN,
            end: (plan.healed_ms() + plan.settle_ms) * MS,
            queue: Queue::new(seed),
            net: Net::new(seed, plan.net),
            trace: Trace::new(watch == Watch::Keep, watch == Watch::Print),
            hosts,
            nodes,
            encoders,
            viewers,
            browsers,
            publishers,
            conns: Conns::default(),
            last_conn: 0,
            odd: std::collections::BTreeSet::new(),
            index,
            mesh: MeshId([0; 16]),
            invitation: None,
            shown: BTreeMap::new(),
            checked: None,
            active: BTreeMap::new(),
            last_wish: 0,
            backups: BTreeMap::new(),
            checks: Checks::default(),
            violation: None,
            events: 0,
            tally: Tally::default(),
            clocks_off: BTreeMap::new(),
            drifts: BTreeMap::new(),
            righted: BTreeMap::new(),
            full: std::collections::BTreeSet::new(),
            stirred: true,
            traffic: None,
            unchecked: false,
            lenient: false,
            liars: std::collections::BTreeSet::new(),
            mute: BTreeMap::new(),
            boasts: BTreeMap::new(),
            story: None,
            plan: plan.clone(),
        };
        world.found();
        world.schedule();
        world
    }

    /// The mesh is founded, and as the plan says everyone admitted.
    fn found(&mut self) {
        let mut rng = stream(self.plan.seed, For::Birth(1 << 41));
        let Some(founder) = self.nodes.first().map(|node| node.keypair.clone()) else { return };
        let mut roster = Roster::found(&founder, rng.random());
        self.mesh = roster.mesh();
        if self.plan.join == Join::Admitted {
            let (id, secret) = (InviteId(rng.random()), rng.random());
            let uses = u32::try_from(self.plan.nodes).unwrap_or(u32::MAX);
            let invitation =
                Invitation::make(&founder, self.mesh, Vec::new(), id, secret, u64::MAX, uses);
            let keys = self.nodes.iter().skip(1).map(|node| node.keypair.public());
            let admit = |key| roster.admit(&founder, key, &invitation.invite);
            let admissions: Vec<_> = keys.map(admit).collect();
            roster.adopt(admissions);
        }
        let all: Vec<_> = roster.statements().cloned().collect();
        let everyone = self.plan.join == Join::Admitted;
        for (ix, node) in self.nodes.iter_mut().enumerate() {
            if ix == 0 || everyone {
                node.disk.statements = all.clone();
            }
        }
    }

    fn schedule(&mut self) {
        let mut rng = stream(self.plan.seed, For::Birth(1 << 42));
        let burst = self.plan.burst_ms * MS;
        for ix in 0..self.plan.nodes {
            let late = if ix == 0 { 0 } else { rng.random_range(0..=burst) };
            self.queue.push(BEGIN + late, Ev::StartNode(ix));
        }
        let clients = self.plan.encoders + self.plan.viewers;
        for host in self.plan.nodes..self.plan.nodes + clients {
            let late = rng.random_range(0..2 * SEC);
            self.queue.push(BEGIN + late, Ev::StartClient(host));
        }
        for browser in 0..self.browsers.len() {
            let late = rng.random_range(SEC..3 * SEC);
            self.queue.push(BEGIN + late, Ev::StartBrowser(browser));
        }
        self.schedule_publishers();
        for (index, item) in self.plan.faults.iter().enumerate() {
            self.queue.push_first(BEGIN + item.at_ms * MS, Ev::FaultBegins(index));
            if matches!(item.fault, Fault::OldBackup(_) | Fault::OldFolder(_)) {
                self.queue.push_first(BEGIN + item.at_ms / 2 * MS, Ev::Backup(index));
            }
        }
        self.schedule_rights();
        self.schedule_edits();
        self.schedule_signals();
        self.queue.push(BEGIN + PROBE, Ev::Probe);
    }
}
