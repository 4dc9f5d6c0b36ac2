//! The encoder's side of its stay: finds any node, is led home, keeps a warm session at next,
//! and promotes next with a higher epoch when home falls silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::directory::SourceState;
use crate::id::{Epoch, NodeId};
use crate::session::leg::{Book, DIAL_STAGGER, LegId, Pulse};
use crate::session::{LINGER, PING_WATCHED, SILENCE_WATCHED};
use crate::time::{Mono, earlier};
use crate::wire::{self, ClientMessage, Heartbeat, Message, NodeMessage, PeerList, Role};

mod carry;
mod claim;
mod moving;
mod seek;
mod types;

pub use types::{Config, Effect, Event, Note};

/// A registration that is not answered within this time is as good as refused.
const REGISTER_DEADLINE: Duration = Duration::from_secs(2);
/// With home and next both silent, and nobody else who answers, home gets this long in all: most
/// likely it is this machine's own network.
const BOTH_SILENT: Duration = Duration::from_secs(1);
/// A node that was found mute is not gone to for this long, whoever proposes it: by then the
/// others have noticed as well.
const MUTE_KEEP: Duration = Duration::from_secs(4);
/// After the second refusal in a row wait this long before the next try, then twice as long each
/// time, up to 32 times.
const REJECTED_WAIT: Duration = Duration::from_millis(150);
/// The longest time for which a node may send an agent away, in seconds.
const RETRY_AFTER_MAX: u32 = 60;
/// After a refusal that trying again will hardly change, wait this long.
const NAME_TAKEN_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Ask,
    Home,
    Next,
    /// Moved away from; kept for a moment.
    Old,
}

#[derive(Debug)]
struct Leg {
    node: Option<NodeId>,
    addr: String,
    purpose: Purpose,
    opened: Mono,
    welcomed: bool,
    /// Sent a registration at that time.
    asked: Option<Mono>,
    registered: bool,
    /// How often it refused to be next, and until when it is not asked again.
    refused: u32,
    hold_until: Option<Mono>,
    pulse: Pulse,
    demand: wire::Demand,
}

/// One encoder's agent.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    book: Book,
    legs: BTreeMap<LegId, Leg>,
    last_leg: u32,
    epoch: Epoch,
    floor: Epoch,
    durable: u64,
    leasing: Option<u64>,
    source: SourceState,
    home: Option<LegId>,
    assigned: Option<NodeId>,
    wanted_next: Option<NodeId>,
    /// The home that was lost last: not the first choice for a new one.
    lost_home: Option<NodeId>,
    moved_for: Option<String>,
    /// Why home is where it is, or will be.
    why: String,
    moving: Option<moving::Moving>,
    /// Until then the home before is given media as well: its viewers are on their way.
    let_go_at: Option<Mono>,
    /// When the lost home was heard last.
    lost_at: Option<Mono>,
    nudged_until: Option<Mono>,
    /// An answer to a later ping than this proves that home is there.
    nudged_at: u64,
    /// A new home has no viewers before those of the old one have found it; until then media
    /// flows as before.
    carry_until: Option<Mono>,
    dialled_at: Option<Mono>,
    wait_until: Option<Mono>,
    /// Nodes that fell silent, or did not answer a dial, and when.
    mute: BTreeMap<NodeId, Mono>,
    media: BTreeSet<LegId>,
    was_home: bool,
    /// Registrations refused in a row.
    rejections: u32,
    due: Option<Mono>,
    leaving: bool,
}

impl Agent {
    /// An agent that starts now.
    pub fn new(config: Config, effects: &mut Vec<Effect>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(config.seed);
        let book = Book::new(config.targets.clone(), config.peers.clone(), rng);
        let epoch = Epoch { counter: config.lease, instance: config.instance };
        let mut agent = Self {
            book,
            legs: BTreeMap::new(),
            last_leg: 0,
            epoch,
            floor: epoch,
            durable: config.lease,
            leasing: None,
            source: SourceState::NoSignal("starting".into()),
            home: None,
            assigned: None,
            wanted_next: None,
            lost_home: None,
            moved_for: None,
            why: String::new(),
            moving: None,
            let_go_at: None,
            lost_at: None,
            nudged_until: None,
            nudged_at: 0,
            carry_until: None,
            dialled_at: None,
            wait_until: None,
            mute: BTreeMap::new(),
            media: BTreeSet::new(),
            was_home: false,
            rejections: 0,
            due: Some(Mono(0)),
            leaving: false,
            config,
        };
        agent.lease(effects);
        agent
    }

    /// One event in, effects out.
    pub fn handle(&mut self, now: Mono, event: Event, effects: &mut Vec<Effect>) {
        self.forgive_own_stall(now);
        match event {
            Event::Wake => {}
            Event::Connected { leg, node } => self.connected(now, leg, node, effects),
            Event::Closed { leg, reason } => self.closed(now, leg, &reason, effects),
            Event::Message(leg, bytes) => self.message(now, leg, &bytes, effects),
            Event::Datagram(leg, body) => {
                if let (Some(Heartbeat::Pong(number)), Some(pulse)) =
                    (Heartbeat::decode(&body), self.legs.get_mut(&leg).map(|leg| &mut leg.pulse))
                {
                    pulse.hear(now);
                    // All agents of a home that one node does not see are told of it at once.
                    if self.home == Some(leg) && number > self.nudged_at {
                        self.nudged_until = None;
                    }
                }
            }
            Event::Source(source) => {
                self.source = source.clone();
                if let Some(home) =
                    self.home.filter(|h| self.legs.get(h).is_some_and(|leg| leg.registered))
                {
                    send(home, ClientMessage::Source(source), effects);
                }
            }
            Event::Leased(counter) => {
                self.durable = self.durable.max(counter);
                self.leasing = None;
            }
            Event::Leave => {
                self.leaving = true;
                for &leg in self.legs.keys() {
                    let reason = "the agent stops".to_owned();
                    send(leg, ClientMessage::Goodbye(wire::Goodbye { reason }), effects);
                }
            }
        }
        if !self.leaving {
            self.proceed(now, effects);
        }
        self.due = self.compute_wake(now);
    }

    /// When [`Event::Wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        self.due
    }

    /// The node that is home, once it said so.
    pub fn home(&self) -> Option<NodeId> {
        let leg = self.legs.get(&self.home?)?;
        leg.registered.then_some(leg.node)?
    }

    /// The node that is next, once it said so.
    pub fn next(&self) -> Option<NodeId> {
        let leg = self.legs.values().find(|leg| leg.purpose == Purpose::Next && leg.registered)?;
        leg.node
    }

    /// The epoch in force.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Legs that carry media.
    pub fn media(&self) -> &BTreeSet<LegId> {
        &self.media
    }

    /// The peer list in force.
    pub fn peers(&self) -> &PeerList {
        self.book.peers()
    }

    /// Late by more than half a silence limit: it was this process that stood still, and what
    /// waits in its sockets must be read before anyone is judged.
    fn forgive_own_stall(&mut self, now: Mono) {
        if self.due.is_some_and(|due| due.0 > 0 && now.since(due) > SILENCE_WATCHED / 2) {
            for leg in self.legs.values_mut() {
                leg.pulse.forgive(now);
            }
        }
    }

    fn connected(&mut self, now: Mono, id: LegId, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(leg) = self.legs.get_mut(&id) else {
            effects.push(Effect::Close(id));
            return;
        };
        leg.node = Some(node);
        leg.opened = now;
        leg.pulse = Pulse::new(now);
    }

    fn closed(&mut self, now: Mono, id: LegId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(leg) = self.legs.remove(&id) else { return };
        if let Some(node) = leg.node.filter(|_| !leg.welcomed || leg.pulse.silent(now)) {
            self.mute.retain(|_, since| now.since(*since) < MUTE_KEEP);
            self.mute.insert(node, now);
        }
        if leg.welcomed {
            self.book.ended(&leg.addr, now.since(leg.opened));
        } else {
            self.book.failed(now, &leg.addr);
            if leg.purpose == Purpose::Next {
                self.next_failed(leg.node, effects);
            }
            if leg.purpose == Purpose::Home {
                self.assigned = None;
                self.lost_home = leg.node;
            }
        }
        if self.moving.as_ref().is_some_and(|moving| Some(moving.to) == leg.node) {
            self.stay(now, reason, effects);
        }
        if self.home == Some(id) {
            let name = self.label(leg.node);
            self.lose_home(
                now,
                leg.node,
                format!("the connection to {name} ended: {reason}"),
                effects,
            );
        } else if self.legs.is_empty() {
            // Whoever dialled in vain names the address itself.
            let words = match reason.starts_with(&leg.addr) {
                true => reason.to_owned(),
                false => format!("{}: {reason}", leg.addr),
            };
            effects.push(Effect::Note(Note::Seeking(words)));
        }
    }

    /// Tells home when next does not answer, so that it chooses another.
    fn next_failed(&mut self, node: Option<NodeId>, effects: &mut Vec<Effect>) {
        if let (Some(node), Some(home)) = (node, self.home)
            && self.legs.get(&home).is_some_and(|leg| leg.registered)
            && self.book.failures(node) >= 2
        {
            let report = wire::NextUnreachable { node };
            send(home, ClientMessage::NextUnreachable(report), effects);
        }
    }

    fn message(&mut self, now: Mono, id: LegId, bytes: &[u8], effects: &mut Vec<Effect>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Ok(message) = NodeMessage::decode(bytes) else { return };
        // Answers, unlike news, prove that the node hears this agent, too.
        if matches!(message, NodeMessage::Welcome(_) | NodeMessage::Registered(_)) {
            leg.pulse.hear(now);
        }
        match message {
            NodeMessage::Welcome(welcome) => {
                leg.welcomed = true;
                leg.opened = now;
                // Not before: one that lets nobody in would be dialled again at once, for ever.
                self.book.worked(now, &leg.addr);
                self.peers_came(now, id, welcome.peers, effects);
            }
            NodeMessage::Peers(peers) => self.peers_came(now, id, peers, effects),
            NodeMessage::Assign(assign) => self.assign(now, id, &assign, effects),
            NodeMessage::Registered(registered) => self.registered(now, id, &registered, effects),
            NodeMessage::Rejected(rejected) => self.rejected(now, id, rejected, effects),
            NodeMessage::Demand(demand) => {
                if demand.watched && leg.purpose == Purpose::Next {
                    self.nudge(now);
                }
                if let Some(leg) = self.legs.get_mut(&id) {
                    leg.demand = demand;
                }
            }
            NodeMessage::Keyframe(_) => effects.push(Effect::Keyframe),
            NodeMessage::Confirm(question) => {
                let mine = self.home == Some(id) && question.epoch == Some(self.epoch);
                let epoch = mine.then_some(self.epoch);
                let answer = wire::Confirm { nonce: question.nonce, epoch };
                send(id, ClientMessage::Confirmed(answer), effects);
            }
            NodeMessage::Goodbye(goodbye) => self.goodbye(now, id, &goodbye.reason, effects),
            NodeMessage::Move(order) => self.asked_to_move(now, id, order, effects),
            NodeMessage::Failed(failed) => {
                effects.push(Effect::Note(Note::Refused(failed.reason)));
                if leg.purpose != Purpose::Next {
                    // A node that is shut out lets nobody in, and what it said last of others is old.
                    self.lost_home = leg.node;
                    if matches!(failed.status, 401 | 403) {
                        self.wait_until = Some(now + NAME_TAKEN_WAIT);
                    }
                }
            }
            NodeMessage::Hello(_) | NodeMessage::Stream(_) => {}
        }
    }

    fn peers_came(&mut self, now: Mono, id: LegId, peers: PeerList, effects: &mut Vec<Effect>) {
        if self.book.set_peers(now, id, peers) {
            effects.push(Effect::Peers(self.book.peers().clone()));
        }
        // Somebody else says that home is dead: look at it closely. Not so if it is drained: thousands
        // that all look closely would keep it from answering.
        if let Some(home) = self.home
            && home != id
            && let Some(node) = self.legs.get(&home).and_then(|leg| leg.node)
            && self.book.dead(node)
        {
            self.nudge(now);
        }
    }

    fn assign(&mut self, now: Mono, id: LegId, assign: &wire::Assign, effects: &mut Vec<Effect>) {
        self.heed_floor(assign.floor);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.asked = None;
        if self.home.is_some() {
            // Who stands by says so unasked once nobody claims the encoder any more.
            if leg.purpose == Purpose::Next && leg.registered {
                self.nudge(now);
            }
            return;
        }
        // The node that is asked may not have noticed yet what this agent has: then it has to do.
        let mute = |node| self.mute.get(&node).is_some_and(|at| now.since(*at) < MUTE_KEEP);
        let home = if mute(assign.home) { leg.node.unwrap_or(assign.home) } else { assign.home };
        self.assigned = Some(home);
        self.wanted_next = assign.next;
        self.why.clone_from(&assign.reason);
        if leg.node == Some(home) {
            leg.purpose = Purpose::Home;
        } else if leg.node == assign.next {
            leg.purpose = Purpose::Next;
        }
        self.lease(effects);
    }

    fn registered(
        &mut self,
        now: Mono,
        id: LegId,
        registered: &wire::Registered,
        effects: &mut Vec<Effect>,
    ) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let (node, first) = (leg.node, !leg.registered);
        match registered.role {
            Role::Home if self.home == Some(id) && registered.epoch == self.epoch => {
                leg.registered = true;
                leg.asked = None;
                self.was_home = true;
                self.rejections = 0;
                self.wanted_next = registered.next;
                if let (true, Some(node)) = (first, node) {
                    let (name, epoch) = (self.label(Some(node)), self.epoch);
                    let moved = self.moved_for.take();
                    let healed = self.lost_at.take().map(|at| now.since(at));
                    effects.push(Effect::Note(Note::Home { node, name, epoch, moved, healed }));
                    send(id, ClientMessage::Source(self.source.clone()), effects);
                }
                self.arrived(now, first);
                self.drop_others(effects);
            }
            Role::Next | Role::Also if leg.purpose == Purpose::Next => {
                leg.registered = true;
                leg.asked = None;
                if let (true, Some(node)) = (first, node) {
                    let name = self.label(Some(node));
                    effects.push(Effect::Note(Note::Next { node, name }));
                }
                if self.home().is_some() {
                    self.drop_others(effects);
                }
            }
            _ => {}
        }
    }

    fn rejected(
        &mut self,
        now: Mono,
        id: LegId,
        rejected: wire::Rejected,
        effects: &mut Vec<Effect>,
    ) {
        let superseded = self.was_home
            && rejected.floor > self.epoch
            && rejected.floor.instance != self.config.instance;
        self.heed_floor(rejected.floor);
        if self.legs.get(&id).is_some_and(|leg| leg.purpose == Purpose::Old) {
            // It has noticed that home is elsewhere.
            return;
        }
        let node = self.legs.get(&id).and_then(|leg| leg.node);
        let going = self.moving.as_ref().is_some_and(|moving| Some(moving.to) == node);
        if going && self.home == Some(id) && !superseded {
            self.stay(now, &rejected.reason, effects);
            if self.home != Some(id) {
                return;
            }
        }
        if !superseded && self.refused_as_next(now, id, &rejected, effects) {
            return;
        }
        self.rejections += 1;
        if self.rejections > 1 {
            // The first may be due to an epoch that was too low, which is mended at once.
            let doublings = (self.rejections - 2).min(5);
            self.wait_until = Some(now + REJECTED_WAIT * (1 << doublings));
        }
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.asked = None;
        leg.registered = false;
        if superseded {
            effects.push(Effect::Note(Note::Superseded));
            self.wait_until = Some(now + NAME_TAKEN_WAIT);
        } else if let Some(seconds) = rejected.retry_after {
            // Not all at once, and not never, whatever a node says.
            let wait = Duration::from_secs(u64::from(seconds.clamp(1, RETRY_AFTER_MAX)));
            self.wait_until = Some(now + self.book.jitter(wait));
            effects.push(Effect::Note(Note::Refused(rejected.reason)));
        } else if rejected.name_taken {
            self.wait_until = Some(now + NAME_TAKEN_WAIT);
            effects.push(Effect::Note(Note::Refused(rejected.reason)));
        }
        if self.home == Some(id) {
            let node = leg.node;
            self.home = None;
            self.assigned = None;
            if rejected.floor < self.epoch || superseded {
                // Not for a low epoch: this node does not want us.
                self.lost_home = node;
            } else {
                self.assigned = node;
            }
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.purpose = if self.assigned == node { Purpose::Home } else { Purpose::Ask };
            }
        }
    }

    fn goodbye(&mut self, now: Mono, id: LegId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(leg) = self.legs.get(&id) else { return };
        let node = leg.node;
        // It is not gone to again at once: it would let this agent in and say goodbye again.
        self.book.failed(now, &leg.addr);
        if self.home == Some(id) {
            let reason = format!("{} said goodbye: {reason}", self.label(node));
            self.lose_home(now, node, reason, effects);
        } else {
            // Home hears of it from the node itself, and chooses another next.
            self.legs.remove(&id);
            effects.push(Effect::Close(id));
        }
    }

    /// Home is gone or going: promote next if it stands, otherwise ask around. A home that is
    /// still connected keeps its leg until the new one holds.
    fn lose_home(
        &mut self,
        now: Mono,
        node: Option<NodeId>,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        self.moving = None;
        self.lost_at.get_or_insert(now);
        if !self.media.is_empty() {
            self.carry_until = Some(now + LINGER);
        }
        if let Some(old) = self.home.take().and_then(|home| self.legs.get_mut(&home)) {
            old.purpose = Purpose::Old;
            old.registered = false;
            self.lost_at = Some(old.pulse.heard);
        }
        self.assigned = None;
        self.lost_home = node;
        self.wanted_next = None;
        self.why.clone_from(&reason);
        self.moved_for = Some(reason);
        let next = self.legs.iter().find(|(_, leg)| {
            leg.purpose == Purpose::Next && leg.registered && !leg.pulse.silent(now)
        });
        if let Some((&id, leg)) = next {
            self.assigned = leg.node;
            self.claim(now, id, effects);
        }
    }

    /// Everything that is due.
    fn proceed(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.give_up_dials(now, effects);
        if self.book.keep_of(now, |leg| self.legs.contains_key(&leg)) {
            effects.push(Effect::Peers(self.book.peers().clone()));
        }
        self.judge_home(now, effects);
        if self.wait_until.is_some_and(|until| until <= now) {
            self.wait_until = None;
        }
        if self.home.is_none() && self.wait_until.is_none() {
            self.find_home(now, effects);
        }
        self.proceed_moving(now, effects);
        self.find_next(now, effects);
        self.register_waiting(now, effects);
        self.pace(now, effects);
        self.send_media(effects);
    }

    fn label(&self, node: Option<NodeId>) -> String {
        let Some(node) = node else { return "a node".into() };
        let peer = self.book.peers().nodes.iter().find(|peer| peer.node == node);
        peer.map_or_else(|| node.short(), |peer| peer.name.clone())
    }

    fn compute_wake(&self, now: Mono) -> Option<Mono> {
        let mut due = earlier(earlier(self.wait_until, self.carry_until), self.let_go_at);
        due = earlier(due, self.moving.as_ref().map(|moving| moving.until));
        for leg in self.legs.values() {
            let at = match (leg.welcomed, leg.asked) {
                (_, Some(asked)) => (asked + REGISTER_DEADLINE).min(leg.pulse.next_wake()),
                (true, None) => leg.pulse.next_wake().min(leg.held(now)),
                (false, None) => leg.opened + self.patience(leg),
            };
            due = earlier(due, Some(at));
        }
        if self.home.is_none() || self.wanted_next.is_some() {
            due = earlier(due, self.book.next_wake(now));
        }
        if self.home.is_none() {
            due = earlier(due, self.dialled_at.map(|at| at + DIAL_STAGGER));
        }
        // Never in the past: a wake that changes nothing must not spin.
        due.map(|at| at.max(now + PING_WATCHED / 4))
    }
}

fn send(leg: LegId, message: ClientMessage, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send(leg, message.encode()));
}

#[cfg(test)]
mod tests;
