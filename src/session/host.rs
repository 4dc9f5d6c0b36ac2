//! The node's side of its clients' stays: who is home here, who stands by, who watches, and what
//! each stream's route is. `control` hands in what the rest of the node knows ([`World`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::admission::Roster;
use crate::directory::{Directory, Entry, SourceState};
use crate::id::{EncoderId, Epoch, NodeId, SessionId, valid_name};
use crate::placement::{self, Candidate};
use crate::session::{FOLLOWS_MAX, HELLO_DEADLINE, LINGER, SESSIONS_MAX};
use crate::time::{Mono, Now, earlier};
use crate::wire::{
    self, ClientMessage, Heartbeat, Message, NodeMessage, PeerList, Role, WireError,
};

/// Keyframe requests go to one encoder at most this often: a keyframe costs ten ordinary frames.
pub const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);
/// An assignment counts as load of its node until the directory shows it, at most this long.
const IN_FLIGHT: Duration = Duration::from_secs(5);
/// An encoder whose agent vanished stays listed, without a signal, for this long.
const ORPHAN_KEEP: Duration = Duration::from_secs(600);
/// A next that the agent could not reach is not proposed again for this long.
const UNREACHABLE_KEEP: Duration = Duration::from_secs(30);
/// What the directory says of an encoder whose agent is gone.
pub const AGENT_GONE: &str = "the encoder's agent is disconnected";

/// What the rest of the node knows at the moment of a call.
pub struct World<'a> {
    /// The moment.
    pub now: Now,
    /// Who this is.
    pub me: NodeId,
    /// Where everything is.
    pub directory: &'a mut Directory,
    /// Who belongs to the mesh.
    pub roster: &'a Roster,
    /// Nodes believed alive, this one included.
    pub alive: &'a BTreeSet<NodeId>,
    /// Nodes with a working link.
    pub linked: &'a BTreeSet<NodeId>,
    /// Alive nodes that take encoders, with their load.
    pub candidates: &'a [Candidate],
    /// What clients are told.
    pub peers: &'a PeerList,
}

/// Where a stream's frames come from at this node. `feed` changes with every change of route, so
/// that frames of an earlier one are told apart; `timeline` changes when sequence numbers and
/// timestamps start anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Nowhere.
    None,
    /// The agent's own leg.
    Local {
        /// The agent's session.
        session: SessionId,
        /// Number of this feed.
        feed: u64,
        /// Of the agent's start.
        timeline: u64,
    },
    /// Another node.
    Relay {
        /// The node to subscribe at.
        via: NodeId,
        /// Number of this feed.
        feed: u64,
        /// Of the agent's start.
        timeline: u64,
    },
}

/// What the node's drivers are asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The client is who it says, by this name.
    Welcomed(SessionId, String),
    /// On the session's ordered stream.
    Send(SessionId, NodeMessage),
    /// In a datagram.
    Datagram(SessionId, Vec<u8>),
    /// End the session.
    Close(SessionId, String),
    /// A stream's frames come from here now.
    Route(EncoderId, Route),
    /// Send this stream's frames to this session.
    Serve(SessionId, EncoderId),
    /// Stop sending them.
    Unserve(SessionId, EncoderId),
    /// Ask the node that a stream is relayed from for a keyframe.
    RelayKeyframe(EncoderId),
}

/// What happened since the node started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Messages of clients that did not decode.
    pub malformed: u64,
    /// Messages of clients with a tag unknown here.
    pub unknown_tags: u64,
    /// Clients turned away for lack of a credential.
    pub denied: u64,
    /// Clients turned away because the table is full.
    pub full: u64,
    /// Registrations refused.
    pub rejected: u64,
    /// Claims given up because a higher epoch was seen.
    pub superseded: u64,
    /// Encoders that became home here after another home was lost.
    pub adopted: u64,
    /// Times that this node stood still and asked its encoders again.
    pub stalls: u64,
    /// Keyframe requests passed on.
    pub keyframes: u64,
}

/// All clients of one node.
#[derive(Debug, Default)]
pub struct Host {
    sessions: BTreeMap<SessionId, Session>,
    streams: BTreeMap<EncoderId, Stream>,
    in_flight: Vec<(EncoderId, NodeId, Mono)>,
    last_feed: u64,
    last_nonce: u64,
    draining: bool,
    /// Totals.
    pub counters: Counters,
}

#[derive(Debug)]
struct Session {
    loopback: bool,
    opened: Mono,
    welcomed: bool,
    agent_of: Option<(EncoderId, Role)>,
    follows: BTreeMap<String, Option<wire::StreamPlace>>,
    watching: BTreeSet<EncoderId>,
}

#[derive(Debug)]
struct Stream {
    name: String,
    home: Option<Claim>,
    warm: Option<Warm>,
    viewers: u32,
    watched_until: Option<Mono>,
    route: Route,
    keyframe_at: Option<Mono>,
}

/// This node is home.
#[derive(Debug)]
struct Claim {
    /// `None` after the agent vanished.
    session: Option<SessionId>,
    epoch: Epoch,
    source: SourceState,
    next: Option<NodeId>,
    unreachable: BTreeMap<NodeId, Mono>,
    /// Outstanding question after a stall.
    unconfirmed: Option<u64>,
    told: Option<wire::Demand>,
    orphaned: Option<Mono>,
}

/// This node is next, or stands in for a home that it cannot reach.
#[derive(Debug)]
struct Warm {
    session: SessionId,
    epoch: Epoch,
    told: Option<wire::Demand>,
}

impl Host {
    /// A client connected.
    pub fn opened(
        &mut self,
        world: &World<'_>,
        session: SessionId,
        loopback: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.sessions.len() >= SESSIONS_MAX {
            self.counters.full += 1;
            let reason = format!("this node has {SESSIONS_MAX} clients; use another");
            effects.push(Effect::Close(session, reason));
            return;
        }
        let fresh = Session {
            loopback,
            opened: world.now.mono,
            welcomed: false,
            agent_of: None,
            follows: BTreeMap::new(),
            watching: BTreeSet::new(),
        };
        self.sessions.insert(session, fresh);
    }

    /// A message of a client.
    pub fn message(
        &mut self,
        world: &mut World<'_>,
        session: SessionId,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.sessions.get(&session) else { return };
        let message = match ClientMessage::decode(bytes) {
            Ok(message) => message,
            Err(WireError::UnknownTag(_)) => {
                self.counters.unknown_tags += 1;
                return;
            }
            Err(error) => {
                self.counters.malformed += 1;
                effects.push(Effect::Close(session, error.to_string()));
                return;
            }
        };
        if let ClientMessage::Hello(hello) = &message {
            self.hello(world, session, hello, effects);
            return;
        }
        if !state.welcomed {
            effects.push(Effect::Close(session, "say hello first".into()));
            return;
        }
        match message {
            ClientMessage::Hello(_) => {}
            ClientMessage::Register(register) => self.register(world, session, register, effects),
            ClientMessage::Source(source) => self.source(world, session, source, effects),
            ClientMessage::Watch(watch) => self.watch(world, session, &watch, effects),
            ClientMessage::Unwatch(wire::Unwatch { encoder }) => {
                if let Some(state) = self.sessions.get_mut(&session)
                    && state.watching.remove(&encoder)
                {
                    effects.push(Effect::Unserve(session, encoder));
                }
            }
            ClientMessage::Keyframe(request) => {
                self.keyframe_wanted(world, request.encoder, effects);
            }
            ClientMessage::Confirmed(confirm) => self.confirmed(world, session, &confirm, effects),
            ClientMessage::Follow(follow) => self.follow(world, session, follow.name, effects),
            ClientMessage::Goodbye(goodbye) => {
                self.left(world, session, true, effects);
                effects.push(Effect::Close(session, goodbye.reason));
            }
            ClientMessage::NextUnreachable(report) => {
                self.next_unreachable(world, session, report.node, effects);
            }
        }
    }

    /// A datagram on flow 0 of a client, the flow id already read off.
    pub fn heartbeat(&mut self, session: SessionId, body: &[u8], effects: &mut Vec<Effect>) {
        if let (Some(Heartbeat::Ping(number)), Some(_)) =
            (Heartbeat::decode(body), self.sessions.get(&session))
        {
            effects.push(Effect::Datagram(session, Heartbeat::Pong(number).encode()));
        }
    }

    /// A client's connection ended.
    pub fn closed(&mut self, world: &mut World<'_>, id: SessionId, effects: &mut Vec<Effect>) {
        self.left(world, id, false, effects);
        self.sessions.remove(&id);
    }

    /// The number of viewers at this node's hub of a stream changed.
    pub fn viewers(
        &mut self,
        world: &mut World<'_>,
        encoder: EncoderId,
        viewers: u32,
        effects: &mut Vec<Effect>,
    ) {
        if viewers == 0 && !self.streams.contains_key(&encoder) {
            return;
        }
        let stream = self.streams.entry(encoder).or_insert_with(|| Stream::new(String::new()));
        if stream.viewers > 0 && viewers == 0 {
            stream.watched_until = Some(world.now.mono + LINGER);
        }
        stream.viewers = viewers;
        self.settle(world, encoder, effects);
    }

    /// Somebody needs a keyframe of this stream.
    pub fn keyframe_wanted(
        &mut self,
        world: &World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let due = stream.keyframe_at.is_none_or(|at| world.now.mono >= at + KEYFRAME_INTERVAL);
        if !due || stream.route == Route::None {
            return;
        }
        stream.keyframe_at = Some(world.now.mono);
        self.counters.keyframes += 1;
        effects.push(match stream.route {
            Route::Local { session, .. } => {
                Effect::Send(session, NodeMessage::Keyframe(wire::Keyframe {}))
            }
            Route::None | Route::Relay { .. } => Effect::RelayKeyframe(encoder),
        });
    }

    /// What is known of this encoder anywhere changed.
    pub fn encoder_changed(
        &mut self,
        world: &mut World<'_>,
        encoder: EncoderId,
        effects: &mut Vec<Effect>,
    ) {
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    /// Nodes, links or the peer list changed.
    pub fn nodes_changed(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        for encoder in self.streams.keys().copied().collect::<Vec<_>>() {
            self.settle(world, encoder, effects);
        }
        self.tell_places(world, effects);
    }

    /// Tells every client the new peer list.
    pub fn tell_peers(&self, world: &World<'_>, effects: &mut Vec<Effect>) {
        for (&id, _) in self.sessions.iter().filter(|(_, session)| session.welcomed) {
            effects.push(Effect::Send(id, NodeMessage::Peers(world.peers.clone())));
        }
    }

    /// This node stood still for longer than a heartbeat limit: nothing that it serves may be
    /// current, so it serves nothing until each encoder says that it is still at home here.
    pub fn stalled(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.counters.stalls += 1;
        for encoder in self.streams.keys().copied().collect::<Vec<_>>() {
            self.last_nonce += 1;
            let nonce = self.last_nonce;
            if let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut())
                && let Some(session) = claim.session
            {
                claim.unconfirmed = Some(nonce);
                let question = wire::Confirm { nonce, epoch: Some(claim.epoch) };
                effects.push(Effect::Send(session, NodeMessage::Confirm(question)));
            }
            self.settle(world, encoder, effects);
        }
    }

    /// This node goes: hand every encoder to its next and send everyone else elsewhere.
    pub fn leave(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.draining = true;
        let reason = "this node is shutting down".to_owned();
        for (&id, _) in &self.sessions {
            let goodbye = wire::Goodbye { reason: reason.clone() };
            effects.push(Effect::Send(id, NodeMessage::Goodbye(goodbye)));
        }
        self.nodes_changed(world, effects);
    }

    /// Encoders that are still at home here with their agent connected.
    pub fn homes(&self) -> usize {
        self.streams
            .values()
            .filter(|stream| stream.home.as_ref().is_some_and(|claim| claim.session.is_some()))
            .count()
    }

    /// Clients connected.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether any stream is watched here, so that a stall would matter.
    pub fn watched(&self) -> bool {
        self.streams.values().any(|stream| stream.viewers > 0)
    }

    /// When [`Host::wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        let hello = self
            .sessions
            .values()
            .filter(|session| !session.welcomed)
            .map(|session| session.opened + HELLO_DEADLINE)
            .min();
        let streams = self.streams.values().filter_map(|stream| {
            let orphaned = stream.home.as_ref().and_then(|claim| claim.orphaned);
            earlier(stream.watched_until, orphaned)
        });
        earlier(hello, streams.min())
    }

    /// Timers.
    pub fn wake(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        let now = world.now.mono;
        self.in_flight.retain(|(_, _, until)| *until > now);
        let late: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| !s.welcomed && s.opened + HELLO_DEADLINE <= now)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.sessions.remove(&id);
            effects.push(Effect::Close(id, "no hello came in time".into()));
        }
        for encoder in self.streams.keys().copied().collect::<Vec<_>>() {
            let Some(stream) = self.streams.get_mut(&encoder) else { continue };
            let linger_over = stream.watched_until.is_some_and(|until| until <= now);
            let orphan_over = stream
                .home
                .as_ref()
                .and_then(|claim| claim.orphaned)
                .is_some_and(|until| until <= now);
            if linger_over {
                stream.watched_until = None;
            }
            if orphan_over {
                stream.home = None;
            }
            if linger_over || orphan_over {
                self.settle(world, encoder, effects);
            }
        }
    }

    fn hello(
        &mut self,
        world: &World<'_>,
        id: SessionId,
        hello: &wire::ClientHello,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let verdict = match &hello.credential {
            Some(token) => world
                .roster
                .check_credential(token, world.now.wall)
                .map(|credential| format!("client {}", credential.id.short())),
            None if session.loopback => Ok("local".to_owned()),
            None => {
                self.counters.denied += 1;
                let reason = "a credential is needed from anywhere but this machine; \
                              get one with `roost invite --client` on a node"
                    .to_owned();
                let failed =
                    wire::Failed { status: 401, reason: reason.clone(), retry_after: None };
                effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
                effects.push(Effect::Close(id, reason));
                return;
            }
        };
        let principal = match verdict {
            Ok(principal) => principal,
            Err(refusal) => {
                self.counters.denied += 1;
                let reason = refusal.to_string();
                let failed =
                    wire::Failed { status: 403, reason: reason.clone(), retry_after: None };
                effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
                effects.push(Effect::Close(id, reason));
                return;
            }
        };
        session.welcomed = true;
        effects.push(Effect::Welcomed(id, principal));
        let welcome = wire::Welcome { peers: world.peers.clone() };
        effects.push(Effect::Send(id, NodeMessage::Welcome(welcome)));
        if self.draining {
            let goodbye = wire::Goodbye { reason: "this node is shutting down".into() };
            effects.push(Effect::Send(id, NodeMessage::Goodbye(goodbye)));
        }
    }

    fn register(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        register: wire::Register,
        effects: &mut Vec<Effect>,
    ) {
        let role = register.role;
        let floor = world.directory.floor(register.encoder);
        let mut reject = |reason: String, name_taken: bool, counters: &mut Counters| {
            counters.rejected += 1;
            let rejected = wire::Rejected { role, floor, name_taken, reason };
            effects.push(Effect::Send(id, NodeMessage::Rejected(rejected)));
        };
        if !valid_name(&register.name) {
            let reason = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'".to_owned();
            return reject(reason, true, &mut self.counters);
        }
        if let Some(holder) = name_holder(world, &register.name)
            && holder != register.encoder
        {
            let reason = format!(
                "another encoder ({}) is connected as {}; stop it or choose another name",
                holder.short(),
                register.name
            );
            return reject(reason, true, &mut self.counters);
        }
        match role {
            Role::Ask => self.assign(world, id, &register, effects),
            Role::Home if self.draining => {
                reject("this node is shutting down".into(), false, &mut self.counters);
            }
            Role::Home => {
                let held = self.streams.get(&register.encoder).and_then(|s| s.home.as_ref());
                let renews = held.is_some_and(|claim| claim.epoch == register.epoch);
                if register.epoch < floor || (register.epoch == floor && !renews) {
                    let reason = format!("epoch {} is not above {floor}", register.epoch);
                    return reject(reason, false, &mut self.counters);
                }
                self.become_home(world, id, register, effects);
            }
            Role::Next | Role::Also => self.stand_by(world, id, register, effects),
        }
    }

    fn assign(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        register: &wire::Register,
        effects: &mut Vec<Effect>,
    ) {
        let encoder = register.encoder;
        let floor = world.directory.floor(encoder);
        // The agent says `home` only of one that it lost: it would not ask otherwise.
        let avoid: Vec<NodeId> = register.home.into_iter().collect();
        let standing = world
            .directory
            .home(encoder, &|node| world.alive.contains(&node))
            .map(|(node, _)| node)
            .filter(|node| !avoid.contains(node))
            .filter(|node| world.candidates.iter().any(|c| c.node == *node));
        let mut candidates = world.candidates.to_vec();
        for candidate in &mut candidates {
            let assigned = self.in_flight.iter().filter(|(other, node, _)| {
                *node == candidate.node
                    && *other != encoder
                    && world.directory.entry(*node, *other).is_none()
            });
            candidate.load += u32::try_from(assigned.count()).unwrap_or(u32::MAX);
        }
        let choice = match standing {
            Some(home) => Some((
                home,
                placement::next(encoder, home, &candidates),
                "it was at home there before".to_owned(),
            )),
            None => placement::assign(encoder, &candidates, &avoid)
                .or_else(|| placement::assign(encoder, &candidates, &[]))
                .map(|choice| (choice.home, choice.next, choice.reason)),
        };
        let Some((home, next, reason)) = choice else {
            let reason = "no node takes encoders at present: all are draining".to_owned();
            let rejected = wire::Rejected { role: Role::Ask, floor, name_taken: false, reason };
            effects.push(Effect::Send(id, NodeMessage::Rejected(rejected)));
            return;
        };
        self.in_flight.retain(|(other, ..)| *other != encoder);
        self.in_flight.push((encoder, home, world.now.mono + IN_FLIGHT));
        let assign = wire::Assign { home, next, floor, reason };
        effects.push(Effect::Send(id, NodeMessage::Assign(assign)));
    }

    fn become_home(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        register: wire::Register,
        effects: &mut Vec<Effect>,
    ) {
        let encoder = register.encoder;
        if let Some(session) = self.sessions.get_mut(&id) {
            session.agent_of = Some((encoder, Role::Home));
        }
        self.in_flight.retain(|(other, ..)| *other != encoder);
        if world.directory.claims(encoder).any(|(node, _)| node != world.me) {
            self.counters.adopted += 1;
        }
        world.directory.raise_floor(encoder, register.epoch);
        let name = register.name.clone();
        let stream = self.streams.entry(encoder).or_insert_with(|| Stream::new(name));
        stream.name = register.name;
        if stream.warm.as_ref().is_some_and(|warm| warm.session == id) {
            stream.warm = None;
        }
        let before = stream.home.take();
        stream.home = Some(Claim {
            session: Some(id),
            epoch: register.epoch,
            source: register.source,
            next: before.as_ref().and_then(|claim| claim.next),
            unreachable: before.map(|claim| claim.unreachable).unwrap_or_default(),
            unconfirmed: None,
            told: None,
            orphaned: None,
        });
        self.choose_next(world, encoder);
        let next = self.streams.get(&encoder).and_then(|s| s.home.as_ref()).and_then(|c| c.next);
        let registered = wire::Registered { role: Role::Home, epoch: register.epoch, next };
        effects.push(Effect::Send(id, NodeMessage::Registered(registered)));
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    fn stand_by(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        register: wire::Register,
        effects: &mut Vec<Effect>,
    ) {
        let (encoder, epoch) = (register.encoder, register.epoch);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.agent_of = Some((encoder, Role::Next));
        }
        let name = register.name.clone();
        let stream = self.streams.entry(encoder).or_insert_with(|| Stream::new(name));
        stream.warm = Some(Warm { session: id, epoch, told: None });
        let registered = wire::Registered { role: register.role, epoch, next: None };
        effects.push(Effect::Send(id, NodeMessage::Registered(registered)));
        self.settle(world, encoder, effects);
    }

    fn source(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        source: SourceState,
        effects: &mut Vec<Effect>,
    ) {
        let Some((encoder, Role::Home)) = self.sessions.get(&id).and_then(|s| s.agent_of) else {
            return;
        };
        if let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut())
            && claim.session == Some(id)
        {
            claim.source = source;
        }
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    fn watch(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        watch: &wire::Watch,
        effects: &mut Vec<Effect>,
    ) {
        let encoder = watch.encoder;
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        let elsewhere = home.is_some_and(|(node, _)| node != world.me);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if elsewhere && !watch.stay {
            session.watching.remove(&encoder);
            effects.push(Effect::Unserve(id, encoder));
        } else if session.watching.len() < FOLLOWS_MAX && session.watching.insert(encoder) {
            effects.push(Effect::Serve(id, encoder));
        }
    }

    fn follow(
        &mut self,
        world: &World<'_>,
        id: SessionId,
        name: String,
        effects: &mut Vec<Effect>,
    ) {
        let place = place(world, &name);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !valid_name(&name) || session.follows.len() >= FOLLOWS_MAX {
            let reason = format!("a client follows at most {FOLLOWS_MAX} streams by valid names");
            let failed = wire::Failed { status: 400, reason, retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            return;
        }
        session.follows.insert(name, Some(place.clone()));
        effects.push(Effect::Send(id, NodeMessage::Stream(place)));
    }

    fn tell_places(&mut self, world: &World<'_>, effects: &mut Vec<Effect>) {
        for (&id, session) in &mut self.sessions {
            for (name, told) in &mut session.follows {
                let place = place(world, name);
                if told.as_ref() != Some(&place) {
                    *told = Some(place.clone());
                    effects.push(Effect::Send(id, NodeMessage::Stream(place)));
                }
            }
        }
    }

    fn confirmed(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        confirm: &wire::Confirm,
        effects: &mut Vec<Effect>,
    ) {
        let Some((encoder, Role::Home)) = self.sessions.get(&id).and_then(|s| s.agent_of) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let Some(claim) = stream.home.as_mut().filter(|c| c.session == Some(id)) else { return };
        if claim.unconfirmed != Some(confirm.nonce) {
            return;
        }
        if confirm.epoch == Some(claim.epoch) {
            claim.unconfirmed = None;
        } else {
            self.counters.superseded += 1;
            stream.home = None;
        }
        self.settle(world, encoder, effects);
    }

    fn next_unreachable(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        node: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        let Some((encoder, Role::Home)) = self.sessions.get(&id).and_then(|s| s.agent_of) else {
            return;
        };
        if let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut()) {
            claim.unreachable.insert(node, world.now.mono + UNREACHABLE_KEEP);
        }
        self.settle(world, encoder, effects);
    }

    /// A client is gone; `goodbye` says that it went on purpose.
    fn left(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        goodbye: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.follows.clear();
        for encoder in std::mem::take(&mut session.watching) {
            effects.push(Effect::Unserve(id, encoder));
        }
        let Some((encoder, _)) = session.agent_of.take() else { return };
        if let Some(stream) = self.streams.get_mut(&encoder) {
            if stream.warm.as_ref().is_some_and(|warm| warm.session == id) {
                stream.warm = None;
            }
            let mine = stream.home.as_mut().filter(|claim| claim.session == Some(id));
            match mine {
                Some(_) if goodbye => stream.home = None,
                Some(claim) => {
                    claim.session = None;
                    claim.unconfirmed = None;
                    claim.source = SourceState::NoSignal(AGENT_GONE.into());
                    claim.orphaned = Some(world.now.mono + ORPHAN_KEEP);
                }
                None => {}
            }
        }
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    /// Brings everything that follows from an encoder's state up to date: whether the claim
    /// stands, the directory's entry, next, the route, and what the agent was told.
    fn settle(&mut self, world: &mut World<'_>, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let floor = world.directory.floor(encoder);
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        if let Some(claim) = &stream.home
            && claim.epoch < floor
        {
            self.counters.superseded += 1;
            if let Some(session) = claim.session {
                let reason = format!("epoch {floor} is home elsewhere");
                let rejected =
                    wire::Rejected { role: Role::Home, floor, name_taken: false, reason };
                effects.push(Effect::Send(session, NodeMessage::Rejected(rejected)));
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.agent_of = None;
                }
            }
            stream.home = None;
        }
        self.choose_next(world, encoder);
        self.publish(world, encoder, effects);
        self.reroute(world, encoder, effects);
        self.tell_demand(world.now.mono, encoder, effects);
        if let Some(stream) = self.streams.get(&encoder)
            && stream.home.is_none()
            && stream.warm.is_none()
            && stream.viewers == 0
            && stream.watched_until.is_none()
        {
            self.streams.remove(&encoder);
        }
    }

    fn choose_next(&mut self, world: &World<'_>, encoder: EncoderId) {
        let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut()) else {
            return;
        };
        claim.unreachable.retain(|_, until| *until > world.now.mono);
        let fits = |node: &NodeId| {
            *node != world.me
                && !claim.unreachable.contains_key(node)
                && world.candidates.iter().any(|candidate| candidate.node == *node)
        };
        if claim.next.as_ref().is_some_and(fits) {
            return;
        }
        let usable: Vec<Candidate> =
            world.candidates.iter().filter(|c| fits(&c.node)).cloned().collect();
        claim.next = placement::next(encoder, world.me, &usable);
    }

    fn publish(&mut self, world: &mut World<'_>, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let entry = stream.home.as_ref().map(|claim| Entry {
            name: stream.name.clone(),
            epoch: claim.epoch,
            next: claim.next,
            source: claim.source.clone(),
            viewers: stream.viewers,
        });
        let before = world.directory.entry(world.me, encoder);
        if before == entry.as_ref() {
            return;
        }
        let next_before = before.and_then(|entry| entry.next);
        let next = entry.as_ref().and_then(|entry| entry.next);
        if let Some(claim) = &stream.home
            && let Some(session) = claim.session
            && before.is_some_and(|before| before.epoch == claim.epoch)
            && next_before != next
        {
            let registered = wire::Registered { role: Role::Home, epoch: claim.epoch, next };
            effects.push(Effect::Send(session, NodeMessage::Registered(registered)));
        }
        world.directory.put_entry(encoder, entry);
    }

    fn reroute(&mut self, world: &World<'_>, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let feed = self.last_feed + 1;
        let route = stream.wanted_route(world, encoder, feed);
        if route.same_place(&stream.route) {
            return;
        }
        self.last_feed = feed;
        stream.route = route.clone();
        stream.keyframe_at = None;
        effects.push(Effect::Route(encoder, route));
    }

    fn tell_demand(&mut self, now: Mono, encoder: EncoderId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        let viewers = stream.viewers;
        let lingers = stream.watched_until.is_some_and(|until| until > now);
        let watched = viewers > 0 || lingers;
        let at_home = stream.home.is_some();
        if let Some(claim) = &mut stream.home
            && let Some(session) = claim.session
        {
            let demand = wire::Demand { watched, also: false, viewers };
            if claim.told.as_ref() != Some(&demand) {
                claim.told = Some(demand.clone());
                effects.push(Effect::Send(session, NodeMessage::Demand(demand)));
            }
        }
        if let Some(warm) = &mut stream.warm {
            let also = !at_home
                && watched
                && matches!(stream.route, Route::Local { session, .. } if session == warm.session);
            let demand = wire::Demand { watched: watched && !at_home, also, viewers };
            let silent = warm.told.is_none() && !demand.watched;
            if warm.told.as_ref() != Some(&demand) && !silent {
                warm.told = Some(demand.clone());
                effects.push(Effect::Send(warm.session, NodeMessage::Demand(demand)));
            }
        }
    }
}

impl Stream {
    fn new(name: String) -> Self {
        Self {
            name,
            home: None,
            warm: None,
            viewers: 0,
            watched_until: None,
            route: Route::None,
            keyframe_at: None,
        }
    }

    fn wanted_route(&self, world: &World<'_>, encoder: EncoderId, feed: u64) -> Route {
        if let Some(claim) = &self.home {
            return match claim.session {
                Some(session) if claim.unconfirmed.is_none() => {
                    Route::Local { session, feed, timeline: claim.epoch.instance }
                }
                _ => Route::None,
            };
        }
        if self.viewers == 0 {
            return Route::None;
        }
        let home = world.directory.home(encoder, &|node| world.alive.contains(&node));
        if let Some((node, entry)) = home.filter(|(node, _)| *node != world.me) {
            let timeline = entry.epoch.instance;
            let reaches = |via: &&NodeId| {
                world.alive.contains(*via)
                    && world.directory.header(**via).is_some_and(|h| h.links.contains(&node))
            };
            let via = if world.linked.contains(&node) {
                Some(node)
            } else {
                world.linked.iter().find(reaches).copied()
            };
            if let Some(via) = via {
                return Route::Relay { via, feed, timeline };
            }
        }
        match &self.warm {
            Some(warm) => {
                Route::Local { session: warm.session, feed, timeline: warm.epoch.instance }
            }
            None => Route::None,
        }
    }
}

impl Route {
    /// Whether both lead to the same place, whatever their feed numbers.
    fn same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (
                Self::Local { session: a, timeline: x, .. },
                Self::Local { session: b, timeline: y, .. },
            ) => a == b && x == y,
            (Self::Relay { via: a, timeline: x, .. }, Self::Relay { via: b, timeline: y, .. }) => {
                a == b && x == y
            }
            _ => false,
        }
    }
}

/// Who holds a name now: the encoder with a live claim and a connected agent.
fn name_holder(world: &World<'_>, name: &str) -> Option<EncoderId> {
    let encoder = world.directory.by_name(name, &|node| world.alive.contains(&node))?;
    let (_, entry) = world.directory.home(encoder, &|node| world.alive.contains(&node))?;
    let gone = entry.source == SourceState::NoSignal(AGENT_GONE.into());
    (!gone).then_some(encoder)
}

/// Where a stream is, as clients are told.
fn place(world: &World<'_>, name: &str) -> wire::StreamPlace {
    let alive = |node: NodeId| world.alive.contains(&node);
    let encoder = world.directory.by_name(name, &alive);
    let home = encoder.and_then(|encoder| world.directory.home(encoder, &alive));
    wire::StreamPlace {
        name: name.to_owned(),
        encoder,
        home: home.map(|(node, _)| node),
        next: home.and_then(|(_, entry)| entry.next),
        epoch: encoder.map_or(Epoch::default(), |encoder| world.directory.floor(encoder)),
        source: home.map(|(_, entry)| entry.source.clone()),
    }
}
