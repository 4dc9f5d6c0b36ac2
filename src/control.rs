//! The coordinator: routes events to machines and their effects to drivers, and holds no rule of
//! its own beyond that. Everything from the network arrives here as bytes, so that a simulator
//! that drives `Control` drives what production runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::RwLockReadGuard;
use std::time::Duration;

use crate::access::{Rights, SharedRights};
use crate::accounts::{self, Ledger};
use crate::admission::{Keypair, Roster, Statements};
use crate::cluster::NodeReport;
use crate::directory::{self, Directory};
use crate::id::{Boot, EncoderId, NodeId};
use crate::membership::{self, Membership};
use crate::peering::{self, Peering};
use crate::placement::Candidate;
use crate::placement::balance::{self as evening, Balance};
use crate::placement::plan::Seat;
use crate::session::SILENCE_WATCHED;
use crate::session::host::Host;
use crate::time::{Mono, Now, earlier};
use crate::wire::{self, LinkMessage, Message, PeerList, WireError};

mod admit;
mod alive;
mod balance;
mod clients;
mod clock;
mod demand;
mod entries;
mod lacking;
mod leave;
mod ledger;
mod losses;
mod nodes;
mod rotate;
mod types;
mod view;
mod wishes;

pub use clock::{Clocks, SKEW_ALARM};
pub use leave::LEAVE_DEADLINE;
pub use types::{Config, Counters, Effect, Event, NoDecree, Note};

/// The control loop wakes at least this often, so that it notices when it stood still.
const TICK: Duration = Duration::from_millis(100);

/// A later self of this node is told of at most this often: two machines that run one folder
/// outgrow each other for as long as both run.
const OUTGROWN_INTERVAL: Duration = Duration::from_secs(10);

/// The boot under which a start numbers its entries: a folder that was put back counts a boot
/// twice, and what peers hold of its other life must not pass for this one's.
fn salted(boot: Boot, seed: &[u8; 32]) -> Boot {
    Boot(boot.0 << 16 | u64::from(u16::from_le_bytes([seed[0], seed[1]])))
}

/// The boot that a [`salted`] one is of, or a later one.
fn unsalted(boot: Boot) -> Boot {
    Boot(boot.0 >> 16)
}

/// One node's deciding half.
pub struct Control {
    me: NodeId,
    boot: Boot,
    keypair: Keypair,
    name: String,
    addrs: Vec<String>,
    roster: Roster,
    membership: Membership,
    peering: Peering,
    directory: Directory,
    host: Host,
    ledger: Ledger,
    rights: SharedRights,
    /// Whoever is here has to be judged anew.
    rights_changed: bool,
    /// Its next wake-up has to be asked for again.
    host_called: bool,
    host_due: Option<Mono>,
    balance: Balance,
    /// Live nodes as a plan sees them.
    seats: Vec<Seat>,
    /// Encoders changed: there may be something to plan.
    encoders_changed: bool,
    /// What became of moves that evening out wanted.
    went: Vec<(EncoderId, bool)>,
    /// What nodes were called last.
    names: BTreeMap<NodeId, String>,
    reports: BTreeMap<NodeId, NodeReport>,
    /// When each last said anything new.
    heard: BTreeMap<NodeId, Mono>,
    /// What this node said of itself last.
    own: Option<NodeReport>,
    /// Its capacity as it measures it.
    measured: u32,
    clocks: Clocks,
    /// Whether this node's clock is told to be off, how far it is, and when that was found.
    skewed: bool,
    skew: Option<i64>,
    asked: Now,
    /// Nodes that were members once.
    expelled: BTreeSet<NodeId>,
    /// The batch of statements that was last written down, and the last that is on disk.
    recording: u64,
    recorded: u64,
    rotation: Option<rotate::Rotation>,
    /// A key to change to once this node is a member again.
    next_key: Option<Keypair>,
    /// The addresses of those with a working link, as they say.
    links: BTreeMap<NodeId, Vec<String>>,
    linked: BTreeSet<NodeId>,
    alive: BTreeSet<NodeId>,
    candidates: Vec<Candidate>,
    /// Alive nodes that are drained or cordoned.
    reluctant: Vec<Candidate>,
    wishes: wishes::Wishes,
    told_wishes: wishes::Wishes,
    told_losses: losses::Told,
    /// It was told that nothing is left here.
    drained: bool,
    peers: PeerList,
    due: Option<Mono>,
    /// When anything was handled last: at least every [`TICK`], unless the process stood still.
    handled: Mono,
    nodes_dirty: bool,
    rest: nodes::Rest,
    /// Somebody lacks other links: only routes may follow from that.
    links_dirty: bool,
    lacking: lacking::Lacking,
    remember_at: Option<Mono>,
    remembered: Option<Mono>,
    /// How often it was outgrown by a later self as far as told, and when that was told last.
    outgrown: (u64, Option<Mono>),
    leaving: Option<leave::Leaving>,
    counters: Counters,
}

impl Control {
    /// A node that starts now.
    pub fn new(config: Config, now: Now, effects: &mut Vec<Effect>) -> Self {
        let me = config.keypair.node();
        let peer = membership::Peer {
            node: me,
            boot: config.boot,
            addrs: config.addrs.iter().take(2).cloned().collect(),
        };
        let mut member_effects = Vec::new();
        let membership = Membership::new(peer, now, config.seed, &mut member_effects);
        let mut control = Self {
            me,
            boot: config.boot,
            keypair: config.keypair,
            name: config.name,
            addrs: config.addrs,
            roster: config.roster,
            membership,
            peering: Peering::new(me, config.seed),
            directory: Directory::new(me, salted(config.boot, &config.seed)),
            host: Host::default(),
            ledger: ledger::born(me, config.seed, config.ledger, config.spare),
            rights: SharedRights::default(),
            rights_changed: false,
            host_called: false,
            host_due: None,
            balance: Balance::new(now.mono),
            seats: Vec::new(),
            encoders_changed: false,
            went: Vec::new(),
            names: config.names.into_iter().collect(),
            reports: BTreeMap::new(),
            heard: BTreeMap::new(),
            own: None,
            measured: config.measured,
            clocks: Clocks::default(),
            skewed: false,
            skew: None,
            asked: now,
            expelled: BTreeSet::new(),
            recording: 0,
            recorded: 0,
            rotation: None,
            next_key: None,
            links: BTreeMap::new(),
            linked: BTreeSet::new(),
            alive: BTreeSet::from([me]),
            candidates: Vec::new(),
            reluctant: Vec::new(),
            wishes: wishes::Wishes::default(),
            told_wishes: wishes::Wishes::default(),
            told_losses: losses::Told::default(),
            drained: false,
            peers: PeerList::default(),
            due: None,
            handled: now.mono,
            nodes_dirty: true,
            rest: nodes::Rest::default(),
            links_dirty: false,
            lacking: lacking::Lacking::default(),
            remember_at: None,
            remembered: None,
            outgrown: (0, None),
            leaving: None,
            counters: Counters::default(),
        };
        control.tell_cuts(now, effects);
        control.index_rights();
        control.heed_wishes();
        control.heed_period(now, effects);
        control.member_effects(now, member_effects, effects);
        control.start_out(now, effects);
        control.tell_members(now, effects);
        if let Some(key) = config.next_key {
            control.rotate(now, None, key, effects);
        }
        control.peer(now, peering::Event::Seeds(config.seeds), effects);
        for (node, addrs) in config.remembered {
            if control.roster.contains(node) && node != me {
                control.peer(now, peering::Event::Known { node, addrs, up: false }, effects);
            }
        }
        control.finish(now, effects);
        control
    }

    /// One event in, effects out.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        self.notice_stall(now, effects);
        match event {
            Event::Wake => self.wake(now, effects),
            Event::LinkUp { node, addrs, learned, wall } => {
                self.link_up(now, node, addrs, learned, wall, effects);
            }
            Event::LinkDown(node) => self.link_down(now, node, effects),
            Event::Learned(list) => drop(self.adopt(now, list, None, effects)),
            Event::Recorded(number) => {
                self.recorded = self.recorded.max(number);
                self.proceed_rotating(now, effects);
            }
            Event::Revoke { ticket, node, nonce, reason } => {
                self.revoke(now, ticket, node, nonce, &reason, effects);
            }
            Event::Readmit { ticket, node, nonce } => {
                self.readmit(now, ticket, node, nonce, effects);
            }
            Event::Rotate { ticket, key } => self.rotate(now, Some(ticket), key, effects),
            Event::DialFailed { node, addr } => {
                self.peer(now, peering::Event::DialFailed { node, addr }, effects);
            }
            Event::Message(from, bytes) => self.message(now, from, &bytes, effects),
            Event::Datagram(from, _) if !self.linked.contains(&from) => {
                self.counters.unlinked += 1;
            }
            Event::Datagram(from, bytes) => {
                self.member(now, membership::Event::Datagram { from, bytes }, effects);
            }
            Event::Rtt(rtts) => self.member(now, membership::Event::Rtt(rtts), effects),
            Event::Join { ticket, newcomer, join, statement } => {
                self.join(now, ticket, newcomer, &join, &statement, effects);
            }
            Event::Reports(reports) => self.heed_reports(now, reports, effects),
            Event::Report(report) => {
                self.own = Some(report);
                self.recount();
            }
            Event::ClientOpened { session, local } => {
                self.host(now, effects, |host, world, out| {
                    host.opened(world, session, local, out);
                });
            }
            Event::Publish { session, publication } => {
                self.host(now, effects, |host, world, out| {
                    host.publisher_opened(world, session, publication, out);
                });
            }
            Event::ClientMessage(session, bytes) => {
                self.host(now, effects, |host, world, out| {
                    host.message(world, session, &bytes, out);
                });
            }
            Event::ClientDatagram(session, body) => {
                // Most of what comes, and it changes nothing: what follows is not worked out.
                if let Some(pong) = self.host.heartbeat(session, &body) {
                    effects.push(Effect::ClientDatagram(session, pong));
                }
                return;
            }
            Event::ClientClosed(session) => {
                self.host(now, effects, |host, world, out| host.closed(world, session, out));
            }
            Event::Viewers(encoder, viewers) => {
                self.host(now, effects, |host, world, out| {
                    host.viewers(world, encoder, viewers, out);
                });
            }
            Event::Move(order) => self.host(now, effects, |host, world, out| {
                host.move_away(world, order, out);
            }),
            Event::KeyframeWanted(encoder) => self.host(now, effects, |host, world, out| {
                host.keyframe_wanted(world.now.mono, encoder, out);
            }),
            Event::KeyframeArrived(encoder) => self.host(now, effects, |host, world, out| {
                host.keyframe_arrived(world.now.mono, encoder, out);
            }),
            Event::Silent { encoder, feed, silence } => {
                self.host(now, effects, |host, world, out| {
                    host.silent(world, encoder, feed, silence, out);
                })
            }
            Event::Write { ticket, write } => {
                self.account(now, accounts::Event::Write { ticket, write }, effects);
            }
            Event::Persisted(result) => {
                self.account(now, accounts::Event::Persisted(result), effects);
            }
            Event::Leave => self.leave(now, effects),
        }
        self.finish(now, effects);
    }

    /// When [`Event::Wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        self.due
    }

    /// Who this is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Who belongs to the mesh.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Where everything is.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Who is alive.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// What people decided.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What they come to: who may do what.
    pub fn rights(&self) -> RwLockReadGuard<'_, Rights> {
        self.rights.read()
    }

    /// The same for whoever asks beside the control loop: changed before
    /// [`Effect::RecordChanged`] tells of it.
    pub fn shared_rights(&self) -> SharedRights {
        self.rights.clone()
    }

    /// This node's clients.
    pub fn clients(&self) -> &Host {
        &self.host
    }

    /// This node's share in evening out.
    pub fn balancing(&self) -> &Balance {
        &self.balance
    }

    /// Nodes believed alive, this one included.
    pub fn alive(&self) -> &BTreeSet<NodeId> {
        &self.alive
    }

    /// Nodes with a working link.
    pub fn linked(&self) -> &BTreeSet<NodeId> {
        &self.linked
    }

    /// What clients are told of the nodes.
    pub fn peers(&self) -> &PeerList {
        &self.peers
    }

    /// Totals of this machine.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How far this node's clock is ahead of the mesh's, in milliseconds.
    pub fn clock_skew(&self, now: Now) -> i64 {
        self.clocks.skew(now)
    }

    /// What time it is in the mesh, in milliseconds since 1970.
    pub fn time(&self, now: Now) -> u64 {
        self.clocks.time(now)
    }

    /// Whether this node's key is changing, or will.
    pub fn rotating(&self) -> bool {
        self.rotation.is_some() || self.next_key.is_some()
    }

    /// Whether this node is leaving.
    pub fn leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Comparing the moment with when it was called last tells whether the process
    /// stood still: frozen, starved, or suspended with its machine.
    fn notice_stall(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let late = now.mono.since(self.handled + TICK);
        self.handled = now.mono;
        if late < SILENCE_WATCHED {
            return;
        }
        effects.push(Effect::Stalled);
        effects.push(Effect::Note(Note::Stalled(late)));
        self.host(now, effects, |host, world, out| host.stalled(world, out));
    }

    fn wake(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now.mono);
        if due(self.membership.next_wake()) {
            self.member(now, membership::Event::Wake, effects);
        }
        if due(self.peering.next_wake()) {
            self.peer(now, peering::Event::Wake, effects);
        }
        if due(self.directory.next_wake()) {
            self.entries(now, directory::Event::Wake, effects);
        }
        if due(self.ledger.next_wake()) {
            self.account(now, accounts::Event::Wake, effects);
        }
        if due(self.host_due) {
            self.host(now, effects, |host, world, out| host.wake(world, out));
        }
        if due(self.balance.next_wake()) {
            self.balance(now, evening::Event::Wake, effects);
        }
        if due(self.remember_at) {
            self.remember(now.mono, effects);
        }
    }

    fn message(&mut self, now: Now, from: NodeId, bytes: &[u8], effects: &mut Vec<Effect>) {
        // What was on its way when its sender was shut out.
        if !self.linked.contains(&from) {
            self.counters.unlinked += 1;
            return;
        }
        match LinkMessage::decode(bytes) {
            Ok(LinkMessage::Members(state)) => {
                let (bytes, reply) = (state.bytes, state.reply);
                self.member(now, membership::Event::State { from, bytes, reply }, effects);
            }
            Ok(LinkMessage::DirectoryDigest(digest)) => {
                self.entries(now, directory::Event::Digest { from, digest }, effects);
            }
            Ok(LinkMessage::DirectoryDelta(delta)) => {
                // Entries of nodes that nobody admitted are nobody's.
                if self.roster.contains(delta.origin) {
                    self.entries(now, directory::Event::Delta { from, delta }, effects);
                }
            }
            Ok(LinkMessage::DirectoryFloor(floor)) => self.floor_told(now, &floor, effects),
            Ok(LinkMessage::Statements(Statements(list))) => {
                self.statements(now, from, list, effects);
            }
            Ok(LinkMessage::StatementDigest(digest)) => {
                if digest != self.roster.digest() {
                    let all = self.roster.statements().cloned().collect();
                    let message = LinkMessage::Statements(Statements(all));
                    effects.push(Effect::Send(from, message.encode()));
                }
            }
            Ok(LinkMessage::StatementsKnown(wire::StatementsKnown(known))) => {
                self.known_by(now, from, &known, effects);
            }
            Ok(LinkMessage::Goodbye(_)) => {}
            Ok(LinkMessage::BalanceAsk(ask)) => {
                self.balance(now, evening::Event::Asked(from, ask), effects);
            }
            Ok(LinkMessage::BalanceAnswer(answer)) => {
                self.balance(now, evening::Event::Answered(from, answer), effects);
            }
            Ok(LinkMessage::BalanceRelease(release)) => {
                self.balance(now, evening::Event::Released(from, release), effects);
            }
            Ok(message) => self.ledger_message(now, from, message, effects),
            Err(WireError::UnknownTag(_)) => self.counters.unknown_tags += 1,
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// What every event ends with: what follows from changed nodes, one delta for all changes of
    /// the directory, progress of leaving, and the next wake-up.
    fn finish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let boot = self.membership.boot();
        if boot > self.boot {
            self.boot = boot;
            effects.push(Effect::Boot(boot));
        }
        let (told, last) = self.outgrown;
        let times = self.membership.counters().reborn_outgrown;
        if times > told && last.is_none_or(|at| now.mono >= at + OUTGROWN_INTERVAL) {
            self.outgrown = (times, Some(now.mono));
            effects.push(Effect::Note(Note::Outgrown(boot)));
        }
        if std::mem::take(&mut self.rights_changed) {
            self.host(now, effects, |host, world, out| host.rights_changed(world, out));
            effects.push(Effect::ViewChanged);
        }
        let links_dirty = std::mem::take(&mut self.links_dirty);
        if self.nodes_dirty && self.rest.nodes_rested(now.mono) {
            self.nodes_dirty = false;
            self.nodes_changed(now, effects);
        } else if links_dirty {
            self.host(now, effects, |host, world, out| host.links_changed(world, out));
        }
        self.tell_peers(now, effects);
        self.tell_lacking(now.mono);
        let mut out = Vec::new();
        self.directory.flush(&mut out);
        self.directory_effects(now, self.me, out, effects);
        for note in self.news_of_wishes() {
            effects.push(Effect::Note(note));
            effects.push(Effect::ViewChanged);
        }
        self.proceed_leaving(now, effects);
        for (encoder, done) in std::mem::take(&mut self.went) {
            self.balance(now, evening::Event::Moved { encoder, done }, effects);
        }
        if std::mem::take(&mut self.encoders_changed) {
            self.balance(now, evening::Event::Changed, effects);
        }
        if std::mem::take(&mut self.host_called) {
            // It looks at every client.
            self.host_due = self.host.next_wake();
        }
        let machines = [
            self.membership.next_wake(),
            self.peering.next_wake(),
            self.directory.next_wake(),
            self.host_due,
            self.balance.next_wake(),
            self.ledger.next_wake(),
            self.remember_at,
            self.lacking.due(),
            self.rest.due(self.nodes_dirty),
        ];
        self.due = machines.into_iter().fold(Some(now.mono + TICK), earlier);
    }
}

#[cfg(test)]
mod tests;
