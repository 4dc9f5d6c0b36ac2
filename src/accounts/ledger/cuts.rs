//! Writes of nodes that were shut out: those beyond the cut are kept and handed on like all others,
//! so that equal writes mean equal records, but they do not count, at any node, whether they came
//! before the revocation or after it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{CUT_ACTORS_MAX, Cuts, Effect, Key, Record, hash};
use super::Ledger;
use crate::id::{ActorId, NodeId};

impl Ledger {
    /// What counts of nodes that are shut out.
    pub fn cuts(&self) -> &Arc<Cuts> {
        &self.cuts
    }

    /// What is here of a node's writes: of each of its actors the last without a gap, in order. Of
    /// more than [`CUT_ACTORS_MAX`] those that wrote most.
    pub fn writes_of(&self, node: NodeId) -> Vec<(ActorId, u64)> {
        let actors = self.authors.iter().filter(|(_, of)| **of == node);
        let mut writes: Vec<(ActorId, u64)> = actors
            .map(|(actor, _)| {
                let retired = self.meta.get(actor).and_then(|meta| meta.retired);
                (*actor, retired.unwrap_or_else(|| self.clock.upto(*actor)))
            })
            .filter(|(_, upto)| *upto > 0)
            .collect();
        writes.sort_by_key(|(actor, upto)| (std::cmp::Reverse(*upto), *actor));
        writes.truncate(CUT_ACTORS_MAX);
        writes.sort_unstable();
        writes
    }

    /// Other writes count from now on.
    pub(super) fn on_cuts(&mut self, cuts: Cuts, effects: &mut Vec<Effect>) {
        if *self.cuts == cuts {
            return;
        }
        let before = std::mem::replace(&mut self.cuts, Arc::new(cuts));
        let mut keys = BTreeSet::new();
        let mut unlisted = BTreeSet::new();
        for (actor, node) in &self.authors {
            let last = |cuts: &Cuts| cuts.get(node).map_or(u64::MAX, |cut| cut.last(*actor));
            let (was, is) = (last(&before), last(&self.cuts));
            if was == is {
                continue;
            }
            match self.meta.get(actor).and_then(|meta| meta.retired) {
                // Which records those are is not noted any more.
                Some(last) if last > was.min(is) => drop(unlisted.insert(*actor)),
                Some(_) => {}
                None => {
                    let writes = self.index.get(actor).into_iter().flatten();
                    keys.extend(writes.filter(|(seq, _)| **seq > was.min(is)).map(|(_, key)| *key));
                }
            }
        }
        if !unlisted.is_empty() {
            let all = self.records.keys().filter(|key| {
                let record = self.stored(**key);
                record.is_some_and(|it| it.actors().any(|(actor, _)| unlisted.contains(&actor)))
            });
            keys.extend(all.copied());
        }
        for key in keys {
            let Some(record) = self.stored(key) else { continue };
            self.sum(key);
            self.bury(key, &record);
            self.sum(key);
            effects.push(Effect::Changed(key));
        }
        // What is shown before it is on disk was told of as it counted by the old ones.
        let shown = self.flight.iter().flat_map(|flight| &flight.shown);
        effects.extend(shown.map(|key| Effect::Changed(*key)));
    }

    /// Notes whether a record will be forgotten. A removal that does not count is none.
    pub(super) fn bury(&mut self, key: Key, record: &Record) {
        if key.kind.collected() && self.is_removed(record) {
            let changed = record.history().map(|entry| entry.by.wall).max();
            self.dead.insert(key, changed.unwrap_or(0));
        } else {
            self.dead.remove(&key);
        }
    }

    /// Whether a record, as it is stored, counts as removed.
    pub(super) fn is_removed(&self, record: &Record) -> bool {
        record.is_deleted()
            && (self.cuts.is_empty()
                || record.clone().counting(&self.cuts).is_some_and(|record| record.is_deleted()))
    }

    /// The tag of a record as it counts.
    pub(super) fn tag_of(&self, key: Key) -> u64 {
        match self.get(key).filter(|_| !self.cuts.is_empty()) {
            Some(record) => record.tag(),
            None => hash(&[self.encoded(key).unwrap_or_default()]),
        }
    }
}
