//! Between nodes: who lacks what, and how it gets there.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use super::super::{
    ACTORS_MAX, Answer, BUCKETS, CHUNK_BYTES, Compare, Digest, Effect, Everything, Have,
    INCOMING_MAX, Key, Kind, Note, Records, Seen, Want, clock::hash_upto, hash,
};
use super::{COLLECT_INTERVAL, Incoming, Ledger, PULL_PATIENCE, Pull, REPAIR_INTERVAL, Taken};
use crate::id::{ActorId, NodeId, RecordId};
use crate::time::Mono;

/// Bytes of records that one comparison sends: the rest follows with the next.
const COMPARE_BYTES: usize = 1 << 20;

impl Ledger {
    /// What is here, in a few bytes.
    pub fn digest(&self) -> Digest {
        let actor = self.actor.map(|(actor, _)| actor);
        Digest { clock: self.clock_hash(), state: self.state, actor }
    }

    fn clock_hash(&self) -> u64 {
        let listed = self.clock.actors().map(|actor| self.clock.hash(actor));
        // Nobody is equal to who has more than it says.
        let partial = if self.partial { hash(&[b"partial", &self.me.0]) } else { 0 };
        listed.fold(self.retired_hash ^ partial, |sum, hash| sum ^ hash)
    }

    pub(super) fn on_linked(&mut self, now: Mono, node: NodeId, effects: &mut Vec<Effect>) {
        self.peers.entry(node).or_default().linked = true;
        self.repair_at.get_or_insert(now + REPAIR_INTERVAL);
        self.collect_at.get_or_insert(now + COLLECT_INTERVAL);
        self.send_digest(node, effects);
    }

    pub(super) fn on_unlinked(&mut self, now: Mono, node: NodeId, effects: &mut Vec<Effect>) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.linked = false;
            peer.digest = None;
            // What it has is still true; who writes there may change meanwhile.
            peer.actor = None;
        }
        if self.pull.as_ref().is_some_and(|pull| pull.from == node) {
            self.pull = None;
            self.pull_next(now, effects);
        }
        if !self.peers.values().any(|peer| peer.linked) {
            self.repair_at = None;
        }
    }

    pub(super) fn repair(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        if self.pull.as_ref().is_some_and(|pull| pull.asked + PULL_PATIENCE <= now) {
            self.counters.unanswered += 1;
            self.pull = None;
            self.pull_next(now, effects);
        }
        if self.repair_at.is_some_and(|at| at <= now) {
            self.repair_at = Some(now + REPAIR_INTERVAL);
            if let Some(node) = self.after(self.repaired_last, |peer| peer.linked) {
                self.repaired_last = node;
                self.send_digest(node, effects);
            }
        }
    }

    /// The next node, in a circle, of which this holds.
    fn after(&self, last: NodeId, holds: impl Fn(&super::Peer) -> bool) -> Option<NodeId> {
        let later = self.peers.range((Excluded(last), Unbounded));
        let mut all = later.chain(self.peers.range(..=last));
        all.find(|(_, peer)| holds(peer)).map(|(node, _)| *node)
    }

    fn send_digest(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        self.counters.digests += 1;
        effects.push(Effect::Digest(to, self.digest()));
    }

    pub(super) fn on_digest(
        &mut self,
        now: Mono,
        from: NodeId,
        digest: Digest,
        effects: &mut Vec<Effect>,
    ) {
        let mine = self.digest();
        let waiting = self.waits.actors();
        let clock = self.clock.clone();
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.linked) else { return };
        peer.actor = Some(digest.actor);
        peer.digest = Some(digest.clock);
        if digest.clock != mine.clock {
            self.pull_next(now, effects);
            return;
        }
        let news: Vec<_> = waiting
            .into_iter()
            .map(|actor| (actor, peer.known.upto(actor), clock.upto(actor)))
            .collect();
        peer.known = clock;
        peer.ahead = false;
        self.recount(&news, effects);
        if digest.state != mine.state {
            self.counters.compared += 1;
            let buckets = self.buckets.to_vec();
            effects.push(Effect::Compare(from, Compare { buckets }));
        }
    }

    // -- asking ---------------------------------------------------------------------------------

    /// Asks the next node that has something else, unless one is being asked.
    pub(super) fn pull_next(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let busy = self.flight.is_some() || !self.incoming.is_empty() || self.taken.is_some();
        if self.pull.is_some() || busy {
            return;
        }
        let mine = self.clock_hash();
        let lacking = |peer: &super::Peer| {
            let other = peer.digest.is_some_and(|theirs| theirs != mine && theirs != peer.drained);
            peer.linked && (peer.ahead || other)
        };
        let Some(from) = self.after(self.pulled_last, lacking) else { return };
        self.pulled_last = from;
        let digest = self.peers.get(&from).and_then(|peer| peer.digest);
        self.pull = Some(Pull { from, asked: now, digest, all: None, cursor: None });
        self.ask(now, effects);
    }

    fn ask(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let clock = self.listing();
        let actor = self.actor.map(|(actor, _)| actor);
        let Some(pull) = &mut self.pull else { return };
        pull.asked = now;
        let all = pull.all.as_ref().map(|_| pull.cursor);
        self.counters.wants += 1;
        let want = Want { clock, retired: self.retired_hash, actor, all };
        effects.push(Effect::Want(pull.from, want));
    }

    fn listing(&self) -> Vec<(ActorId, Seen)> {
        self.clock.actors().map(|actor| (actor, self.clock.seen(actor))).collect()
    }

    pub(super) fn on_records(&mut self, from: NodeId, records: Records) {
        let Records { records, answer } = records;
        if !self.peers.get(&from).is_some_and(|peer| peer.linked) {
            return;
        }
        let answer = answer.filter(|_| self.pull.as_ref().is_some_and(|pull| pull.from == from));
        let bytes = records.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        // There is one answer at a time: it is let in whatever waits.
        if answer.is_none() && self.incoming_bytes + bytes > INCOMING_MAX {
            self.counters.dropped += 1;
            return;
        }
        let mut span = None;
        if let (Some(pull), Some(answer)) = (&mut self.pull, &answer) {
            let before = pull.cursor;
            pull.cursor = records.last().map(|(key, _)| *key).or(pull.cursor);
            if let (Some(_), Some(before)) = (&pull.all, before) {
                let upto = pull.cursor.filter(|_| *answer != Answer::Done);
                span = Some((before, upto));
            }
        }
        self.incoming_bytes += bytes;
        self.incoming.push_back(Incoming { from, records, answer, span, bytes });
    }

    /// An answer is on disk: on with it.
    pub(super) fn answered(
        &mut self,
        now: Mono,
        from: NodeId,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(pull) = self.pull.as_mut().filter(|pull| pull.from == from) else { return };
        match answer {
            Answer::More => self.ask(now, effects),
            Answer::Below => {
                pull.all = Some(Taken::default());
                pull.cursor = None;
                effects.push(Effect::Note(Note::Reentering { peer: from }));
                self.ask(now, effects);
            }
            Answer::Everything(what) => {
                if let Some(all) = &mut pull.all {
                    *all = Taken::new(what);
                }
                // Before the first of all.
                pull.cursor = Some(Key { kind: Kind(0), id: RecordId([0; 16]) });
                self.ask(now, effects);
            }
            Answer::Done => {
                let digest = pull.digest;
                self.taken = self.pull.take().and_then(|pull| pull.all);
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.drained = digest.unwrap_or(peer.drained);
                    peer.ahead = false;
                }
            }
        }
    }

    // -- answering ------------------------------------------------------------------------------

    pub(super) fn on_want(
        &mut self,
        now: Mono,
        from: NodeId,
        want: Want,
        effects: &mut Vec<Effect>,
    ) {
        if !self.peers.get(&from).is_some_and(|peer| peer.linked) || want.clock.len() > ACTORS_MAX {
            self.counters.malformed += 1;
            return;
        }
        let mut known = super::Clock::default();
        let mut ahead = false;
        for (actor, seen) in &want.clock {
            known.merge(*actor, seen);
            let retired = self.meta.get(actor).and_then(|meta| meta.retired);
            let more = retired.map_or_else(
                || !self.clock.covers(*actor, seen),
                |last| seen.upto.max(seen.beyond.last().copied().unwrap_or(0)) > last,
            );
            ahead |= more;
            let own = self.meta.get(actor).is_some_and(|meta| meta.own);
            let given = self.actor.filter(|(own, _)| own == actor).map_or(0, |(_, last)| last);
            if more && own && seen.upto > given {
                self.be_overtaken(from, *actor, effects);
            }
        }
        let below = self.is_below(&want, &mut known, ahead);
        let waiting = self.waits.actors();
        let mut news = Vec::new();
        let reply = match want.all {
            Some(cursor) => self.everything_after(cursor),
            None if below => Records { records: Vec::new(), answer: Some(Answer::Below) },
            None => self.missing(&known),
        };
        effects.push(Effect::Records(from, reply));
        if let Some(peer) = self.peers.get_mut(&from) {
            let known = if below { super::Clock::default() } else { known };
            news.extend(
                waiting.into_iter().map(|actor| (actor, peer.known.upto(actor), known.upto(actor))),
            );
            peer.known = known;
            peer.actor = Some(want.actor);
            peer.ahead = ahead;
        }
        self.recount(&news, effects);
        self.pull_next(now, effects);
    }

    /// Whether something that the asker lacks is forgotten here. Notes in `known` what it has of
    /// actors that it does not list.
    fn is_below(&self, want: &Want, known: &mut super::Clock, ahead: bool) -> bool {
        let listed: BTreeSet<ActorId> = want.clock.iter().map(|(actor, _)| *actor).collect();
        let mut expected = self.retired_hash;
        let mut unlisted = Vec::new();
        for (actor, meta) in &self.meta {
            match meta.retired {
                Some(last) if listed.contains(actor) => {
                    expected ^= hash_upto(*actor, last);
                    if known.upto(*actor) < last {
                        return true;
                    }
                }
                Some(last) => unlisted.push((*actor, last)),
                None if listed.contains(actor) && known.upto(*actor) < meta.floor => return true,
                None => {}
            }
        }
        // Named here, but still listed: the asker may be ahead with retiring it.
        for (actor, last) in &self.named {
            let retired = self.meta.get(actor).is_some_and(|meta| meta.retired.is_some());
            if !retired && !listed.contains(actor) && self.clock.upto(*actor) >= *last {
                expected ^= hash_upto(*actor, *last);
                unlisted.push((*actor, *last));
            }
        }
        if want.retired == expected {
            unlisted.into_iter().for_each(|(actor, last)| known.raise(actor, last));
            // Those never heard of: nothing of them may be forgotten here.
            return self.meta.iter().any(|(actor, meta)| known.upto(*actor) < meta.floor);
        }
        // It never heard of some that are retired here, or has retired some that are not. If it has
        // something that is not here, that is taken first: it may be ahead.
        !ahead
    }

    fn missing(&self, known: &super::Clock) -> Records {
        let mut keys = BTreeSet::new();
        let mut records = Vec::new();
        let mut bytes = 0;
        for (actor, index) in &self.index {
            for (seq, key) in index.range(known.upto(*actor).saturating_add(1)..) {
                if known.has(*actor, *seq) || keys.contains(key) {
                    continue;
                }
                if bytes >= CHUNK_BYTES {
                    return Records { records, answer: Some(Answer::More) };
                }
                if let Some(state) = self.records.get(key) {
                    keys.insert(*key);
                    bytes += state.len();
                    records.push((*key, state.to_vec()));
                }
            }
        }
        Records { records, answer: Some(Answer::Done) }
    }

    fn everything_after(&self, cursor: Option<Key>) -> Records {
        let Some(cursor) = cursor else {
            let with = |of: fn(&super::Meta) -> Option<u64>| {
                let all = self.meta.iter();
                all.filter_map(|(actor, meta)| Some((*actor, of(meta)?))).collect()
            };
            let everything = Everything {
                clock: self.listing(),
                floor: with(|meta| Some(meta.floor).filter(|floor| *floor > 0)),
                retired: with(|meta| meta.retired),
            };
            // The records come after it, beginning with the first.
            return Records { records: Vec::new(), answer: Some(Answer::Everything(everything)) };
        };
        let mut records = Vec::new();
        let mut bytes = 0;
        for (key, state) in self.records.range((Excluded(cursor), Unbounded)) {
            if bytes >= CHUNK_BYTES {
                return Records { records, answer: Some(Answer::More) };
            }
            bytes += state.len();
            records.push((*key, state.to_vec()));
        }
        Records { records, answer: Some(Answer::Done) }
    }

    pub(super) fn on_have(&mut self, from: NodeId, have: &Have, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let mut news = Vec::new();
        for (actor, upto) in have.upto.iter().take(ACTORS_MAX) {
            let before = peer.known.upto(*actor);
            peer.known.raise(*actor, *upto);
            news.push((*actor, before, peer.known.upto(*actor)));
        }
        self.recount(&news, effects);
    }

    // -- comparing ------------------------------------------------------------------------------

    pub(super) fn on_compare(
        &mut self,
        from: NodeId,
        compare: &Compare,
        effects: &mut Vec<Effect>,
    ) {
        if compare.buckets.len() != BUCKETS {
            self.counters.malformed += 1;
            return;
        }
        let differ: Vec<bool> =
            self.buckets.iter().zip(&compare.buckets).map(|(a, b)| a != b).collect();
        let mut keys = BTreeSet::new();
        let mut bytes = 0;
        for (key, state) in &self.records {
            if bytes >= COMPARE_BYTES {
                break;
            }
            if differ[bucket(key)] && !self.dead.contains_key(key) {
                bytes += state.len();
                keys.insert(*key);
            }
        }
        let chunks = self.chunks(&keys);
        effects.extend(chunks.into_iter().map(|records| Effect::Records(from, records)));
    }

    /// Records by key, in messages of some size.
    pub(super) fn chunks(&self, keys: &BTreeSet<Key>) -> Vec<Records> {
        let mut chunks = Vec::new();
        let mut chunk = Records::default();
        let mut bytes = 0;
        for key in keys {
            let Some(state) = self.records.get(key) else { continue };
            if bytes >= CHUNK_BYTES {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
            bytes += state.len();
            chunk.records.push((*key, state.to_vec()));
        }
        if !chunk.records.is_empty() {
            chunks.push(chunk);
        }
        chunks
    }
}

/// The part that a record is in. Ids are random, or made of what is.
pub(super) fn bucket(key: &Key) -> usize {
    let [low, high] = key.kind.0.to_le_bytes();
    usize::from(key.id.0.iter().fold(low ^ high, |sum, byte| sum ^ byte))
}
