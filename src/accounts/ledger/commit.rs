//! Commits: what waits goes to disk in one step, and what follows once it is there.

use std::collections::{BTreeMap, BTreeSet};

use crdts::CvRDT;
use rand::RngExt as _;

use super::super::{
    ACTOR_WRITES, Answer, BATCH_WRITES, Batch, CHUNK_BYTES, Clock, Dot, Effect, Expect, Have, Key,
    Note, RECORDS_MAX, Record, Refusal, Row, Stamp, WAIT_MAX, Write, hash,
};
use super::{Incoming, Ledger, Meta, REFUSED_INTERVAL, Wait, collect};
use crate::id::{ActorId, NodeId};
use crate::time::{Mono, Now};

/// A commit in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) changed: BTreeSet<Key>,
    pub(super) forgotten: Vec<Key>,
    pub(super) clock: Clock,
    pub(super) meta: BTreeMap<ActorId, Meta>,
    /// Actors of whom something changed.
    pub(super) touched: BTreeSet<ActorId>,
    pub(super) after: After,
}

/// What follows once a commit is on disk.
#[derive(Clone, Default)]
pub(super) struct After {
    pub(super) written: Vec<(u64, Write, ActorId, u64)>,
    pub(super) push: BTreeSet<Key>,
    pub(super) forward: Vec<(NodeId, BTreeSet<Key>)>,
    pub(super) acks: BTreeMap<NodeId, BTreeSet<ActorId>>,
    pub(super) answers: Vec<(NodeId, Answer)>,
    pub(super) reentered: Option<usize>,
}

/// A commit that is being written.
#[cfg_attr(test, derive(Clone))]
pub(super) struct Flight {
    pub(super) batch: Batch,
    pub(super) clock: Clock,
    pub(super) meta: BTreeMap<ActorId, Meta>,
    /// Records in the batch that hold news of others and none of this node's: they are on disk where
    /// they were written, and are shown already.
    pub(super) shown: BTreeSet<Key>,
    pub(super) after: After,
}

impl Flight {
    /// A record that is shown before it is on disk here.
    pub(super) fn shown(&self, key: Key) -> Option<&[u8]> {
        let records = &self.batch.records;
        let at = records.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.shown.contains(&key).then(|| &records[at].1[..])
    }

    /// Whether a record that is shown includes a write.
    pub(super) fn shows(&self, (actor, seq): (ActorId, u64)) -> bool {
        let mut records =
            self.shown.iter().filter_map(|key| Record::decode(self.shown(*key)?).ok());
        records.any(|record| record.dots().any(|dot| (dot.actor, dot.seq) == (actor, seq)))
    }
}

impl Ledger {
    /// Begins a commit with what waits, unless one is under way.
    pub(super) fn commit(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self.flight.is_none() {
            let idle = self.queue.is_empty() && self.incoming.is_empty();
            if idle && self.taken.is_none() && !self.collect_due {
                return;
            }
            let mut draft = Draft { clock: self.clock.clone(), ..Draft::default() };
            if let Some(taken) = self.taken.take() {
                self.take_over(taken, &mut draft);
            }
            let mut bytes = 0;
            while bytes < CHUNK_BYTES
                && let Some(incoming) = self.incoming.pop_front()
            {
                bytes += incoming.bytes;
                self.incoming_bytes -= incoming.bytes;
                self.merge_in(incoming, &mut draft, effects);
            }
            if std::mem::take(&mut self.collect_due) {
                self.collect(&mut draft);
            }
            for _ in 0..BATCH_WRITES {
                let Some((ticket, write)) = self.queue.pop_front() else { break };
                if let Err(refusal) = self.do_write(now, ticket, write, &mut draft) {
                    self.refuse(ticket, refusal, effects);
                }
            }
            self.launch(draft, effects);
            if let Some(flight) = self.flight.take_if(|flight| flight.batch == Batch::default()) {
                // Nothing to write down.
                self.land(now.mono, flight, effects);
            }
        }
    }

    pub(super) fn do_write(
        &mut self,
        now: Now,
        ticket: u64,
        write: Write,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let mut record = self.drafted(draft, write.key).clone();
        let counts = record.clone().counting(&self.cuts).unwrap_or_default();
        match write.expect {
            Expect::Absent if counts.exists() => return Err(Refusal::Exists),
            Expect::Present | Expect::Tag(_) if !counts.exists() => return Err(Refusal::Missing),
            Expect::Tag(tag) if counts.tag() != tag => return Err(Refusal::Changed),
            _ => {}
        }
        let gone = counts.is_deleted() || self.graveyard.contains(&write.key);
        if write.key.kind.collected() && gone && ticket != collect::NOBODY {
            return Err(Refusal::Gone);
        }
        if record.dots().len() == 0 && self.records.len() >= RECORDS_MAX {
            return Err(Refusal::TooMany);
        }
        let by = Stamp { account: write.account, node: self.me, wall: now.wall };
        let (actor, last) = match self.actor {
            Some((actor, last)) if last < ACTOR_WRITES => (actor, last),
            _ => (ActorId(self.rng.random()), 0),
        };
        let salt: [u8; 16] = self.rng.random();
        let nonce = hash(&[&salt, &now.wall.to_le_bytes(), &now.mono.0.to_le_bytes()]);
        let [a, b, c, d, ..] = nonce.to_le_bytes();
        let dot = Dot { actor, seq: last + 1, nonce: [a, b, c, d] };
        record.apply(dot, by, &write.changes)?;
        self.actor = Some((actor, last + 1));
        draft.records.insert(write.key, record);
        draft.changed.insert(write.key);
        draft.clock.add(actor, dot.seq);
        draft.touched.insert(actor);
        let meta = self.drafted_meta(draft, actor);
        draft.meta.insert(actor, Meta { own: true, ..meta });
        draft.after.push.insert(write.key);
        draft.after.written.push((ticket, write, actor, dot.seq));
        Ok(())
    }

    pub(super) fn drafted<'a>(&self, draft: &'a mut Draft, key: Key) -> &'a mut Record {
        draft.records.entry(key).or_insert_with(|| self.stored(key).unwrap_or_default())
    }

    pub(super) fn drafted_meta(&self, draft: &Draft, actor: ActorId) -> Meta {
        let meta = draft.meta.get(&actor).or_else(|| self.meta.get(&actor));
        meta.copied().unwrap_or_default()
    }

    /// Notes a write that a drafted record includes.
    pub(super) fn note(&self, draft: &mut Draft, actor: ActorId, seq: u64) {
        let meta = self.drafted_meta(draft, actor);
        match meta.retired {
            Some(last) if seq <= last => return,
            Some(last) => {
                // It writes again: its machine was set back.
                draft.clock.raise(actor, last);
                draft.meta.insert(actor, Meta { retired: None, ..meta });
            }
            None => {}
        }
        if draft.clock.add(actor, seq) {
            draft.touched.insert(actor);
        }
    }

    pub(super) fn merge_in(
        &mut self,
        incoming: Incoming,
        draft: &mut Draft,
        effects: &mut Vec<Effect>,
    ) {
        let Incoming { from, records, answer, span, .. } = incoming;
        // Of everything, the end says what was seen: numbers in the order of records would leave
        // thousands of gaps meanwhile.
        let all = self.pull.as_ref().is_some_and(|pull| pull.all.is_some());
        let noted = answer.is_none() || !all;
        if let Some(span) = span {
            let there = records.iter().map(|(key, _)| *key).collect();
            self.drop_absent(span, &there, draft);
        }
        let mut new = BTreeSet::new();
        for (key, bytes) in records {
            let Ok(other) = Record::decode(&bytes) else {
                self.counters.malformed += 1;
                continue;
            };
            let gone = self.graveyard.contains(&key) || self.is_removed(self.drafted(draft, key));
            let record = self.drafted(draft, key);
            let unseen: Vec<Dot> = other.dots().filter(|dot| !record.includes(dot)).collect();
            let dots: Vec<Dot> = other.dots().collect();
            // It was removed, and comes from a store that did not hear of it, or has forgotten it
            // and was asked for a record of the same id.
            let told = |dot: Dot| {
                let peer = self.peers.get(&from);
                peer.is_some_and(|peer| peer.known.has(dot.actor, dot.seq))
            };
            let dead = key.kind.collected()
                && !other.is_deleted()
                && gone
                && (self.graveyard.contains(&key) || record.dots().all(told));
            if unseen.is_empty() {
                self.counters.duplicates += 1;
            } else {
                record.merge(other);
                draft.changed.insert(key);
                new.insert(key);
                self.counters.merged += 1;
            }
            if dead && !unseen.is_empty() {
                self.queue.push_front(collect::delete(key));
            }
            for dot in unseen {
                let index = self.index.get(&dot.actor);
                let clash = index.is_some_and(|index| index.contains_key(&dot.seq));
                self.counters.clashes += u64::from(clash);
                let own = self
                    .actor
                    .is_some_and(|(own, last)| own == dot.actor && (clash || dot.seq > last));
                if own {
                    self.be_overtaken(from, dot.actor, effects);
                }
            }
            if let Some(all) = self.pull.as_mut().and_then(|pull| pull.all.as_mut())
                && !noted
            {
                let later = dots.iter().filter(|dot| !all.theirs.has(dot.actor, dot.seq));
                all.later.extend(later.map(|dot| (dot.actor, dot.seq)));
            }
            for dot in dots.iter().filter(|_| noted) {
                self.note(draft, dot.actor, dot.seq);
                if answer.is_none() {
                    draft.after.acks.entry(from).or_default().insert(dot.actor);
                }
            }
        }
        match answer {
            Some(answer) => draft.after.answers.push((from, answer)),
            None if new.is_empty() => {}
            None => draft.after.forward.push((from, new)),
        }
    }

    /// Others know writes of this node that it does not: it takes them over, and a new actor.
    pub(super) fn be_overtaken(&mut self, peer: NodeId, actor: ActorId, effects: &mut Vec<Effect>) {
        if self.actor.is_some_and(|(own, _)| own == actor) {
            self.actor = None;
        }
        if self.overtaken.insert(actor) {
            effects.push(Effect::Note(Note::Overtaken { peer }));
        }
    }

    /// Has a draft written down.
    pub(super) fn launch(&mut self, draft: Draft, effects: &mut Vec<Effect>) {
        let Draft { records, changed, forgotten, clock, meta, mut touched, after } = draft;
        touched.extend(meta.keys());
        let records = records.into_iter().filter(|(key, _)| changed.contains(key));
        let records = records.map(|(key, record)| (key, record.encode())).collect();
        let row = |actor: &ActorId| {
            let meta = meta.get(actor).or_else(|| self.meta.get(actor));
            let Meta { floor, own, retired } = meta.copied().unwrap_or_default();
            let mut seen = clock.seen(*actor);
            if let Some(last) = retired {
                seen.upto = last;
            }
            (*actor, Row { seen, floor, own, retired: retired.is_some() })
        };
        let batch = Batch { records, forgotten, actors: touched.iter().map(row).collect() };
        let shown = after.forward.iter().flat_map(|(_, keys)| keys).copied();
        let shown: BTreeSet<Key> = shown.filter(|key| !after.push.contains(key)).collect();
        // Before the disk is busy.
        effects.extend(shown.iter().map(|key| Effect::Changed(*key)));
        if batch != Batch::default() {
            effects.push(Effect::Persist(batch.clone()));
        }
        self.flight = Some(Flight { batch, clock, meta, shown, after });
    }

    pub(super) fn on_persisted(
        &mut self,
        now: Mono,
        result: Result<(), String>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flight) = self.flight.take() else { return };
        match result {
            Ok(()) => {
                self.counters.commits += 1;
                self.land(now, flight, effects);
            }
            Err(reason) => {
                self.counters.disk_refused += 1;
                // Whether its numbers reached the disk is not known: they are not used again.
                self.actor = None;
                self.pull = None;
                effects.extend(flight.shown.into_iter().map(Effect::Changed));
                for (ticket, ..) in flight.after.written {
                    self.refuse(ticket, Refusal::Disk(reason.clone()), effects);
                }
                let (told, commits) = &mut self.refusals;
                *commits += 1;
                if told.is_none_or(|at| now >= at + REFUSED_INTERVAL) {
                    *told = Some(now);
                    let commits = std::mem::take(commits);
                    effects.push(Effect::Note(Note::Disk { reason, commits }));
                }
            }
        }
    }

    /// A commit is on disk: now it counts.
    pub(super) fn land(&mut self, now: Mono, flight: Flight, effects: &mut Vec<Effect>) {
        let Flight { batch, clock, meta, shown, after } = flight;
        self.clock = clock;
        for (actor, meta) in meta {
            self.set_meta(actor, meta);
        }
        for key in batch.forgotten {
            self.remove(key);
            self.graveyard.insert(key);
            effects.push(Effect::Changed(key));
        }
        for (key, bytes) in batch.records {
            self.put(key, bytes);
            if !shown.contains(&key) {
                effects.push(Effect::Changed(key));
            }
        }
        for (ticket, write, actor, seq) in after.written {
            self.counters.written += 1;
            let wait = Wait {
                dot: (actor, seq),
                tag: self.tag_of(write.key),
                want: write.wait,
                until: now + write.patience.min(WAIT_MAX),
            };
            if self.nodes_with(wait.dot) >= wait.want {
                self.answer(ticket, &wait, effects);
            } else {
                self.waits.insert(ticket, wait);
            }
        }
        for records in self.chunks(&after.push) {
            effects.push(Effect::Push(records));
        }
        for (from, keys) in after.forward {
            for records in self.chunks(&keys) {
                effects.push(Effect::Forward(from, records));
            }
        }
        for (to, actors) in after.acks {
            let upto = actors.into_iter().map(|actor| (actor, self.clock.upto(actor))).collect();
            effects.push(Effect::Have(to, Have { upto }));
        }
        if let Some(removed) = after.reentered {
            self.counters.reentered += 1;
            self.partial = false;
            effects.push(Effect::Note(Note::Reentered { removed }));
        }
        for (from, answer) in after.answers {
            self.answered(now, from, answer, effects);
        }
        self.pull_next(now, effects);
    }
}
