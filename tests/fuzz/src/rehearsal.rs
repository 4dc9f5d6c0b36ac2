//! Two nodes, an encoder's agent and a viewer talk to each other in virtual time; what they say is
//! what mutation starts from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::Duration;

use roost::admission::{Invitation, Keypair, Roster};
use roost::control::{Config, Control, Effect, Event};
use roost::directory::{Delta, Entry, SourceState};
use roost::grow::Later;
use roost::id::{Boot, EncoderId, Epoch, InviteId, NodeId, SessionId};
use roost::membership;
use roost::session::leg::LegId;
use roost::session::{agent, viewer};
use roost::time::{Mono, Now};
use roost::wire::{
    Assign, ClientHello, ClientMessage, Confirm, LinkMessage, Message, NodeMessage, PeerList,
    Welcome,
};

use super::chunks;
use super::machines::kind;

const NAME: &str = "front-door";
const ADDRS: [&str; 2] = ["192.0.2.1:9443", "192.0.2.2:9443"];

fn keys() -> [Keypair; 2] {
    [Keypair::from_seed([1; 32]), Keypair::from_seed([2; 32])]
}

/// A mesh of two.
pub fn roster() -> Roster {
    static ROSTER: OnceLock<Roster> = OnceLock::new();
    let made = ROSTER.get_or_init(|| {
        let [first, second] = keys();
        let mut roster = Roster::found(&first, [9; 16]);
        let (id, mesh) = (InviteId([5; 16]), roster.mesh());
        let invite = Invitation::make(&first, mesh, vec![], id, [8; 32], u64::MAX, 9);
        let admission = roster.admit(&first, second.public(), &invite.invite);
        roster.adopt(vec![admission]);
        roster
    });
    made.clone()
}

/// The key of the node that founded the mesh.
pub fn founder() -> Keypair {
    keys()[0].clone()
}

/// The node that speaks to [`a_node`].
pub fn second() -> NodeId {
    keys()[1].node()
}

/// One of the two nodes.
pub fn first_or_second(which: u8) -> NodeId {
    keys()[usize::from(which % 2)].node()
}

fn config(which: usize) -> Config {
    let [first, second] = keys();
    Config {
        keypair: if which == 0 { first } else { second },
        next_key: None,
        name: format!("n{which}"),
        addrs: vec![ADDRS[which].into()],
        boot: Boot(1),
        roster: roster(),
        names: Vec::new(),
        spare: roost::accounts::Spare { removed: 0, idle: 1 },
        remembered: Vec::new(),
        measured: 100,
        seeds: Vec::new(),
        ledger: roost::accounts::Loaded::default(),
        seed: [which as u8 + 1; 32],
    }
}

/// The first of the two nodes, and the id of the other.
pub fn a_node(now: Now, effects: &mut Vec<Effect>) -> (Control, NodeId) {
    (Control::new(config(0), now, effects), second())
}

/// Members as membership knows them, the machine's own first.
pub fn members() -> Vec<membership::Peer> {
    (0..4)
        .map(|n| membership::Peer {
            node: if n < 2 { first_or_second(n) } else { NodeId([n; 16]) },
            boot: Boot(1),
            addrs: vec![format!("192.0.2.{n}:9443")],
        })
        .collect()
}

/// An agent that knows both nodes' addresses.
pub fn agent_config() -> agent::Config {
    agent::Config {
        encoder: EncoderId([3; 16]),
        name: NAME.into(),
        instance: 77,
        lease: 0,
        targets: ADDRS.map(str::to_owned).to_vec(),
        peers: PeerList::default(),
        seed: 1,
    }
}

/// A viewer that knows both nodes' addresses.
pub fn viewer_config() -> viewer::Config {
    viewer::Config {
        name: NAME.into(),
        stay: false,
        targets: ADDRS.map(str::to_owned).to_vec(),
        peers: PeerList::default(),
        seed: 2,
    }
}

/// What was said, in order, to whom it may concern.
#[derive(Default)]
struct Recording {
    /// To the first node.
    node: Vec<u8>,
    /// Of that, what concerns membership.
    member: Vec<u8>,
    /// To the agent and to the viewer.
    clients: [Vec<u8>; 2],
    messages: Vec<Vec<u8>>,
    datagrams: Vec<Vec<u8>>,
}

enum Said {
    Link {
        to: usize,
        bytes: Vec<u8>,
    },
    LinkDatagram {
        to: usize,
        bytes: Vec<u8>,
    },
    /// By the client of this number.
    Client {
        to: usize,
        session: SessionId,
        bytes: Vec<u8>,
    },
    ClientDatagram {
        to: usize,
        session: SessionId,
        bytes: Vec<u8>,
    },
    Node {
        client: usize,
        leg: LegId,
        bytes: Vec<u8>,
    },
    NodeDatagram {
        client: usize,
        leg: LegId,
        bytes: Vec<u8>,
    },
    Connected {
        client: usize,
        leg: LegId,
        to: usize,
    },
}

struct Stage {
    now: Mono,
    nodes: Vec<Control>,
    agent: agent::Agent,
    viewer: viewer::Viewer,
    flying: VecDeque<Said>,
    /// Session of a leg at its node.
    sessions: BTreeMap<(usize, LegId), (usize, SessionId)>,
    recording: Recording,
}

impl Stage {
    fn play() -> Recording {
        let now = Mono(1_000_000_000);
        let at = Now { mono: now, wall: 1_800_000_000_000 };
        let mut effects = [Vec::new(), Vec::new()];
        let nodes =
            (0..2).map(|which| Control::new(config(which), at, &mut effects[which])).collect();
        let mut of_agent = Vec::new();
        let mut stage = Self {
            now,
            nodes,
            agent: agent::Agent::new(agent_config(), &mut of_agent),
            viewer: viewer::Viewer::new(viewer_config()),
            flying: VecDeque::new(),
            sessions: BTreeMap::new(),
            recording: Recording::default(),
        };
        for which in 0..2 {
            let (node, addrs) = (first_or_second(1 - which as u8), vec![ADDRS[1 - which].into()]);
            stage.node(which, Event::LinkUp { node, addrs, learned: Vec::new(), wall: 0 });
        }
        stage.agent_effects(of_agent);
        stage.agent(agent::Event::Source(SourceState::Ready));
        // Ten seconds, of which the second node is gone in the last three.
        for tick in 0..1000 {
            stage.tick();
            if tick == 700 {
                stage.node(0, Event::LinkDown(second()));
            }
        }
        stage.recording
    }

    fn at(&self) -> Now {
        Now { mono: self.now, wall: 1_800_000_000_000 }
    }

    fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let now = self.now;
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        for which in 0..2 {
            if due(self.nodes[which].next_wake()) {
                self.node(which, Event::Wake);
            }
        }
        if due(self.agent.next_wake()) {
            self.agent(agent::Event::Wake);
        }
        if due(self.viewer.next_wake()) {
            self.viewer(viewer::Event::Wake);
        }
        for said in std::mem::take(&mut self.flying) {
            self.deliver(said);
        }
    }

    fn deliver(&mut self, said: Said) {
        match said {
            Said::Link { to, bytes } => {
                self.node(to, Event::Message(first_or_second(1 - to as u8), bytes));
            }
            Said::LinkDatagram { to, bytes } => {
                self.node(to, Event::Datagram(first_or_second(1 - to as u8), bytes));
            }
            Said::Client { to, session, bytes } => {
                self.node(to, Event::ClientMessage(session, bytes));
            }
            Said::ClientDatagram { to, session, bytes } => {
                self.node(to, Event::ClientDatagram(session, bytes));
            }
            Said::Node { client: 0, leg, bytes } => self.agent(agent::Event::Message(leg, bytes)),
            Said::Node { leg, bytes, .. } => self.viewer(viewer::Event::Message(leg, bytes)),
            Said::NodeDatagram { client: 0, leg, bytes } => {
                self.agent(agent::Event::Datagram(leg, bytes));
            }
            Said::NodeDatagram { leg, bytes, .. } => {
                self.viewer(viewer::Event::Datagram(leg, bytes));
            }
            Said::Connected { client, leg, to } => {
                let session = SessionId(u64::from(leg.0) * 2 + client as u64 + 1);
                self.sessions.insert((client, leg), (to, session));
                self.node(to, Event::ClientOpened { session, local: true });
                let node = first_or_second(to as u8);
                if client == 0 {
                    self.agent(agent::Event::Connected { leg, node });
                } else {
                    self.viewer(viewer::Event::Connected { leg, node });
                }
                let (agent, version) = ("roost".into(), "0".into());
                let hello = ClientHello { agent, version, credential: None, only_api: false };
                let bytes = ClientMessage::Hello(hello).encode();
                self.flying.push_back(Said::Client { to, session, bytes });
            }
        }
    }

    fn node(&mut self, which: usize, event: Event) {
        if which == 0 {
            self.record(&event);
        }
        let mut effects = Vec::new();
        let at = self.at();
        self.nodes[which].handle(at, event, &mut effects);
        let other = 1 - which;
        for effect in effects {
            match effect {
                Effect::Send(_, bytes) => self.flying.push_back(Said::Link { to: other, bytes }),
                Effect::Datagram(_, bytes) => {
                    self.flying.push_back(Said::LinkDatagram { to: other, bytes });
                }
                Effect::ClientSend(session, bytes) => {
                    if let Some((client, leg)) = self.leg(which, session) {
                        self.flying.push_back(Said::Node { client, leg, bytes });
                    }
                }
                Effect::ClientDatagram(session, bytes) => {
                    if let Some((client, leg)) = self.leg(which, session) {
                        let bytes = bytes[1..].to_vec();
                        self.flying.push_back(Said::NodeDatagram { client, leg, bytes });
                    }
                }
                _ => {}
            }
        }
    }

    fn leg(&self, node: usize, session: SessionId) -> Option<(usize, LegId)> {
        self.sessions.iter().find(|(_, at)| **at == (node, session)).map(|(leg, _)| *leg)
    }

    fn record(&mut self, event: &Event) {
        let recording = &mut self.recording;
        let wait = 10u16.to_le_bytes();
        match event {
            Event::Message(_, bytes) => {
                chunks::write(kind::MESSAGE, bytes, &mut recording.node);
                recording.messages.push(bytes.clone());
                if let Ok(LinkMessage::Members(state)) = LinkMessage::decode(bytes) {
                    let body = [&[1], state.bytes.as_slice()].concat();
                    chunks::write(kind::MESSAGE, &body, &mut recording.member);
                }
            }
            Event::Datagram(_, bytes) => {
                chunks::write(kind::DATAGRAM, bytes, &mut recording.node);
                let body = [&[1], bytes.as_slice()].concat();
                chunks::write(kind::DATAGRAM, &body, &mut recording.member);
            }
            Event::ClientMessage(_, bytes) => {
                chunks::write(kind::CLIENT, bytes, &mut recording.node);
                recording.messages.push(bytes.clone());
            }
            Event::ClientDatagram(_, bytes) => {
                chunks::write(kind::CLIENT_DATAGRAM, bytes, &mut recording.node);
                recording.datagrams.push([&[0], bytes.as_slice()].concat());
            }
            Event::Wake => {
                chunks::write(kind::WAIT, &wait, &mut recording.node);
                chunks::write(kind::WAIT, &[&[0], &wait[..]].concat(), &mut recording.member);
            }
            _ => {}
        }
    }

    fn agent(&mut self, event: agent::Event) {
        self.record_client(
            0,
            match &event {
                agent::Event::Message(leg, bytes) => (kind::MESSAGE, *leg, bytes),
                agent::Event::Datagram(leg, bytes) => (kind::DATAGRAM, *leg, bytes),
                agent::Event::Connected { leg, .. } => (kind::UP, *leg, const { &Vec::new() }),
                _ => (kind::WAIT, LegId(0), const { &Vec::new() }),
            },
        );
        let mut effects = Vec::new();
        self.agent.handle(self.now, event, &mut effects);
        self.agent_effects(effects);
    }

    fn agent_effects(&mut self, effects: Vec<agent::Effect>) {
        for effect in effects {
            match effect {
                agent::Effect::Dial { leg, addr, .. } => self.dial(0, leg, &addr),
                agent::Effect::Send(leg, bytes) => self.say(0, leg, bytes),
                agent::Effect::Datagram(leg, bytes) => self.beat(0, leg, &bytes),
                agent::Effect::Lease(counter) => self.agent(agent::Event::Leased(counter)),
                _ => {}
            }
        }
    }

    fn viewer(&mut self, event: viewer::Event) {
        self.record_client(
            1,
            match &event {
                viewer::Event::Message(leg, bytes) => (kind::MESSAGE, *leg, bytes),
                viewer::Event::Datagram(leg, bytes) => (kind::DATAGRAM, *leg, bytes),
                viewer::Event::Connected { leg, .. } => (kind::UP, *leg, const { &Vec::new() }),
                _ => (kind::WAIT, LegId(0), const { &Vec::new() }),
            },
        );
        let mut effects = Vec::new();
        self.viewer.handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                viewer::Effect::Dial { leg, addr, .. } => self.dial(1, leg, &addr),
                viewer::Effect::Send(leg, bytes) => self.say(1, leg, bytes),
                viewer::Effect::Datagram(leg, bytes) => self.beat(1, leg, &bytes),
                _ => {}
            }
        }
    }

    fn record_client(&mut self, client: usize, (what, leg, bytes): (u8, LegId, &Vec<u8>)) {
        let script = &mut self.recording.clients[client];
        // Legs are dialled in order, so their number is their place in the table.
        let mut body = vec![leg.0 as u8];
        body.extend_from_slice(bytes);
        if what == kind::WAIT {
            body.extend_from_slice(&10u16.to_le_bytes());
        }
        chunks::write(what, &body, script);
        if what == kind::MESSAGE {
            self.recording.messages.push(bytes.clone());
        }
    }

    fn dial(&mut self, client: usize, leg: LegId, addr: &str) {
        let to = usize::from(addr == ADDRS[1]);
        self.flying.push_back(Said::Connected { client, leg, to });
    }

    fn say(&mut self, client: usize, leg: LegId, bytes: Vec<u8>) {
        if let Some(&(to, session)) = self.sessions.get(&(client, leg)) {
            self.flying.push_back(Said::Client { to, session, bytes });
        }
    }

    fn beat(&mut self, client: usize, leg: LegId, bytes: &[u8]) {
        if let Some(&(to, session)) = self.sessions.get(&(client, leg)) {
            self.flying.push_back(Said::ClientDatagram { to, session, bytes: bytes[1..].to_vec() });
        }
    }
}

fn recording() -> &'static Recording {
    static RECORDING: OnceLock<Recording> = OnceLock::new();
    RECORDING.get_or_init(Stage::play)
}

/// The script in pieces of some 50 chunks, each with its beginning.
fn pieces(script: &[u8]) -> Vec<Vec<u8>> {
    let all: Vec<(u8, &[u8])> = chunks::read(script).collect();
    let mut out = Vec::new();
    for from in (0..all.len().min(1000)).step_by(50) {
        let mut piece = Vec::new();
        for (what, body) in all[..all.len().min(30)].iter().chain(all.iter().skip(from).take(60)) {
            chunks::write(*what, body, &mut piece);
        }
        out.push(piece);
    }
    out
}

/// Messages of links and clients, one each, and those of handshakes.
pub fn messages() -> Vec<Vec<u8>> {
    let mut all = recording().messages.clone();
    all.sort();
    all.dedup();
    // One of each length is variety enough.
    all.dedup_by_key(|message| (message.len(), message[0]));
    all.extend(super::trust::handshakes());
    all.extend(super::web::asks());
    all
}

/// Heartbeats and a packet on the video's flow.
pub fn datagrams() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = recording().datagrams.iter().take(4).cloned().collect();
    all.push(vec![1, 0x80, 0xe0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x65, 0x88]);
    for flow in [63, 64, 16_383, 16_384, 0x3fff_ffff, u32::MAX] {
        let mut bytes = Vec::new();
        roost::wire::put_varint(flow, &mut bytes);
        all.push(bytes);
    }
    all
}

/// What the first node heard.
pub fn node_scripts() -> Vec<Vec<u8>> {
    let mut all = pieces(&recording().node);
    // Numbers at the end of their range.
    let epoch = Epoch { counter: u64::MAX, instance: u64::MAX };
    let entry = Entry {
        name: NAME.into(),
        epoch,
        next: None,
        source: SourceState::Ready,
        viewers: u32::MAX,
        why: String::new(),
        stays: false,
        later: Later::default(),
    };
    let entries = (1..4).map(|n| (EncoderId([n; 16]), Some(entry.clone()))).collect();
    let boot = Boot(1 << 62);
    let delta = Delta { origin: second(), boot, from: 0, to: u64::MAX, header: None, entries };
    let mut script = Vec::new();
    chunks::write(kind::MESSAGE, &LinkMessage::DirectoryDelta(delta).encode(), &mut script);
    chunks::write(kind::WAIT, &[255, 255], &mut script);
    all.push(script);
    all
}

/// What the first node's membership heard.
pub fn member_scripts() -> Vec<Vec<u8>> {
    pieces(&recording().member)
}

/// What the agent and the viewer heard.
pub fn client_scripts() -> Vec<Vec<u8>> {
    let mut all: Vec<_> = recording().clients.iter().flat_map(|script| pieces(script)).collect();
    // Numbers at the end of their range.
    let epoch = Epoch { counter: u64::MAX, instance: u64::MAX };
    let assign =
        Assign { home: first_or_second(0), next: None, floor: epoch, reason: String::new() };
    let confirm = Confirm { nonce: u64::MAX, epoch: Some(epoch) };
    let mut script = Vec::new();
    chunks::write(kind::UP, &[0], &mut script);
    for message in [
        NodeMessage::Welcome(Welcome { peers: PeerList::default() }),
        NodeMessage::Assign(assign),
        NodeMessage::Confirm(confirm),
    ] {
        chunks::write(kind::MESSAGE, &[&[0], message.encode().as_slice()].concat(), &mut script);
        chunks::write(kind::WAIT, &[0, 100, 0], &mut script);
    }
    all.push(script);
    all
}
