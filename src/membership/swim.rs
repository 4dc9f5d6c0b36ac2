//! Driving foca: its timers, its notifications, and the rebirths it knows nothing of.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::{Foca, Incarnation, Member, Notification, State, Timer};

use super::exchange::Told;
use super::identity::{Identity, LeanCodec, swim_packet};
use super::{
    DIGEST_SOON, Effect, Liveness, Membership, PULL_SOON, RECALL, SPLIT_SETTLED, SPLIT_WINDOW,
    STALL_GRACE, STALL_NOTICE, Seen, UNREST, VETO_SUSPICIONS, is_up, rng_from,
};
use crate::id::{Boot, NodeId};
use crate::time::Mono;

/// Why a node is reborn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebirth {
    Stalled,
    Isolated,
    Split,
    Retimed,
    Outgrown(Boot, u32),
}

#[derive(Debug)]
pub(super) enum Task {
    /// A timer of foca.
    Swim(Timer<Identity>),
    /// The end of a suspicion of a silent node.
    Verdict(Identity, Incarnation),
}

/// Something to do later.
#[derive(Debug)]
pub(super) struct Due {
    task: Task,
    /// When it was first due, before anyone put it off.
    first: Mono,
}

impl Due {
    /// Whom it would declare down, and at which incarnation.
    fn verdict(&self) -> Option<(&Identity, Incarnation)> {
        match &self.task {
            Task::Swim(Timer::ChangeSuspectToDown { member_id, incarnation, .. }) => {
                Some((member_id, *incarnation))
            }
            Task::Swim(_) => None,
            Task::Verdict(id, incarnation) => Some((id, *incarnation)),
        }
    }
}

/// What foca asks for during one call.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) datagrams: Vec<(NodeId, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<Identity>)>,
    pub(super) idle: bool,
    pub(super) rejoined: bool,
}

impl foca::Runtime<Identity> for Asked {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::Idle => self.idle = true,
            Notification::Active => self.idle = false,
            Notification::Rejoin(_) => self.rejoined = true,
            // Read from the member list, which also shows suspicion.
            _ => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.datagrams.push((to.node, swim_packet(data)));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((after, timer));
    }
}

impl Membership {
    pub(super) fn notice_stall(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some(wake) = self.next_wake() else { return };
        let lag = now.since(wake);
        if lag < STALL_NOTICE {
            return;
        }
        self.counters.stalls += 1;
        effects.push(Effect::Stalled(lag));
        if lag > self.pace.timing().suspect {
            self.rebirth(now, Rebirth::Stalled, effects);
            return;
        }
        self.listening_since = now;
        // Once only: on a machine that is never in time, late timers beat none.
        if self.hold.is_none() {
            self.hold = Some(now + STALL_GRACE);
        }
        let timers = std::mem::take(&mut self.timers);
        for ((at, order, count), due) in timers {
            let at = if due.verdict().is_some() { at + lag } else { at };
            self.timers.insert((at, order, count), due);
        }
    }

    pub(super) fn rebirth(&mut self, now: Mono, why: Rebirth, effects: &mut Vec<Effect>) {
        let members: Vec<_> = self
            .swim
            .iter_membership_state()
            .filter(|member| member.id().node != self.me.node)
            .cloned()
            .collect();
        self.me.generation = self.me.generation.saturating_add(1);
        if let Rebirth::Outgrown(boot, generation) = why {
            self.me.boot = boot;
            self.me.generation = generation.saturating_add(1);
        }
        let rng = rng_from(&mut self.rng);
        let codec = LeanCodec(self.written.clone());
        self.swim = Foca::new(self.me.clone(), self.pace.config(), rng, codec);
        self.forget_reported();
        let timers = std::mem::take(&mut self.timers);
        self.gossip = None;
        self.hold = None;
        self.losses.clear();
        self.listening_since = now;
        self.unrest_until = now + UNREST;
        match why {
            Rebirth::Stalled => {
                self.counters.reborn_stalled += 1;
                let recall = now + self.pace.timing().suspect + RECALL;
                self.recall_at = Some(recall);
                for seen in self.seen.values_mut().filter(|seen| is_up(seen.liveness)) {
                    seen.recall = Some(recall);
                }
                self.ask_anew(now, effects);
            }
            Rebirth::Isolated => {
                self.counters.reborn_isolated += 1;
                for seen in self.seen.values_mut().filter(|seen| is_up(seen.liveness)) {
                    seen.liveness = Liveness::Down;
                    effects.push(Effect::Down(seen.peer.node));
                }
                self.ask_anew(now, effects);
            }
            Rebirth::Split => {
                self.counters.reborn_split += 1;
                let here = members.into_iter().filter(|member| member.state() != State::Down);
                self.carry_over(now, here.collect(), effects);
                // Whoever was suspected before has no more time for it.
                for ((at, ..), due) in timers {
                    let verdict = due.verdict().map(|(id, age)| Task::Verdict(id.clone(), age));
                    if let Some(task) = verdict {
                        self.schedule(at, Due { task, first: due.first });
                    }
                }
            }
            Rebirth::Retimed => {
                self.counters.reborn_retimed += 1;
                self.carry_over(now, members, effects);
            }
            Rebirth::Outgrown(..) => {
                self.counters.reborn_outgrown += 1;
                self.carry_over(now, members, effects);
            }
        }
    }

    pub(super) fn ask_anew(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.heard.clear();
        self.heard_anyone = None;
        self.pulled.clear();
        self.pull_some(now, Duration::ZERO, effects);
    }

    pub(super) fn carry_over(
        &mut self,
        now: Mono,
        members: Vec<Member<Identity>>,
        effects: &mut Vec<Effect>,
    ) {
        let mut asked = Asked::default();
        // As news, so that gossip begins at once and carries the new name around.
        let applied = self.swim.apply_many(members.into_iter(), true, &mut asked);
        self.count(applied);
        let gossiped = self.swim.gossip(&mut asked);
        self.count(gossiped);
        self.absorb(now, asked, effects);
    }

    pub(super) fn count(&mut self, result: Result<(), foca::Error>) {
        if result.is_err() {
            self.counters.refused += 1;
        }
    }

    pub(super) fn absorb(&mut self, now: Mono, asked: Asked, effects: &mut Vec<Effect>) {
        for (after, timer) in asked.timers {
            let at = now + after;
            self.schedule(at, Due { task: Task::Swim(timer), first: at });
        }
        let me = self.me.node;
        effects.extend(
            asked
                .datagrams
                .into_iter()
                .filter(|(to, _)| *to != me)
                .map(|(to, bytes)| Effect::Datagram { to, bytes }),
        );
        self.report(now, effects);
        if self.farewells.is_some() {
            return;
        }
        if asked.rejoined {
            self.counters.rejoined += 1;
            self.me = self.swim.identity().clone();
            self.pull_some(now, PULL_SOON, effects);
            for to in self.linked.keys().copied().collect::<Vec<_>>() {
                self.push(to, Told::Nobody, false, effects);
            }
        }
        if asked.idle {
            self.rebirth(now, Rebirth::Isolated, effects);
        }
    }

    fn forget_reported(&mut self) {
        self.reported = false;
        self.forget_sums();
    }

    fn forget_sums(&mut self) {
        self.active = None;
        self.apart = None;
        self.summed = None;
    }

    /// Tells the program what changed in foca's list. Most datagrams change nothing, and what
    /// changes concerns few: to look at each member would be most of what a large mesh costs.
    pub(super) fn report(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let written = self.written.take();
        if !std::mem::replace(&mut self.reported, true) {
            self.forget_sums();
            self.report_members(now, None, effects);
        } else if !written.is_empty() {
            self.forget_sums();
            self.report_members(now, Some(&written), effects);
        }
        debug_assert!(self.all_reported(), "foca changes what it does not tell");
        if self.unrest_until > now {
            self.digest_at = self.digest_at.min(now + DIGEST_SOON);
        }
    }

    /// What the rest of the program is to know of a member of foca's list.
    fn liveness_of(&self, member: &Member<Identity>) -> Liveness {
        match member.state() {
            State::Alive => Liveness::Up,
            State::Suspect => Liveness::Suspect,
            State::Down if self.left.get(&member.id().node) == Some(&member.id().age()) => {
                Liveness::Left
            }
            State::Down => Liveness::Down,
        }
    }

    fn all_reported(&self) -> bool {
        self.swim.iter_membership_state().all(|member| {
            let id = member.id();
            let known =
                |seen: &Seen| seen.liveness == self.liveness_of(member) && seen.peer == id.peer();
            id.node == self.me.node || self.seen.get(&id.node).is_some_and(known)
        })
    }

    fn report_members(
        &mut self,
        now: Mono,
        among: Option<&BTreeSet<NodeId>>,
        effects: &mut Vec<Effect>,
    ) {
        for member in self.swim.iter_membership_state() {
            let id = member.id();
            if id.node == self.me.node || among.is_some_and(|among| !among.contains(&id.node)) {
                continue;
            }
            let is = self.liveness_of(member);
            let Some(seen) = self.seen.get_mut(&id.node) else {
                if is_up(is) {
                    effects.push(Effect::Up(id.peer()));
                    self.unrest_until = now + UNREST;
                }
                if is == Liveness::Suspect {
                    effects.push(Effect::Suspect(id.node));
                }
                let seen = Seen { peer: id.peer(), liveness: is, since: now, recall: None };
                self.seen.insert(id.node, seen);
                continue;
            };
            seen.recall = None;
            let was = seen.liveness;
            let renamed = seen.peer.boot != id.boot || seen.peer.addrs != id.addrs;
            if renamed {
                seen.peer = id.peer();
                if is_up(was) && is_up(is) {
                    effects.push(Effect::Renamed(id.peer()));
                }
            }
            if was == is {
                continue;
            }
            (seen.liveness, seen.since) = (is, now);
            if is_up(was) != is_up(is) {
                self.unrest_until = now + UNREST;
            }
            match is {
                Liveness::Up => effects.push(Effect::Up(id.peer())),
                Liveness::Suspect => {
                    if !is_up(was) {
                        effects.push(Effect::Up(id.peer()));
                    }
                    effects.push(Effect::Suspect(id.node));
                }
                Liveness::Down => {
                    self.losses.push((id.node, now));
                    effects.push(Effect::Down(id.node));
                }
                Liveness::Left => effects.push(Effect::Left(id.node)),
            }
        }
    }

    pub(super) fn schedule(&mut self, at: Mono, due: Due) {
        if matches!(due.task, Task::Swim(Timer::PeriodicGossip(_))) {
            self.gossip = Some((at, due));
            return;
        }
        // At the same instant, foca wants the end of one probe before the start of the next.
        let order = match due.task {
            Task::Swim(Timer::SendIndirectProbe { .. }) => 0,
            Task::Swim(Timer::ProbeRandomMember(_)) => 1,
            _ => 2,
        };
        self.timer_count += 1;
        self.timers.insert((at, order, self.timer_count), due);
    }

    pub(super) fn run_timers(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if let Some(hold) = self.hold {
            if now < hold {
                return;
            }
            self.hold = None;
        }
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let due = entry.remove();
            self.deliver(now, due, effects);
        }
        self.gossip_in_turn(now, effects);
        if self.tick_at <= now {
            self.tick(now, effects);
        }
    }

    /// Gossip keeps its pace, but foca is asked only while it has something to tell.
    fn gossip_in_turn(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some((at, due)) = self.gossip.take_if(|(at, _)| *at <= now) else { return };
        if self.swim.updates_backlog() > 0 {
            self.deliver(now, due, effects);
            return;
        }
        let period = self.pace.timing().gossip;
        let missed = now.since(at).as_nanos() / period.as_nanos();
        let missed = u32::try_from(missed).unwrap_or(u32::MAX - 1);
        self.gossip = Some((at + period.saturating_mul(missed + 1), due));
    }

    pub(super) fn deliver(&mut self, now: Mono, due: Due, effects: &mut Vec<Effect>) {
        let timing = self.pace.timing();
        if let Some((id, incarnation)) = due.verdict() {
            let stands = self.swim.iter_membership_state().any(|member| {
                member.id() == id
                    && member.incarnation() == incarnation
                    && member.state() == State::Suspect
            });
            if !stands {
                self.counters.refuted += 1;
                return;
            }
            let heard = self.heard.get(&id.node);
            let silent_at = heard.map_or(Mono(0), |heard| *heard + timing.suspect);
            let latest = due.first + timing.suspect * VETO_SUSPICIONS;
            if silent_at > now && latest > now {
                self.counters.spared += 1;
                // What it was told of the suspicion may be lost.
                self.pull(now, id.node, PULL_SOON, effects);
                self.schedule(silent_at.min(latest), due);
                return;
            }
            let heard_anyone = self.heard_anyone.map(|heard| heard + timing.suspect);
            if heard_anyone.is_none_or(|silent_at| silent_at <= now) {
                self.rebirth(now, Rebirth::Isolated, effects);
                return;
            }
        }
        let mut asked = Asked::default();
        match due.task {
            Task::Swim(timer) => {
                let indirect = matches!(timer, Timer::SendIndirectProbe { .. });
                let handled = self.swim.handle_timer(timer, &mut asked);
                self.count(handled);
                if indirect {
                    self.grant_full_round(now + (timing.period - timing.rtt));
                }
            }
            Task::Verdict(id, incarnation) => {
                let down = Member::new(id, incarnation, State::Down);
                let applied = self.swim.apply_many(std::iter::once(down), true, &mut asked);
                self.count(applied);
            }
        }
        self.absorb(now, asked, effects);
    }

    /// Suspects a member that nobody suspects yet, as a failed probe would.
    pub(super) fn suspect(&mut self, now: Mono, node: NodeId, effects: &mut Vec<Effect>) {
        let found = self.swim.iter_members().find(|member| member.id().node == node);
        let Some(member) = found.filter(|member| member.state() == State::Alive) else { return };
        let (id, incarnation) = (member.id().clone(), member.incarnation());
        self.counters.silent += 1;
        let at = now + self.pace.timing().suspect;
        self.schedule(at, Due { task: Task::Verdict(id.clone(), incarnation), first: at });
        let mut asked = Asked::default();
        let suspect = Member::new(id, incarnation, State::Suspect);
        let applied = self.swim.apply_many(std::iter::once(suspect), true, &mut asked);
        self.count(applied);
        self.absorb(now, asked, effects);
    }

    /// A verdict that another tells of becomes a suspicion, unless the same is suspected here for
    /// long enough that it would have been refuted. Whether it did.
    pub(super) fn doubt(
        &mut self,
        now: Mono,
        from: NodeId,
        told: &mut Member<Identity>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let id = told.id().clone();
        let own = id.node == from || id.node == self.me.node;
        if told.state() != State::Down || own || self.left.get(&id.node) == Some(&id.age()) {
            return false;
        }
        let Some(known) = self.swim.iter_members().find(|member| *member.id() == id) else {
            return false;
        };
        let incarnation = known.incarnation();
        let seen = self.seen.get(&id.node);
        let since = seen.filter(|seen| seen.liveness == Liveness::Suspect).map(|seen| seen.since);
        let until = since.unwrap_or(now) + self.pace.timing().refute();
        if until <= now {
            return false;
        }
        self.counters.doubted += 1;
        *told = Member::new(id.clone(), incarnation, State::Suspect);
        self.schedule(until, Due { task: Task::Verdict(id.clone(), incarnation), first: now });
        self.pull(now, id.node, PULL_SOON, effects);
        true
    }

    pub(super) fn notice_split(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let window = SPLIT_WINDOW + self.pace.timing().suspect * 2;
        self.losses.retain(|(_, lost)| now.since(*lost) < window);
        let settled = self.losses.last().is_some_and(|(_, lost)| now.since(*lost) >= SPLIT_SETTLED);
        if settled && self.losses.len() >= 2 && self.losses.len() >= self.swim.num_members() {
            self.rebirth(now, Rebirth::Split, effects);
        }
    }

    /// Indirect probes that went out late get their time, too.
    pub(super) fn grant_full_round(&mut self, until: Mono) {
        let early = self
            .timers
            .iter()
            .take_while(|(key, _)| key.0 < until)
            .find(|(_, due)| matches!(due.task, Task::Swim(Timer::ProbeRandomMember(_))))
            .map(|(key, _)| *key);
        if let Some(key) = early
            && let Some(due) = self.timers.remove(&key)
        {
            self.schedule(until, due);
        }
    }
}
