//! Native clients' drivers: what `agent::encode`, `agent::view` and `agent::legs` do, in virtual
//! time; and viewers that stay at one node, as a page does.

use std::collections::BTreeMap;

use rand::RngExt as _;
use roost::directory::SourceState;
use roost::id::{EncoderId, NodeId};
use roost::session::agent::{self, Agent};
use roost::session::leg::LegId;
use roost::session::viewer::{self, Viewer as Machine};
use roost::time::Mono;
use roost::wire::{ClientHello, ClientMessage, FLOW_VIDEO, Message as _, PeerList, take_varint};

use crate::conn::{Cargo, ConnId, End};
use crate::media::{Camera, FRAME_MS, Frame, Group, Receiver};
use crate::net::MS;
use crate::node::addr_of;
use crate::plan::Plan;
use crate::rng::{For, stream};
use crate::world::{Ev, World};

/// A connection that a client closed is closed after this long.
const CLOSE_LATER: u64 = 100 * MS;
/// An agent's write to its disk.
const DISK: u64 = 8 * MS;
/// A page whose node is gone finds another after this long.
pub(crate) const PAGE_MOVES: u64 = 500 * MS;

/// A client's connection or its attempt at one.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) expect: Option<NodeId>,
    pub(crate) conn: Option<ConnId>,
}

/// An encoder's agent with its driver.
pub(crate) struct Encoder {
    pub(crate) id: EncoderId,
    pub(crate) name: String,
    pub(crate) agent: Option<Agent>,
    pub(crate) legs: BTreeMap<LegId, Leg>,
    pub(crate) instance: u64,
    pub(crate) lease: u64,
    pub(crate) peers: PeerList,
    pub(crate) target: usize,
    pub(crate) camera: Camera,
    /// What its agent says of the camera.
    pub(crate) signal: SourceState,
    /// When it took the last picture, or would have, if nobody wants any.
    pub(crate) resting: Option<u64>,
    pub(crate) group: Group,
    /// Legs that get pictures; true while one waits for a keyframe.
    pub(crate) sending: BTreeMap<LegId, bool>,
}

/// A native viewer with its driver.
pub(crate) struct Viewer {
    pub(crate) watches: usize,
    pub(crate) machine: Option<Machine>,
    pub(crate) peers: PeerList,
    pub(crate) legs: BTreeMap<LegId, Leg>,
    pub(crate) target: usize,
    pub(crate) seen: Seen,
}

/// A viewer that stays at one node.
pub(crate) struct Browser {
    /// An encoder, or, above those, a publisher.
    pub(crate) watches: usize,
    pub(crate) at: Option<usize>,
    pub(crate) seen: Seen,
}

/// A viewer that got nothing for this long does not wait for keyframes only.
const PAUSE: u64 = 500 * MS;

/// How much earlier than the newest picture one of another start may have been taken: the two may
/// come over different paths.
const BACK: u64 = 500 * MS;

/// What a viewer was shown.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) newest: Option<(u64, u64)>,
    number: u64,
    key_seen: bool,
    /// Since when what is shown lacks something, while pictures come.
    pub(crate) lacks_since: Option<u64>,
    /// When the last new picture came.
    pub(crate) fresh_at: u64,
    /// When that picture was taken.
    pub(crate) taken: u64,
    /// Since when they come without a pause.
    pub(crate) flows_since: u64,
    pub(crate) longest_gap: u64,
    /// The same since its encoder moved.
    pub(crate) seam: u64,
    /// Since when what is shown is older than what another start of the agent had shown, and when
    /// the newest of that was taken.
    pub(crate) behind: Option<(u64, u64)>,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn opened(now: u64) -> Self {
        Self { fresh_at: now, ..Self::default() }
    }

    /// Whether a frame is new, and whether a keyframe is needed to make the picture whole.
    pub(crate) fn take(&mut self, frame: &Frame, now: u64) -> (bool, bool) {
        let same = self.newest.is_some_and(|(line, _)| line == frame.timeline);
        if same && self.newest.is_some_and(|(_, newest)| frame.taken <= newest) {
            return (false, false);
        }
        if !self.key_seen && !frame.key {
            return (false, true);
        }
        let lost = same && frame.number != self.number + 1;
        let pause = now - self.fresh_at > PAUSE;
        if pause {
            self.flows_since = now;
        }
        self.lacks_since = match self.lacks_since {
            _ if frame.key => None,
            Some(since) if !pause => Some(since),
            before => (lost || before.is_some()).then_some(now),
        };
        if self.key_seen {
            self.longest_gap = self.longest_gap.max(now - self.fresh_at);
            self.seam = self.seam.max(now - self.fresh_at);
        }
        self.key_seen = true;
        let caught_up = |newest: u64| frame.taken + BACK >= newest;
        self.behind = match (self.behind, self.newest) {
            (Some((since, newest)), _) => (!caught_up(newest)).then_some((since, newest)),
            (None, Some((_, newest))) if !same => (!caught_up(newest)).then_some((now, newest)),
            _ => None,
        };
        self.newest = Some((frame.timeline, frame.taken));
        self.number = frame.number;
        self.fresh_at = now;
        self.taken = frame.taken;
        (true, self.lacks_since.is_some())
    }
}

impl Encoder {
    /// `host` decides who it is: the same for all agents of an encoder.
    pub(crate) fn new(seed: u64, host: usize, index: usize, plan: &Plan) -> Self {
        let mut rng = stream(seed, For::Birth(host));
        Self {
            id: EncoderId(rng.random()),
            name: format!("cam{index}"),
            agent: None,
            legs: BTreeMap::new(),
            instance: 0,
            lease: 0,
            peers: PeerList::default(),
            target: rng.random_range(0..plan.nodes),
            camera: Camera::new(plan.camera),
            resting: None,
            signal: SourceState::Ready,
            group: Group::default(),
            sending: BTreeMap::new(),
        }
    }

    pub(crate) fn watched(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| !agent.media().is_empty())
    }
}

impl Viewer {
    pub(crate) fn new(seed: u64, host: usize, watches: usize, nodes: usize) -> Self {
        let target = stream(seed, For::Birth(host)).random_range(0..nodes);
        Self {
            watches,
            machine: None,
            peers: PeerList::default(),
            legs: BTreeMap::new(),
            target,
            seen: Seen::default(),
        }
    }
}

impl World {
    pub(crate) fn encoder_at(&self, host: usize) -> Option<usize> {
        let ix = host.checked_sub(self.plan.nodes)?;
        let twin = ix.checked_sub(self.plan.encoders + self.plan.viewers);
        twin.map(|twin| self.plan.encoders + twin)
            .or_else(|| (ix < self.plan.encoders).then_some(ix))
    }

    pub(crate) fn viewer_at(&self, host: usize) -> Option<usize> {
        let ix = host.checked_sub(self.plan.nodes + self.plan.encoders)?;
        (ix < self.plan.viewers).then_some(ix)
    }

    pub(crate) fn legs(&mut self, host: usize) -> &mut BTreeMap<LegId, Leg> {
        match self.encoder_at(host) {
            Some(ix) => &mut self.encoders[ix].legs,
            None => {
                let ix = self.viewer_at(host).unwrap_or_default();
                &mut self.viewers[ix].legs
            }
        }
    }

    pub(crate) fn start_client(&mut self, host: usize) {
        let stops = self.hosts[host].up && self.hosts[host].stopping;
        if self.hosts[host].up && !stops {
            return;
        }
        if stops || self.hosts[host].holds > 0 {
            self.queue.push(self.now + 50 * MS, Ev::StartClient(host));
            return;
        }
        let life = self.hosts[host].life + 1;
        self.begin_life(host, life);
        self.touch(host);
        let seed = self.hosts[host].rng.random();
        let instance = self.hosts[host].rng.random();
        let name = self.host_name(host);
        self.trace.say(self.now, || format!("{name} starts"));
        if let Some(ix) = self.encoder_at(host) {
            if let (1, Some(of)) = (life, ix.checked_sub(self.plan.encoders)) {
                let (lease, peers) = (self.encoders[of].lease, self.encoders[of].peers.clone());
                (self.encoders[ix].lease, self.encoders[ix].peers) = (lease, peers);
            }
            let encoder = &mut self.encoders[ix];
            encoder.instance = instance;
            encoder.camera = Camera::new(self.plan.camera);
            encoder.resting = None;
            let config = agent::Config {
                encoder: encoder.id,
                name: encoder.name.clone(),
                instance,
                lease: encoder.lease,
                targets: vec![addr_of(encoder.target)],
                peers: encoder.peers.clone(),
                seed,
            };
            let mut effects = Vec::new();
            encoder.agent = Some(Agent::new(config, &mut effects));
            self.agent_effects(ix, effects);
            self.agent_event(ix, agent::Event::Wake);
            self.agent_event(ix, agent::Event::Source(SourceState::Ready));
            self.encoders[ix].signal = SourceState::Ready;
            let end = self.end_of(host);
            // A camera that nobody ever watches takes no pictures.
            let watchers = self.plan.viewers.max(self.plan.browsers);
            if ix % self.plan.encoders < watchers {
                self.queue.push(self.now + FRAME_MS * MS, Ev::Tick { end });
            }
        } else if let Some(ix) = self.viewer_at(host) {
            let viewer = &mut self.viewers[ix];
            let config = viewer::Config {
                name: self.encoders[viewer.watches].name.clone(),
                targets: vec![addr_of(viewer.target)],
                peers: PeerList::default(),
                seed,
                stay: false,
            };
            viewer.machine = Some(Machine::new(config));
            viewer.seen = Seen { longest_gap: viewer.seen.longest_gap, ..Seen::default() };
            self.viewer_event(ix, viewer::Event::Wake);
        }
    }

    /// Told to stop, an agent says so, and the process ends when that is on its way.
    pub(crate) fn client_leaves(&mut self, host: usize) {
        if let Some(ix) = self.encoder_at(host) {
            self.agent_event(ix, agent::Event::Leave);
        }
        for leg in self.legs(host).keys().copied().collect::<Vec<_>>() {
            self.close_leg(host, leg);
        }
        let end = self.end_of(host);
        self.queue.push(self.now + CLOSE_LATER + MS, Ev::ClientEnds(end));
    }

    pub(crate) fn client_ends(&mut self, end: End) {
        if self.lives(end) {
            self.crash(end.host);
        }
    }

    /// A client's process is gone; an agent's disk stays.
    pub(crate) fn forget_client(&mut self, host: usize) {
        self.legs(host).clear();
        if let Some(ix) = self.encoder_at(host) {
            let encoder = &mut self.encoders[ix];
            encoder.agent = None;
            encoder.group = Group::default();
            encoder.sending.clear();
        } else if let Some(ix) = self.viewer_at(host) {
            self.viewers[ix].machine = None;
            self.viewers[ix].peers = PeerList::default();
        }
    }

    pub(crate) fn client_next_wake(&self, host: usize) -> Option<Mono> {
        if let Some(ix) = self.encoder_at(host) {
            return self.encoders[ix].agent.as_ref().and_then(Agent::next_wake);
        }
        let ix = self.viewer_at(host)?;
        self.viewers[ix].machine.as_ref().and_then(Machine::next_wake)
    }

    pub(crate) fn client_wakes(&mut self, host: usize) {
        if let Some(ix) = self.encoder_at(host) {
            self.agent_event(ix, agent::Event::Wake);
        } else if let Some(ix) = self.viewer_at(host) {
            self.viewer_event(ix, viewer::Event::Wake);
        }
    }

    pub(crate) fn agent_event(&mut self, ix: usize, event: agent::Event) {
        let host = self.host_of_encoder(ix);
        if !self.runs(host) {
            return;
        }
        let now = self.clock(host).mono;
        let Some(agent) = &mut self.encoders[ix].agent else { return };
        self.tally.woken("an agent wakes", matches!(event, agent::Event::Wake));
        let stood_by = agent.next();
        let mut effects = Vec::new();
        agent.handle(now, event, &mut effects);
        let wake = agent.next_wake();
        self.check_let_go(ix, stood_by, &effects);
        self.agent_effects(ix, effects);
        self.arm(host, wake);
        self.camera_resumes(ix);
    }

    fn viewer_event(&mut self, ix: usize, event: viewer::Event) {
        let host = self.host_of_viewer(ix);
        if !self.runs(host) {
            return;
        }
        let now = self.clock(host).mono;
        let Some(machine) = &mut self.viewers[ix].machine else { return };
        self.tally.woken("a viewer wakes", matches!(event, viewer::Event::Wake));
        let mut effects = Vec::new();
        machine.handle(now, event, &mut effects);
        let wake = machine.next_wake();
        for effect in effects {
            self.tally_viewer(&effect);
            match effect {
                viewer::Effect::Dial { leg, node, addr } => {
                    self.dial_client(host, leg, node, &addr)
                }
                viewer::Effect::Close(leg) => self.close_leg(host, leg),
                viewer::Effect::Send(leg, bytes) => {
                    let request =
                        matches!(ClientMessage::decode(&bytes), Ok(ClientMessage::Keyframe(_)));
                    if !(request && self.net.request_lost(host, host)) {
                        self.leg_send(host, leg, Cargo::Message(bytes));
                    }
                }
                viewer::Effect::Datagram(leg, bytes) => {
                    self.leg_send(host, leg, Cargo::Datagram(bytes));
                }
                viewer::Effect::Peers(peers) => self.viewers[ix].peers = peers,
                viewer::Effect::Note(note) => {
                    self.trace.say(self.now, || format!("viewer{ix} {note:?}"));
                }
            }
        }
        self.arm(host, wake);
    }

    fn agent_effects(&mut self, ix: usize, effects: Vec<agent::Effect>) {
        let host = self.host_of_encoder(ix);
        for effect in effects {
            self.tally_agent(&effect);
            match effect {
                agent::Effect::Dial { leg, node, addr } => self.dial_client(host, leg, node, &addr),
                agent::Effect::Close(leg) => {
                    self.encoders[ix].sending.remove(&leg);
                    self.close_leg(host, leg);
                }
                agent::Effect::Send(leg, bytes) => {
                    self.check_epoch(ix, &bytes);
                    self.leg_send(host, leg, Cargo::Message(bytes));
                }
                agent::Effect::Datagram(leg, bytes) => {
                    self.leg_send(host, leg, Cargo::Datagram(bytes));
                }
                agent::Effect::Media(legs) => self.agent_media(ix, &legs),
                agent::Effect::Keyframe => self.encoders[ix].camera.asked(),
                agent::Effect::Lease(counter) => {
                    let end = self.end_of(host);
                    self.queue.push(self.now + DISK, Ev::Leased { end, counter });
                }
                agent::Effect::Peers(peers) => self.encoders[ix].peers = peers,
                agent::Effect::Note(note) => {
                    self.trace.add(self.now, host, host, format!("{note:?}").as_bytes());
                    self.trace.say(self.now, || format!("cam{ix} {note:?}"));
                }
            }
        }
    }

    pub(crate) fn leased(&mut self, end: End, counter: u64) {
        if let Some(ix) = self.encoder_at(end.host) {
            self.encoders[ix].lease = self.encoders[ix].lease.max(counter);
            self.agent_event(ix, agent::Event::Leased(counter));
        }
    }

    fn agent_media(&mut self, ix: usize, legs: &std::collections::BTreeSet<LegId>) {
        let host = self.host_of_encoder(ix);
        let encoder = &mut self.encoders[ix];
        encoder.sending.retain(|leg, _| legs.contains(leg));
        for &leg in legs {
            if self.encoders[ix].sending.contains_key(&leg) {
                continue;
            }
            let start = self.encoders[ix].group.frames.clone();
            if start.is_empty() {
                self.encoders[ix].camera.asked();
            }
            self.encoders[ix].sending.insert(leg, start.is_empty());
            for frame in start {
                self.leg_send(host, leg, Cargo::Picture(FLOW_VIDEO, frame));
            }
        }
        if legs.is_empty() {
            self.encoders[ix].group = Group::default();
            // The source stops, and begins with a keyframe.
            self.encoders[ix].camera.key_wanted = true;
        }
    }

    // -- connections ------------------------------------------------------------------------------

    pub(crate) fn leg_cargo(&mut self, end: End, leg: LegId, cargo: Cargo, id: ConnId) {
        let host = end.host;
        if let Cargo::Greeting = cargo {
            self.greeted(end, leg, id);
            return;
        }
        if !self.legs(host).contains_key(&leg) {
            return;
        }
        let (encoder, viewer) = (self.encoder_at(host), self.viewer_at(host));
        match cargo {
            Cargo::Message(bytes) => match (encoder, viewer) {
                (Some(ix), _) => self.agent_event(ix, agent::Event::Message(leg, bytes)),
                (_, Some(ix)) => self.viewer_event(ix, viewer::Event::Message(leg, bytes)),
                _ => {}
            },
            Cargo::Datagram(bytes) => {
                let Some((_, body)) = take_varint(&bytes) else { return };
                let body = body.to_vec();
                match (encoder, viewer) {
                    (Some(ix), _) => self.agent_event(ix, agent::Event::Datagram(leg, body)),
                    (_, Some(ix)) => self.viewer_event(ix, viewer::Event::Datagram(leg, body)),
                    _ => {}
                }
            }
            Cargo::Picture(_, frame) => {
                if let Some(ix) = viewer {
                    self.viewer_sees(ix, leg, frame);
                }
            }
            _ => {}
        }
    }

    fn greeted(&mut self, end: End, leg: LegId, id: ConnId) {
        let host = end.host;
        let Some(there) = self.conns.get(&id).map(|conn| conn.ends[1].host) else { return };
        let node = self.nodes[there].id;
        let Some(state) = self.legs(host).get_mut(&leg) else {
            // Given up meanwhile.
            self.close(id, 0, "done");
            return;
        };
        if state.expect.is_some_and(|expect| expect != node) {
            self.close(id, 0, "not the node that was expected");
            self.leg_gone(end, leg, "another node answers there");
            return;
        }
        state.conn = Some(id);
        let credential = self.credential(host);
        let (agent, version) = ("sim".into(), String::new());
        let hello = ClientHello { agent, version, credential, only_api: false };
        self.send(id, 0, Cargo::Message(ClientMessage::Hello(hello).encode()));
        if let Some(ix) = self.encoder_at(host) {
            self.agent_event(ix, agent::Event::Connected { leg, node });
        } else if let Some(ix) = self.viewer_at(host) {
            self.viewer_event(ix, viewer::Event::Connected { leg, node });
        }
    }

    /// A leg's connection is over.
    pub(crate) fn leg_gone(&mut self, end: End, leg: LegId, reason: &str) {
        let host = end.host;
        if self.legs(host).remove(&leg).is_none() {
            return;
        }
        let reason = reason.to_owned();
        if let Some(ix) = self.encoder_at(host) {
            self.encoders[ix].sending.remove(&leg);
            self.agent_event(ix, agent::Event::Closed { leg, reason });
        } else if let Some(ix) = self.viewer_at(host) {
            self.viewer_event(ix, viewer::Event::Closed { leg, reason });
        }
    }

    pub(crate) fn leg_send(&mut self, host: usize, leg: LegId, cargo: Cargo) {
        if let Some(conn) = self.legs(host).get(&leg).and_then(|leg| leg.conn) {
            self.send(conn, 0, cargo);
        }
    }

    fn close_leg(&mut self, host: usize, leg: LegId) {
        if let Some(conn) = self.legs(host).remove(&leg).and_then(|leg| leg.conn) {
            self.queue.push(self.now + CLOSE_LATER, Ev::CloseConn { conn, side: 0 });
        }
    }

    // -- pictures ---------------------------------------------------------------------------------

    fn viewer_sees(&mut self, ix: usize, leg: LegId, frame: Frame) {
        let now = self.now;
        let before = self.viewers[ix].seen;
        let (fresh, lacks) = self.viewers[ix].seen.take(&frame, now);
        if fresh {
            self.tally_picture(before, &frame);
            let who = format!("viewer{ix}");
            self.check_shown(&who, self.viewers[ix].seen);
            self.check_damage(&who, self.viewers[ix].seen.lacks_since);
            self.viewer_event(ix, viewer::Event::Fresh(leg));
        }
        if lacks {
            self.viewer_event(ix, viewer::Event::KeyframeWanted);
        }
    }

    pub(crate) fn browser_sees(&mut self, ix: usize, frame: Frame) {
        let now = self.now;
        let before = self.browsers[ix].seen;
        let (fresh, lacks) = self.browsers[ix].seen.take(&frame, now);
        if fresh {
            self.tally_picture(before, &frame);
            let who = format!("page{ix}");
            self.check_shown(&who, self.browsers[ix].seen);
            self.check_damage(&who, self.browsers[ix].seen.lacks_since);
        }
        if let (true, Some(at)) = (lacks, self.browsers[ix].at) {
            let event = Ev::KeyframeWanted { end: self.end_of(at), encoder: frame.encoder };
            self.hub_event(at, event);
        }
    }

    /// A page without a node opens at any that runs.
    pub(crate) fn browser_moves(&mut self, ix: usize) {
        if self.browsers[ix].at.is_some() {
            return;
        }
        let Some(at) = self.open_node(ix) else {
            self.queue.push(self.now + PAGE_MOVES, Ev::BrowserMoves(ix));
            return;
        };
        self.trace.say(self.now, || format!("page{ix} opens at n{at}"));
        let encoder = self.watched_id(self.browsers[ix].watches);
        let browser = &mut self.browsers[ix];
        browser.at = Some(at);
        browser.seen = Seen { longest_gap: browser.seen.longest_gap, ..Seen::opened(self.now) };
        self.subscribe_here(at, encoder, Receiver::Browser(ix), 1);
    }

    /// A node at which something may open, by turns.
    pub(crate) fn open_node(&self, turn: usize) -> Option<usize> {
        let ready = |node: usize| self.runs(node) && self.is_member(node);
        let nodes: Vec<usize> = (0..self.plan.nodes).filter(|node| ready(*node)).collect();
        let luck = usize::try_from(crate::rng::mix(self.plan.seed ^ self.now) % 1024).unwrap_or(0);
        nodes.get((turn + luck) % nodes.len().max(1)).copied()
    }

    /// A node is gone, and its pages with it.
    pub(crate) fn pages_lose(&mut self, node: usize) {
        for ix in 0..self.browsers.len() {
            if self.browsers[ix].at == Some(node) {
                self.browsers[ix].at = None;
                self.queue.push(self.now + PAGE_MOVES, Ev::BrowserMoves(ix));
            }
        }
    }
}
