//! A record as it is without writes that do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::former::Place;
use super::{DISABLED_SET, Dot, MARK, Record};
use crate::accounts::types::FORMER_WRITES;
use crate::id::{ActorId, NodeId};

/// Which writes of a node that was shut out count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cut {
    /// Of each actor all up to a number. Those of other actors do not.
    pub upto: BTreeMap<ActorId, u64>,
}

/// The cuts of all nodes that were shut out.
pub type Cuts = BTreeMap<NodeId, Cut>;

impl Cut {
    /// What counts by this and another.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let both = self
            .upto
            .iter()
            .filter_map(|(actor, upto)| Some((*actor, *other.upto.get(actor)?.min(upto))));
        Self { upto: both.collect() }
    }

    /// The last write of an actor that counts.
    pub fn last(&self, actor: ActorId) -> u64 {
        self.upto.get(&actor).copied().unwrap_or(0)
    }
}

impl Record {
    /// Who numbered its writes, and at which node.
    pub fn actors(&self) -> impl Iterator<Item = (ActorId, NodeId)> + '_ {
        self.nodes.iter().map(|(actor, node)| (*actor, *node))
    }

    /// The writes that do not count.
    pub fn void(&self, cuts: &Cuts) -> BTreeSet<Dot> {
        let last: BTreeMap<ActorId, u64> = self
            .actors()
            .filter_map(|(actor, node)| Some((actor, cuts.get(&node)?.last(actor))))
            .collect();
        if last.is_empty() {
            return BTreeSet::new();
        }
        let void =
            self.dots.iter().filter(|dot| last.get(&dot.actor).is_some_and(|l| dot.seq > *l));
        void.copied().collect()
    }

    /// The record as it counts: without the values, elements and marks of void writes, and with
    /// what these did away with, as far as it is remembered. Where it is not, and the record held
    /// something before, it is out of use until somebody says what it is to be. Nothing if no
    /// write of it counts. It is to be shown, not to be kept.
    pub fn counting(mut self, cuts: &Cuts) -> Option<Self> {
        let void = self.void(cuts);
        if void.is_empty() {
            return Some(self);
        }
        if void.len() == self.dots.len() {
            return None;
        }
        let mut emptied = BTreeSet::new();
        self.registers.retain(|field, values| {
            values.retain(|dot, _| !void.contains(dot));
            if values.is_empty() {
                emptied.insert(*field);
            }
            !values.is_empty()
        });
        self.sets.retain(|_, dots| {
            dots.retain(|dot| !void.contains(dot));
            !dots.is_empty()
        });
        let first_void: BTreeMap<ActorId, u64> =
            void.iter().rev().map(|dot| (dot.actor, dot.seq)).collect();
        for ((place, dot), former) in std::mem::take(&mut self.former) {
            let ended = former.ends.iter();
            let mut ended =
                ended.filter(|(actor, end)| first_void.get(actor).is_none_or(|at| end.seq < *at));
            if void.contains(&dot) || ended.next().is_some() {
                continue;
            }
            match place {
                Place::Field(field) => {
                    emptied.remove(&field);
                    self.registers.entry(field).or_default().insert(dot, former.value);
                }
                Place::Element(set, element) => {
                    self.sets.entry((set, element)).or_default().insert(dot);
                }
            }
        }
        let cleared = self.history.iter().filter(|(dot, _)| void.contains(dot));
        let cleared = cleared.flat_map(|(_, past)| past.cleared());
        emptied.extend(cleared.filter(|field| !self.registers.contains_key(field)));
        // Before so many writes nothing is forgotten that a right could depend on.
        if self.dots.len() > FORMER_WRITES
            && !emptied.is_empty()
            && let Some(last) = void.last()
        {
            self.sets.entry((DISABLED_SET, MARK.to_vec())).or_default().insert(*last);
        }
        self.void = void;
        Some(self)
    }
}
