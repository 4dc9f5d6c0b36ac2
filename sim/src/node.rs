//! A node's drivers: what `node::drive` and `store` do, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use roost::accounts::{Batch, Spare};
use roost::admission::{Invitation, Keypair, Statement};
use roost::control::{Config, Control, Effect, Event, Note};
use roost::id::{Boot, EncoderId, Epoch, InviteId, NodeId, SessionId};
use roost::wire::{Message as _, take_varint};

use crate::check::is_request;
use crate::conn::{Cargo, ConnId, End};
use crate::ledger::Books;
use crate::links::LinkRecord;
use crate::media::{Hub, Ingest, Receiver};
use crate::net::{MS, SEC};
use crate::relay::Relay;
use crate::report::Gossip;
use crate::rng::{For, stream};
use crate::tables::Slots;
use crate::world::{Ev, World};

/// Frames are not believed while the control loop has not turned for this long.
pub(crate) const LOOP_LATE: u64 = 350 * MS;
/// What waited in a connection while a node stood still has been read by then.
const BACKLOG: u64 = 2 * SEC;
/// How long a session stays readable after the node ended it.
const CLOSE_LATER: u64 = 200 * MS;
/// A write to the disk.
pub(crate) const DISK: u64 = 5 * MS;

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) boot: u64,
    /// The boot that others knew, if that was above.
    outgrown: u64,
    pub(crate) statements: Vec<Statement>,
    pub(crate) remembered: BTreeMap<NodeId, Vec<String>>,
    pub(crate) names: BTreeMap<NodeId, String>,
    /// A key beside the one in use.
    pub(crate) next_key: Option<Keypair>,
    pub(crate) books: Books,
}

impl Disk {
    /// The boot of the first start; the ledger is put back as well.
    pub(crate) fn put_back(&mut self) {
        (self.boot, self.outgrown) = (self.boot.min(1), 0);
    }
}

/// Who has a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client {
    Native(ConnId),
    Publisher(usize),
}

/// A client at this node.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    /// Since when it is there.
    since: u64,
    pub(crate) ingest: Ingest,
}

pub(crate) struct Node {
    pub(crate) keypair: Keypair,
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    pub(crate) disk: Disk,
    /// What is being written.
    pub(crate) writing: Option<Batch>,
    pub(crate) control: Option<Control>,
    pub(crate) links: Slots<LinkRecord>,
    pub(crate) decisions: u64,
    pub(crate) dialling: BTreeSet<String>,
    /// Round trips of links, smoothed.
    pub(crate) rtts: Slots<u64>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: u64,
    pub(crate) hubs: BTreeMap<EncoderId, Hub>,
    pub(crate) attached: BTreeMap<EncoderId, SessionId>,
    pub(crate) relay: Relay,
    pub(crate) gossip: Gossip,
    pub(crate) joins: BTreeMap<u64, End>,
    pub(crate) last_ticket: u64,
    pub(crate) turned: u64,
    /// When the last event of a hub arrives: they come in the order in which they were made.
    pub(crate) told: u64,
    /// When it last stood still for longer than it may without asking its encoders again.
    pub(crate) woke: u64,
    /// When an agent of each encoder last answered whether it is at home here.
    pub(crate) confirmed: BTreeMap<EncoderId, u64>,
    /// When each encoder last said that it is at home here.
    pub(crate) sworn: BTreeMap<EncoderId, u64>,
    /// The epoch that was over when an agent asked to be at home here, and whether it was already
    /// under the one that it said.
    pub(crate) asked: BTreeMap<SessionId, (Epoch, bool)>,
}

pub(crate) fn addr_of(ix: usize) -> String {
    format!("10.0.{}.{}:9443", ix / 250, ix % 250 + 1)
}

pub(crate) fn index_of(addr: &str) -> Option<usize> {
    let (ip, _) = addr.split_once(':')?;
    let mut parts = ip.split('.').skip(2);
    let (high, low): (usize, usize) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (high * 250 + low).checked_sub(1)
}

impl Node {
    pub(crate) fn new(seed: u64, ix: usize) -> Self {
        let keypair = Keypair::from_seed(stream(seed, For::Birth(ix)).random());
        Self {
            id: keypair.node(),
            keypair,
            addr: addr_of(ix),
            disk: Disk::default(),
            writing: None,
            control: None,
            links: Slots::default(),
            decisions: 0,
            dialling: BTreeSet::new(),
            rtts: Slots::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            hubs: BTreeMap::new(),
            attached: BTreeMap::new(),
            relay: Relay::default(),
            gossip: Gossip::default(),
            joins: BTreeMap::new(),
            last_ticket: 0,
            turned: 0,
            told: 0,
            woke: 0,
            confirmed: BTreeMap::new(),
            sworn: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// The process is gone; its disk stays.
    pub(crate) fn forget(&mut self) {
        self.control = None;
        self.links.clear();
        self.decisions = 0;
        self.dialling.clear();
        self.rtts.clear();
        self.sessions.clear();
        self.last_session = 0;
        self.hubs.clear();
        self.attached.clear();
        self.relay = Relay::default();
        self.gossip = Gossip::default();
        self.joins.clear();
        self.last_ticket = 0;
        self.woke = 0;
        self.confirmed.clear();
        self.sworn.clear();
        self.asked.clear();
    }
}

impl World {
    /// A node's process begins: a member at once, a newcomer by asking to be let in.
    pub(crate) fn start_node(&mut self, ix: usize) {
        let stops = self.hosts[ix].up && self.hosts[ix].stopping;
        if self.hosts[ix].up && !stops {
            return;
        }
        if stops || self.hosts[ix].holds > 0 {
            self.queue.push(self.now + 50 * MS, Ev::StartNode(ix));
            return;
        }
        let disk = &mut self.nodes[ix].disk;
        disk.boot = disk.boot.max(disk.outgrown) + 1;
        let boot = self.nodes[ix].disk.boot;
        // A boot may come twice, a life does not.
        let life = boot.max(self.hosts[ix].life + 1);
        self.begin_life(ix, life);
        self.trace.say(self.now, || format!("n{ix} starts, boot {boot}"));
        if self.nodes[ix].disk.statements.iter().any(|it| it.about() == self.nodes[ix].id) {
            self.start_control(ix);
        } else {
            let from = self.end_of(ix);
            self.queue.push(self.now, Ev::JoinAsk { from });
        }
    }

    pub(crate) fn start_control(&mut self, ix: usize) {
        let seed = self.hosts[ix].rng.random();
        let roster = self.roster_on_disk(ix);
        self.settle_keys(ix, &roster);
        let node = &mut self.nodes[ix];
        let config = Config {
            keypair: node.keypair.clone(),
            next_key: node.disk.next_key.clone(),
            name: format!("n{ix}"),
            addrs: vec![node.addr.clone()],
            boot: Boot(node.disk.boot),
            roster,
            remembered: node.disk.remembered.clone().into_iter().collect(),
            names: node.disk.names.clone().into_iter().collect(),
            ledger: node.disk.books.load(),
            // Whatever may be forgotten is, at once: the harder case. One actor is called idle
            // alone, as the last of many would be.
            spare: Spare { removed: 0, idle: 1 },
            measured: 100,
            seeds: if ix == 0 { Vec::new() } else { vec![addr_of(0)] },
            seed,
        };
        let now = self.clock(ix);
        let mut effects = Vec::new();
        let control = Control::new(config, now, &mut effects);
        if ix == 0 && self.invitation.is_none() {
            let mut rng = stream(self.plan.seed, For::Birth(1 << 40));
            let (id, secret) = (InviteId(rng.random()), rng.random());
            let uses = u32::try_from(self.plan.nodes).unwrap_or(u32::MAX);
            let (keys, addrs) = (&self.nodes[ix].keypair, vec![self.nodes[ix].addr.clone()]);
            let expires = now.wall + 86_400_000;
            self.invitation =
                Some(Invitation::make(keys, self.mesh, addrs, id, secret, expires, uses));
        }
        let wake = control.next_wake();
        self.stirred = true;
        self.nodes[ix].control = Some(control);
        self.nodes[ix].turned = self.now;
        self.carry_out(ix, effects);
        self.arm(ix, wake);
        self.touch(ix);
        let end = self.end_of(ix);
        self.queue.push(self.now + SEC, Ev::Refresh { end });
        self.recompute_after_start(ix);
    }

    /// One event into a node's control, and what follows.
    pub(crate) fn node_event(&mut self, ix: usize, event: Event) {
        if !self.runs(ix) {
            return;
        }
        let now = self.clock(ix);
        let changes = !matches!(event, Event::ClientDatagram(..));
        let node = &mut self.nodes[ix];
        let Some(control) = &mut node.control else { return };
        let mut effects = Vec::new();
        self.tally.woken("a node wakes", matches!(event, Event::Wake));
        control.handle(now, event, &mut effects);
        let wake = control.next_wake();
        node.turned = self.now;
        self.carry_out(ix, effects);
        self.arm(ix, wake);
        if changes {
            self.check_node(ix);
        }
    }

    fn carry_out(&mut self, ix: usize, effects: Vec<Effect>) {
        for effect in effects {
            if !self.hosts[ix].up {
                return;
            }
            self.tally_effect(&effect);
            match effect {
                Effect::Dial { node, addr } => self.dial_link(ix, node, addr),
                Effect::Send(node, bytes) => self.link_send(ix, node, Cargo::Message(bytes)),
                Effect::Datagram(node, bytes) => self.link_send(ix, node, Cargo::Datagram(bytes)),
                Effect::Statements(number, new) => self.record(ix, number, new),
                Effect::Decreed { ticket, result } => self.decreed(ix, ticket, result),
                Effect::Expel(node, reason) => self.expel(ix, node, &reason),
                Effect::UseKey(key) => {
                    self.nodes[ix].keypair = key;
                    self.nodes[ix].disk.next_key = None;
                }
                Effect::MeshTime(..) => {}
                Effect::Admit { ticket, admitted } => self.admit(ix, ticket, admitted),
                Effect::RefuseJoin { ticket, reason } => {
                    self.nodes[ix].joins.remove(&ticket);
                    // Rightly, by a clock that is years ahead or most of which are; it asks again.
                    let members = (0..self.plan.nodes).filter(|node| self.is_member(*node));
                    let (wrong, right): (Vec<usize>, Vec<usize>) =
                        members.partition(|node| self.clock_seems_wrong(*node));
                    if !self.drifts.contains_key(&ix) && wrong.len() < right.len() {
                        self.refused_newcomer(ix, &reason);
                    }
                }
                Effect::Persist(batch) => self.persist(ix, batch),
                Effect::Written { ticket, result } => match result {
                    Ok(receipt) => self.acked(ix, ticket, receipt),
                    Err(_) => drop(self.checks.edits.remove(&ticket)),
                },
                Effect::RecordChanged(_) => {}
                Effect::Remember(members) => self.nodes[ix].disk.remembered.extend(members),
                Effect::Name(node, name) => drop(self.nodes[ix].disk.names.insert(node, name)),
                Effect::Boot(Boot(boot)) => self.nodes[ix].disk.outgrown = boot,
                Effect::GossipWith(_) | Effect::ViewChanged | Effect::ClientWelcomed(..) => {}
                Effect::ClientSend(session, bytes) => {
                    if !self.unchecked {
                        self.observe_order(ix, session, &bytes);
                        self.check_led(ix, session, &bytes);
                        self.check_taken(ix, session, &bytes);
                    }
                    if !self.unchecked && !self.lenient {
                        self.check_assigned(ix, session, &bytes);
                    }
                    if !self.unchecked && is_request(&bytes) {
                        self.check_request_of(ix, session);
                        if self.net.request_lost(ix, ix) {
                            continue;
                        }
                    }
                    match self.client_of(ix, session) {
                        Some(Client::Native(conn)) => self.send(conn, 1, Cargo::Message(bytes)),
                        Some(Client::Publisher(p)) => self.tell_publisher(ix, p, session, bytes),
                        None => {}
                    }
                }
                Effect::ClientDatagram(session, bytes) => {
                    if let Some(Client::Native(conn)) = self.client_of(ix, session) {
                        self.send(conn, 1, Cargo::Datagram(bytes));
                    }
                }
                Effect::ClientClose(session, reason) => self.end_session(ix, session, &reason),
                Effect::Route(encoder, route) => self.route(ix, encoder, &route),
                Effect::Serve(session, encoder) => self.serve(ix, session, encoder),
                Effect::Unserve(session, encoder) => {
                    self.unsubscribe(ix, encoder, Receiver::Session(session));
                }
                Effect::RelayKeyframe(encoder) => {
                    self.check_request(ix, encoder);
                    if !self.net.request_lost(ix, ix) {
                        self.relay_keyframe(ix, encoder);
                    }
                }
                Effect::Moved(order, outcome) => self.moved(order.encoder, &outcome),
                Effect::Stalled => {
                    for session in self.nodes[ix].sessions.values_mut() {
                        session.ingest.early.frames.clear();
                    }
                }
                Effect::Note(note) => self.node_note(ix, &note),
                Effect::Left => self.exit(ix),
            }
        }
    }

    fn node_note(&mut self, ix: usize, note: &Note) {
        let text = match note {
            Note::Up(node) => format!("up {}", self.name_of(*node)),
            Note::Down(node) => format!("down {}", self.name_of(*node)),
            Note::NodeLeft(node) => format!("left {}", self.name_of(*node)),
            Note::Admitted(node) => format!("admitted {}", self.name_of(*node)),
            Note::Expelled(node, why) => format!("expels {}: {why}", self.name_of(*node)),
            Note::Readmitted(node) => format!("readmits {}", self.name_of(*node)),
            Note::Skewed(skew) => format!("skewed by {skew:?} ms"),
            Note::Draining => "is drained".to_owned(),
            Note::Drained => "is empty".to_owned(),
            Note::Undrained => "is not drained any more".to_owned(),
            Note::Cordoned(cordoned) => format!("cordoned: {cordoned}"),
            Note::Rekeyed => "has another key".to_owned(),
            Note::Ledger(note) => format!("ledger: {note:?}"),
            Note::Stalled(late) => format!("stalled {} ms", late.as_millis()),
            Note::Outgrown(boot) => format!("outgrown {}", boot.0),
            Note::Balancing(count) => format!("is to give away {count}"),
            Note::Losses { .. } | Note::Encoder(..) => return,
        };
        self.trace.add(self.now, ix, ix, text.as_bytes());
        self.trace.say(self.now, || format!("n{ix} {text}"));
        if matches!(note, Note::Up(_)) {
            self.checks.even.heard = self.now;
        }
        self.stirred = true;
        if let Note::Up(node) = note
            && let Some(&up) = self.index.get(node)
            && self.hosts[up].life > 1
        {
            self.mark("a node that was called down is back");
        }
        if matches!(note, Note::Admitted(_)) && self.now > 10 * SEC {
            self.mark("a newcomer joins after the start");
        }
        if let Note::Stalled(_) = note {
            self.nodes[ix].woke = self.now;
        }
        // Whoever is at it sees nothing more, and goes elsewhere.
        if let Note::Expelled(node, _) = note
            && *node == self.nodes[ix].id
        {
            self.pages_lose(ix);
        }
        if let Note::Down(node) = note {
            self.check_verdict(ix, *node);
            if let Some(&judged) = self.index.get(node) {
                self.observe_verdict(ix, judged);
            }
        }
    }

    /// The process ends on its own: what was said goes out first.
    fn exit(&mut self, ix: usize) {
        self.trace.say(self.now, || format!("n{ix} has left"));
        for id in self.conns_of(ix) {
            let side = self.conns.get(&id).map_or(0, |c| usize::from(c.ends[0].host != ix));
            self.close(id, side, "shutting down");
        }
        self.kill(ix);
    }

    /// The process is gone.
    pub(crate) fn kill(&mut self, ix: usize) {
        self.stirred = true;
        if ix < self.plan.nodes {
            self.tear(ix);
            self.edits_lost(ix);
            self.tally_life(ix);
        }
        self.hosts[ix].up = false;
        self.hosts[ix].inbox.clear();
        self.touch(ix);
        if ix < self.plan.nodes {
            self.nodes[ix].forget();
        }
        self.drop_conns_of(ix);
        self.pages_lose(ix);
        self.legs_lose(ix);
    }

    /// Round trips, as QUIC smooths them.
    pub(crate) fn refresh(&mut self, end: End) {
        if !self.lives(end) {
            return;
        }
        self.queue.push(self.now + SEC, Ev::Refresh { end });
        let ix = end.host;
        if self.hosts[ix].frozen {
            return;
        }
        let mut rtts = Vec::new();
        for peer in self.index.hosts() {
            if !self.nodes[ix].links.contains_key(&peer) {
                continue;
            }
            let mut rtt = self.nodes[ix].rtts.get(&peer).copied();
            if self.reach(ix, peer) {
                let sample = 2 * self.net.base(ix, peer) + MS / 2;
                let smooth = (rtt.unwrap_or(sample) * 3 + sample) / 4;
                self.nodes[ix].rtts.insert(peer, smooth);
                rtt = Some(smooth);
            }
            let rtt = Duration::from_nanos(rtt.unwrap_or(100 * MS));
            rtts.push((self.nodes[peer].id, rtt));
        }
        self.node_event(ix, Event::Rtt(rtts));
        self.report(ix);
    }

    // -- clients ----------------------------------------------------------------------------------

    /// A native client's connection stands.
    pub(crate) fn open_session(&mut self, ix: usize) -> SessionId {
        let node = &mut self.nodes[ix];
        node.last_session += 1;
        SessionId(node.last_session)
    }

    pub(crate) fn session_opened(&mut self, ix: usize, session: SessionId, conn: ConnId) {
        self.add_session(ix, session, Client::Native(conn));
        let local = !self.plan.guarded;
        self.node_event(ix, Event::ClientOpened { session, local });
    }

    pub(crate) fn add_session(&mut self, ix: usize, session: SessionId, client: Client) {
        let at = Session { client, since: self.now, ingest: Ingest::default() };
        self.nodes[ix].sessions.insert(session, at);
    }

    pub(crate) fn client_of(&self, ix: usize, session: SessionId) -> Option<Client> {
        self.nodes[ix].sessions.get(&session).map(|at| at.client)
    }

    /// The host of a native client.
    pub(crate) fn client_host(&self, ix: usize, session: SessionId) -> Option<usize> {
        let Some(Client::Native(conn)) = self.client_of(ix, session) else { return None };
        self.conns.get(&conn).map(|conn| conn.ends[0].host)
    }

    /// Which agent has a session.
    pub(crate) fn agent_of(&self, ix: usize, session: SessionId) -> Option<usize> {
        self.client_host(ix, session).and_then(|host| self.encoder_at(host))
    }

    pub(crate) fn client_cargo(&mut self, end: End, session: SessionId, cargo: Cargo) {
        let ix = end.host;
        match cargo {
            Cargo::Message(bytes) => {
                if !self.unchecked {
                    self.observe_client(ix, session, &bytes);
                }
                self.node_event(ix, Event::ClientMessage(session, bytes));
            }
            Cargo::Datagram(bytes) => {
                if let Some((_, body)) = take_varint(&bytes) {
                    self.node_event(ix, Event::ClientDatagram(session, body.to_vec()));
                }
            }
            Cargo::Picture(_, frame) => self.ingest(ix, session, frame),
            _ => {}
        }
    }

    fn observe_client(&mut self, ix: usize, session: SessionId, bytes: &[u8]) {
        use roost::wire::{ClientMessage, Role};
        let now = self.now;
        let message = ClientMessage::decode(bytes);
        if let Ok(ClientMessage::Confirmed(_)) = &message
            && let Some(agent) = self.agent_of(ix, session)
        {
            self.nodes[ix].confirmed.insert(self.encoders[agent].id, now);
        }
        let swears = match message {
            Ok(ClientMessage::Register(register)) if register.role == Role::Home => {
                self.note_asked(ix, session, &register);
                Some(register.encoder)
            }
            // An agent that stands by may be asked for pictures, too. What waited in a connection
            // while the node stood still says nothing.
            Ok(ClientMessage::Register(register)) => {
                let node = &self.nodes[ix];
                let fresh = node.sessions.get(&session).is_some_and(|it| it.since > node.woke)
                    || now > node.woke + BACKLOG;
                let first = !node.sworn.contains_key(&register.encoder);
                Some(register.encoder).filter(|_| fresh || first)
            }
            Ok(ClientMessage::Confirmed(confirm)) => confirm.epoch.and_then(|epoch| {
                let mut encoders = self.encoders.iter();
                encoders.find(|e| e.instance == epoch.instance).map(|e| e.id)
            }),
            _ => None,
        };
        if let Some(encoder) = swears {
            self.nodes[ix].sworn.insert(encoder, now);
        }
    }

    /// The other side of a session is gone.
    pub(crate) fn session_gone(&mut self, end: End, session: SessionId) {
        self.drop_session(end.host, session);
        self.node_event(end.host, Event::ClientClosed(session));
    }

    pub(crate) fn drop_session(&mut self, ix: usize, session: SessionId) {
        if self.nodes[ix].sessions.remove(&session).is_none() {
            return;
        }
        let encoders: Vec<EncoderId> = self.nodes[ix].hubs.keys().copied().collect();
        for encoder in encoders {
            self.unsubscribe(ix, encoder, Receiver::Session(session));
        }
    }

    fn end_session(&mut self, ix: usize, session: SessionId, reason: &str) {
        let Some(client) = self.client_of(ix, session) else { return };
        self.trace.say(self.now, || format!("n{ix} ends a session: {reason}"));
        self.drop_session(ix, session);
        match client {
            Client::Native(conn) => {
                self.queue.push(self.now + CLOSE_LATER, Ev::CloseConn { conn, side: 1 });
            }
            Client::Publisher(p) => self.leg_ended(ix, p, session),
        }
    }
}
