//! A node's drivers: what `node::drive` and `store` do, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use roost::admission::{Admission, Invitation, Keypair, Roster};
use roost::control::{Config, Control, Effect, Event, Note};
use roost::id::{Boot, EncoderId, InviteId, NodeId, SessionId};
use roost::session::host::Route;
use roost::wire::{self, FLOW_VIDEO, join_statement, take_varint};

use crate::conn::{Cargo, ConnId, End};
use crate::links::LinkRecord;
use crate::media::{Frame, Hub, Ingest, Receiver};
use crate::net::{MS, SEC};
use crate::relay::{Relay, Source};
use crate::rng::{For, stream};
use crate::world::{Ev, World};

/// Frames are not believed while the control loop has not turned for this long.
const LOOP_LATE: u64 = 350 * MS;
/// How long a session stays readable after the node ended it.
const CLOSE_LATER: u64 = 200 * MS;
/// A write to the disk.
const DISK: u64 = 5 * MS;

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) boot: u64,
    /// The boot that others knew, if that was above.
    outgrown: u64,
    pub(crate) admissions: Vec<Admission>,
    pub(crate) remembered: Vec<(NodeId, Vec<String>)>,
}

/// A native client at this node.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    ingest: Ingest,
}

pub(crate) struct Node {
    pub(crate) keypair: Keypair,
    pub(crate) id: NodeId,
    pub(crate) addr: String,
    pub(crate) disk: Disk,
    pub(crate) control: Option<Control>,
    pub(crate) links: BTreeMap<usize, LinkRecord>,
    pub(crate) decisions: u64,
    pub(crate) dialling: BTreeSet<String>,
    pub(crate) rtts: BTreeMap<usize, u64>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: u64,
    pub(crate) hubs: BTreeMap<EncoderId, Hub>,
    attached: BTreeMap<EncoderId, SessionId>,
    pub(crate) relay: Relay,
    joins: BTreeMap<u64, End>,
    last_ticket: u64,
    turned: u64,
    /// When it last stood still for longer than it may without asking its encoders again.
    pub(crate) woke: u64,
    /// When each encoder last said that it is at home here.
    pub(crate) sworn: BTreeMap<EncoderId, u64>,
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
            control: None,
            links: BTreeMap::new(),
            decisions: 0,
            dialling: BTreeSet::new(),
            rtts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
            hubs: BTreeMap::new(),
            attached: BTreeMap::new(),
            relay: Relay::default(),
            joins: BTreeMap::new(),
            last_ticket: 0,
            turned: 0,
            woke: 0,
            sworn: BTreeMap::new(),
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
        self.joins.clear();
        self.last_ticket = 0;
        self.woke = 0;
        self.sworn.clear();
    }
}

impl World {
    /// A node's process begins: a member at once, a newcomer by asking to be let in.
    pub(crate) fn start_node(&mut self, ix: usize) {
        if self.hosts[ix].up {
            return;
        }
        let disk = &mut self.nodes[ix].disk;
        disk.boot = disk.boot.max(disk.outgrown) + 1;
        let boot = self.nodes[ix].disk.boot;
        self.begin_life(ix, boot);
        self.trace.say(self.now, || format!("n{ix} starts, boot {boot}"));
        if self.nodes[ix].disk.admissions.iter().any(|a| a.node == self.nodes[ix].id) {
            self.start_control(ix);
        } else {
            let from = self.end_of(ix);
            self.queue.push(self.now, Ev::JoinAsk { from });
        }
    }

    fn start_control(&mut self, ix: usize) {
        let seed = self.hosts[ix].rng.random();
        let node = &mut self.nodes[ix];
        let roster = Roster::from_admissions(self.mesh, node.disk.admissions.iter().cloned());
        let config = Config {
            keypair: node.keypair.clone(),
            name: format!("n{ix}"),
            addrs: vec![node.addr.clone()],
            boot: Boot(node.disk.boot),
            roster,
            remembered: node.disk.remembered.clone(),
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
        self.nodes[ix].control = Some(control);
        self.nodes[ix].turned = self.now;
        self.carry_out(ix, effects);
        self.arm(ix, wake);
        self.touch(ix);
        let end = self.end_of(ix);
        self.queue.push(self.now + SEC, Ev::Refresh { end });
        self.recompute_all();
    }

    pub(crate) fn join_ask(&mut self, from: End) {
        if !self.lives(from) || self.nodes[from.host].control.is_some() {
            return;
        }
        self.queue.push(self.now + SEC, Ev::JoinAsk { from });
        if self.invitation.is_some() && self.reach(from.host, 0) {
            let at = self.now + 3 * self.net.delay_reliable(from.host, 0);
            self.queue.push(at, Ev::JoinArrive { from, to: 0 });
        }
    }

    pub(crate) fn join_arrive(&mut self, from: End, to: usize) {
        let Some(invitation) = self.invitation.clone() else { return };
        if !self.lives(from) || !self.reach(from.host, to) || self.nodes[to].control.is_none() {
            return;
        }
        let newcomer = self.nodes[from.host].keypair.public();
        let exporter = self.hosts[to].rng.random();
        let statement = join_statement(&exporter, &newcomer);
        let proof = invitation.prove(&statement);
        let join = wire::Join { invite: invitation.invite, proof };
        let node = &mut self.nodes[to];
        node.last_ticket += 1;
        let ticket = node.last_ticket;
        node.joins.insert(ticket, from);
        self.node_event(to, Event::Join { ticket, newcomer, join, statement });
    }

    pub(crate) fn join_answer(
        &mut self,
        from: End,
        admissions: Vec<Admission>,
        members: Vec<(NodeId, Vec<String>)>,
    ) {
        if !self.lives(from) || self.nodes[from.host].control.is_some() {
            return;
        }
        let node = &mut self.nodes[from.host];
        node.disk.admissions = admissions;
        node.disk.remembered = members;
        self.start_control(from.host);
    }

    /// One event into a node's control, and what follows.
    pub(crate) fn node_event(&mut self, ix: usize, event: Event) {
        if !self.runs(ix) {
            return;
        }
        let now = self.clock(ix);
        let node = &mut self.nodes[ix];
        let Some(control) = &mut node.control else { return };
        let mut effects = Vec::new();
        control.handle(now, event, &mut effects);
        let wake = control.next_wake();
        node.turned = self.now;
        self.carry_out(ix, effects);
        self.arm(ix, wake);
        self.check_node(ix);
    }

    fn carry_out(&mut self, ix: usize, effects: Vec<Effect>) {
        for effect in effects {
            if !self.hosts[ix].up {
                return;
            }
            match effect {
                Effect::Dial { node, addr } => self.dial_link(ix, node, addr),
                Effect::Send(node, bytes) => self.link_send(ix, node, Cargo::Message(bytes)),
                Effect::Datagram(node, bytes) => self.link_send(ix, node, Cargo::Datagram(bytes)),
                Effect::Admissions(new) => self.nodes[ix].disk.admissions.extend(new),
                Effect::Admit { ticket, admitted } => self.admit(ix, ticket, admitted),
                Effect::RefuseJoin { ticket, reason } => {
                    self.nodes[ix].joins.remove(&ticket);
                    self.fail("admission", format!("n{ix} refuses a newcomer: {reason}"));
                }
                Effect::Remember(members) => self.nodes[ix].disk.remembered = members,
                Effect::Boot(Boot(boot)) => self.nodes[ix].disk.outgrown = boot,
                Effect::GossipWith(_) | Effect::ViewChanged | Effect::ClientWelcomed(..) => {}
                Effect::ClientSend(session, bytes) => {
                    if let Some(at) = self.nodes[ix].sessions.get(&session) {
                        self.send(at.conn, 1, Cargo::Message(bytes));
                    }
                }
                Effect::ClientDatagram(session, bytes) => {
                    if let Some(at) = self.nodes[ix].sessions.get(&session) {
                        self.send(at.conn, 1, Cargo::Datagram(bytes));
                    }
                }
                Effect::ClientClose(session, reason) => self.end_session(ix, session, &reason),
                Effect::Route(encoder, route) => self.route(ix, encoder, &route),
                Effect::Serve(session, encoder) => self.serve(ix, session, encoder),
                Effect::Unserve(session, encoder) => {
                    self.unsubscribe(ix, encoder, Receiver::Session(session));
                }
                Effect::RelayKeyframe(encoder) => self.relay_keyframe(ix, encoder),
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
            Note::Stalled(late) => format!("stalled {} ms", late.as_millis()),
            Note::Outgrown(boot) => format!("outgrown {}", boot.0),
            Note::Encoder(..) => return,
        };
        self.trace.add(self.now, ix, ix, text.as_bytes());
        self.trace.say(self.now, || format!("n{ix} {text}"));
        if let Note::Stalled(_) = note {
            self.nodes[ix].woke = self.now;
        }
        if let Note::Down(node) = note {
            self.check_verdict(ix, *node);
        }
    }

    fn admit(&mut self, ix: usize, ticket: u64, admitted: wire::Admitted) {
        let Some(from) = self.nodes[ix].joins.remove(&ticket) else { return };
        let at = self.now + DISK + self.net.delay_reliable(ix, from.host);
        let wire::Admitted { admissions, members } = admitted;
        self.queue.push(at, Ev::JoinAnswer { from, admissions, members });
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
        self.hosts[ix].up = false;
        self.hosts[ix].inbox.clear();
        self.touch(ix);
        if ix < self.plan.nodes {
            self.nodes[ix].forget();
        }
        self.drop_conns_of(ix);
        self.browsers_lose(ix);
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
        let peers: Vec<usize> = self.nodes[ix].links.keys().copied().collect();
        let mut rtts = Vec::new();
        for peer in peers {
            if self.reach(ix, peer) {
                let sample = 2 * self.net.base(ix, peer) + MS / 2;
                let smooth = self.nodes[ix].rtts.entry(peer).or_insert(sample);
                *smooth = (*smooth * 3 + sample) / 4;
            }
            let rtt = self.nodes[ix].rtts.get(&peer).copied().unwrap_or(100 * MS);
            rtts.push((self.nodes[peer].id, Duration::from_nanos(rtt)));
        }
        self.node_event(ix, Event::Rtt(rtts));
    }

    // -- clients ----------------------------------------------------------------------------------

    /// A native client's connection stands.
    pub(crate) fn open_session(&mut self, ix: usize) -> SessionId {
        let node = &mut self.nodes[ix];
        node.last_session += 1;
        SessionId(node.last_session)
    }

    pub(crate) fn session_opened(&mut self, ix: usize, session: SessionId, conn: ConnId) {
        let ingest = Ingest::default();
        self.nodes[ix].sessions.insert(session, Session { conn, ingest });
        self.node_event(ix, Event::ClientOpened { session, loopback: true });
    }

    pub(crate) fn client_cargo(&mut self, end: End, session: SessionId, cargo: Cargo) {
        let ix = end.host;
        match cargo {
            Cargo::Message(bytes) => {
                self.observe_client(ix, &bytes);
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

    fn observe_client(&mut self, ix: usize, bytes: &[u8]) {
        use roost::wire::{ClientMessage, Message as _, Role};
        let now = self.now;
        let swears = match ClientMessage::decode(bytes) {
            Ok(ClientMessage::Register(register)) if register.role == Role::Home => {
                Some(register.encoder)
            }
            Ok(ClientMessage::Register(register)) => {
                // An agent that stands by may be asked for pictures, too.
                self.nodes[ix].sworn.entry(register.encoder).or_insert(now);
                None
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

    fn drop_session(&mut self, ix: usize, session: SessionId) {
        if self.nodes[ix].sessions.remove(&session).is_none() {
            return;
        }
        let encoders: Vec<EncoderId> = self.nodes[ix].hubs.keys().copied().collect();
        for encoder in encoders {
            self.unsubscribe(ix, encoder, Receiver::Session(session));
        }
    }

    fn end_session(&mut self, ix: usize, session: SessionId, reason: &str) {
        let Some(conn) = self.nodes[ix].sessions.get(&session).map(|at| at.conn) else { return };
        self.trace.say(self.now, || format!("n{ix} ends a session: {reason}"));
        self.drop_session(ix, session);
        self.queue.push(self.now + CLOSE_LATER, Ev::CloseConn { conn, side: 1 });
    }

    // -- media ------------------------------------------------------------------------------------

    fn route(&mut self, ix: usize, encoder: EncoderId, route: &Route) {
        self.trace.say(self.now, || {
            let text = match route {
                Route::None => "nowhere".into(),
                Route::Local { session, .. } => format!("session {}", session.0),
                Route::Relay { via, .. } => {
                    self.index.get(via).map_or(String::new(), |via| format!("relay from n{via}"))
                }
            };
            format!("n{ix} takes {} from {text}", encoder.short())
        });
        let session = match route {
            Route::Local { session, .. } => Some(*session),
            Route::None | Route::Relay { .. } => None,
        };
        let node = &mut self.nodes[ix];
        if let Some(before) = node.attached.remove(&encoder)
            && Some(before) != session
            && let Some(before) = node.sessions.get_mut(&before)
        {
            before.ingest = Ingest::default();
        }
        let hub = node.hubs.entry(encoder).or_default();
        match route {
            Route::None => {
                hub.set_feed(0, 0);
                self.relay_route(ix, encoder, None);
            }
            Route::Local { session, feed, timeline } => {
                let Some(at) = node.sessions.get_mut(session) else {
                    self.relay_route(ix, encoder, None);
                    return;
                };
                hub.set_feed(*feed, *timeline);
                node.attached.insert(encoder, *session);
                let early = std::mem::take(&mut at.ingest.early);
                at.ingest.target = Some((encoder, *feed));
                self.relay_route(ix, encoder, None);
                for frame in early.frames {
                    self.push_frame(ix, *feed, frame);
                }
            }
            Route::Relay { via, feed, timeline } => {
                hub.set_feed(*feed, *timeline);
                let Some(&via) = self.index.get(via) else { return };
                let source = Source { via, feed: *feed, timeline: *timeline };
                self.relay_route(ix, encoder, Some(source));
            }
        }
    }

    fn ingest(&mut self, ix: usize, session: SessionId, frame: Frame) {
        if self.now - self.nodes[ix].turned > LOOP_LATE {
            return;
        }
        let Some(at) = self.nodes[ix].sessions.get_mut(&session) else { return };
        match at.ingest.target {
            Some((_, feed)) => {
                self.check_serving(ix, frame);
                self.push_frame(ix, feed, frame);
            }
            None => at.ingest.early.push(frame),
        }
    }

    /// A frame goes to everyone who takes the stream here.
    pub(crate) fn push_frame(&mut self, ix: usize, feed: u64, frame: Frame) {
        let end = self.end_of(ix);
        let Some(hub) = self.nodes[ix].hubs.get_mut(&frame.encoder) else { return };
        let (to, wants) = hub.push(self.now, feed, frame);
        if frame.key && !to.is_empty() {
            self.queue.push(self.now, Ev::KeyframeArrived { end, encoder: frame.encoder });
        }
        if wants {
            self.queue.push(self.now, Ev::KeyframeWanted { end, encoder: frame.encoder });
        }
        for receiver in to {
            self.hand(ix, receiver, frame);
        }
    }

    pub(crate) fn hand(&mut self, ix: usize, receiver: Receiver, frame: Frame) {
        match receiver {
            Receiver::Session(session) => {
                if let Some(at) = self.nodes[ix].sessions.get(&session) {
                    self.send(at.conn, 1, Cargo::Picture(FLOW_VIDEO, frame));
                }
            }
            Receiver::Flow(conn, flow) => self.send(conn, 1, Cargo::Picture(flow, frame)),
            Receiver::Browser(browser) => self.browser_sees(browser, frame),
        }
    }

    fn serve(&mut self, ix: usize, session: SessionId, encoder: EncoderId) {
        if self.nodes[ix].sessions.contains_key(&session) {
            self.subscribe_here(ix, encoder, Receiver::Session(session), 1);
        }
    }

    pub(crate) fn subscribe_here(
        &mut self,
        ix: usize,
        encoder: EncoderId,
        receiver: Receiver,
        viewers: u32,
    ) {
        let end = self.end_of(ix);
        let hub = self.nodes[ix].hubs.entry(encoder).or_default();
        let start = hub.subscribe(self.now, receiver, viewers);
        self.queue.push(self.now, Ev::Viewers { end, encoder });
        if start.is_empty() {
            self.queue.push(self.now, Ev::KeyframeWanted { end, encoder });
        }
        for frame in start {
            self.hand(ix, receiver, frame);
        }
    }

    pub(crate) fn unsubscribe(&mut self, ix: usize, encoder: EncoderId, receiver: Receiver) {
        let end = self.end_of(ix);
        let Some(hub) = self.nodes[ix].hubs.get_mut(&encoder) else { return };
        if hub.unsubscribe(receiver) {
            self.queue.push(self.now, Ev::Viewers { end, encoder });
        }
    }

    pub(crate) fn viewers_changed(&mut self, ix: usize, encoder: EncoderId) {
        let viewers = self.nodes[ix].hubs.get(&encoder).map_or(0, Hub::viewers);
        self.relay_viewers(ix, encoder, viewers);
        self.node_event(ix, Event::Viewers(encoder, viewers));
    }
}
