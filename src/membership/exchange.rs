//! What comes in from links and what goes out over them.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::{Member, State};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::identity::{
    FullState, Identity, Packet, beat_packet, digest_packet, read_packet, swim_message,
};
use super::swim::{Asked, Rebirth};
use super::{
    DIGEST_EVERY, DIGEST_SOON, DOUBT_AGAIN, Effect, FAREWELL_EVERY, FAREWELLS, FULL_EVERY,
    FULL_MEMBERS, LIST_EACH, Liveness, MEMBERS_MAX, Membership, NEWS_MAX, PULL_AGAIN, PULL_FANOUT,
    PULL_SOON, Seen, TICK, UNREST, WATCHERS,
};
use crate::id::NodeId;
use crate::time::Mono;

/// How often a linked member is drawn before all are looked at.
const DRAWS: usize = 4;

/// Of whom a state tells beside its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// Its receiver.
    Itself,
    Nobody,
}

/// What a member adds to a digest, by FNV-1a: a sum needs well-mixed terms, not secrecy.
fn term(id: &Identity) -> u64 {
    let age = [id.boot.0.to_le_bytes(), u64::from(id.generation).to_le_bytes()];
    let bytes = id.node.0.iter().chain(age.iter().flatten());
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Membership {
    pub(super) fn on_datagram(
        &mut self,
        now: Mono,
        from: NodeId,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if from == self.me.node {
            self.counters.not_the_sender += 1;
            return;
        }
        let Some(packet) = read_packet(from, bytes, &mut self.counters) else { return };
        self.heard_from(now, from);
        match packet {
            Packet::Digest(digest) => {
                if digest != self.digest() {
                    self.unrest_until = now + UNREST;
                    if self.lists_at <= now {
                        self.pull(now, from, PULL_SOON, effects);
                    }
                }
            }
            Packet::Beat => {}
            Packet::Swim { header, mut news, raw } => {
                let known = self.swim.iter_membership_state().len() + news.len() + 1;
                if known > MEMBERS_MAX && self.count_unknown(&news, &header.src) > 0 {
                    self.counters.over_limit += 1;
                    return;
                }
                self.outgrow(now, news.iter().map(Member::id).chain([&header.dst]), effects);
                let missed = header.dst.node == self.me.node && header.dst != self.me;
                let mut doubt = |told: &mut _| self.doubt(now, from, told, effects);
                let doubted = news.iter_mut().filter_map(|told| doubt(told).then_some(())).count();
                let mut asked = Asked::default();
                let before = news.len();
                self.take_quietly(&mut news, &mut asked);
                let otherwise =
                    (doubted > 0 || news.len() < before).then(|| swim_message(&header, &news));
                let handled =
                    self.swim.handle_data(otherwise.as_deref().unwrap_or(raw), &mut asked);
                self.count(handled);
                if missed && self.may_pull(now, from, PULL_SOON) {
                    // It speaks to whom this node was before: show the new name.
                    self.pulled.insert(from, now);
                    let announced = self.swim.announce(header.src, &mut asked);
                    self.count(announced);
                }
                self.absorb(now, asked, effects);
            }
        }
        self.tell_doubted(now, from, effects);
    }

    /// One that is heard, and that is suspected here or taken for down, must hear of it to be able to
    /// object, and before it is silent again.
    fn tell_doubted(&mut self, now: Mono, from: NodeId, effects: &mut Vec<Effect>) {
        let suspected = |seen: &Seen| seen.liveness == Liveness::Suspect;
        if !self.is_active(from) {
            self.pull(now, from, PULL_SOON, effects);
        } else if self.seen.get(&from).is_some_and(suspected)
            && self.linked.contains_key(&from)
            && self.may_pull(now, from, PULL_SOON)
        {
            self.pulled.insert(from, now);
            self.push(from, Told::Itself, false, effects);
        }
    }

    pub(super) fn on_state(
        &mut self,
        now: Mono,
        from: NodeId,
        bytes: &[u8],
        reply: bool,
        effects: &mut Vec<Effect>,
    ) {
        if from == self.me.node {
            self.counters.not_the_sender += 1;
            return;
        }
        let Some(mut state) = FullState::read(from, bytes, &mut self.counters) else { return };
        self.heard_from(now, from);
        state.members.retain(|member| member.id().node != from);
        state.members.push(state.me.clone());
        self.outgrow(now, state.members.iter().map(Member::id), effects);
        // Talk about an earlier self of this node is old.
        let me = self.me.clone();
        state.members.retain(|member| member.id().node != me.node || *member.id() == me);
        if state.members.len() + self.swim.iter_membership_state().len() > MEMBERS_MAX {
            let before = state.members.len();
            let known: BTreeSet<NodeId> =
                self.swim.iter_membership_state().map(|member| member.id().node).collect();
            state.members.retain(|member| known.contains(&member.id().node));
            self.counters.over_limit += (before - state.members.len()) as u64;
        }
        let goodbye = state.leaving.then(|| state.me.id().age());
        let said_goodbye: BTreeSet<_> = state.left.into_iter().collect();
        for id in state.members.iter().map(Member::id) {
            if said_goodbye.contains(&(id.node, id.boot, id.generation))
                || (id.node == from && goodbye == Some(id.age()))
            {
                self.left.insert(id.node, id.age());
                self.reported = false;
            }
        }
        self.drop_known(&mut state.members);
        for told in &mut state.members {
            self.doubt(now, from, told, effects);
        }
        let mut asked = Asked::default();
        self.take_quietly(&mut state.members, &mut asked);
        let applied = self.swim.apply_many(state.members.into_iter(), true, &mut asked);
        self.count(applied);
        self.absorb(now, asked, effects);
        if reply {
            self.push(from, Told::All, false, effects);
        }
    }

    /// Takes in who is there without handing it on, while there is much to tell: see [`NEWS_MAX`].
    fn take_quietly(&mut self, news: &mut Vec<Member<Identity>>, asked: &mut Asked) {
        if self.swim.updates_backlog() <= NEWS_MAX {
            return;
        }
        let quiet: Vec<Member<Identity>> =
            news.extract_if(.., |member| member.state() == State::Alive).collect();
        quiet.iter().for_each(|member| self.written.note(member.id().node));
        let applied = self.swim.apply_many(quiet.into_iter(), false, asked);
        self.count(applied);
    }

    /// Drops what this node knows already: foca would look for each of them among all.
    fn drop_known(&self, told: &mut Vec<Member<Identity>>) {
        if let [one] = &told[..] {
            if self.swim.iter_membership_state().any(|known| known == one) {
                told.clear();
            }
            return;
        }
        let mut known: Vec<&Member<Identity>> = self.swim.iter_membership_state().collect();
        known.sort_unstable_by_key(|member| member.id().node);
        told.retain(|member| {
            let at = known.binary_search_by_key(&member.id().node, |known| known.id().node);
            at.is_err() || at.is_ok_and(|at| known[at] != member)
        });
    }

    pub(super) fn heard_from(&mut self, now: Mono, from: NodeId) {
        self.heard.insert(from, now);
        self.heard_anyone = Some(now);
    }

    pub(super) fn count_unknown(&self, news: &[Member<Identity>], src: &Identity) -> usize {
        let known: BTreeSet<NodeId> =
            self.swim.iter_membership_state().map(|member| member.id().node).collect();
        let named = news.iter().map(Member::id).chain([src]);
        named.filter(|id| !known.contains(&id.node)).count()
    }

    /// If others know a newer self of this node, becomes a newer one still.
    pub(super) fn outgrow<'a>(
        &mut self,
        now: Mono,
        named: impl Iterator<Item = &'a Identity>,
        effects: &mut Vec<Effect>,
    ) {
        let newest =
            named.filter(|id| id.node == self.me.node).map(Identity::age).max().unwrap_or_default();
        if newest > self.me.age() {
            self.rebirth(now, Rebirth::Outgrown(newest.0, newest.1), effects);
        }
    }

    pub(super) fn tick(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.tick_at = now + TICK;
        self.notice_split(now, effects);
        self.pull_some(now, PULL_AGAIN, effects);
        self.beat_and_watch(now, effects);
        if self.digest_at <= now {
            let unrest = self.unrest_until > now;
            self.digest_at = now + self.about(if unrest { DIGEST_SOON } else { DIGEST_EVERY });
            if let Some(to) = self.random_linked_member() {
                effects.push(Effect::Datagram { to, bytes: digest_packet(self.digest()) });
            }
        }
        if self.full_at <= now {
            self.full_at = now + self.about(self.full_every());
            if let Some(to) = self.random_linked_member() {
                self.pull(now, to, PULL_SOON, effects);
            }
        }
        if self.recall_at.take_if(|at| *at <= now).is_some() {
            for seen in self.seen.values_mut() {
                if seen.recall.take_if(|recall| *recall <= now).is_some() {
                    seen.liveness = Liveness::Down;
                    effects.push(Effect::Down(seen.peer.node));
                }
            }
        }
    }

    /// Sends beats to the next few nodes of the ring, and listens for those of the last few.
    fn beat_and_watch(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let timing = self.pace.timing();
        let me = self.me.node;
        let ring = self.take_active();
        if self.beat_at <= now {
            self.beat_at = now + timing.beat();
            let next = ring.range(me..).chain(ring.range(..me)).take(WATCHERS);
            effects.extend(
                next.filter(|node| self.linked.contains_key(node))
                    .map(|node| Effect::Datagram { to: *node, bytes: beat_packet() }),
            );
        }
        // Rings agree only while nobody comes or goes.
        if self.unrest_until > now {
            self.active = Some(ring);
            return;
        }
        let last = ring.range(..me).rev().chain(ring.range(me..).rev()).take(WATCHERS);
        let silent: Vec<NodeId> = last
            .filter(|node| {
                self.linked.get(node).is_some_and(|since| {
                    let heard = self.heard.get(node).max(Some(since)).copied();
                    now.since(heard.max(Some(self.listening_since)).unwrap_or(now))
                        > timing.silence()
                })
            })
            .filter(|node| {
                self.doubted.get(node).is_none_or(|doubt| now.since(*doubt) >= DOUBT_AGAIN)
            })
            .copied()
            .collect();
        self.active = Some(ring);
        for node in silent {
            self.doubted.insert(node, now);
            self.suspect(now, node, effects);
        }
    }

    /// A full exchange has every member in it: where they are many it is rarer, so that each node
    /// sends as much.
    fn full_every(&self) -> Duration {
        let many = self.swim.num_members().div_ceil(FULL_MEMBERS).max(1);
        FULL_EVERY * u32::try_from(many).unwrap_or(u32::MAX)
    }

    /// Members that are not down; put back by whoever is done with them.
    fn take_active(&mut self) -> BTreeSet<NodeId> {
        let members = || self.swim.iter_members().map(|member| member.id().node).collect();
        self.active.take().unwrap_or_else(members)
    }

    /// A quarter more or less, so that nodes do not march in step.
    pub(super) fn about(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.rng.random_range(0.75..1.25))
    }

    pub(super) fn random_linked_member(&mut self) -> Option<NodeId> {
        // In a mesh that is whole the first that is drawn will do.
        for _ in 0..DRAWS {
            let drawn = self.rng.random_range(0..self.linked.len().max(1));
            let node = self.linked.keys().nth(drawn).copied()?;
            if self.is_active(node) {
                return Some(node);
            }
        }
        let linked = &self.linked;
        let members = self.swim.iter_members().map(|member| member.id().node);
        members.filter(|node| linked.contains_key(node)).choose(&mut self.rng)
    }

    /// Full exchanges with some that are linked but not known to be up.
    pub(super) fn pull_some(&mut self, now: Mono, again: Duration, effects: &mut Vec<Effect>) {
        if self.apart.is_none() {
            let active = self.take_active();
            let apart = self.linked.keys().filter(|node| !active.contains(node));
            self.apart = Some(apart.copied().collect());
            self.active = Some(active);
        }
        let apart = self.apart.iter().flatten().copied();
        let waiting: Vec<NodeId> = apart.filter(|node| self.may_pull(now, *node, again)).collect();
        let waiting = waiting.into_iter().sample(&mut self.rng, PULL_FANOUT);
        for node in waiting {
            self.pull(now, node, again, effects);
        }
    }

    pub(super) fn may_pull(&self, now: Mono, node: NodeId, again: Duration) -> bool {
        self.pulled.get(&node).is_none_or(|last| now.since(*last) >= again)
    }

    /// A full exchange, unless one began less than `again` ago.
    pub(super) fn pull(
        &mut self,
        now: Mono,
        with: NodeId,
        again: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if self.linked.contains_key(&with) && self.may_pull(now, with, again) {
            self.pulled.insert(with, now);
            let many = u32::try_from(self.swim.num_members()).unwrap_or(u32::MAX);
            self.lists_at = now + LIST_EACH * many;
            self.push(with, Told::All, true, effects);
        }
    }

    pub(super) fn push(&mut self, to: NodeId, told: Told, reply: bool, effects: &mut Vec<Effect>) {
        let leaving = self.farewells.is_some();
        let me =
            if leaving { Member::down(self.me.clone()) } else { Member::alive(self.me.clone()) };
        let members: Vec<_> = self
            .swim
            .iter_membership_state()
            .filter(|member| match told {
                Told::All => member.id().node != self.me.node,
                Told::Itself => member.id().node == to,
                Told::Nobody => false,
            })
            .cloned()
            .collect();
        let left = members
            .iter()
            .map(|member| (member.id().node, member.id().age()))
            .filter(|(node, age)| self.left.get(node) == Some(age))
            .map(|(node, (boot, generation))| (node, boot, generation))
            .collect();
        let bytes = FullState { me, leaving, members, left }.encode();
        effects.push(Effect::State { to, bytes, reply });
    }

    /// Equal for equal sets of live members, whatever is suspected of them.
    pub(super) fn digest(&mut self) -> u64 {
        let swim = &self.swim;
        let sum = || swim.iter_members().map(|it| term(it.id())).fold(0, u64::wrapping_add);
        self.summed.get_or_insert_with(sum).wrapping_add(term(&self.me))
    }

    pub(super) fn leave(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.farewells = Some(FAREWELLS);
        self.tick_at = now + FAREWELL_EVERY;
        self.timers.clear();
        self.gossip = None;
        let mut asked = Asked::default();
        let left = self.swim.leave_cluster(&mut asked);
        self.count(left);
        asked.timers.clear();
        self.absorb(now, asked, effects);
        for to in self.linked.keys().copied().collect::<Vec<_>>() {
            self.push(to, Told::Nobody, false, effects);
        }
    }

    pub(super) fn say_farewell(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some(rounds) = self.farewells.filter(|rounds| *rounds > 0) else { return };
        if now < self.tick_at {
            return;
        }
        self.farewells = Some(rounds - 1);
        self.tick_at = now + FAREWELL_EVERY;
        let mut asked = Asked::default();
        let gossiped = self.swim.gossip(&mut asked);
        self.count(gossiped);
        asked.timers.clear();
        self.absorb(now, asked, effects);
    }
}
