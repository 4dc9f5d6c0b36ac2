//! One origin's part of the directory, and the deltas that carry it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delta, Entry, Header, Limits};
use crate::id::{Boot, EncoderId, NodeId};

/// Sorts before every encoder.
const FIRST: EncoderId = EncoderId([0; 16]);

/// What is known of one origin.
///
/// The origin knows which number last changed each key. A reader only knows between which two,
/// because a delta does not say which of its entries changed when: it files them under the
/// delta's end, and keeps the delta's beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Which start of the origin numbered this.
    pub(super) boot: Boot,
    /// How far it is known.
    pub(super) seq: u64,
    /// The header, if it came.
    pub(super) header: Option<Header>,
    header_changed: Span,
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
    changed: Span,
    entry: Option<Entry>,
}

/// Something last changed after `after`, and not after `until`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    after: u64,
    until: u64,
}

impl Span {
    /// As the origin knows it.
    pub(super) fn at(seq: u64) -> Self {
        Self { after: seq.saturating_sub(1), until: seq }
    }
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

    pub(super) fn into_entries(self) -> impl Iterator<Item = (EncoderId, Entry)> {
        self.slots.into_iter().filter_map(|(encoder, slot)| Some((encoder, slot.entry?)))
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

    pub(super) fn set_header(&mut self, changed: Span, header: Header) {
        self.header_changed = changed;
        self.header = Some(header);
    }

    /// Writes or removes one entry; returns what was there.
    pub(super) fn set(
        &mut self,
        changed: Span,
        encoder: EncoderId,
        entry: Option<Entry>,
        limits: &Limits,
    ) -> Option<Entry> {
        let removed = entry.is_none();
        let seq = changed.until;
        let old = self.slots.insert(encoder, Slot { changed, entry });
        if let Some(old) = &old {
            self.changes.remove(&(old.changed.until, encoder));
            self.tombstones.remove(&(old.changed.until, encoder));
        }
        self.changes.insert((seq, encoder));
        let old = old.and_then(|old| old.entry);
        if !removed {
            return old;
        }
        self.tombstones.insert((seq, encoder));
        while self.tombstones.len() > limits.tombstones {
            let Some(oldest) = self.tombstones.pop_first() else { break };
            self.floor = self.floor.max(oldest.0);
            self.changes.remove(&oldest);
            self.slots.remove(&oldest.1);
        }
        old
    }

    /// Writes a delta that was found to apply; a head of a replacement only into a new part. Returns
    /// what was there of what it names.
    pub(super) fn apply(
        &mut self,
        delta: &Delta,
        limits: &Limits,
    ) -> Vec<(EncoderId, Option<Entry>)> {
        let changed = Span { after: delta.from, until: delta.to };
        let set = |(encoder, entry): &(EncoderId, Option<Entry>)| {
            (*encoder, self.set(changed, *encoder, entry.clone(), limits))
        };
        let before = delta.entries.iter().map(set).collect();
        if let Some(header) = &delta.header {
            self.set_header(changed, header.clone());
        }
        self.seq = delta.to;
        if delta.from == 0 {
            self.floor = self.floor.max(delta.to);
        }
        before
    }

    /// Numbers everything anew under `boot`, so that everyone gets a full replacement.
    pub(super) fn renumber(&mut self, boot: Boot, limits: &Limits) {
        let old = std::mem::replace(self, Self::new(boot));
        if let Some(header) = old.header {
            self.seq += 1;
            self.set_header(Span::at(self.seq), header);
        }
        for (encoder, slot) in old.slots {
            if slot.entry.is_some() {
                self.seq += 1;
                self.set(Span::at(self.seq), encoder, slot.entry, limits);
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
        let groups = self.groups(from);
        let mut deltas = Vec::new();
        let mut entries = Vec::new();
        let mut reached = from;
        let mut may_end = false;
        for mut group in groups {
            let overflows = entries.len() + group.entries.len() > limits.delta;
            if overflows && may_end && !entries.is_empty() && (from != 0 || reached >= head_end) {
                deltas.push(self.delta(origin, from, reached, std::mem::take(&mut entries)));
                from = reached;
            }
            if from == 0 {
                // A replacement needs no tombstones: it starts from nothing.
                group.entries.retain(|(_, entry)| entry.is_some());
            }
            entries.append(&mut group.entries);
            reached = group.seq;
            may_end = group.may_end;
        }
        deltas.push(self.delta(origin, from, self.seq, entries));
        deltas
    }

    /// Everything filed after `from`, by number. All of one number travel together.
    fn groups(&self, from: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        // From the end, so that it is known what the later ones may hold.
        let header = self.header_changed;
        let mut earliest = u64::MAX;
        let mut header_seen = false;
        for (seq, encoder) in self.changes.range((from.saturating_add(1), FIRST)..).rev() {
            let Some(slot) = self.slots.get(encoder) else { continue };
            if groups.last().is_none_or(|group| group.seq != *seq) {
                if !header_seen && header.until > *seq {
                    header_seen = true;
                    earliest = earliest.min(header.after);
                }
                groups.push(Group { seq: *seq, may_end: earliest >= *seq, entries: Vec::new() });
            }
            earliest = earliest.min(slot.changed.after);
            if let Some(group) = groups.last_mut() {
                group.entries.push((*encoder, slot.entry.clone()));
            }
        }
        groups.reverse();
        groups
    }

    fn delta(
        &self,
        origin: NodeId,
        from: u64,
        to: u64,
        entries: Vec<(EncoderId, Option<Entry>)>,
    ) -> Delta {
        // The head of a replacement has the header whenever it changed: forwarding needs it.
        let changed = self.header_changed.until;
        let header =
            (from == 0 || (from < changed && changed <= to)).then(|| self.header.clone()).flatten();
        Delta { origin, boot: self.boot, from, to, header, entries }
    }
}

/// Entries that are filed under one number.
struct Group {
    seq: u64,
    /// Nothing filed later may have changed at or before this number, so a piece may end here: its
    /// reader then lacks nothing that another sender would take it to have.
    may_end: bool,
    entries: Vec<(EncoderId, Option<Entry>)>,
}
