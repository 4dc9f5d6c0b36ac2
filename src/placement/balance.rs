//! Carries out the plan: waits until nothing has changed for a while, plans, and asks nodes to take
//! what is too much here, a few encoders at a time.
//!
//! Plans are made from what each node believes, and beliefs differ. So a plan only says whom to ask.
//! What is asked names the asker's own exact count, without what it has given away or offered; who
//! is asked adds what it has promised to take to its own exact count, and grants what makes the two
//! more even. Both err on the side of staying, so whatever anyone believes, every move takes
//! something off the sum of the counts' squares: there is an end to it, and no going to and fro.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::plan::{Duty, Move, Plan, Seat, Unit, WEIGHT_ONE, Why, Wish, evens, plan};
use crate::id::{EncoderId, NodeId, RecordId};
use crate::time::{Mono, earlier};

#[cfg(test)]
mod tests;
mod types;

pub use types::{Answer, Ask, Counters, Effect, Event, Refusal, Release, TOGETHER_MAX, World};

/// Nothing is moved before nodes, what they are willing to do and pools have been as they are for
/// this long, unless the mesh says otherwise: a node that starts anew is back by then, and what
/// moved meanwhile would have moved twice.
pub const STABILITY_PERIOD: Duration = Duration::from_secs(30);
/// The shortest period that a setting can ask for: views of one change differ for about as long.
pub const STABILITY_MIN: Duration = Duration::from_secs(1);
/// The longest: whoever wants no balancing at all says a day.
pub const STABILITY_MAX: Duration = Duration::from_secs(86_400);
/// An encoder that moved, or failed to, is left alone for this long, or for the stability period if
/// that is shorter: whatever goes wrong, nobody is sent around. No longer than the period, so that
/// what moved before nodes came or went can move when all is to become even again.
pub const COOL_DOWN: Duration = Duration::from_secs(30);
/// From one encoder to the next that a node gives away: 25 a second, so that 250 of 1,000 encoders
/// that three nodes give to a fourth are there in 4 s, and no node is stormed.
const PACE: Duration = Duration::from_millis(40);
/// Encoders that a node has offered or given away and that have not arrived: what is on its way at
/// that pace where nodes are a second apart.
const AT_ONCE: usize = 25;
/// A node that does not answer an offer within this time is believed not to take it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// A promise to take an encoder is forgotten after this: longer than a move may take.
const PROMISED_FOR: Duration = Duration::from_secs(10);
/// Promises at a time: what forty nodes have on their way.
const PROMISED_MAX: usize = 1_000;
/// Encoders that are left alone for a while, at a time: as many as can be at one node.
const RESTING_MAX: usize = 10_000;
/// From a change of encoders to the next look: views have settled, and a look costs milliseconds
/// with thousands of encoders.
const LOOK: Duration = Duration::from_secs(5);
/// From one time that encoders are given another next to the next, while there are any.
const SPREAD_EVERY: Duration = Duration::from_secs(1);
/// A node that refused or did not answer is asked again after this, then after twice as long.
const SHUN_FIRST: Duration = Duration::from_secs(1);
/// And so on up to this.
const SHUN_MAX: Duration = Duration::from_secs(60);

/// Encoders that should go from here to another node together.
#[derive(Debug, Clone)]
struct Want {
    encoders: Vec<EncoderId>,
    to: NodeId,
    why: Why,
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Asked {
    want: Want,
    count: u32,
    until: Mono,
}

/// A promise to take an encoder.
#[derive(Debug)]
struct Promise {
    to: NodeId,
    /// By which it was asked for.
    ticket: u64,
    until: Mono,
}

/// One node's share in evening out.
#[derive(Debug)]
pub struct Balance {
    period: Duration,
    /// When nodes or pools changed last.
    changed: Mono,
    seats: Vec<Seat>,
    /// When to plan, once all is stable.
    look_at: Option<Mono>,
    /// When to spread who stands by, likewise.
    spread_at: Option<Mono>,
    /// When encoders changed last: what is believed of them is right some time later.
    stirred: Option<Mono>,
    /// What is left of the last plan.
    wants: VecDeque<Want>,
    /// When the next may be asked for.
    ask_at: Mono,
    asked: BTreeMap<u64, Asked>,
    last_ticket: u64,
    /// What was granted and has not arrived: where it goes, and by which question.
    going: BTreeMap<EncoderId, (NodeId, u64)>,
    /// Nodes that are not asked for a while, and for how long.
    shunned: BTreeMap<NodeId, (Mono, Duration)>,
    /// Encoders here that do not move for a while.
    resting: BTreeMap<EncoderId, Mono>,
    promised: BTreeMap<EncoderId, Promise>,
    counters: Counters,
}

impl Balance {
    /// A node that starts now.
    pub fn new(now: Mono) -> Self {
        Self {
            period: STABILITY_PERIOD,
            changed: now,
            seats: Vec::new(),
            look_at: None,
            spread_at: None,
            stirred: None,
            wants: VecDeque::new(),
            ask_at: now,
            asked: BTreeMap::new(),
            last_ticket: 0,
            going: BTreeMap::new(),
            shunned: BTreeMap::new(),
            resting: BTreeMap::new(),
            promised: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Takes an event and pushes what it leads to.
    pub fn handle(
        &mut self,
        now: Mono,
        world: &World<'_>,
        event: Event,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Nodes if self.seats == world.seats => self.look_by(now + LOOK),
            Event::Nodes => {
                self.seats = world.seats.to_vec();
                self.unsettle(now);
            }
            Event::Unsettled => self.unsettle(now),
            Event::Period(period) => self.period = period.clamp(STABILITY_MIN, STABILITY_MAX),
            Event::Changed => {
                self.stirred = Some(now);
                self.look_by(now + LOOK);
                self.spread_at = earlier(self.spread_at, Some(now + LOOK));
            }
            Event::Look { units, wishes } => self.look(world, units, &wishes, effects),
            Event::Asked(from, ask) => self.asked(now, world, from, &ask, effects),
            Event::Answered(from, answer) => self.answered(now, world, from, &answer, effects),
            Event::Released(from, Release { ticket, encoders }) => {
                // One that is late is not about what was granted since.
                self.promised.retain(|id, promise| {
                    (promise.to, promise.ticket) != (from, ticket) || !encoders.contains(id)
                });
            }
            Event::Home(encoder) => {
                if self.promised.remove(&encoder).is_some() {
                    self.counters.arrived += 1;
                    self.rest(now, encoder);
                }
            }
            Event::Moved { encoder, done } => self.moved(now, encoder, done, effects),
            Event::Spread(0) | Event::Wake => {}
            Event::Spread(_) => self.spread_at = Some(now + SPREAD_EVERY),
        }
        self.proceed(now, world, effects);
    }

    /// When [`Balance::handle`] is due with [`Event::Wake`].
    pub fn next_wake(&self) -> Option<Mono> {
        let answers = self.asked.values().map(|asked| asked.until).min();
        let next = match self.wants.front() {
            None => self.look_at,
            Some(want) if self.fits(want) => Some(self.ask_at),
            Some(_) => None,
        };
        let stable = |at: Mono| at.max(self.stable_at());
        earlier(answers, earlier(next, self.spread_at).map(stable))
    }

    /// Whether an encoder is expected here.
    pub fn expects(&self, encoder: EncoderId) -> bool {
        self.promised.contains_key(&encoder)
    }

    /// What is to go from here, or on its way.
    pub fn going(&self) -> BTreeSet<EncoderId> {
        let asked = self.asked.values().map(|it| &it.want);
        let wanted = self.wants.iter().chain(asked).flat_map(|want| &want.encoders);
        wanted.chain(self.going.keys()).copied().collect()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// From when on all is stable.
    fn stable_at(&self) -> Mono {
        self.changed + self.period
    }

    /// What was planned is void, and nothing is for a while.
    fn unsettle(&mut self, now: Mono) {
        self.changed = now;
        self.wants.clear();
        self.shunned.clear();
        self.look_by(now);
        self.spread_at = Some(now);
    }

    fn look_by(&mut self, at: Mono) {
        self.look_at = earlier(self.look_at, Some(at));
    }

    fn rest(&mut self, now: Mono, encoder: EncoderId) {
        if self.resting.len() < RESTING_MAX {
            self.resting.insert(encoder, now + self.period.min(COOL_DOWN));
        }
        self.look_by(now + LOOK);
    }

    /// Encoders that are on their way from here, or will be if somebody agrees.
    fn leaving(&self) -> usize {
        self.going.len() + self.asked.values().map(|it| it.want.encoders.len()).sum::<usize>()
    }

    /// Whether so many more may be on their way. What is more than fits at all goes alone.
    fn fits(&self, want: &Want) -> bool {
        let leaving = self.leaving();
        leaving == 0 || leaving + want.encoders.len() <= AT_ONCE
    }

    /// When to look again after this time.
    fn look_after(&mut self, now: Mono) {
        self.resting.retain(|_, until| *until > now);
        let rested = self.resting.values().min().map(|until| (*until).max(now + LOOK));
        let settled = self.stirred.map(|at| at + LOOK).filter(|at| *at > now);
        self.look_at = earlier(rested, settled);
    }

    /// Whether anybody might take anything that is here: only then is there anything to plan, which
    /// costs as much as there are encoders in the mesh.
    fn may_give(&self, world: &World<'_>) -> bool {
        if (world.steered)() {
            return true;
        }
        let open = || world.seats.iter().filter(|seat| seat.duty == Duty::Open);
        let Some(seat) = open().find(|seat| seat.node == world.me) else { return false };
        let none = open().all(|seat| seat.weight == 0);
        let weight = |seat: &Seat| if none { WEIGHT_ONE } else { seat.weight };
        let leaving = u32::try_from(self.leaving()).unwrap_or(u32::MAX);
        let here = (world.count.saturating_sub(leaving), weight(seat));
        let takes = |to: &Seat| evens(here, ((world.load)(to.node), weight(to)), 1);
        weight(seat) == 0 || open().any(takes)
    }

    /// What this node is to do by a plan of all that is known.
    fn look(
        &mut self,
        world: &World<'_>,
        mut units: Vec<Unit>,
        wishes: &[Wish],
        effects: &mut Vec<Effect>,
    ) {
        let offered = self.asked.values();
        let offered = offered.flat_map(|it| it.want.encoders.iter().map(|id| (*id, it.want.to)));
        let going: BTreeMap<EncoderId, NodeId> =
            self.going.iter().map(|(id, (to, _))| (*id, *to)).chain(offered).collect();
        for unit in units.iter_mut().filter(|unit| unit.at == world.me) {
            if let Some(to) = going.get(&unit.encoder) {
                (unit.at, unit.free) = (*to, false);
            } else if self.resting.contains_key(&unit.encoder) || !(world.may_go)(unit.encoder) {
                unit.free = false;
            }
        }
        let Plan { moves, .. } = plan(world.seats, &units, wishes);
        let rooms: BTreeMap<EncoderId, RecordId> =
            units.iter().filter_map(|unit| Some((unit.encoder, unit.room?))).collect();
        self.wants = wants(world.me, moves, &rooms);
        let planned = self.wants.iter().map(|want| want.encoders.len()).sum::<usize>();
        if planned > 0 {
            effects.push(Effect::Planned(planned));
        }
    }

    /// Looks and asks, as far as it is time for that.
    fn proceed(&mut self, now: Mono, world: &World<'_>, effects: &mut Vec<Effect>) {
        self.give_up(now, effects);
        if now < self.stable_at() {
            return;
        }
        if self.wants.is_empty() && self.look_at.is_some_and(|at| at <= now) {
            self.look_after(now);
            if self.may_give(world) {
                return effects.push(Effect::Look);
            }
        }
        // What is to go is known.
        if self.spread_at.take_if(|at| *at <= now).is_some() {
            effects.push(Effect::Spread);
        }
        while self.ask_at <= now
            && let Some(want) = self.wants.front()
            && self.fits(want)
        {
            let Some(want) = self.wants.pop_front() else { return };
            self.ask(now, world, want, effects);
        }
    }

    fn ask(&mut self, now: Mono, world: &World<'_>, want: Want, effects: &mut Vec<Effect>) {
        let shunned = self.shunned.get(&want.to).filter(|(until, _)| *until > now);
        if let Some((until, _)) = shunned {
            return self.look_by(*until);
        }
        // What became watched since, or went, is planned for anew: something has changed.
        let may = |encoder: &EncoderId| (world.may_go)(*encoder);
        if !want.encoders.iter().all(may) || !world.linked.contains(&want.to) {
            self.counters.skipped += want.encoders.len() as u64;
            return self.look_by(now + LOOK);
        }
        let leaving = u32::try_from(self.leaving()).unwrap_or(u32::MAX);
        let count = world.count.saturating_sub(leaving);
        self.last_ticket += 1;
        let ask = Ask {
            ticket: self.last_ticket,
            encoders: want.encoders.clone(),
            count,
            weight: weight(world.seats, world.me),
            to_even: matches!(want.why, Why::Balance(..)),
        };
        self.counters.asked += want.encoders.len() as u64;
        self.ask_at = now + PACE * u32::try_from(want.encoders.len()).unwrap_or(u32::MAX);
        effects.push(Effect::Ask(want.to, ask));
        let until = now + ANSWER_DEADLINE;
        self.asked.insert(self.last_ticket, Asked { want, count, until });
    }

    /// Somebody wants to give encoders to this node.
    fn asked(
        &mut self,
        now: Mono,
        world: &World<'_>,
        from: NodeId,
        ask: &Ask,
        effects: &mut Vec<Effect>,
    ) {
        self.promised.retain(|_, promise| promise.until > now);
        let others = self.promised.keys().filter(|it| !ask.encoders.contains(it)).count();
        let taken = world.count.saturating_add(u32::try_from(others).unwrap_or(u32::MAX));
        let refused = refusal(world, ask, taken, others);
        match refused {
            None => {
                self.counters.promised += ask.encoders.len() as u64;
                let until = now + PROMISED_FOR;
                for encoder in &ask.encoders {
                    self.promised.insert(*encoder, Promise { to: from, ticket: ask.ticket, until });
                }
            }
            Some(_) => self.counters.declined += ask.encoders.len() as u64,
        }
        effects.push(Effect::Answer(from, Answer { ticket: ask.ticket, refused, count: taken }));
    }

    fn answered(
        &mut self,
        now: Mono,
        world: &World<'_>,
        from: NodeId,
        answer: &Answer,
        effects: &mut Vec<Effect>,
    ) {
        let asked = self.asked.get(&answer.ticket).filter(|asked| asked.want.to == from);
        if asked.is_none() {
            return;
        }
        let Some(Asked { want, count, .. }) = self.asked.remove(&answer.ticket) else { return };
        if let Some(why) = answer.refused {
            self.counters.refused[why as usize] += want.encoders.len() as u64;
            return self.shun(now, from);
        }
        self.shunned.remove(&from);
        self.counters.granted += want.encoders.len() as u64;
        // A room goes whole or not at all, and nothing goes once nodes changed since it was asked for.
        let may = want.encoders.iter().all(|encoder| (world.may_go)(*encoder));
        if !may || now < self.stable_at() {
            self.counters.skipped += want.encoders.len() as u64;
            let release = Release { ticket: answer.ticket, encoders: want.encoders };
            effects.push(Effect::Release(from, release));
            return self.look_by(now + LOOK);
        }
        for encoder in want.encoders {
            let why = match want.why {
                Why::Balance(..) => Why::Balance(count, answer.count),
                ref why => why.clone(),
            };
            self.going.insert(encoder, (from, answer.ticket));
            effects.push(Effect::Move { encoder, to: from, why });
        }
    }

    /// What became of a move.
    fn moved(&mut self, now: Mono, encoder: EncoderId, done: bool, effects: &mut Vec<Effect>) {
        let Some((to, ticket)) = self.going.remove(&encoder) else { return };
        if !done {
            effects.push(Effect::Release(to, Release { ticket, encoders: vec![encoder] }));
            self.rest(now, encoder);
        }
    }

    /// Nobody answers for ever.
    fn give_up(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let late = self.asked.iter().filter(|(_, asked)| asked.until <= now);
        for ticket in late.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            let Some(Asked { want, .. }) = self.asked.remove(&ticket) else { continue };
            self.counters.unanswered += want.encoders.len() as u64;
            self.shun(now, want.to);
            let (to, encoders) = (want.to, want.encoders);
            effects.push(Effect::Release(to, Release { ticket, encoders }));
        }
    }

    /// A node does not take what it should by what is believed here: it is asked again once that
    /// may have changed.
    fn shun(&mut self, now: Mono, node: NodeId) {
        let last = self.shunned.get(&node);
        // Several questions at a time that it refuses are one reason to wait.
        if last.is_some_and(|(until, _)| *until > now) {
            return;
        }
        let lately = last.filter(|(until, _)| now < *until + SHUN_MAX);
        let span = lately.map_or(SHUN_FIRST, |(_, span)| (*span * 2).min(SHUN_MAX));
        self.shunned.insert(node, (now + span, span));
        self.wants.retain(|want| want.to != node);
        self.look_by(now + span);
    }
}

/// Why this node, which has so many and has promised so many of them, does not take any more.
fn refusal(world: &World<'_>, ask: &Ask, taken: u32, promised: usize) -> Option<Refusal> {
    let seat = world.seats.iter().find(|seat| seat.node == world.me);
    let Some(seat) = seat.filter(|seat| seat.duty == Duty::Open) else {
        return Some(Refusal::Closed);
    };
    let size = u32::try_from(ask.encoders.len()).unwrap_or(u32::MAX);
    let weight = weight(world.seats, world.me);
    let even = evens((ask.count, ask.weight), (taken, weight), size);
    match () {
        () if size == 0 || ask.encoders.len() > TOGETHER_MAX => Some(Refusal::Other),
        () if weight == 0 => Some(Refusal::NoCapacity),
        () if taken.saturating_add(size) > seat.limit => Some(Refusal::Full),
        () if promised + ask.encoders.len() > PROMISED_MAX => Some(Refusal::Busy),
        () if ask.to_even && !even => Some(Refusal::Uneven),
        () => None,
    }
}

/// A node's share relative to others: where nobody who takes any has one, all have the same.
fn weight(seats: &[Seat], node: NodeId) -> u64 {
    if !seats.iter().any(|seat| seat.duty == Duty::Open && seat.weight > 0) {
        return WEIGHT_ONE;
    }
    seats.iter().find(|seat| seat.node == node).map_or(0, |seat| seat.weight)
}

/// What one node has to ask for: what goes alone one by one, what is in one room together.
fn wants(me: NodeId, moves: Vec<Move>, rooms: &BTreeMap<EncoderId, RecordId>) -> VecDeque<Want> {
    let mut wants: Vec<Want> = Vec::new();
    let mut places: BTreeMap<(RecordId, NodeId), usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for Move { encoder, from, to, why } in moves {
        // Whoever lost its home finds another itself, and a drained node is emptied elsewhere.
        if from != me || matches!(why, Why::Lost | Why::Drain) || !seen.insert(encoder) {
            continue;
        }
        let room = rooms.get(&encoder).map(|room| (*room, to));
        match room.and_then(|room| places.get(&room)) {
            Some(&at) => wants[at].encoders.push(encoder),
            None => {
                if let Some(room) = room {
                    places.insert(room, wants.len());
                }
                wants.push(Want { encoders: vec![encoder], to, why });
            }
        }
    }
    // What is more than anyone takes together stays.
    wants.retain(|want| want.encoders.len() <= TOGETHER_MAX);
    wants.into()
}
