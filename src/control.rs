//! The coordinator: routes events to machines and their effects to drivers, and holds no rule of
//! its own beyond that. Everything from the network arrives here as bytes, so that a simulator
//! that drives `Control` drives what production runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::admission::{Admission, Keypair, PublicKey, Roster};
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeReport, NodeView};
use crate::directory::{self, Directory, Header, SourceState};
use crate::id::{Boot, EncoderId, NodeId, SessionId};
use crate::membership::{self, Membership};
use crate::peering::{self, Peering};
use crate::placement::Candidate;
use crate::session::SILENCE_WATCHED;
use crate::session::host::{self, Host, Route, World};
use crate::time::{Mono, Now, earlier};
use crate::wire::{self, LinkMessage, Message, NodeMessage, Peer, PeerList, WireError};

/// The control loop wakes at least this often, so that it notices when it stood still.
const TICK: Duration = Duration::from_millis(100);
/// A node that leaves waits this long at most for its encoders to settle elsewhere.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
/// After its encoders left, it stays this long for its viewers to follow.
const LEAVE_GRACE: Duration = Duration::from_millis(500);
/// Saying goodbye takes at most this long: a few rounds of gossip.
const LEAVE_FAREWELL: Duration = Duration::from_millis(400);
/// Live members are written down for the next start at most this often.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(2);

/// What a node is born with.
pub struct Config {
    /// Its key.
    pub keypair: Keypair,
    /// Its label.
    pub name: String,
    /// `host:port`, best first.
    pub addrs: Vec<String>,
    /// Its start's number.
    pub boot: Boot,
    /// Who belongs to the mesh, as far as the disk knows.
    pub roster: Roster,
    /// Members of earlier times with their addresses.
    pub remembered: Vec<(NodeId, Vec<String>)>,
    /// Addresses given on the command line.
    pub seeds: Vec<String>,
    /// Seed of this start's randomness.
    pub seed: [u8; 32],
}

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Event {
    /// `next_wake` came.
    Wake,
    /// A link stands.
    LinkUp {
        /// To whom.
        node: NodeId,
        /// Addresses the other side says it has.
        addrs: Vec<String>,
        /// Admissions that its handshake brought.
        learned: Vec<Admission>,
    },
    /// A link is gone.
    LinkDown(NodeId),
    /// A dial came to nothing.
    DialFailed {
        /// Whom it was for.
        node: Option<NodeId>,
        /// Where.
        addr: String,
    },
    /// On the ordered stream of a link.
    Message(NodeId, Vec<u8>),
    /// In a datagram of a link.
    Datagram(NodeId, Vec<u8>),
    /// Smoothed round trips of the links, refreshed now and then.
    Rtt(Vec<(NodeId, Duration)>),
    /// A newcomer holds an invitation.
    Join {
        /// Names the question in [`Effect::Admit`] and [`Effect::RefuseJoin`].
        ticket: u64,
        /// Key that its TLS session proved.
        newcomer: PublicKey,
        /// Its proof.
        join: wire::Join,
        /// What the proof signs.
        statement: Vec<u8>,
    },
    /// Everyone's reports, some of them new.
    Reports(BTreeMap<NodeId, NodeReport>),
    /// A client connected.
    ClientOpened {
        /// Its session.
        session: SessionId,
        /// From this machine.
        loopback: bool,
    },
    /// On the client's ordered stream.
    ClientMessage(SessionId, Vec<u8>),
    /// In a datagram on flow 0 of the client, flow id read off.
    ClientDatagram(SessionId, Vec<u8>),
    /// The client's connection ended.
    ClientClosed(SessionId),
    /// The number of viewers at this node's hub of a stream changed.
    Viewers(EncoderId, u32),
    /// A receiver at this node needs a keyframe.
    KeyframeWanted(EncoderId),
    /// Go, gracefully.
    Leave,
}

/// What drivers are asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Try to link.
    Dial {
        /// Whom to expect.
        node: Option<NodeId>,
        /// Where.
        addr: String,
    },
    /// Ordered stream of a link.
    Send(NodeId, Vec<u8>),
    /// Datagram of a link; may be lost.
    Datagram(NodeId, Vec<u8>),
    /// The roster grew: use it for handshakes from now on, and write these down.
    Admissions(Vec<Admission>),
    /// The newcomer is in: once it is on disk, answer.
    Admit {
        /// Of [`Event::Join`].
        ticket: u64,
        /// The answer.
        admitted: wire::Admitted,
    },
    /// The newcomer is refused.
    RefuseJoin {
        /// Of [`Event::Join`].
        ticket: u64,
        /// What, why, what next.
        reason: String,
    },
    /// Live members with their addresses, for the next start.
    Remember(Vec<(NodeId, Vec<String>)>),
    /// Gossip reports with this member.
    GossipWith(NodeId),
    /// The client is who it says, by this name.
    ClientWelcomed(SessionId, String),
    /// Ordered stream of a client.
    ClientSend(SessionId, Vec<u8>),
    /// Datagram to a client.
    ClientDatagram(SessionId, Vec<u8>),
    /// End a client's session.
    ClientClose(SessionId, String),
    /// A stream's frames come from here now.
    Route(EncoderId, Route),
    /// Send this stream's frames to this session.
    Serve(SessionId, EncoderId),
    /// Stop sending them.
    Unserve(SessionId, EncoderId),
    /// Ask the node that this stream is relayed from for a keyframe.
    RelayKeyframe(EncoderId),
    /// This node stood still: forget media that waits.
    Stalled,
    /// Something to tell people.
    Note(Note),
    /// What [`Control::view`] shows changed.
    ViewChanged,
    /// Leaving is done; the node may stop.
    Left,
}

/// A change of state worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A member answers.
    Up(NodeId),
    /// A member was declared dead.
    Down(NodeId),
    /// A member said goodbye.
    NodeLeft(NodeId),
    /// A node was admitted through this one.
    Admitted(NodeId),
    /// This node stood still for this long.
    Stalled(Duration),
}

/// What happened since the node started; host and directory have counters of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages of members that did not decode.
    pub malformed: u64,
    /// Messages of members with a tag unknown here.
    pub unknown_tags: u64,
    /// Members declared down.
    pub downs: u64,
    /// Nodes admitted.
    pub admitted: u64,
    /// Nodes refused.
    pub refused: u64,
}

/// The boot under which a start numbers its entries: a folder that was put back counts a boot
/// twice, and what peers hold of its other life must not pass for this one's.
fn salted(boot: Boot, seed: &[u8; 32]) -> Boot {
    Boot(boot.0 << 16 | u64::from(u16::from_le_bytes([seed[0], seed[1]])))
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
    reports: BTreeMap<NodeId, NodeReport>,
    links: BTreeMap<NodeId, Link>,
    linked: BTreeSet<NodeId>,
    alive: BTreeSet<NodeId>,
    candidates: Vec<Candidate>,
    peers: PeerList,
    due: Option<Mono>,
    nodes_dirty: bool,
    remember_at: Option<Mono>,
    leaving: Option<Leaving>,
    counters: Counters,
}

struct Link {
    addrs: Vec<String>,
    rtt: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Leaving {
    deadline: Mono,
    /// All encoders are elsewhere; viewers get a moment to follow.
    empty_since: Option<Mono>,
    /// Said goodbye then; what membership still has to say goes out until it falls silent.
    said_at: Option<Mono>,
    done: bool,
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
            reports: BTreeMap::new(),
            links: BTreeMap::new(),
            linked: BTreeSet::new(),
            alive: BTreeSet::from([me]),
            candidates: Vec::new(),
            peers: PeerList::default(),
            due: None,
            nodes_dirty: true,
            remember_at: None,
            leaving: None,
            counters: Counters::default(),
        };
        control.member_effects(now, member_effects, effects);
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
            Event::LinkUp { node, addrs, learned } => {
                self.link_up(now, node, addrs, learned, effects);
            }
            Event::LinkDown(node) => {
                if self.links.remove(&node).is_some() {
                    self.linked.remove(&node);
                    self.nodes_dirty = true;
                    self.peer(now, peering::Event::LinkDown { node }, effects);
                    self.member(now, membership::Event::Unlinked(node), effects);
                    self.entries(now, directory::Event::Unlinked(node), effects);
                }
            }
            Event::DialFailed { node, addr } => {
                self.peer(now, peering::Event::DialFailed { node, addr }, effects);
            }
            Event::Message(from, bytes) => self.message(now, from, &bytes, effects),
            Event::Datagram(from, bytes) => {
                self.member(now, membership::Event::Datagram { from, bytes }, effects);
            }
            Event::Rtt(rtts) => {
                let longest = rtts.iter().map(|(_, rtt)| *rtt).max();
                for (node, rtt) in rtts {
                    if let Some(link) = self.links.get_mut(&node) {
                        link.rtt = Some(rtt);
                    }
                }
                if let Some(longest) = longest {
                    self.member(now, membership::Event::Rtt(longest), effects);
                }
            }
            Event::Join { ticket, newcomer, join, statement } => {
                self.join(now, ticket, newcomer, &join, &statement, effects);
            }
            Event::Reports(mut reports) => {
                reports.retain(|node, _| self.roster.contains(*node));
                self.reports = reports;
                self.recount();
                effects.push(Effect::ViewChanged);
            }
            Event::ClientOpened { session, loopback } => {
                self.host(now, effects, |host, world, out| {
                    host.opened(world, session, loopback, out);
                });
            }
            Event::ClientMessage(session, bytes) => {
                self.host(now, effects, |host, world, out| {
                    host.message(world, session, &bytes, out);
                });
            }
            Event::ClientDatagram(session, body) => {
                self.host(now, effects, |host, _, out| host.heartbeat(session, &body, out));
            }
            Event::ClientClosed(session) => {
                self.host(now, effects, |host, world, out| host.closed(world, session, out));
            }
            Event::Viewers(encoder, viewers) => {
                self.host(now, effects, |host, world, out| {
                    host.viewers(world, encoder, viewers, out);
                });
            }
            Event::KeyframeWanted(encoder) => {
                self.host(now, effects, |host, world, out| {
                    host.keyframe_wanted(world, encoder, out);
                });
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

    /// This node's clients.
    pub fn clients(&self) -> &Host {
        &self.host
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

    /// Whether this node is leaving.
    pub fn leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Everything this node believes.
    pub fn view(&self) -> ClusterView {
        let alive = |node: NodeId| self.alive.contains(&node);
        let label = |node: NodeId| self.label(node);
        let mut nodes: Vec<NodeView> =
            self.roster.admissions().map(|admission| self.node_view(admission.node)).collect();
        nodes.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
        let ids: BTreeSet<EncoderId> = self.directory.encoders().collect();
        let mut encoders: Vec<EncoderView> = ids
            .into_iter()
            .filter_map(|id| {
                let home = self.directory.home(id, &alive);
                let last = self.directory.claims(id).max_by_key(|(node, e)| (e.epoch, *node));
                let (_, entry) = home.or(last)?;
                let home = home.map(|(node, _)| node);
                let (state, reason) = match (&home, &entry.source) {
                    (None, _) => (EncoderState::Lost, Some("its home is down".to_owned())),
                    (_, SourceState::NoSignal(why)) => (EncoderState::NoSignal, Some(why.clone())),
                    _ if entry.viewers > 0 => (EncoderState::Live, None),
                    _ => (EncoderState::Idle, None),
                };
                Some(EncoderView {
                    id,
                    name: entry.name.clone(),
                    home,
                    home_name: home.map(label),
                    next: entry.next,
                    next_name: entry.next.map(label),
                    epoch: entry.epoch,
                    state,
                    reason,
                    viewers: entry.viewers,
                })
            })
            .collect();
        encoders.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        ClusterView {
            mesh: self.roster.mesh(),
            node: self.me,
            name: self.name.clone(),
            boot: self.boot,
            nodes,
            encoders,
        }
    }

    fn node_view(&self, node: NodeId) -> NodeView {
        let me = node == self.me;
        let state = match self.membership.state(node) {
            _ if me => Liveness::Up,
            Some(state) => state,
            None => Liveness::Down,
        };
        let header = self.directory.header(node);
        let entries = || self.directory.entries(node).filter(|_| self.alive.contains(&node));
        let viewers = entries().map(|(_, entry)| entry.viewers).sum();
        NodeView {
            node,
            name: self.label(node),
            state,
            addrs: self.addrs_of(node),
            linked: me || self.linked.contains(&node),
            rtt_ms: self.links.get(&node).and_then(|l| l.rtt).map(|rtt| rtt.as_secs_f64() * 1e3),
            draining: header.is_some_and(|header| header.draining),
            encoders: u32::try_from(entries().count()).unwrap_or(u32::MAX),
            viewers,
            report: self.reports.get(&node).cloned(),
        }
    }

    fn label(&self, node: NodeId) -> String {
        match self.directory.header(node) {
            _ if node == self.me => self.name.clone(),
            Some(header) if !header.name.is_empty() => header.name.clone(),
            _ => node.short(),
        }
    }

    fn addrs_of(&self, node: NodeId) -> Vec<String> {
        if node == self.me {
            return self.addrs.clone();
        }
        let header = self.directory.header(node).map(|header| header.addrs.clone());
        let linked = self.links.get(&node).map(|link| link.addrs.clone());
        let known = self.membership.peers().find(|(peer, _)| peer.node == node);
        let known = known.map(|(peer, _)| peer.addrs.clone());
        [header, linked, known].into_iter().flatten().find(|a| !a.is_empty()).unwrap_or_default()
    }

    /// Comparing the moment with when it should have been called last tells whether the process
    /// stood still: frozen, starved, or suspended with its machine.
    fn notice_stall(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(due) = self.due else { return };
        let late = now.mono.since(due);
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
        if due(self.host.next_wake()) {
            self.host(now, effects, |host, world, out| host.wake(world, out));
        }
        if due(self.remember_at) {
            self.remember_at = None;
            let nodes = self.alive.iter().filter(|node| **node != self.me);
            let members = nodes.map(|&node| (node, self.addrs_of(node))).collect();
            effects.push(Effect::Remember(members));
        }
    }

    fn link_up(
        &mut self,
        now: Now,
        node: NodeId,
        addrs: Vec<String>,
        learned: Vec<Admission>,
        effects: &mut Vec<Effect>,
    ) {
        self.adopt(learned, Some(node), effects);
        self.links.insert(node, Link { addrs, rtt: None });
        self.linked.insert(node);
        self.nodes_dirty = true;
        let digest = self.roster.digest();
        effects.push(Effect::Send(node, LinkMessage::AdmissionDigest(digest).encode()));
        self.peer(now, peering::Event::LinkUp { node }, effects);
        self.member(now, membership::Event::Linked(node), effects);
        self.entries(now, directory::Event::Linked(node), effects);
    }

    fn message(&mut self, now: Now, from: NodeId, bytes: &[u8], effects: &mut Vec<Effect>) {
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
            Ok(LinkMessage::Admissions(wire::Admissions(list))) => {
                self.adopt(list, Some(from), effects);
            }
            Ok(LinkMessage::AdmissionDigest(digest)) => {
                if digest != self.roster.digest() {
                    let all = self.roster.admissions().cloned().collect();
                    let message = LinkMessage::Admissions(wire::Admissions(all));
                    effects.push(Effect::Send(from, message.encode()));
                }
            }
            Ok(LinkMessage::Goodbye(_)) => {}
            Err(WireError::UnknownTag(_)) => self.counters.unknown_tags += 1,
            Err(_) => self.counters.malformed += 1,
        }
    }

    /// Takes what is new into the roster, has it written down and hands it on.
    fn adopt(&mut self, list: Vec<Admission>, from: Option<NodeId>, effects: &mut Vec<Effect>) {
        let new = self.roster.adopt(list);
        if new.is_empty() {
            return;
        }
        self.nodes_dirty = true;
        effects.push(Effect::Admissions(new.clone()));
        let message = LinkMessage::Admissions(wire::Admissions(new)).encode();
        for &node in self.linked.iter().filter(|node| Some(**node) != from) {
            effects.push(Effect::Send(node, message.clone()));
        }
    }

    fn join(
        &mut self,
        now: Now,
        ticket: u64,
        newcomer: PublicKey,
        join: &wire::Join,
        statement: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let again = self.roster.member_with_key(&newcomer).is_some();
        let verdict = self.roster.check_invite(&join.invite, &join.proof, statement, now.wall);
        if let (false, Err(refusal)) = (again, verdict) {
            self.counters.refused += 1;
            effects.push(Effect::RefuseJoin { ticket, reason: refusal.to_string() });
            return;
        }
        if !again {
            let admission = self.roster.admit(&self.keypair, newcomer, join.invite.id);
            self.counters.admitted += 1;
            effects.push(Effect::Note(Note::Admitted(admission.node)));
            self.adopt(vec![admission], None, effects);
        }
        let members = self.alive.iter().map(|&node| (node, self.addrs_of(node))).collect();
        let admissions = self.roster.admissions().cloned().collect();
        effects.push(Effect::Admit { ticket, admitted: wire::Admitted { admissions, members } });
    }

    fn leave(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.leaving.is_some() {
            return;
        }
        let deadline = now.mono + LEAVE_DEADLINE;
        self.leaving = Some(Leaving { deadline, empty_since: None, said_at: None, done: false });
        self.nodes_dirty = true;
        self.refresh_nodes();
        self.host(now, effects, |host, world, out| host.leave(world, out));
    }

    /// Goes once every encoder is elsewhere and its viewers had a moment, or time is up.
    fn proceed_leaving(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(mut leaving) = self.leaving else { return };
        if leaving.done {
            return;
        }
        if self.host.homes() == 0 && leaving.empty_since.is_none() {
            leaving.empty_since = Some(now.mono);
        }
        let settled = leaving.empty_since.is_some_and(|since| {
            let watched = self.host.watched();
            !watched || now.mono.since(since) >= LEAVE_GRACE
        });
        if leaving.said_at.is_none() && (settled || now.mono >= leaving.deadline) {
            leaving.said_at = Some(now.mono);
            self.member(now, membership::Event::Leave, effects);
            let reason = "shutting down".to_owned();
            let goodbye = LinkMessage::Goodbye(wire::Goodbye { reason }).encode();
            for &node in &self.linked {
                effects.push(Effect::Send(node, goodbye.clone()));
            }
        }
        let silent = self.membership.next_wake().is_none();
        if leaving.said_at.is_some_and(|at| silent || now.mono.since(at) >= LEAVE_FAREWELL) {
            leaving.done = true;
            effects.push(Effect::Left);
        }
        self.leaving = Some(leaving);
    }

    fn member(&mut self, now: Now, event: membership::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.membership.handle(now, event, &mut out);
        self.member_effects(now, out, effects);
    }

    fn member_effects(
        &mut self,
        now: Now,
        out: Vec<membership::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for effect in out {
            match effect {
                membership::Effect::Datagram { to, bytes } => {
                    effects.push(Effect::Datagram(to, bytes));
                }
                membership::Effect::State { to, bytes, reply } => {
                    let message = LinkMessage::Members(wire::MemberState { bytes, reply });
                    effects.push(Effect::Send(to, message.encode()));
                }
                membership::Effect::Up(peer) => {
                    let membership::Peer { node, addrs, .. } = peer;
                    if self.alive.insert(node) {
                        effects.push(Effect::Note(Note::Up(node)));
                    }
                    self.nodes_dirty = true;
                    effects.push(Effect::GossipWith(node));
                    self.peer(now, peering::Event::Known { node, addrs, up: true }, effects);
                }
                membership::Effect::Renamed(peer) => {
                    let membership::Peer { node, addrs, .. } = peer;
                    let up = self.membership.is_up(node);
                    self.peer(now, peering::Event::Known { node, addrs, up }, effects);
                }
                membership::Effect::Suspect(_) => self.nodes_dirty = true,
                membership::Effect::Down(node) => self.gone(now, node, false, effects),
                membership::Effect::Left(node) => self.gone(now, node, true, effects),
                membership::Effect::Stalled(_) => {}
            }
        }
    }

    fn gone(&mut self, now: Now, node: NodeId, on_purpose: bool, effects: &mut Vec<Effect>) {
        if !self.alive.remove(&node) {
            return;
        }
        self.nodes_dirty = true;
        if on_purpose {
            effects.push(Effect::Note(Note::NodeLeft(node)));
        } else {
            self.counters.downs += 1;
            effects.push(Effect::Note(Note::Down(node)));
        }
        let addrs = self.addrs_of(node);
        self.peer(now, peering::Event::Known { node, addrs, up: false }, effects);
    }

    fn peer(&mut self, now: Now, event: peering::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.peering.handle(now, event, &mut out);
        for peering::Effect::Dial { node, addr } in out {
            effects.push(Effect::Dial { node, addr });
        }
    }

    fn entries(&mut self, now: Now, event: directory::Event, effects: &mut Vec<Effect>) {
        let mut out = Vec::new();
        self.directory.handle(now, event, &mut out);
        self.directory_effects(now, out, effects);
    }

    fn directory_effects(
        &mut self,
        now: Now,
        out: Vec<directory::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        let mut changed = Vec::new();
        for effect in out {
            match effect {
                directory::Effect::Digest { to, digest } => {
                    let message = LinkMessage::DirectoryDigest(digest);
                    effects.push(Effect::Send(to, message.encode()));
                }
                directory::Effect::Delta { to, delta } => {
                    effects.push(Effect::Send(to, LinkMessage::DirectoryDelta(delta).encode()));
                }
                directory::Effect::Changed(encoder) => changed.push(encoder),
                directory::Effect::HeaderChanged(_) => self.nodes_dirty = true,
            }
        }
        if !changed.is_empty() {
            effects.push(Effect::ViewChanged);
            self.recount();
        }
        for encoder in changed {
            self.host(now, effects, |host, world, out| host.encoder_changed(world, encoder, out));
        }
    }

    fn host(
        &mut self,
        now: Now,
        effects: &mut Vec<Effect>,
        call: impl FnOnce(&mut Host, &mut World<'_>, &mut Vec<host::Effect>),
    ) {
        let mut out = Vec::new();
        let mut world = World {
            now,
            me: self.me,
            directory: &mut self.directory,
            roster: &self.roster,
            alive: &self.alive,
            linked: &self.linked,
            candidates: &self.candidates,
            peers: &self.peers,
        };
        call(&mut self.host, &mut world, &mut out);
        for effect in out {
            effects.push(match effect {
                host::Effect::Send(session, message) => {
                    Effect::ClientSend(session, NodeMessage::encode(&message))
                }
                host::Effect::Welcomed(session, who) => Effect::ClientWelcomed(session, who),
                host::Effect::Datagram(session, bytes) => Effect::ClientDatagram(session, bytes),
                host::Effect::Close(session, reason) => Effect::ClientClose(session, reason),
                host::Effect::Route(encoder, route) => Effect::Route(encoder, route),
                host::Effect::Serve(session, encoder) => Effect::Serve(session, encoder),
                host::Effect::Unserve(session, encoder) => Effect::Unserve(session, encoder),
                host::Effect::RelayKeyframe(encoder) => Effect::RelayKeyframe(encoder),
            });
        }
    }

    /// What every event ends with: what follows from changed nodes, one delta for all changes of
    /// the directory, progress of leaving, and the next wake-up.
    fn finish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.nodes_dirty) {
            let peers_changed = self.refresh_nodes();
            self.host(now, effects, |host, world, out| {
                host.nodes_changed(world, out);
                if peers_changed {
                    host.tell_peers(world, out);
                }
            });
            effects.push(Effect::ViewChanged);
            self.remember_at.get_or_insert(now.mono + REMEMBER_INTERVAL);
        }
        let mut out = Vec::new();
        self.directory.flush(&mut out);
        self.directory_effects(now, out, effects);
        self.proceed_leaving(now, effects);
        let machines = [
            self.membership.next_wake(),
            self.peering.next_wake(),
            self.directory.next_wake(),
            self.host.next_wake(),
            self.remember_at,
        ];
        self.due = machines.into_iter().fold(Some(now.mono + TICK), earlier);
    }

    /// Recomputes what follows from membership, links and headers; true if clients see a change.
    fn refresh_nodes(&mut self) -> bool {
        self.directory.put_header(Header {
            name: self.name.clone(),
            addrs: self.addrs.clone(),
            links: self.linked.clone(),
            draining: self.leaving.is_some(),
        });
        self.recount();
        let mut nodes: Vec<Peer> = self
            .roster
            .admissions()
            .map(|admission| Peer {
                node: admission.node,
                name: self.label(admission.node),
                addrs: self.addrs_of(admission.node),
                up: self.alive.contains(&admission.node) && !self.draining(admission.node),
            })
            .filter(|peer| !peer.addrs.is_empty())
            .collect();
        nodes.sort_by(|a, b| (!a.up, &a.name, a.node).cmp(&(!b.up, &b.name, b.node)));
        let peers = PeerList { nodes };
        let changed = peers != self.peers;
        self.peers = peers;
        changed
    }

    fn draining(&self, node: NodeId) -> bool {
        match self.directory.header(node) {
            _ if node == self.me => self.leaving.is_some(),
            Some(header) => header.draining,
            None => false,
        }
    }

    fn recount(&mut self) {
        let eligible = self.alive.iter().filter(|node| !self.draining(**node));
        self.candidates = eligible
            .map(|&node| Candidate {
                node,
                weight: self.reports.get(&node).map_or(1.0, |r| r.capacity).clamp(0.01, 1e6),
                load: u32::try_from(self.directory.count(node)).unwrap_or(u32::MAX),
            })
            .collect();
    }
}
