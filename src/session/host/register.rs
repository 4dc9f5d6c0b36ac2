//! Who may stay, who is told to go where, and who becomes home or next here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::moves::label;
use super::rights::{JUDGE_INTERVAL, may_not_send};
use super::{
    AGENT_GONE, Claim, Counters, Effect, Host, IN_FLIGHT, Note, Stream, Warm, World, permits,
};
use crate::access::{Principal, Right};
use crate::admission::Denied;
use crate::directory::{ENTRIES_MAX, SourceState, WHY_MAX};
use crate::id::{EncoderId, NodeId, SessionId, valid_name};
use crate::placement::{self, Candidate};
use crate::time::Mono;
use crate::wire::{self, NodeMessage, Role};

/// Whoever is refused since every node is full comes back after so many seconds.
const FULL_WAIT_S: u32 = 5;

impl Host {
    pub(super) fn hello(
        &mut self,
        world: &World<'_>,
        id: SessionId,
        hello: &wire::ClientHello,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some(reason) = self.shut.clone() {
            let failed = wire::Failed { status: 503, reason: reason.clone(), retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
            effects.push(Effect::Close(id, reason));
            return;
        }
        let credential = hello.credential.as_deref();
        let verdict =
            world.roster.authenticate(world.rights, session.local, credential, world.time);
        let principal = match verdict {
            Ok(principal) => principal,
            // Whoever logs in has nothing to show yet. It stays unwelcome: among strangers, without
            // the peer list, and for no longer than a hello may take.
            Err(Denied::NoCredential) if hello.only_api => {
                effects.push(Effect::Welcomed(id, Principal::default()));
                let welcome = wire::Welcome { peers: wire::PeerList::default() };
                effects.push(Effect::Send(id, NodeMessage::Welcome(welcome)));
                return;
            }
            Err(denied) => {
                self.counters.denied += 1;
                let status = if denied == Denied::NoCredential { 401 } else { 403 };
                let reason = denied.to_string();
                let failed = wire::Failed { status, reason: reason.clone(), retry_after: None };
                effects.push(Effect::Send(id, NodeMessage::Failed(failed)));
                effects.push(Effect::Close(id, reason));
                return;
            }
        };
        session.principal = Some(principal.clone());
        self.fresh.remove(&id);
        self.judge_at.get_or_insert(world.now.mono + JUDGE_INTERVAL);
        effects.push(Effect::Welcomed(id, principal));
        let welcome = wire::Welcome { peers: world.peers.clone() };
        effects.push(Effect::Send(id, NodeMessage::Welcome(welcome)));
        if self.leaving {
            let goodbye = wire::Goodbye { reason: "this node is shutting down".into() };
            effects.push(Effect::Send(id, NodeMessage::Goodbye(goodbye)));
        }
    }

    pub(super) fn register(
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
            let rejected = wire::Rejected { role, floor, name_taken, reason, retry_after: None };
            effects.push(Effect::Send(id, NodeMessage::Rejected(rejected)));
        };
        if !valid_name(&register.name) {
            let reason = "a name is 1 to 64 of a-z, 0-9, '.', '_' and '-'".to_owned();
            return reject(reason, true, &mut self.counters);
        }
        if !register.epoch.plausible() {
            let reason = format!("epoch {} is higher than any can be", register.epoch);
            return reject(reason, false, &mut self.counters);
        }
        let session = self.sessions.get(&id);
        let principal = session.and_then(|session| session.principal.as_ref());
        if !principal.is_some_and(|who| permits(world, who, Right::Publish, register.encoder)) {
            self.counters.forbidden += 1;
            return reject(may_not_send(register.encoder), true, &mut self.counters);
        }
        let other = session.and_then(|session| session.agent_of);
        if other.is_some_and(|(encoder, _)| encoder != register.encoder) {
            let reason = "a connection speaks for one encoder; use another for each".to_owned();
            return reject(reason, true, &mut self.counters);
        }
        if let Some(holder) = name_holder(world, &register.name, register.encoder) {
            let reason = format!(
                "another encoder ({}) is connected as {}; stop it or choose another name",
                holder.short(),
                register.name
            );
            return reject(reason, true, &mut self.counters);
        }
        match role {
            Role::Ask => self.assign(world, id, &register, effects),
            Role::Home if self.leaving => {
                reject("this node is shutting down".into(), false, &mut self.counters);
            }
            Role::Home => {
                let held = self.streams.get(&register.encoder).and_then(|s| s.home.as_ref());
                let renews = held.is_some_and(|claim| claim.epoch == register.epoch);
                if register.epoch < floor || (register.epoch == floor && !renews) {
                    let reason = format!("epoch {} is not above {floor}", register.epoch);
                    return reject(reason, false, &mut self.counters);
                }
                // What stood by here, or was here, is taken in whatever is wished: it has lost its home.
                let stood_by = self.streams.get(&register.encoder).and_then(|s| s.warm.as_ref());
                let known = held.is_some() || stood_by.is_some_and(|warm| warm.session == id);
                if let Some(why) = self.reluctance(world, register.encoder).filter(|_| !known) {
                    return reject(why, false, &mut self.counters);
                }
                if held.is_none()
                    && let limit = limit(world)
                    && self.homes() >= limit
                {
                    let next = other_with_room(world, register.encoder);
                    let reason = format!(
                        "this node is full: it is at its limit of {limit} encoders; {next}"
                    );
                    return reject(reason, false, &mut self.counters);
                }
                self.become_home(world, id, register, effects);
            }
            Role::Next | Role::Also if register.epoch < floor => {
                let reason = format!("epoch {} is below {floor}", register.epoch);
                reject(reason, false, &mut self.counters);
            }
            Role::Next | Role::Also => self.stand_by(world, id, register, effects),
        }
    }

    pub(super) fn assign(
        &mut self,
        world: &mut World<'_>,
        id: SessionId,
        register: &wire::Register,
        effects: &mut Vec<Effect>,
    ) {
        let encoder = register.encoder;
        let floor = world.directory.floor(encoder);
        if let Some(rival) = rival(world, register) {
            self.counters.rejected += 1;
            let reason = format!(
                "another start of this encoder is at home at {}; this one waits until it is gone",
                rival.short()
            );
            let rejected = wire::Rejected {
                role: Role::Ask,
                floor,
                name_taken: true,
                reason,
                retry_after: None,
            };
            effects.push(Effect::Send(id, NodeMessage::Rejected(rejected)));
            return;
        }
        // The agent says `home` only of one that it lost: it would not ask otherwise.
        let avoid: Vec<NodeId> = register.home.into_iter().collect();
        let standing = world
            .directory
            .home(encoder, &|node| world.alive.contains(&node))
            .map(|(node, _)| node)
            .filter(|node| !avoid.contains(node))
            .filter(|node| takers(world).iter().any(|c| c.node == *node));
        let wish = world.rights.wish(encoder);
        let standing = standing.filter(|node| wish.tier(*node).is_some());
        let candidates = self.counted(world, takers(world), encoder);
        let company = self.company(world, encoder);
        let joined = || placement::join(&company, &candidates, &avoid, &wish);
        let key = key(world, encoder);
        let settled = |home, why: &str| {
            (home, placement::next(key, home, &candidates, &wish), why.to_owned())
        };
        let choice = match standing {
            Some(home) => Some(settled(home, "it was at home there before")),
            None => {
                joined().map(|home| settled(home, "others of its room are there")).or_else(|| {
                    placement::assign(key, size(world, encoder), &candidates, &avoid, &wish)
                        .map(|choice| (choice.home, choice.next, choice.reason))
                })
            }
        };
        let Some((home, next, reason)) = choice else {
            self.counters.rejected += 1;
            let reason = placement::refusal(&candidates, &wish);
            let rejected = wire::Rejected {
                role: Role::Ask,
                floor,
                name_taken: false,
                reason,
                retry_after: Some(FULL_WAIT_S),
            };
            effects.push(Effect::Send(id, NodeMessage::Rejected(rejected)));
            return;
        };
        self.send_to(world.now.mono, encoder, home);
        let reason = match world.candidates.is_empty() {
            true => format!("every node is drained or cordoned: {reason}"),
            false => reason,
        };
        let assign = wire::Assign { home, next, floor, reason };
        effects.push(Effect::Send(id, NodeMessage::Assign(assign)));
    }

    /// Why this node, which goes on serving, takes no encoder that is new here.
    pub(super) fn reluctance(&self, world: &World<'_>, encoder: EncoderId) -> Option<String> {
        let takes = takers(world).iter().any(|candidate| candidate.node == world.me);
        let wish = world.rights.wish(encoder);
        let what = match takes {
            true if wish.tier(world.me).is_some() => return None,
            true => format!("not in {}, where it has to be", wish.words()),
            false if self.emptying.is_some() => "drained".to_owned(),
            false => "cordoned".to_owned(),
        };
        Some(format!("this node is {what}; {}", other_with_room(world, encoder)))
    }

    /// Where others of an encoder's room are at home, or on their way to, and how many.
    pub(super) fn company(&self, world: &World<'_>, encoder: EncoderId) -> BTreeMap<NodeId, u32> {
        let mut company = BTreeMap::new();
        for other in world.rights.company(encoder) {
            let coming = self.in_flight.iter().find(|(of, ..)| *of == other);
            let home = || world.directory.home(other, &|node| world.alive.contains(&node));
            let at = coming.map(|(_, node, _)| *node).or_else(|| home().map(|(node, _)| node));
            if let Some(at) = at {
                *company.entry(at).or_default() += 1;
            }
        }
        company
    }

    /// The candidates with what is on its way to them, this encoder aside.
    pub(super) fn counted(
        &mut self,
        world: &World<'_>,
        candidates: &[Candidate],
        encoder: EncoderId,
    ) -> Vec<Candidate> {
        self.in_flight.retain(|(_, _, until)| *until > world.now.mono);
        let mut candidates = candidates.to_vec();
        for candidate in &mut candidates {
            let assigned = self.in_flight.iter().filter(|(other, node, _)| {
                *node == candidate.node
                    && *other != encoder
                    && world.directory.entry(*node, *other).is_none()
            });
            let assigned = u32::try_from(assigned.count()).unwrap_or(u32::MAX);
            candidate.load = candidate.load.saturating_add(assigned);
        }
        candidates
    }

    /// Counts an encoder at a node until it is there.
    pub(super) fn send_to(&mut self, now: Mono, encoder: EncoderId, node: NodeId) {
        self.in_flight.retain(|(other, ..)| *other != encoder);
        self.in_flight.push((encoder, node, now + IN_FLIGHT));
    }

    pub(super) fn become_home(
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
        let mut claims = world.directory.claims(encoder).map(|(node, _)| node);
        let elsewhere = claims.find(|node| *node != world.me);
        drop(claims);
        if elsewhere.is_some() {
            self.counters.adopted += 1;
        }
        let from = register.home.filter(|home| *home != world.me).or(elsewhere);
        let name = register.name.clone();
        let stream = self.streams.entry(encoder).or_insert_with(|| Stream::new(name));
        stream.name = register.name;
        if stream.warm.as_ref().is_some_and(|warm| warm.session == id) {
            stream.warm = None;
        }
        let before = stream.home.take();
        if let Some(other) = before.as_ref().and_then(|claim| claim.session).filter(|s| *s != id) {
            // Whoever spoke for it here before must not go on believing that it is at home.
            let (floor, reason) = (register.epoch, "it is at home over another connection".into());
            let rejected = wire::Rejected {
                role: Role::Home,
                floor,
                name_taken: false,
                reason,
                retry_after: None,
            };
            effects.push(Effect::Send(other, NodeMessage::Rejected(rejected)));
            if let Some(session) = self.sessions.get_mut(&other) {
                session.agent_of = None;
            }
        }
        if before.as_ref().is_none_or(|claim| claim.epoch != register.epoch) {
            let lost = register.lost_ms.map(|ms| Duration::from_millis(ms.into()));
            let note = Note::Home { session: id, epoch: register.epoch, from, lost };
            effects.push(Effect::Note(encoder, stream.name.clone(), note));
            if register.source != SourceState::Ready {
                let note = Note::Signal(register.source.clone());
                effects.push(Effect::Note(encoder, stream.name.clone(), note));
            }
        }
        stream.home = Some(Claim {
            session: Some(id),
            epoch: register.epoch,
            source: register.source,
            next: before.as_ref().and_then(|claim| claim.next),
            unreachable: before.map(|claim| claim.unreachable).unwrap_or_default(),
            unconfirmed: None,
            told: None,
            orphaned: None,
            why: register.why.as_deref().map(plain).unwrap_or_default(),
        });
        self.look_again(world.now.mono);
        self.choose_next(world, encoder);
        let next = self.streams.get(&encoder).and_then(|s| s.home.as_ref()).and_then(|c| c.next);
        let registered = wire::Registered { role: Role::Home, epoch: register.epoch, next };
        effects.push(Effect::Send(id, NodeMessage::Registered(registered)));
        let doubt = self.doubt(world.now.mono, id, register.epoch, effects);
        if let Some(claim) = self.streams.get_mut(&encoder).and_then(|s| s.home.as_mut()) {
            claim.unconfirmed = doubt;
        }
        self.settle(world, encoder, effects);
        self.tell_places(world, effects);
    }

    pub(super) fn stand_by(
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
        let registered = wire::Registered { role: register.role, epoch, next: None };
        effects.push(Effect::Send(id, NodeMessage::Registered(registered)));
        let unconfirmed = self.doubt(world.now.mono, id, epoch, effects);
        let name = register.name.clone();
        let stream = self.streams.entry(encoder).or_insert_with(|| Stream::new(name));
        stream.warm = Some(Warm { session: id, epoch, claimed: false, unconfirmed, told: None });
        self.settle(world, encoder, effects);
    }
}

/// What an agent says for people: on one line, and short.
pub(super) fn plain(words: &str) -> String {
    let words: String = words.chars().filter(|c| !c.is_control()).take(WHY_MAX).collect();
    let end = (0..=WHY_MAX.min(words.len())).rev().find(|end| words.is_char_boundary(*end));
    words.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Who takes encoders: with nobody else to serve them, nodes that are drained or cordoned do.
fn takers<'a>(world: &World<'a>) -> &'a [Candidate] {
    if world.candidates.is_empty() { world.reluctant } else { world.candidates }
}

/// Who takes an encoder that this node does not, in words.
fn other_with_room(world: &World<'_>, encoder: EncoderId) -> String {
    let wish = world.rights.wish(encoder);
    let other = placement::assign(key(world, encoder), 1, world.candidates, &[world.me], &wish);
    let other = other.filter(|choice| choice.home != world.me);
    match other {
        Some(choice) => format!("{} has room", label(world, choice.home)),
        None if wish.only => placement::refusal(world.candidates, &wish),
        None => "every other node is full, too; try again later".to_owned(),
    }
}

/// By what an encoder is ranked: those of a room all by the room.
pub(super) fn key(world: &World<'_>, encoder: EncoderId) -> EncoderId {
    world.rights.room(encoder).map_or(encoder, |room| EncoderId(room.0))
}

/// How many have to find a place with an encoder: those of its room that are at home nowhere.
fn size(world: &World<'_>, encoder: EncoderId) -> u32 {
    let home = |of: &EncoderId| world.directory.home(*of, &|node| world.alive.contains(&node));
    let homeless = world.rights.company(encoder).filter(|of| home(of).is_none()).count();
    u32::try_from(homeless).unwrap_or(u32::MAX).saturating_add(1)
}

/// How many encoders this node takes.
pub(super) fn limit(world: &World<'_>) -> usize {
    let mine =
        world.candidates.iter().chain(world.reluctant).find(|candidate| candidate.node == world.me);
    mine.map_or(ENTRIES_MAX, |candidate| candidate.limit as usize)
}

/// Where a later start of the same encoder is at home, whose agent is there.
fn rival(world: &World<'_>, register: &wire::Register) -> Option<NodeId> {
    let (node, entry) =
        world.directory.home(register.encoder, &|node| world.alive.contains(&node))?;
    let gone = entry.source == SourceState::NoSignal(AGENT_GONE.into());
    let later = entry.epoch.instance != register.epoch.instance
        && entry.epoch.counter > register.epoch.counter;
    (later && !gone).then_some(node)
}

/// Who else holds a name now, in the same domain: the encoder with a live claim and a connected
/// agent. In another domain the name is another one.
pub(super) fn name_holder(world: &World<'_>, name: &str, encoder: EncoderId) -> Option<EncoderId> {
    let domain = world.rights.domain_of(encoder)?;
    let alive = |node: NodeId| world.alive.contains(&node);
    let connected = |other: EncoderId| {
        let home = world.directory.home(other, &alive);
        home.is_some_and(|(_, of)| of.source != SourceState::NoSignal(AGENT_GONE.into()))
    };
    let rivals = |other| {
        other != encoder && world.rights.domain_of(other) == Some(domain) && connected(other)
    };
    world.directory.by_name_of(name, &alive, &rivals)
}
