//! Which encoder is where: every node writes its own entries, everyone holds everyone's.
//!
//! An *origin* numbers its changes by (boot, sequence). Changes travel as deltas, pushed over
//! links as soon as they are flushed and handed on to nodes that the origin has no link to;
//! digests find and repair whatever was missed, of everyone at a pace that many origins slow down
//! (ADR 21). Nothing is stored on disk.

mod claims;
mod digests;
mod floors;
mod part;
#[cfg(test)]
mod tests;
mod types;

pub use digests::{DIGEST_SPACING, REPAIR_INTERVAL};
pub use types::{
    ADDR_MAX, ADDRS_MAX, Counters, DELTA_ENTRIES, Delta, Digest, ENTRIES_MAX, Effect, Entry, Event,
    FLOORS_MAX, Floor, Header, MEASURED_MAX, ORIGINS_MAX, PROCESSOR, REASON_MAX, SourceState,
    TOMBSTONES_MAX, WHY_MAX, size,
};

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Boot, EncoderId, NodeId};
use crate::time::{Mono, Now, earlier};

use self::claims::Claims;
use self::digests::Ask;
use self::part::{Part, Span};
use self::types::{entry_fits, header_fits};

/// What an origin that hears of a later self adds to that one's boot: more than any count of
/// starts, so that numbers made up in memory never meet persisted ones.
const BOOT_STRIDE: u64 = 1 << 20;
/// Boots above this were not counted by starting; refused, so that additions cannot overflow.
const BOOT_MAX: u64 = 1 << 62;

/// The constants that tests make small.
#[derive(Debug, Clone, Copy)]
struct Limits {
    entries: usize,
    tombstones: usize,
    delta: usize,
    floors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: ENTRIES_MAX,
            tombstones: TOMBSTONES_MAX,
            delta: DELTA_ENTRIES,
            floors: FLOORS_MAX,
        }
    }
}

/// How two headers of a node differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum HeaderChange {
    #[default]
    None,
    /// In the links that it lacks, which change most often and matter to the fewest.
    Links,
    Other,
}

impl HeaderChange {
    fn tell(self, node: NodeId, effects: &mut Vec<Effect>) {
        match self {
            Self::None => {}
            Self::Links => effects.push(Effect::LinksChanged(node)),
            Self::Other => effects.push(Effect::HeaderChanged(node)),
        }
    }
}

fn header_change(old: Option<&Header>, new: Option<&Header>) -> HeaderChange {
    let (Some(old), Some(new)) = (old, new) else {
        return if old == new { HeaderChange::None } else { HeaderChange::Other };
    };
    // All fields are named, so that a new one is thought of.
    let Header { name, addrs, lacking, draining, cordoned, capacity, limit, measured, later } = new;
    let same = (name, addrs, draining) == (&old.name, &old.addrs, &old.draining)
        && (cordoned, capacity, limit) == (&old.cordoned, &old.capacity, &old.limit)
        && *measured == old.measured
        && *later == old.later;
    match same {
        false => HeaderChange::Other,
        true if *lacking == old.lacking => HeaderChange::None,
        true => HeaderChange::Links,
    }
}

/// Everyone's headers and entries, and the machine that keeps them equal on all nodes.
#[derive(Debug)]
pub struct Directory {
    me: NodeId,
    parts: BTreeMap<NodeId, Part>,
    claims: Claims,
    /// Links, and when the last digest went out over each.
    links: BTreeMap<NodeId, Option<Mono>>,
    /// What to ask for once [`DIGEST_SPACING`] is over.
    asks: BTreeMap<NodeId, Ask>,
    /// When the first of them is due.
    asks_due: Option<Mono>,
    /// When a link that comes up may be told of all origins again: see [`DIGEST_EACH`].
    whole_at: Option<Mono>,
    /// The last one that was not, and is to be then.
    owed: Option<NodeId>,
    forgotten: BTreeMap<NodeId, Boot>,
    /// How far the own part was pushed.
    pushed: (Boot, u64),
    /// The highest own number that ever left this node in its present boot.
    told: u64,
    own_changes: BTreeSet<EncoderId>,
    own_header_changed: HeaderChange,
    repair_at: Option<Mono>,
    /// Worked out after each event, for it is asked for far more often.
    due: Option<Mono>,
    repaired_last: NodeId,
    rounds: u64,
    counters: Counters,
    limits: Limits,
}

impl Directory {
    /// An empty directory of node `me`, whose own changes are numbered under `boot`.
    pub fn new(me: NodeId, boot: Boot) -> Self {
        Self {
            me,
            parts: BTreeMap::from([(me, Part::new(boot))]),
            claims: Claims::default(),
            links: BTreeMap::new(),
            asks: BTreeMap::new(),
            asks_due: None,
            whole_at: None,
            owed: None,
            forgotten: BTreeMap::new(),
            pushed: (boot, 0),
            told: 0,
            own_changes: BTreeSet::new(),
            own_header_changed: HeaderChange::None,
            repair_at: None,
            due: None,
            repaired_last: me,
            rounds: 0,
            counters: Counters::default(),
            limits: Limits::default(),
        }
    }

    // -- own part -------------------------------------------------------------------------------

    /// Sets this node's header. Nothing happens if it is unchanged; one over a limit is refused
    /// and counted.
    pub fn put_header(&mut self, header: Header) {
        if !header_fits(&header) {
            self.counters.refused += 1;
            return;
        }
        let Some(part) = self.parts.get_mut(&self.me) else { return };
        if part.header.as_ref() == Some(&header) {
            return;
        }
        part.seq += 1;
        let change = header_change(part.header.as_ref(), Some(&header));
        part.set_header(Span::at(part.seq), header);
        self.own_header_changed = self.own_header_changed.max(change);
    }

    /// Claims an encoder for this node, or with `None` lets it go. Nothing happens if nothing
    /// changed; a claim over a limit is refused and counted. A reason that is too long is cut.
    pub fn put_entry(&mut self, encoder: EncoderId, entry: Option<Entry>) {
        let entry = entry.map(|mut entry| {
            if let SourceState::NoSignal(reason) | SourceState::NativeOnly(reason) =
                &mut entry.source
            {
                let end = REASON_MAX.min(reason.len());
                let end = (0..=end).rev().find(|end| reason.is_char_boundary(*end));
                reason.truncate(end.unwrap_or(0));
            }
            entry
        });
        let Some(part) = self.parts.get_mut(&self.me) else { return };
        let old = part.entry(encoder);
        if old == entry.as_ref() {
            return;
        }
        if entry.as_ref().is_some_and(|entry| !entry_fits(entry))
            || (old.is_none() && part.count() >= self.limits.entries)
        {
            self.counters.refused += 1;
            return;
        }
        part.seq += 1;
        let old = part.set(Span::at(part.seq), encoder, entry, &self.limits);
        let (new, limit) = (part.entry(encoder), self.limits.floors);
        self.counters.floors_dropped +=
            self.claims.change(self.me, encoder, old.as_ref(), new, limit);
        self.own_changes.insert(encoder);
    }

    /// Whether a claim of this node waits to be pushed.
    pub fn has_changes(&self) -> bool {
        !self.own_changes.is_empty()
    }

    /// Pushes everything put since the last flush to every link, and reports it as changed.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        std::mem::take(&mut self.own_header_changed).tell(self.me, effects);
        effects.extend(std::mem::take(&mut self.own_changes).into_iter().map(Effect::Changed));
        let Some(part) = self.parts.get(&self.me) else { return };
        if !self.links.is_empty() {
            self.told = part.seq;
        }
        let deltas = part.since(self.me, Some(self.pushed), &self.limits);
        self.pushed = part.position();
        let all = || self.links.keys().copied().collect();
        effects.extend(deltas.into_iter().map(|delta| Effect::Delta { to: all(), delta }));
    }

    // -- machine --------------------------------------------------------------------------------

    /// Takes an event and pushes what it leads to.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Linked(node) => {
                self.links.insert(node, None);
                self.tell_linked(now.mono, node, effects);
            }
            Event::Unlinked(node) => {
                self.links.remove(&node);
                self.asks.remove(&node);
                self.owed = self.owed.filter(|owed| *owed != node);
                if self.links.is_empty() {
                    self.repair_at = None;
                }
            }
            Event::Digest { from, digest } => self.on_digest(from, &digest, effects),
            Event::Delta { from, delta } => self.on_delta(now.mono, from, delta, effects),
            Event::Wake => self.on_wake(now.mono, effects),
        }
        let whole = self.owed.and(self.whole_at);
        self.due = earlier(earlier(self.repair_at, self.asks_due), whole);
    }

    /// When to call [`Directory::handle`] with [`Event::Wake`].
    pub fn next_wake(&self) -> Option<Mono> {
        self.due
    }

    /// Somebody has more of this node than this node ever said in this life: an older copy of
    /// its folder was put back. What was said before is void, so everything is numbered anew.
    fn heard_of_self(&mut self, boot: Boot, seq: u64, effects: &mut Vec<Effect>) {
        let Some(part) = self.parts.get_mut(&self.me) else { return };
        if (boot, seq) > (part.boot, self.told) {
            part.renumber(Boot(boot.0.saturating_add(BOOT_STRIDE)), &self.limits);
            self.counters.overtaken += 1;
            self.told = 0;
            self.flush(effects);
        }
    }

    fn on_delta(&mut self, now: Mono, from: NodeId, delta: Delta, effects: &mut Vec<Effect>) {
        if !self.delta_fits(&delta) {
            self.counters.refused += 1;
            return;
        }
        if delta.origin == self.me {
            self.heard_of_self(delta.boot, delta.to, effects);
            self.answer(from, self.me, Some((delta.boot, delta.to)), effects);
            return;
        }
        if self.is_forgotten(delta.origin, delta.boot) {
            self.counters.forgotten += 1;
            return;
        }
        let position = self.parts.get(&delta.origin).map(Part::position);
        match position {
            Some((boot, _)) if delta.boot < boot => {
                self.counters.stale += 1;
                self.answer(from, delta.origin, Some((delta.boot, delta.to)), effects);
            }
            Some((boot, seq)) if delta.boot == boot && delta.to <= seq => {
                self.counters.duplicates += 1;
            }
            Some((boot, seq)) if delta.boot == boot && delta.from > seq => {
                self.counters.gaps += 1;
                self.ask(now, from, [(delta.origin, (delta.boot, delta.to))].into(), effects);
            }
            Some((boot, _)) if delta.boot == boot => self.apply(from, delta, effects),
            _ if delta.from == 0 => self.apply(from, delta, effects),
            _ => {
                self.counters.gaps += 1;
                self.ask(now, from, [(delta.origin, (delta.boot, delta.to))].into(), effects);
            }
        }
    }

    fn delta_fits(&self, delta: &Delta) -> bool {
        let known = self.parts.get(&delta.origin);
        delta.from <= delta.to
            && delta.boot.0 <= BOOT_MAX
            && delta.header.as_ref().is_none_or(header_fits)
            && delta.entries.len() <= self.limits.entries + self.limits.tombstones
            && delta.entries.iter().all(|(_, entry)| entry.as_ref().is_none_or(entry_fits))
            && match known {
                Some(part) => part.count_after(delta) <= self.limits.entries,
                None => {
                    self.parts.len() < ORIGINS_MAX && delta.entries.len() <= self.limits.entries
                }
            }
    }

    fn apply(&mut self, from: NodeId, delta: Delta, effects: &mut Vec<Effect>) {
        let origin = delta.origin;
        let part = self.parts.entry(origin).or_insert_with(|| Part::new(delta.boot));
        let mut before = BTreeMap::new();
        let mut header_before = None;
        if delta.from == 0 {
            let old = std::mem::replace(part, Part::new(delta.boot));
            header_before = old.header.clone();
            before.extend(old.into_entries().map(|(encoder, entry)| (encoder, Some(entry))));
        } else if delta.header.is_some() {
            header_before = part.header.take();
        }
        for (encoder, old) in part.apply(&delta, &self.limits) {
            before.entry(encoder).or_insert(old);
        }
        if delta.from == 0 || delta.header.is_some() {
            header_change(header_before.as_ref(), part.header.as_ref()).tell(origin, effects);
        }
        let mut claimed = Vec::new();
        for (encoder, old) in before {
            let new = part.entry(encoder);
            if old.as_ref() == new {
                continue;
            }
            let dropped =
                self.claims.change(origin, encoder, old.as_ref(), new, self.limits.floors);
            self.counters.floors_dropped += dropped;
            effects.push(Effect::Changed(encoder));
            claimed.extend(new.map(|claim| (encoder, claim.epoch)));
        }
        if from == origin {
            for (encoder, epoch) in claimed {
                self.tell_floor(origin, encoder, epoch, effects);
            }
        }
        self.counters.applied += 1;
        self.forward(from, delta, effects);
    }

    /// Hands a new delta to those of our links that its origin says it has no link to.
    fn forward(&mut self, from: NodeId, delta: Delta, effects: &mut Vec<Effect>) {
        let lacking = self.header(delta.origin).map(|header| &header.lacking);
        let takes = |to: &NodeId| *to != from && *to != delta.origin && self.links.contains_key(to);
        let to: Vec<NodeId> = match lacking {
            Some(lacking) => lacking.iter().copied().filter(takes).collect(),
            None => self.links.keys().copied().filter(takes).collect(),
        };
        self.counters.forwarded += to.len() as u64;
        if !to.is_empty() {
            effects.push(Effect::Delta { to, delta });
        }
    }

    // -- what is known --------------------------------------------------------------------------

    /// What a node says of itself, if anything came.
    pub fn header(&self, node: NodeId) -> Option<&Header> {
        self.parts.get(&node)?.header.as_ref()
    }

    /// The encoders that a node claims, in order of id.
    pub fn entries(&self, node: NodeId) -> impl Iterator<Item = (EncoderId, &Entry)> {
        self.parts.get(&node).into_iter().flat_map(Part::entries)
    }

    /// A node's claim to an encoder.
    pub fn entry(&self, node: NodeId, encoder: EncoderId) -> Option<&Entry> {
        self.parts.get(&node)?.entry(encoder)
    }

    /// Every node's claim to an encoder, in order of node.
    pub fn claims(&self, encoder: EncoderId) -> impl Iterator<Item = (NodeId, &Entry)> {
        let claimers = self.claims.of(encoder);
        claimers.filter_map(move |node| Some((node, self.entry(node, encoder)?)))
    }

    /// An encoder's home: of the claims by nodes that are `alive`, that with the highest epoch;
    /// of equals the lowest node.
    pub fn home(
        &self,
        encoder: EncoderId,
        alive: &dyn Fn(NodeId) -> bool,
    ) -> Option<(NodeId, &Entry)> {
        // A claim below the floor was superseded, also if whoever superseded it is gone: its node
        // does not get the encoder back by outliving the other.
        let mut floor = self.claims.floors.get(encoder);
        let claims = self.claims(encoder).inspect(|(_, entry)| floor = floor.max(entry.epoch));
        let living = claims.filter(|(node, _)| alive(*node));
        let best = living.max_by_key(|(node, entry)| (entry.epoch, std::cmp::Reverse(*node)));
        best.filter(|(_, entry)| entry.epoch >= floor)
    }

    /// The encoder of this name: of those that a node that is `alive` claims under it, the lowest
    /// id; if none, the one last claimed by anyone.
    pub fn by_name(&self, name: &str, alive: &dyn Fn(NodeId) -> bool) -> Option<EncoderId> {
        self.by_name_of(name, alive, &|_any| true)
    }

    /// The same among some encoders.
    pub fn by_name_of(
        &self,
        name: &str,
        alive: &dyn Fn(NodeId) -> bool,
        among: &dyn Fn(EncoderId) -> bool,
    ) -> Option<EncoderId> {
        let mut last = None;
        for (encoder, node) in self.claims.named(name).filter(|(encoder, _)| among(*encoder)) {
            // Names are looked up by their hashes.
            let Some(entry) = self.entry(node, encoder).filter(|it| it.name == name) else {
                continue;
            };
            if alive(node) {
                return Some(encoder);
            }
            last = last.max(Some((entry.epoch, std::cmp::Reverse(encoder))));
        }
        last.map(|(_, encoder)| encoder.0)
    }

    /// Every encoder that any node claims, alive or not, in order of id.
    pub fn encoders(&self) -> impl Iterator<Item = EncoderId> {
        self.claims.encoders()
    }

    /// How many encoders a node claims.
    pub fn count(&self, node: NodeId) -> usize {
        self.parts.get(&node).map_or(0, Part::count)
    }

    /// The start of a node that numbered what is known of it, if anything came.
    pub fn boot(&self, node: NodeId) -> Option<Boot> {
        Some(self.parts.get(&node)?.boot)
    }

    /// How far everything is known here.
    pub fn digest(&self) -> Digest {
        let of = self.parts.iter().map(|(origin, part)| (*origin, part.position())).collect();
        Digest { of, only: false }
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Drops a node that does not belong to the mesh any more, and refuses what others still say
    /// of its present boot. Its encoders are not reported as changed: the caller knows that it is
    /// gone. Forgetting this node itself does nothing.
    pub fn forget(&mut self, node: NodeId) {
        if node == self.me {
            return;
        }
        let Some(part) = self.parts.remove(&node) else { return };
        for (encoder, entry) in part.entries() {
            self.counters.floors_dropped +=
                self.claims.change(node, encoder, Some(entry), None, self.limits.floors);
        }
        if self.forgotten.len() < ORIGINS_MAX {
            self.forgotten.insert(node, part.boot);
        }
    }

    /// A node that was forgotten belongs to the mesh again.
    pub fn admit(&mut self, node: NodeId) {
        self.forgotten.remove(&node);
    }

    fn is_forgotten(&self, origin: NodeId, boot: Boot) -> bool {
        self.forgotten.get(&origin).is_some_and(|last| boot <= *last)
    }
}
