//! Which writes a store has.

use std::collections::{BTreeMap, BTreeSet};

use crdts::{CmRDT, VClock};
use serde::{Deserialize, Serialize};

use crate::id::ActorId;

/// Writes that are noted beyond a gap, per actor. More are held all the same, only asked for once
/// more: a noted one costs a few bytes in every commit until the gap is filled.
pub const BEYOND_MAX: usize = 4_096;

/// The writes of each actor that a store has: all up to a number, and some beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clock {
    upto: VClock<ActorId>,
    beyond: BTreeMap<ActorId, BTreeSet<u64>>,
}

/// The same of one actor, as it is sent and stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Everything up to and including this.
    pub upto: u64,
    /// And these.
    pub beyond: Vec<u64>,
}

impl Clock {
    /// Everything up to this is there.
    pub fn upto(&self, actor: ActorId) -> u64 {
        self.upto.get(&actor)
    }

    /// Whether this write is there.
    pub fn has(&self, actor: ActorId, seq: u64) -> bool {
        seq <= self.upto(actor)
            || self.beyond.get(&actor).is_some_and(|beyond| beyond.contains(&seq))
    }

    /// Notes a write; false if it was noted before, or there is no room for it.
    pub fn add(&mut self, actor: ActorId, seq: u64) -> bool {
        if self.has(actor, seq) {
            return false;
        }
        if seq == self.upto(actor).saturating_add(1) {
            self.raise(actor, seq);
            return true;
        }
        let beyond = self.beyond.entry(actor).or_default();
        beyond.len() < BEYOND_MAX && beyond.insert(seq)
    }

    /// Notes everything up to `seq`.
    pub fn raise(&mut self, actor: ActorId, seq: u64) {
        let mut upto = seq.max(self.upto(actor));
        if let Some(beyond) = self.beyond.get_mut(&actor) {
            beyond.retain(|seq| *seq > upto);
            while beyond.remove(&upto.saturating_add(1)) {
                upto += 1;
            }
            if beyond.is_empty() {
                self.beyond.remove(&actor);
            }
        }
        if upto > 0 {
            self.upto.apply(crdts::Dot::new(actor, upto));
        }
    }

    /// Notes what somebody else has.
    pub fn merge(&mut self, actor: ActorId, seen: &Seen) {
        self.raise(actor, seen.upto);
        for seq in &seen.beyond {
            self.add(actor, *seq);
        }
    }

    /// Drops an actor altogether.
    pub(super) fn drop_actor(&mut self, actor: ActorId) {
        self.upto.dots.remove(&actor);
        self.beyond.remove(&actor);
    }

    /// One actor's writes.
    pub fn seen(&self, actor: ActorId) -> Seen {
        let beyond = self.beyond.get(&actor).into_iter().flatten().copied().collect();
        Seen { upto: self.upto(actor), beyond }
    }

    /// Everyone of whom anything is there, in order.
    pub fn actors(&self) -> impl Iterator<Item = ActorId> {
        let all: BTreeSet<ActorId> =
            self.upto.dots.keys().chain(self.beyond.keys()).copied().collect();
        all.into_iter()
    }

    /// Whether everything that `other` has of this actor is here, too.
    pub fn covers(&self, actor: ActorId, other: &Seen) -> bool {
        self.upto(actor) >= other.upto && other.beyond.iter().all(|seq| self.has(actor, *seq))
    }

    /// What tells one actor's part from another's; they are combined by exclusive or.
    pub(super) fn hash(&self, actor: ActorId) -> u64 {
        let beyond = self.beyond.get(&actor).into_iter().flatten();
        beyond.fold(hash_upto(actor, self.upto(actor)), |sum, seq| {
            sum ^ super::hash(&[b"beyond", &actor.0, &seq.to_le_bytes()])
        })
    }
}

pub(super) fn hash_upto(actor: ActorId, upto: u64) -> u64 {
    if upto == 0 { 0 } else { super::hash(&[b"upto", &actor.0, &upto.to_le_bytes()]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: ActorId = ActorId([1; 16]);

    proptest! {
        #[test]
        fn a_clock_has_what_was_noted_in_whatever_order(
            seqs in proptest::collection::vec(1u64..40, 0..60)
        ) {
            let mut clock = Clock::default();
            for seq in &seqs {
                let new = !clock.has(A, *seq);
                prop_assert_eq!(clock.add(A, *seq), new);
                prop_assert!(clock.has(A, *seq));
            }
            let set: BTreeSet<u64> = seqs.iter().copied().collect();
            for seq in 1..40 {
                prop_assert_eq!(clock.has(A, seq), set.contains(&seq));
            }
            let mut again = Clock::default();
            set.iter().rev().for_each(|seq| assert!(again.add(A, *seq)));
            prop_assert_eq!(clock.hash(A), again.hash(A));
            prop_assert_eq!(clock.seen(A), again.seen(A));
            let mut merged = Clock::default();
            merged.merge(A, &clock.seen(A));
            prop_assert_eq!(merged.seen(A), clock.seen(A));
        }
    }
}
