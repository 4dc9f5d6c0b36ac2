//! A native viewer's side of its stay: finds the stream through any node, watches it at home,
//! keeps a warm leg at next, and asks next as soon as the picture stands still.

mod cause;
mod look;
mod types;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::directory::SourceState;
use crate::id::NodeId;
use crate::media::{Pace, REQUEST_INTERVAL};
use crate::session::SILENCE_WATCHED;
use crate::session::leg::{Book, DIAL_DEADLINE, DIAL_STAGGER, DIALS_MAX, LegId, Pulse};
use crate::time::{Mono, earlier};
use crate::wire::{self, ClientMessage, Heartbeat, Message, NodeMessage, PeerList, StreamPlace};

use cause::Meanwhile;
pub use types::{Config, Effect, Event, Lacks, Note};

/// The picture counts as standing still after this long, at the least: below it, jitter looks
/// like a dead node. A needless request to next costs one group of pictures.
pub const STALL_MIN: Duration = Duration::from_millis(120);
/// With no picture from home and next though they answer, every other node is asked after this
/// long.
const ASK_ALL: Duration = Duration::from_millis(1200);
/// A node that was dialled has this long to answer before people are told that none does.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// Why a leg that does not answer is closed.
const SILENT: &str = "silent";
/// A request that brought nothing is repeated this often.
const WATCH_AGAIN: Duration = Duration::from_millis(500);
/// Once the picture runs from the new place for this long, the old one is told to stop.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Leg {
    node: Option<NodeId>,
    addr: String,
    opened: Mono,
    welcomed: bool,
    /// Asked for the stream at that time, with `stay` or without.
    watching: Option<(Mono, bool)>,
    /// Where its node said last that the stream is, and the number of that word.
    said: Option<(u64, StreamPlace)>,
    pulse: Pulse,
}

/// One native viewer of one stream.
#[derive(Debug)]
pub struct Viewer {
    config: Config,
    book: Book,
    legs: BTreeMap<LegId, Leg>,
    last_leg: u32,
    words: u64,
    place: Option<StreamPlace>,
    /// Where the last fresh frame came from, and when.
    via: Option<LegId>,
    fresh: Option<Mono>,
    /// Who was asked for a keyframe last, and when.
    wished: Option<(LegId, Mono)>,
    /// Since when frames come without standing still.
    flowing_since: Mono,
    /// When the stream was first asked for.
    asked_at: Option<Mono>,
    pace: Pace,
    dialled_at: Option<Mono>,
    look: Option<look::Look>,
    /// When this process last stood still: what did not come until then proves nothing.
    woke: Mono,
    meanwhile: Meanwhile,
    cause: Option<String>,
    told: Option<String>,
    due: Option<Mono>,
}

impl Viewer {
    /// A viewer that starts now.
    pub fn new(config: Config) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(config.seed);
        let book = Book::new(config.targets.clone(), config.peers.clone(), rng);
        Self {
            config,
            book,
            legs: BTreeMap::new(),
            last_leg: 0,
            words: 0,
            place: None,
            via: None,
            fresh: None,
            wished: None,
            flowing_since: Mono(0),
            asked_at: None,
            pace: Pace::default(),
            dialled_at: None,
            look: None,
            woke: Mono(0),
            meanwhile: Meanwhile::default(),
            cause: None,
            told: None,
            due: Some(Mono(0)),
        }
    }

    /// One event in, effects out.
    pub fn handle(&mut self, now: Mono, event: Event, effects: &mut Vec<Effect>) {
        self.forgive_own_stall(now);
        match event {
            Event::Wake => {}
            Event::Connected { leg, node } => self.connected(now, leg, node, effects),
            Event::Closed { leg, reason } => self.closed(now, leg, &reason),
            Event::Message(leg, bytes) => self.message(now, leg, &bytes, effects),
            Event::Datagram(leg, body) => {
                if let Some(Heartbeat::Pong(_)) = Heartbeat::decode(&body) {
                    self.hear(now, leg);
                }
            }
            Event::Fresh(leg) => self.fresh(now, leg, effects),
            Event::KeyframeWanted => self.ask_for_keyframe(now, effects),
        }
        self.proceed(now, effects);
        self.due = self.compute_wake(now);
    }

    /// When [`Event::Wake`] is due.
    pub fn next_wake(&self) -> Option<Mono> {
        self.due
    }

    /// Why the picture stood still before the frame that came last, in words; `None` if it did
    /// not, or not for long.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Why no frame has come since the last, in words.
    pub fn cause_until(&self, now: Mono) -> String {
        self.meanwhile.words(now, self)
    }

    /// The node that the picture comes from.
    pub fn via(&self) -> Option<NodeId> {
        self.legs.get(&self.via?)?.node
    }

    /// Label of the node that the picture comes from.
    pub fn via_name(&self) -> String {
        self.label(self.via())
    }

    /// Where the stream is.
    pub fn place(&self) -> Option<&StreamPlace> {
        self.place.as_ref()
    }

    fn connected(&mut self, now: Mono, id: LegId, node: NodeId, effects: &mut Vec<Effect>) {
        let twin = self.legs.iter().find(|(other, leg)| **other != id && leg.node == Some(node));
        let twin = twin.map(|(&twin, leg)| (twin, leg.welcomed && !leg.pulse.silent(now)));
        match twin {
            Some((_, true)) => drop(self.legs.remove(&id)),
            // A node that is silent may have been started anew: it is this leg that stands.
            Some((twin, false)) => {
                effects.push(Effect::Close(twin));
                self.closed(now, twin, SILENT);
            }
            None => {}
        }
        let Some(leg) = self.legs.get_mut(&id) else {
            effects.push(Effect::Close(id));
            return;
        };
        leg.node = Some(node);
        leg.opened = now;
        leg.pulse = Pulse::new(now);
    }

    fn closed(&mut self, now: Mono, id: LegId, reason: &str) {
        let Some(leg) = self.legs.remove(&id) else { return };
        if leg.welcomed {
            self.book.ended(&leg.addr, now.since(leg.opened));
        } else {
            self.book.failed(now, &leg.addr);
        }
        if self.via == Some(id) {
            self.via = None;
            self.meanwhile.ended(leg.pulse.heard, reason);
        }
    }

    fn message(&mut self, now: Mono, id: LegId, bytes: &[u8], effects: &mut Vec<Effect>) {
        self.hear(now, id);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Ok(message) = NodeMessage::decode(bytes) else { return };
        match message {
            NodeMessage::Welcome(welcome) => {
                leg.welcomed = true;
                self.book.worked(now, &leg.addr);
                let name = self.config.name.clone();
                send(id, ClientMessage::Follow(wire::Follow { name }), effects);
                self.peers_came(now, id, welcome.peers, effects);
            }
            NodeMessage::Peers(peers) => self.peers_came(now, id, peers, effects),
            NodeMessage::Stream(place) => {
                self.words += 1;
                leg.said = Some((self.words, place));
            }
            // One node may know this viewer as a neighbour, and another not: it relays.
            NodeMessage::Failed(_) if self.legs.values().any(|leg| leg.welcomed) => {
                // It is not gone to again at once: it would let this viewer in and refuse it again.
                if let Some(leg) = self.legs.get(&id).filter(|leg| leg.welcomed) {
                    self.book.failed(now, &leg.addr);
                }
                effects.push(Effect::Close(id));
                self.closed(now, id, "refused");
            }
            NodeMessage::Failed(failed) => effects.push(Effect::Note(Note::Refused(failed.reason))),
            NodeMessage::Goodbye(goodbye) if self.via == Some(id) => {
                self.meanwhile.goodbye(goodbye.reason);
            }
            _ => {}
        }
    }

    fn peers_came(&mut self, now: Mono, id: LegId, peers: PeerList, effects: &mut Vec<Effect>) {
        if self.book.set_peers(now, id, peers) {
            effects.push(Effect::Peers(self.book.peers().clone()));
        }
    }

    /// What counts is the best of what the nodes said last: each says it once, so the word of one
    /// must not be lost to that of another that goes. Without a word, what was known holds.
    fn settle(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.book.keep_of(now, |leg| self.legs.contains_key(&leg)) {
            effects.push(Effect::Peers(self.book.peers().clone()));
        }
        let said = self.legs.values().filter_map(|leg| Some((leg.node, leg.said.as_ref()?)));
        let mut words: Vec<_> = said
            .map(|(node, (number, place))| (*number, node.is_some() && node == place.home, place))
            .collect();
        words.sort_by_key(|(number, ..)| *number);
        let best = words.into_iter().map(|(_, own, place)| (own, place)).reduce(|best, word| {
            // Home itself says who its next is. Others may differ as long as they are apart, and
            // whoever follows one and then another goes to and fro between them.
            let claim = |place: &StreamPlace| (place.encoder, place.home, place.epoch);
            let known = best.0 && !word.0 && claim(best.1) == claim(word.1);
            if !known && word.1.overrides(best.1) { word } else { best }
        });
        let best = best.map(|(_, place)| place);
        let Some(best) = best.filter(|best| self.place.as_ref() != Some(best)) else { return };
        // A node that knows no home of an encoder that had one says nothing new.
        let known = self.place.as_ref().is_some_and(|old| old.encoder == best.encoder);
        if self.place.as_ref().is_some_and(|old| known && !best.overrides(old)) {
            return;
        }
        let place = best.clone();
        self.meanwhile.place(&place);
        self.place = Some(place.clone());
        effects.push(Effect::Note(Note::Place(place)));
    }

    fn fresh(&mut self, now: Mono, id: LegId, effects: &mut Vec<Effect>) {
        self.hear(now, id);
        let paused = self.fresh.is_some_and(|last| now.since(last) >= STALL_MIN);
        self.cause = paused.then(|| self.meanwhile.words(now, self));
        if self.fresh.is_none() {
            self.flowing_since = now;
        }
        if let Some(last) = self.fresh {
            let gap = now.since(last);
            if gap >= self.stall_limit() {
                self.flowing_since = now;
            }
            self.pace.came_after(gap);
        }
        self.fresh = Some(now);
        self.told = None;
        if self.via != Some(id) {
            self.via = Some(id);
            if let Some(node) = self.legs.get(&id).and_then(|leg| leg.node) {
                let name = self.label(Some(node));
                effects.push(Effect::Note(Note::Via { node, name }));
            }
        }
        self.meanwhile = Meanwhile::since(self.label(self.via()), self.place.as_ref());
    }

    /// The node that was asked may not be the one that the picture comes from by now.
    fn ask_for_keyframe(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let encoder = self.place.as_ref().and_then(|place| place.encoder);
        let (Some(via), Some(encoder)) = (self.via, encoder) else { return };
        let lately = |(leg, at): (LegId, Mono)| leg == via && now < at + REQUEST_INTERVAL;
        if self.wished.is_some_and(lately) {
            return;
        }
        self.wished = Some((via, now));
        send(via, ClientMessage::Keyframe(wire::KeyframeRequest { encoder }), effects);
    }

    fn hear(&mut self, now: Mono, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if self.via == Some(id) {
            self.meanwhile.heard(leg.pulse.heard, now);
        }
        leg.pulse.hear(now);
    }

    /// Late by more than half a silence limit: it was this process that stood still, and what
    /// waits in its sockets must be read before anyone is judged.
    fn forgive_own_stall(&mut self, now: Mono) {
        let Some(late) = self.due.filter(|due| due.0 > 0).map(|due| now.since(due)) else { return };
        if late > SILENCE_WATCHED / 2 {
            self.woke = now;
            self.meanwhile.stood_still(late);
            for leg in self.legs.values_mut() {
                leg.pulse.forgive(now);
            }
        }
    }

    fn proceed(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let over = |leg: &Leg| match leg.welcomed {
            false => (leg.opened + DIAL_DEADLINE <= now).then_some("no answer"),
            true => {
                let limit = Duration::from_secs(3).max(leg.pulse.limit());
                (leg.pulse.silence(now) > limit).then_some(SILENT)
            }
        };
        let over: Vec<(LegId, &str)> =
            self.legs.iter().filter_map(|(&id, leg)| Some((id, over(leg)?))).collect();
        for (id, reason) in over {
            effects.push(Effect::Close(id));
            self.closed(now, id, reason);
        }
        self.settle(now, effects);
        self.keep_legs(now, effects);
        self.explain(now, effects);
        self.watch(now, effects);
        self.pace(now, effects);
    }

    /// What there would have to be for a picture.
    pub fn lacks(&self) -> Lacks {
        let name = &self.config.name;
        let Some(place) = self.place.as_ref().filter(|_| self.legs.values().any(|l| l.welcomed))
        else {
            return Lacks::Node;
        };
        match (&place.encoder, &place.home, &place.source) {
            (None, ..) => Lacks::Encoder,
            (_, None, _) => Lacks::Picture(format!("{name} has no home at present")),
            (_, _, Some(SourceState::NoSignal(why))) => {
                Lacks::Picture(format!("{name} has no signal: {why}"))
            }
            _ => Lacks::Picture(format!("no picture of {name} came")),
        }
    }

    /// Says once, in words, why there is no picture.
    fn explain(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let alone = self.legs.values().all(|leg| !leg.welcomed);
        let asking = self.legs.values().any(|leg| !leg.welcomed && now < leg.opened + TELL_AFTER);
        let words = match self.lacks() {
            Lacks::Node if alone && asking => return,
            Lacks::Node if alone => "no node answers".to_owned(),
            Lacks::Node => return,
            Lacks::Encoder => format!("no encoder is called {}", self.config.name),
            Lacks::Picture(why) => {
                let place = self.place.as_ref();
                let silent = |of: &StreamPlace| matches!(of.source, Some(SourceState::NoSignal(_)));
                if place.is_some_and(|of| of.home.is_some() && !silent(of)) {
                    return;
                }
                why
            }
        };
        if self.told.as_ref() != Some(&words) {
            self.told = Some(words.clone());
            effects.push(Effect::Note(Note::Waiting(words)));
        }
    }

    /// A leg at home, a leg at next, and while neither stands, one anywhere.
    fn keep_legs(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let (home, next) = match &self.place {
            Some(place) if !self.config.stay => (place.home, place.next),
            _ => (None, None),
        };
        // A node that was started anew does not know of a leg from before, which only falls silent: so
        // does one behind a line that is full for a moment, to which another leg is a burden.
        let stands = |leg: &Leg| !leg.welcomed || leg.pulse.silence(now) < leg.pulse.limit() * 2;
        for node in [home, next].into_iter().flatten() {
            if !self.legs.values().any(|leg| leg.node == Some(node) && stands(leg))
                && let Some(addr) = self.book.address_of(now, node)
            {
                self.dial(now, Some(node), addr, effects);
            }
        }
        let standing =
            self.legs.values().filter(|leg| leg.welcomed && !leg.pulse.silent(now)).count();
        let reachable = self.legs.values().any(|leg| leg.welcomed && !leg.pulse.silent(now));
        let under_way = self.legs.values().filter(|leg| !leg.welcomed).count();
        let busy: Vec<String> = self.legs.values().map(|leg| leg.addr.clone()).collect();
        let staggered = self.dialled_at.is_none_or(|at| now >= at + DIAL_STAGGER);
        if !reachable
            && under_way < DIALS_MAX
            && (under_way == 0 || staggered)
            && let Some((node, addr)) = self.book.anywhere(now, &busy, None)
        {
            self.dial(now, node, addr, effects);
        }
        self.look_elsewhere(now, reachable, effects);
        // Once home and next both stand, and the stream is there, whoever served to find it is let go.
        let stands = |node: Option<NodeId>| {
            node.is_some() && self.legs.values().any(|leg| leg.node == node && leg.welcomed)
        };
        if standing > 2 && stands(home) && stands(next) && self.look.is_none() {
            let spare: Vec<LegId> = self
                .legs
                .iter()
                .filter(|(id, leg)| {
                    leg.node != home && leg.node != next && self.via != Some(**id) && leg.welcomed
                })
                .map(|(&id, _)| id)
                .collect();
            for id in spare {
                self.legs.remove(&id);
                effects.push(Effect::Close(id));
            }
        }
    }

    fn watch(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let Some(place) = &self.place else { return };
        let Some(encoder) = place.encoder else { return };
        let (home, next) = (place.home, place.next);
        // Before the first frame the stream has to be woken, which may take a keyframe interval of
        // a camera; home is given as long as a silent one before others are asked.
        // That counts from when home is known: it may be out of reach, or not let this viewer in.
        if home.is_some() {
            self.asked_at.get_or_insert(now);
        }
        let since = self.fresh.or(self.asked_at);
        let stalled_for = since.map_or(Duration::ZERO, |at| now.since(at.max(self.woke)));
        let limit = if self.fresh.is_some() { self.stall_limit() } else { SETTLE };
        let stalled = stalled_for >= limit;
        let speaks = |leg: &Leg| leg.welcomed && !leg.pulse.silent(now);
        // From a silent one nothing will come: it is no reason to let go of who shows the picture.
        let home_leg = self.legs.values().any(|leg| leg.node == home && speaks(leg));
        let settled = !stalled && now.since(self.flowing_since) >= SETTLE;
        // A home that was just asked has sent nothing yet: until then the picture comes from where
        // it came.
        let at_home = self.legs.values().find(|leg| leg.node.is_some() && leg.node == home);
        let asked = at_home.and_then(|leg| leg.watching).is_none_or(|(at, _)| now < at + SETTLE);
        let (via, stays) = (self.via, self.config.stay);
        for (&id, leg) in self.legs.iter_mut().filter(|(_, leg)| leg.welcomed) {
            let at_home = leg.node.is_some() && leg.node == home;
            let wanted = at_home
                || stays
                || (home.is_none() && self.fresh.is_none())
                || (stalled && (leg.node == next || stalled_for >= ASK_ALL || !home_leg))
                || (!settled && leg.watching.is_some())
                || (via == Some(id) && (!home_leg || asked));
            let stay = !at_home;
            let again = leg.watching.is_some_and(|(at, told)| {
                (stalled && now >= at + WATCH_AGAIN) || (told != stay && now >= at + SETTLE)
            });
            if wanted && (leg.watching.is_none() || again) {
                if leg.watching.is_none() {
                    // It was asked so seldom that it could not be heard: silence counts from here.
                    leg.pulse.forgive(now);
                }
                leg.watching = Some((now, stay));
                self.asked_at.get_or_insert(now);
                send(id, ClientMessage::Watch(wire::Watch { encoder, stay }), effects);
            } else if !wanted && leg.watching.take().is_some() {
                send(id, ClientMessage::Unwatch(wire::Unwatch { encoder }), effects);
            }
        }
    }

    fn pace(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        for (&id, leg) in self.legs.iter_mut().filter(|(_, leg)| leg.welcomed) {
            leg.pulse.set_fast(now, leg.watching.is_some());
            if let Some(number) = leg.pulse.ping(now) {
                effects.push(Effect::Datagram(id, Heartbeat::Ping(number).encode()));
            }
        }
    }

    fn stall_limit(&self) -> Duration {
        self.pace.still_after(STALL_MIN)
    }

    fn dial(&mut self, now: Mono, node: Option<NodeId>, addr: String, effects: &mut Vec<Effect>) {
        if self.legs.values().filter(|leg| !leg.welcomed).count() >= DIALS_MAX {
            return;
        }
        self.last_leg += 1;
        let id = LegId(self.last_leg);
        let leg = Leg {
            node,
            addr: addr.clone(),
            opened: now,
            welcomed: false,
            watching: None,
            said: None,
            pulse: Pulse::new(now),
        };
        self.legs.insert(id, leg);
        self.dialled_at = Some(now);
        effects.push(Effect::Dial { leg: id, node, addr });
    }

    fn label(&self, node: Option<NodeId>) -> String {
        let Some(node) = node else { return "a node".into() };
        let peer = self.book.peers().nodes.iter().find(|peer| peer.node == node);
        peer.map_or_else(|| node.short(), |peer| peer.name.clone())
    }

    fn compute_wake(&self, now: Mono) -> Option<Mono> {
        let looks = self.look.as_ref().map(|look| look.at);
        let mut due = earlier(self.book.next_wake(now), looks);
        for leg in self.legs.values() {
            let at = if leg.welcomed { leg.pulse.next_wake() } else { leg.opened + DIAL_DEADLINE };
            due = earlier(due, Some(at));
        }
        if let Some(fresh) = self.fresh {
            let limit = fresh.max(self.woke) + self.stall_limit();
            due = earlier(due, Some(if limit > now { limit } else { now + WATCH_AGAIN / 5 }));
        } else if self.asked_at.is_some() {
            due = earlier(due, Some(now + WATCH_AGAIN / 5));
        }
        if self.legs.values().all(|leg| !leg.welcomed) {
            due = earlier(due, self.dialled_at.map(|at| at + DIAL_STAGGER));
        }
        due.map(|at| at.max(now + Duration::from_millis(10)))
    }
}

fn send(leg: LegId, message: ClientMessage, effects: &mut Vec<Effect>) {
    effects.push(Effect::Send(leg, message.encode()));
}

#[cfg(test)]
mod tests;
