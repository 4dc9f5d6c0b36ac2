//! The node's side of its clients' stays: who is home here, who stands by, who watches, and what
//! each stream's route is. `control` hands in what the rest of the node knows ([`World`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::access::{Principal, Right};
use crate::directory::SourceState;
use crate::id::{EncoderId, Epoch, NodeId, SessionId};
use crate::media::{GateEvent, KeyframeGate};
use crate::session::{FOLLOWS_MAX, LINGER, SESSIONS_MAX};
use crate::time::Mono;
use crate::wire::{self, ClientMessage, Heartbeat, Message, NodeMessage, Role, WireError};

mod drain;
mod follow;
mod moves;
mod publish;
mod register;
mod rights;
mod settle;
mod silent;
mod spread;
#[cfg(test)]
mod tests;
mod timers;
mod types;

pub use drain::{DrainState, Stuck, Way};
pub use moves::{Cause, Order, Outcome};
pub use publish::Publication;
use silent::Detour;
pub use types::{Counters, Effect, Note, Route, World};

/// An assignment counts as load of its node until the directory shows it, at most this long.
const IN_FLIGHT: Duration = Duration::from_secs(5);
/// An encoder whose agent vanished stays listed, without a signal, for this long.
const ORPHAN_KEEP: Duration = Duration::from_secs(600);
/// A next that the agent could not reach is not proposed again for this long.
const UNREACHABLE_KEEP: Duration = Duration::from_secs(30);
/// What a node reads this long after it stood still may have waited in its sockets.
const BACKLOG: Duration = Duration::from_secs(1);
/// What the directory says of an encoder whose agent is gone.
pub const AGENT_GONE: &str = "the encoder's agent is disconnected";

/// All clients of one node.
#[derive(Debug, Default)]
pub struct Host {
    sessions: BTreeMap<SessionId, Session>,
    streams: BTreeMap<EncoderId, Stream>,
    /// Sessions that have not said hello.
    fresh: BTreeSet<SessionId>,
    /// Sessions that follow a stream.
    followers: BTreeSet<SessionId>,
    /// Streams at which something may be due: of ten thousand idle ones nearly none.
    timed: BTreeSet<EncoderId>,
    in_flight: Vec<(EncoderId, NodeId, Mono)>,
    /// Encoders on their way from here to another node.
    moves: BTreeMap<EncoderId, moves::Moving>,
    last_feed: u64,
    last_nonce: u64,
    /// Until then what comes may have waited while this node stood still.
    backlog_until: Option<Mono>,
    /// It goes, or is shut out: no encoder may stay.
    leaving: bool,
    /// It is to be empty.
    emptying: Option<drain::Draining>,
    /// Why nobody is served, if this node is shut out of the mesh.
    shut: Option<String>,
    /// Everyone is judged anew then: keys expire.
    judge_at: Option<Mono>,
    /// Totals.
    pub counters: Counters,
}

#[derive(Debug)]
struct Session {
    local: bool,
    opened: Mono,
    /// Who it is, once it has said hello.
    principal: Option<Principal>,
    agent_of: Option<(EncoderId, Role)>,
    follows: BTreeMap<String, Option<wire::StreamPlace>>,
    watching: BTreeSet<EncoderId>,
    /// It is no agent, and cannot be asked to move.
    publishes: bool,
}

#[derive(Debug)]
struct Stream {
    name: String,
    home: Option<Claim>,
    warm: Option<Warm>,
    viewers: u32,
    watched_until: Option<Mono>,
    route: Route,
    keyframes: KeyframeGate,
    detour: Detour,
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
    /// Why it is here, for people.
    why: String,
}

/// This node is next, or stands in for a home that it cannot reach.
#[derive(Debug)]
struct Warm {
    session: SessionId,
    epoch: Epoch,
    /// Some node claimed the encoder when this was looked at last.
    claimed: bool,
    /// Outstanding question after a stall.
    unconfirmed: Option<u64>,
    told: Option<wire::Demand>,
}

impl Host {
    /// A client connected; a `local` one needs no credential.
    pub fn opened(
        &mut self,
        world: &World<'_>,
        session: SessionId,
        local: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.sessions.len() >= SESSIONS_MAX {
            self.counters.full += 1;
            let reason = format!("this node has {SESSIONS_MAX} clients; use another");
            effects.push(Effect::Close(session, reason));
            return;
        }
        let fresh = Session {
            local,
            opened: world.now.mono,
            principal: None,
            agent_of: None,
            follows: BTreeMap::new(),
            watching: BTreeSet::new(),
            publishes: false,
        };
        self.sessions.insert(session, fresh);
        self.fresh.insert(session);
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
        let Some(principal) = state.principal.clone() else {
            effects.push(Effect::Close(session, "say hello first".into()));
            return;
        };
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
                if permits(world, &principal, Right::View, request.encoder) {
                    self.keyframe_wanted(world.now.mono, request.encoder, effects);
                } else {
                    self.counters.forbidden += 1;
                }
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
            ClientMessage::Stayed(stayed) => self.stayed(world, session, &stayed, effects),
        }
    }

    /// A datagram on flow 0 of a client, the flow id already read off. The answer, if any.
    pub fn heartbeat(&self, session: SessionId, body: &[u8]) -> Option<Vec<u8>> {
        match Heartbeat::decode(body)? {
            Heartbeat::Ping(number) if self.sessions.contains_key(&session) => {
                Some(Heartbeat::Pong(number).encode())
            }
            Heartbeat::Ping(_) | Heartbeat::Pong(_) => None,
        }
    }

    /// A client's connection ended.
    pub fn closed(&mut self, world: &mut World<'_>, id: SessionId, effects: &mut Vec<Effect>) {
        self.left(world, id, false, effects);
        self.fresh.remove(&id);
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
            self.timed.insert(encoder);
        }
        stream.viewers = viewers;
        if viewers > 0 {
            self.abandon_move(world, encoder, effects);
        }
        self.settle(world, encoder, effects);
    }

    /// Somebody needs a keyframe of this stream.
    pub fn keyframe_wanted(&mut self, now: Mono, encoder: EncoderId, effects: &mut Vec<Effect>) {
        self.keyframe(now, encoder, GateEvent::Wanted, effects);
    }

    /// A keyframe of this stream came.
    pub fn keyframe_arrived(&mut self, now: Mono, encoder: EncoderId, effects: &mut Vec<Effect>) {
        self.keyframe(now, encoder, GateEvent::Arrived, effects);
    }

    fn keyframe(
        &mut self,
        now: Mono,
        encoder: EncoderId,
        event: GateEvent,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        if stream.viewers > 0 {
            self.timed.insert(encoder);
        }
        let event = if stream.viewers == 0 { GateEvent::Idle } else { event };
        if stream.route == Route::None && event != GateEvent::Idle {
            // Asked for as soon as there is a route.
            if event == GateEvent::Wanted {
                stream.keyframes.note();
            }
            return;
        }
        if !stream.keyframes.handle(now, event) {
            return;
        }
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
        self.look_again(world.now.mono);
        self.tell_places(world, effects);
    }

    /// Some node has other links: whoever is fed through it, or could be, is routed anew.
    pub fn links_changed(&mut self, world: &World<'_>, effects: &mut Vec<Effect>) {
        let fed = |(_, stream): &(&EncoderId, &Stream)| stream.home.is_none() && stream.viewers > 0;
        let fed: Vec<EncoderId> = self.streams.iter().filter(fed).map(|(id, _)| *id).collect();
        for encoder in fed {
            self.reroute(world, encoder, effects);
            self.tell_demand(world.now.mono, encoder, effects);
        }
    }

    /// Tells the peer list to so many of the clients with these ids, and says with whom to go on.
    pub fn tell_peers(
        &self,
        world: &World<'_>,
        ids: Range<SessionId>,
        most: usize,
        effects: &mut Vec<Effect>,
    ) -> Option<SessionId> {
        let mut these = self.sessions.range(ids);
        let known =
            |(id, session): (&SessionId, &Session)| session.principal.is_some().then_some(*id);
        let sessions: Vec<SessionId> = these.by_ref().take(most).filter_map(known).collect();
        if !sessions.is_empty() {
            effects.push(Effect::Tell(sessions, NodeMessage::Peers(world.peers.clone())));
        }
        these.next().map(|(id, _)| *id)
    }

    /// From the first client to the last.
    pub fn session_ids(&self) -> Range<SessionId> {
        let end = self.sessions.last_key_value().map_or(0, |(id, _)| id.0.saturating_add(1));
        SessionId(0)..SessionId(end)
    }

    /// This node stood still for longer than a heartbeat limit: nothing that it serves may be
    /// current, so it serves nothing until each encoder says that it is still at home here.
    pub fn stalled(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.counters.stalls += 1;
        self.backlog_until = Some(world.now.mono + BACKLOG);
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
            if let Some(warm) = self.streams.get_mut(&encoder).and_then(|s| s.warm.as_mut()) {
                warm.unconfirmed = Some(nonce);
                let question = wire::Confirm { nonce, epoch: Some(warm.epoch) };
                effects.push(Effect::Send(warm.session, NodeMessage::Confirm(question)));
            }
            // What waits on a relay's connection is as old: the stream is asked for anew.
            if let Some(stream) = self.streams.get_mut(&encoder)
                && matches!(stream.route, Route::Relay { .. })
            {
                stream.route = Route::None;
                effects.push(Effect::Route(encoder, Route::None));
            }
            self.settle(world, encoder, effects);
        }
    }

    /// The nonce of a question to an agent whose registration may have waited while this node
    /// stood still: by now it may be at home elsewhere.
    fn doubt(
        &mut self,
        now: Mono,
        session: SessionId,
        epoch: Epoch,
        effects: &mut Vec<Effect>,
    ) -> Option<u64> {
        self.backlog_until.filter(|until| now < *until)?;
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        let question = wire::Confirm { nonce, epoch: Some(epoch) };
        effects.push(Effect::Send(session, NodeMessage::Confirm(question)));
        Some(nonce)
    }

    /// This node goes: hand every encoder to its next and send everyone else elsewhere.
    pub fn leave(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.leaving = true;
        self.emptying = None;
        let reason = "this node is shutting down".to_owned();
        for &id in self.sessions.keys() {
            let goodbye = wire::Goodbye { reason: reason.clone() };
            effects.push(Effect::Send(id, NodeMessage::Goodbye(goodbye)));
        }
        self.nodes_changed(world, effects);
    }

    /// This node is shut out of the mesh: everyone is sent elsewhere, and nobody is served.
    pub fn expel(&mut self, world: &mut World<'_>, reason: &str, effects: &mut Vec<Effect>) {
        self.shut(reason);
        for &id in self.sessions.keys() {
            let goodbye = wire::Goodbye { reason: reason.to_owned() };
            effects.push(Effect::Send(id, NodeMessage::Goodbye(goodbye)));
            effects.push(Effect::Close(id, reason.to_owned()));
        }
        for stream in self.streams.values_mut() {
            (stream.home, stream.warm) = (None, None);
        }
        self.nodes_changed(world, effects);
    }

    /// Nobody is served from now on, for this reason.
    pub fn shut(&mut self, reason: &str) {
        self.leaving = true;
        self.shut = Some(reason.to_owned());
    }

    /// This node belongs to the mesh again.
    pub fn stay(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        self.leaving = false;
        self.shut = None;
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
        if let Some(stream) = self.streams.get_mut(&encoder)
            && let Some(claim) = stream.home.as_mut().filter(|claim| claim.session == Some(id))
            && claim.source != source
        {
            claim.source = source.clone();
            effects.push(Effect::Note(encoder, stream.name.clone(), Note::Signal(source)));
        }
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    fn confirmed(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        confirm: &wire::Confirm,
        effects: &mut Vec<Effect>,
    ) {
        let Some((encoder, _)) = self.sessions.get(&id).and_then(|s| s.agent_of) else { return };
        let Some(stream) = self.streams.get_mut(&encoder) else { return };
        if let Some(warm) = stream.warm.as_mut().filter(|warm| warm.session == id) {
            // Any answer proves that what comes on this leg is current again.
            if warm.unconfirmed == Some(confirm.nonce) {
                warm.unconfirmed = None;
            }
            return self.settle(world, encoder, effects);
        }
        let Some(claim) = stream.home.as_mut().filter(|c| c.session == Some(id)) else { return };
        if claim.unconfirmed != Some(confirm.nonce) {
            return;
        }
        if confirm.epoch == Some(claim.epoch) {
            claim.unconfirmed = None;
        } else {
            self.counters.superseded += 1;
            stream.home = None;
            let why = "it went to another home while this node stood still".to_owned();
            effects.push(Effect::Note(encoder, stream.name.clone(), Note::Gone(why)));
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
            self.timed.insert(encoder);
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
        self.followers.remove(&id);
        for encoder in std::mem::take(&mut session.watching) {
            effects.push(Effect::Unserve(id, encoder));
        }
        let Some((encoder, _)) = session.agent_of.take() else { return };
        if let Some(stream) = self.streams.get_mut(&encoder) {
            if stream.warm.as_ref().is_some_and(|warm| warm.session == id) {
                stream.warm = None;
            }
            let mine = stream.home.as_mut().filter(|claim| claim.session == Some(id));
            if mine.is_some() {
                let why = if goodbye { "it said goodbye" } else { "its connection ended" };
                let note = Note::Gone(why.to_owned());
                effects.push(Effect::Note(encoder, stream.name.clone(), note));
            }
            match mine {
                Some(_) if goodbye => stream.home = None,
                Some(claim) => {
                    claim.session = None;
                    claim.unconfirmed = None;
                    claim.source = SourceState::NoSignal(AGENT_GONE.into());
                    claim.orphaned = Some(world.now.mono + ORPHAN_KEEP);
                    self.timed.insert(encoder);
                }
                None => {}
            }
        }
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }
}

/// Whether this principal may (still) do that with the encoder.
fn permits(world: &World<'_>, who: &Principal, right: Right, encoder: EncoderId) -> bool {
    world.rights.permits(who, right, encoder, world.time)
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
            keyframes: KeyframeGate::new(),
            detour: Detour::default(),
        }
    }
}
