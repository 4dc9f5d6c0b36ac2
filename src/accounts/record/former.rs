//! What a write did away with, kept for a while: a write that turns out to be void is undone by
//! it. Which of it is kept depends on the writes that a state includes and on nothing else, so
//! that equal writes still mean equal states.
//!
//! A former value or element knows who ended it: of each actor the first write that touched its
//! place after having seen it. It is shown again where all of those are void.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Change, DELETED, DISABLED_SET, Dot, MARK, Record};
use crate::accounts::types::{FORMER_BYTES, FORMER_WRITES};
use crate::id::{ActorId, NodeId};

/// Where a value or an element is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Field(u16),
    Element(u16, Vec<u8>),
}

/// By what something ended: the first write of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) seq: u64,
    /// How many writes its author had seen by then, of those that [`Record::age`] counts.
    pub(super) seen: u32,
}

/// What ended, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Former {
    /// Of a field; nothing else of an element.
    pub(super) value: Vec<u8>,
    pub(super) ends: BTreeMap<ActorId, End>,
}

/// How it is written: field or set, whether it is a set, value or element, and by index its dot
/// and the actors by which it ended.
#[derive(Serialize, Deserialize)]
pub(super) struct Was<'a>(u16, bool, &'a [u8], u32, Vec<(u32, End)>);

impl<'a> Was<'a> {
    pub(super) fn of(
        (place, dot): &'a (Place, Dot),
        former: &'a Former,
        dots: impl Fn(&Dot) -> u32,
        actors: impl Fn(&ActorId) -> u32,
    ) -> Self {
        let ends = former.ends.iter().map(|(actor, end)| (actors(actor), *end)).collect();
        match place {
            Place::Field(field) => Self(*field, false, &former.value, dots(dot), ends),
            Place::Element(set, element) => Self(*set, true, element, dots(dot), ends),
        }
    }

    pub(super) fn read(self, dots: &[Dot], actors: &[ActorId]) -> Option<((Place, Dot), Former)> {
        let Self(number, is_element, bytes, dot, ends) = self;
        let ends = ends.into_iter().map(|(of, end)| Some((*actors.get(of as usize)?, end)));
        let ends = ends.collect::<Option<BTreeMap<_, _>>>().filter(|ends| !ends.is_empty())?;
        let bytes = bytes.to_vec();
        let (place, value) = match is_element {
            false => (Place::Field(number), bytes),
            true => (Place::Element(number, bytes), Vec::new()),
        };
        Some(((place, *dots.get(dot as usize)?), Former { value, ends }))
    }
}

impl Place {
    /// A mark: there are few, and what was removed or disabled must not come back by it that
    /// nobody remembers.
    fn lasts(&self) -> bool {
        matches!(self, Self::Element(_, element) if element == MARK)
    }

    fn is_touched(&self, change: &Change) -> bool {
        match (change, self) {
            (Change::Set(field, _) | Change::Clear(field), Self::Field(at)) => field == at,
            (Change::Add(set, element) | Change::Remove(set, element), Self::Element(of, at)) => {
                set == of && element == at
            }
            (Change::Delete, Self::Element(set, _)) => *set != DISABLED_SET,
            (Change::Delete, Self::Field(_)) => true,
            (Change::Restore, Self::Element(set, at)) => *set == DELETED && at == MARK,
            (Change::Disable | Change::Enable, Self::Element(set, at)) => {
                *set == DISABLED_SET && at == MARK
            }
            _ => false,
        }
    }
}

impl Former {
    fn ended_by(&mut self, actor: ActorId, end: End) {
        let known = self.ends.entry(actor).or_insert(end);
        known.seq = known.seq.min(end.seq);
        known.seen = known.seen.min(end.seen);
    }

    /// How many more changes it is kept for: what is long, for fewer.
    fn lasts(&self) -> usize {
        (FORMER_BYTES / self.value.len().max(1)).clamp(1, FORMER_WRITES)
    }
}

impl Record {
    /// Notes what a write, done already, did away with; `before` is the state without it.
    pub(super) fn part_with(&mut self, before: &Self, dot: Dot, changes: &[Change]) {
        let fields = before.registers.iter().flat_map(|(field, values)| {
            let place = Place::Field(*field);
            values.iter().map(move |(dot, value)| ((place.clone(), *dot), value.clone()))
        });
        let elements = before.sets.iter().flat_map(|((set, element), dots)| {
            let place = Place::Element(*set, element.clone());
            dots.iter().map(move |dot| ((place.clone(), *dot), Vec::new()))
        });
        let touched = |place: &Place| changes.iter().any(|change| place.is_touched(change));
        for (at, value) in fields.chain(elements).filter(|((place, _), _)| touched(place)) {
            self.former.insert(at, Former { value, ..Former::default() });
        }
        let counts = self.counts();
        let node = self.nodes.get(&dot.actor).copied();
        for ((place, of), former) in &mut self.former {
            if touched(place) {
                let age = counts.age(self.nodes.get(&of.actor).copied(), node);
                let seen = u32::try_from(age).unwrap_or(u32::MAX);
                former.ended_by(dot.actor, End { seq: dot.seq, seen });
            }
        }
        self.forget_former();
    }

    /// What both remember: what neither has let go of, ended by all that either knows of. Both are
    /// as they are before they are merged.
    pub(super) fn merged_former(&self, other: &Self) -> BTreeMap<(Place, Dot), Former> {
        let mut merged = BTreeMap::new();
        for (one, two) in [(self, other), (other, self)] {
            for (at, former) in &one.former {
                let kept =
                    !two.dots.contains(&at.1) || two.former.contains_key(at) || two.holds(at);
                if kept {
                    let known: &mut Former = merged.entry(at.clone()).or_default();
                    known.value.clone_from(&former.value);
                    former.ends.iter().for_each(|(actor, end)| known.ended_by(*actor, *end));
                }
            }
        }
        merged
    }

    fn holds(&self, (place, dot): &(Place, Dot)) -> bool {
        match place {
            Place::Field(field) => {
                self.registers.get(field).is_some_and(|values| values.contains_key(dot))
            }
            Place::Element(set, element) => {
                let dots = self.sets.get(&(*set, element.clone()));
                dots.is_some_and(|dots| dots.contains(dot))
            }
        }
    }

    /// Lets go of what ended long ago.
    pub(super) fn forget_former(&mut self) {
        if self.former.is_empty() {
            return;
        }
        let counts = self.counts();
        let nodes = &self.nodes;
        self.former.retain(|(place, dot), former| {
            let most = former.lasts();
            let of = nodes.get(&dot.actor).copied();
            place.lasts()
                || former.ends.iter().all(|(actor, end)| {
                    let now = counts.age(of, nodes.get(actor).copied());
                    now.saturating_sub(end.seen as usize) < most
                })
        });
    }

    fn counts(&self) -> Counts {
        let mut by_node: BTreeMap<NodeId, usize> = BTreeMap::new();
        for dot in &self.dots {
            if let Some(node) = self.nodes.get(&dot.actor) {
                *by_node.entry(*node).or_default() += 1;
            }
        }
        Counts { all: self.dots.len(), by_node }
    }
}

/// How many writes a state includes.
struct Counts {
    all: usize,
    by_node: BTreeMap<NodeId, usize>,
}

impl Counts {
    /// The writes that make what a node ended old: of what was its own all, else those of others.
    /// So nobody makes what it did to others be forgotten by doing more.
    fn age(&self, of: Option<NodeId>, ended_by: Option<NodeId>) -> usize {
        match ended_by.filter(|_| of != ended_by) {
            Some(node) => self.all - self.by_node.get(&node).copied().unwrap_or(0),
            None => self.all,
        }
    }
}
