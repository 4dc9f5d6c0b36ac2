//! Forgetting: removed records and retired actors, once every member has seen them; and taking
//! over everything after others have forgotten.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::super::{
    Change, Clock, Everything, Expect, FORGOTTEN_MAX, Key, Kind, RETIRE_MAX, Record, WAIT_MAX,
    Write,
};
use super::commit::Draft;
use super::{Ledger, Meta, Taken};
use crate::id::{AccountId, ActorId, NodeId, RecordId};

/// Where a [`Kind::BASELINE`] names its actors.
const ACTORS: u16 = 1;
/// Removed records that are looked at in one round.
const ROUND: usize = 1_024;
/// A ticket that nobody waits for.
pub(super) const NOBODY: u64 = u64::MAX;

/// The actors that a baseline names, with their last writes.
pub(super) fn names(record: &Record) -> Vec<(ActorId, u64)> {
    let values = record.values(ACTORS);
    let lists = values.iter().filter_map(|value| postcard::from_bytes::<Vec<_>>(value.value).ok());
    lists.flatten().collect()
}

/// A change that the ledger makes itself.
fn by_nobody(key: Key, change: Change) -> Write {
    let (account, patience) = (AccountId([0; 16]), WAIT_MAX);
    Write { key, changes: vec![change], account, expect: Expect::Any, wait: 0, patience }
}

/// Removes what others have forgotten.
pub(super) fn delete(key: Key) -> (u64, Write) {
    (NOBODY, by_nobody(key, Change::Delete))
}

impl Ledger {
    fn others(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().copied().filter(|node| *node != self.me)
    }

    /// Whether every member has a write, by what it said last.
    fn is_everywhere(&self, actor: ActorId, seq: u64) -> bool {
        let retired = self.meta.get(&actor).and_then(|meta| meta.retired);
        retired.is_some_and(|last| seq <= last)
            || (self.clock.upto(actor) >= seq
                && self.others().all(|node| {
                    self.peers.get(&node).is_some_and(|peer| peer.known.upto(actor) >= seq)
                }))
    }

    pub(super) fn collect(&mut self, draft: &mut Draft) {
        self.forget_dead(draft);
        self.retire(draft);
        self.name_idle();
    }

    fn forget_dead(&mut self, draft: &mut Draft) {
        let room = FORGOTTEN_MAX.saturating_sub(self.graveyard.len());
        let excess = self.dead.len().saturating_sub(self.spare.removed).min(ROUND).min(room);
        if excess == 0 {
            return;
        }
        let mut oldest: Vec<_> = self.dead.iter().map(|(key, changed)| (*changed, *key)).collect();
        oldest.sort_unstable();
        for (_, key) in oldest.into_iter().take(excess) {
            let Some(record) = self.stored(key).filter(|_| !draft.changed.contains(&key)) else {
                continue;
            };
            if !record.dots().all(|dot| self.is_everywhere(dot.actor, dot.seq)) {
                continue;
            }
            for dot in record.dots() {
                let meta = self.drafted_meta(draft, dot.actor);
                let floor = meta.floor.max(dot.seq);
                draft.meta.insert(dot.actor, Meta { floor, ..meta });
            }
            draft.forgotten.push(key);
            self.counters.collected += 1;
        }
    }

    /// Stops listing actors whose baseline every member has.
    fn retire(&mut self, draft: &mut Draft) {
        let mut retired = Vec::new();
        for (key, record) in self.of_kind(Kind::BASELINE) {
            let everywhere = record.dots().all(|dot| self.is_everywhere(dot.actor, dot.seq));
            if everywhere && !draft.changed.contains(&key) {
                retired.extend(names(&record));
            }
        }
        for (actor, last) in retired {
            let meta = self.drafted_meta(draft, actor);
            let seen = draft.clock.seen(actor);
            // Who wrote more since, or is not all here, stays.
            if meta.retired.is_none() && seen.upto == last && seen.beyond.is_empty() {
                draft.meta.insert(actor, Meta { retired: Some(last), floor: last, ..meta });
                draft.clock.drop_actor(actor);
            }
        }
    }

    /// Names actors that nobody uses any more and everybody has all of, when they are many. One
    /// node does: the first of those linked.
    fn name_idle(&mut self) {
        let first = self
            .others()
            .all(|node| node > self.me || !self.peers.get(&node).is_some_and(|peer| peer.linked));
        let told: Option<BTreeSet<Option<ActorId>>> =
            self.others().map(|node| self.peers.get(&node)?.actor).collect();
        let Some(in_use) = told.filter(|_| first) else { return };
        let mine = self.actor.map(|(actor, _)| actor);
        let idle = self.clock.actors().filter(|actor| {
            let seen = self.clock.seen(*actor);
            Some(*actor) != mine
                && !in_use.contains(&Some(*actor))
                && self.named.get(actor) != Some(&seen.upto)
                && seen.beyond.is_empty()
                && self.others().all(|node| {
                    self.peers.get(&node).is_some_and(|peer| peer.known.seen(*actor) == seen)
                })
        });
        let idle: Vec<_> =
            idle.map(|actor| (actor, self.clock.upto(actor))).take(RETIRE_MAX).collect();
        if idle.len() < self.spare.idle {
            return;
        }
        let id = RecordId(rand::RngExt::random(&mut self.rng));
        let value = postcard::to_stdvec(&idle).unwrap_or_default();
        let key = Key { kind: Kind::BASELINE, id };
        self.queue.push_back((NOBODY, by_nobody(key, Change::Set(ACTORS, value))));
    }

    /// Some of everything came from another node: what that once had and has no more was removed
    /// meanwhile, and goes here, too, with whatever was written to it here since.
    pub(super) fn drop_absent(
        &mut self,
        (after, upto): (Key, Option<Key>),
        there: &BTreeSet<Key>,
        draft: &mut Draft,
    ) {
        let all = self.pull.as_ref().and_then(|pull| pull.all.as_ref());
        let Some(theirs) = all.map(|all| all.theirs.clone()) else { return };
        let span = self.records.range((Excluded(after), upto.map_or(Unbounded, Included)));
        let absent: Vec<Key> =
            span.map(|(key, _)| *key).filter(|key| !there.contains(key)).collect();
        let mut removed = 0;
        for key in absent {
            let record = draft.records.get(&key).cloned().or_else(|| self.stored(key));
            let Some(record) = record else { continue };
            let seen = record.dots().filter(|dot| theirs.has(dot.actor, dot.seq)).count();
            if seen == record.dots().len() {
                draft.forgotten.push(key);
            } else if seen > 0 {
                // Others have to hear of what was written to it here: as of something removed.
                self.queue.push_front(delete(key));
            }
            removed += usize::from(seen > 0);
        }
        if let Some(all) = self.pull.as_mut().and_then(|pull| pull.all.as_mut()) {
            all.removed += removed;
        }
    }

    /// Everything came: what the other node has seen was seen here.
    pub(super) fn take_over(&mut self, taken: Taken, draft: &mut Draft) {
        let Taken { what, later, removed, .. } = taken;
        for (actor, seen) in &what.clock {
            draft.clock.merge(*actor, seen);
            draft.touched.insert(*actor);
        }
        for (actor, floor) in what.floor {
            let meta = self.drafted_meta(draft, actor);
            draft.meta.insert(actor, Meta { floor: meta.floor.max(floor), ..meta });
        }
        for (actor, last) in what.retired {
            let meta = self.drafted_meta(draft, actor);
            draft.meta.insert(actor, Meta { retired: Some(last), floor: last, ..meta });
            draft.clock.drop_actor(actor);
        }
        for (actor, seq) in later {
            self.note(draft, actor, seq);
        }
        draft.after.reentered = Some(removed);
    }
}

impl Taken {
    pub(super) fn new(what: Everything) -> Self {
        let mut theirs = Clock::default();
        for (actor, seen) in &what.clock {
            theirs.merge(*actor, seen);
        }
        for (actor, last) in what.retired.iter().chain(&what.floor) {
            theirs.raise(*actor, *last);
        }
        Self { what, theirs, ..Self::default() }
    }
}
