//! Writes that are on disk here and wait for other nodes: found by number, by write and by time,
//! each without looking at the others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::id::ActorId;
use crate::time::Mono;

#[derive(Debug, Clone)]
pub(super) struct Wait {
    pub(super) dot: (ActorId, u64),
    pub(super) tag: u64,
    pub(super) want: u32,
    pub(super) until: Mono,
}

#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Waits {
    all: BTreeMap<u64, Wait>,
    writes: BTreeMap<(ActorId, u64), u64>,
    times: BTreeSet<(Mono, u64)>,
}

impl Waits {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, ticket: u64, wait: Wait) {
        self.writes.insert(wait.dot, ticket);
        self.times.insert((wait.until, ticket));
        self.all.insert(ticket, wait);
    }

    pub(super) fn get(&self, ticket: u64) -> Option<&Wait> {
        self.all.get(&ticket)
    }

    pub(super) fn remove(&mut self, ticket: u64) -> Option<Wait> {
        let wait = self.all.remove(&ticket)?;
        self.writes.remove(&wait.dot);
        self.times.remove(&(wait.until, ticket));
        Some(wait)
    }

    /// When the first gives up.
    pub(super) fn next(&self) -> Option<Mono> {
        self.times.first().map(|(until, _)| *until)
    }

    /// The first that has given up by now.
    pub(super) fn due(&self, now: Mono) -> Option<u64> {
        self.times.first().filter(|(until, _)| *until <= now).map(|(_, ticket)| *ticket)
    }

    /// Who waits for writes of this actor above one number and up to another.
    pub(super) fn of(&self, actor: ActorId, above: u64, upto: u64) -> Vec<u64> {
        if above >= upto {
            return Vec::new();
        }
        self.writes.range((actor, above + 1)..=(actor, upto)).map(|(_, ticket)| *ticket).collect()
    }

    /// Whose writes are waited for: a few, of this node.
    pub(super) fn actors(&self) -> Vec<ActorId> {
        let mut actors = Vec::new();
        let mut next = self.writes.keys().next();
        while let Some((actor, _)) = next {
            actors.push(*actor);
            let after = (Excluded((*actor, u64::MAX)), Unbounded);
            next = self.writes.range(after).next().map(|(write, _)| write);
        }
        actors
    }
}
