//! One origin's part of the directory, and the deltas that carry it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delta, Entry, Header, Limits};
use crate::id::{Boot, EncoderId, NodeId};

/// Sorts before every encoder.
const FIRST: EncoderId = EncoderId([0; 16]);

/// What is known of one origin.
///
/// Every key holds the sequence number that last changed it, or a later one: a reader numbers
/// everything in a delta with the delta's end, because deltas do not say which of their entries
/// changed when. Too late a number only makes a later delta repeat an entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Which start of the origin numbered this.
    pub(super) boot: Boot,
    /// How far it is known.
    pub(super) seq: u64,
    /// The header, if it came.
    pub(super) header: Option<Header>,
    header_seq: u64,
    /// Entries, and tombstones of removed ones.
    slots: BTreeMap<EncoderId, Slot>,
    /// Every slot by its number, so that a delta costs what it carries.
    changes: BTreeSet<(u64, EncoderId)>,
    tombstones: BTreeSet<(u64, EncoderId)>,
    /// Removals up to here may be forgotten: who has less gets a full replacement.
    floor: u64,
}

#[derive(Debug, Clone)]
struct Slot {
    seq: u64,
    entry: Option<Entry>,
}

impl Part {
    pub(super) fn new(boot: Boot) -> Self {
        Self { boot, ..Self::default() }
    }

    pub(super) fn position(&self) -> (Boot, u64) {
        (self.boot, self.seq)
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.tombstones.len()
    }

    pub(super) fn entry(&self, encoder: EncoderId) -> Option<&Entry> {
        self.slots.get(&encoder)?.entry.as_ref()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (EncoderId, &Entry)> {
        self.slots.iter().filter_map(|(encoder, slot)| Some((*encoder, slot.entry.as_ref()?)))
    }

    /// How many entries there would be after `delta`. A key that comes twice counts twice.
    pub(super) fn count_after(&self, delta: &Delta) -> usize {
        let mut count = if delta.from == 0 { 0 } else { self.count() };
        for (encoder, entry) in &delta.entries {
            let held = delta.from != 0 && self.entry(*encoder).is_some();
            match (held, entry.is_some()) {
                (false, true) => count += 1,
                (true, false) => count = count.saturating_sub(1),
                _ => {}
            }
        }
        count
    }

    pub(super) fn set_header(&mut self, seq: u64, header: Header) {
        self.header_seq = seq;
        self.header = Some(header);
    }

    /// Writes or removes one entry.
    pub(super) fn set(
        &mut self,
        seq: u64,
        encoder: EncoderId,
        entry: Option<Entry>,
        limits: &Limits,
    ) {
        let removed = entry.is_none();
        if let Some(old) = self.slots.insert(encoder, Slot { seq, entry }) {
            self.changes.remove(&(old.seq, encoder));
            self.tombstones.remove(&(old.seq, encoder));
        }
        self.changes.insert((seq, encoder));
        if !removed {
            return;
        }
        self.tombstones.insert((seq, encoder));
        while self.tombstones.len() > limits.tombstones {
            let Some(oldest) = self.tombstones.pop_first() else { break };
            self.floor = self.floor.max(oldest.0);
            self.changes.remove(&oldest);
            self.slots.remove(&oldest.1);
        }
    }

    /// Writes a delta that was found to apply; a head of a replacement only into a new part.
    pub(super) fn apply(&mut self, delta: &Delta, limits: &Limits) {
        for (encoder, entry) in &delta.entries {
            self.set(delta.to, *encoder, entry.clone(), limits);
        }
        if let Some(header) = &delta.header {
            self.set_header(delta.to, header.clone());
        }
        self.seq = delta.to;
        if delta.from == 0 {
            self.floor = self.floor.max(delta.to);
        }
    }

    /// Numbers everything anew under `boot`, so that everyone gets a full replacement.
    pub(super) fn renumber(&mut self, boot: Boot, limits: &Limits) {
        let old = std::mem::replace(self, Self::new(boot));
        if let Some(header) = old.header {
            self.seq += 1;
            self.set_header(self.seq, header);
        }
        for (encoder, slot) in old.slots {
            if slot.entry.is_some() {
                self.seq += 1;
                self.set(self.seq, encoder, slot.entry, limits);
            }
        }
    }

    /// What brings a reader that has `reader` to here: nothing if it has as much, else a chain of
    /// deltas. Every piece but the head of a replacement is a delta in its own right, tombstones
    /// included, since deltas of other senders may come between.
    pub(super) fn since(
        &self,
        origin: NodeId,
        reader: Option<(Boot, u64)>,
        limits: &Limits,
    ) -> Vec<Delta> {
        if reader >= Some(self.position()) {
            return Vec::new();
        }
        let has = reader.filter(|(boot, _)| *boot == self.boot).map_or(0, |(_, seq)| seq);
        let full = has == 0 || has < self.floor;
        // A head must lead beyond what its reader has, or it would be taken for a duplicate; and
        // it covers forgotten removals, which no later piece could name.
        let head_end = has.saturating_add(1).max(self.floor);
        let mut from = if full { 0 } else { has };
        let mut deltas = Vec::new();
        let mut entries = Vec::new();
        let mut reached = from;
        let mut changes = self.changes.range((from.saturating_add(1), FIRST)..).peekable();
        while let Some((seq, _)) = changes.peek().copied().copied() {
            // All of one number travel together, so that a piece's end says what it holds.
            let mut group = Vec::new();
            while let Some((_, encoder)) = changes.next_if(|(number, _)| *number == seq) {
                if let Some(slot) = self.slots.get(encoder) {
                    group.push((*encoder, slot.entry.clone()));
                }
            }
            let overflows = entries.len() + group.len() > limits.delta && !entries.is_empty();
            if overflows && (from != 0 || reached >= head_end) {
                deltas.push(self.delta(origin, from, reached, std::mem::take(&mut entries)));
                from = reached;
            }
            if from == 0 {
                // A replacement needs no tombstones: it starts from nothing.
                group.retain(|(_, entry)| entry.is_some());
            }
            entries.append(&mut group);
            reached = seq;
        }
        deltas.push(self.delta(origin, from, self.seq, entries));
        deltas
    }

    fn delta(
        &self,
        origin: NodeId,
        from: u64,
        to: u64,
        entries: Vec<(EncoderId, Option<Entry>)>,
    ) -> Delta {
        // The head of a replacement has the header whenever it changed: forwarding needs it.
        let header = (from == 0 || (from < self.header_seq && self.header_seq <= to))
            .then(|| self.header.clone())
            .flatten();
        Delta { origin, boot: self.boot, from, to, header, entries }
    }
}
