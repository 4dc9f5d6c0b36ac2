//! The ledger of one node: all records, and how every node comes to have them.
//!
//! A change is written to disk, then it counts, then it is acknowledged and pushed to every link.
//! Nodes that have the same writes say so in a digest; otherwise one asks for what it lacks by
//! naming what it has. One commit is under way at a time, and what comes meanwhile goes into the
//! next: a commit costs a flush of the disk, whatever it holds.
//!
//! Actors that no longer write are *retired*: a record of kind *baseline* names them, and once
//! every member has that record nobody lists them any more. Removed records are forgotten, but for
//! their ids, once every member has seen the removal. A store that did not take part in either is *below* what
//! the others remember and takes over everything: see [`Answer::Below`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::clock::hash_upto;
use super::{
    Answer, BUCKETS, Clock, Counters, Cuts, Effect, Event, Everything, Key, Kind, Loaded, Receipt,
    Record, Refusal, Spare, WAITS_MAX, WRITES_MAX, Write, hash,
};
use crate::id::{ActorId, NodeId, RecordId};
use crate::time::{Mono, Now, earlier};

mod audit;
mod collect;
mod commit;
mod cuts;
mod sync;
mod waits;

pub use audit::{Audit, AuditCursor};
use commit::Flight;
use waits::{Wait, Waits};

/// A digest goes to one link after another this often: repair of what a push did not bring.
const REPAIR_INTERVAL: Duration = Duration::from_secs(2);
/// What may be forgotten or retired is looked for this often.
const COLLECT_INTERVAL: Duration = Duration::from_secs(30);
/// How long a node may take to answer; then another is asked.
const PULL_PATIENCE: Duration = Duration::from_secs(5);
/// A disk that refuses is told of at most this often: every write may meet it.
const REFUSED_INTERVAL: Duration = Duration::from_secs(10);

/// See the [module](self).
#[cfg_attr(test, derive(Clone))]
pub struct Ledger {
    me: NodeId,
    rng: ChaCha8Rng,
    /// As encoded: a decoded record takes ten times as much.
    records: BTreeMap<Key, Box<[u8]>>,
    bytes: usize,
    /// Which record each write of an actor that is not retired was to.
    index: BTreeMap<ActorId, BTreeMap<u64, Key>>,
    /// The writes that are here, but for those of retired actors.
    clock: Clock,
    meta: BTreeMap<ActorId, Meta>,
    /// At which node each actor wrote.
    authors: BTreeMap<ActorId, NodeId>,
    /// Of nodes that are shut out: see [`Record::counting`].
    cuts: Arc<Cuts>,
    /// Removed records that will be forgotten, with the time of their last change.
    dead: BTreeMap<Key, u64>,
    /// How much of what is needed no more stays.
    spare: Spare,
    /// Those that were: nobody makes a record of the same id.
    graveyard: BTreeSet<Key>,
    /// Actors that baselines name, with their last writes.
    named: BTreeMap<ActorId, u64>,
    state: u64,
    /// The same of each part of the records.
    buckets: Box<[u64; BUCKETS]>,
    trail: audit::Trail,
    retired_hash: u64,
    /// Who numbers this node's writes, and the last number given.
    actor: Option<(ActorId, u64)>,
    overtaken: BTreeSet<ActorId>,
    members: BTreeSet<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    queue: VecDeque<(u64, Write)>,
    incoming: VecDeque<Incoming>,
    incoming_bytes: usize,
    flight: Option<Flight>,
    waits: Waits,
    pull: Option<Pull>,
    /// Everything was taken over from somebody; what is not among it goes.
    taken: Option<Taken>,
    /// Records are here whose writes are not noted: taking over everything was begun, not ended.
    partial: bool,
    pulled_last: NodeId,
    repaired_last: NodeId,
    repair_at: Option<Mono>,
    collect_at: Option<Mono>,
    collect_due: bool,
    /// When the disk's refusals were told last, and how many came since.
    refusals: (Option<Mono>, u64),
    counters: Counters,
}

/// What is known of an actor besides its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Meta {
    floor: u64,
    own: bool,
    /// Its last write, once it is retired.
    retired: Option<u64>,
}

/// What is known of another node.
#[derive(Debug, Clone, Default)]
struct Peer {
    linked: bool,
    /// What it said it has.
    known: Clock,
    /// The writes that it has by its last digest.
    digest: Option<u64>,
    /// Of a digest after which everything was asked for that was behind it.
    drained: u64,
    /// It said that it has something that is not here.
    ahead: bool,
    /// Who numbers its writes, as it said last.
    actor: Option<Option<ActorId>>,
}

#[cfg_attr(test, derive(Clone))]
struct Incoming {
    from: NodeId,
    records: Vec<(Key, Vec<u8>)>,
    answer: Option<Answer>,
    /// Of everything: these are all that there are after one record, up to another or the end.
    span: Option<(Key, Option<Key>)>,
    bytes: usize,
}

/// A question to another node that is not answered to the end.
#[cfg_attr(test, derive(Clone))]
struct Pull {
    from: NodeId,
    asked: Mono,
    /// The digest that led to it.
    digest: Option<u64>,
    all: Option<Taken>,
    /// The last record of the last answer.
    cursor: Option<Key>,
}

/// Everything that another node has, as far as it came.
#[derive(Clone, Default)]
struct Taken {
    what: Everything,
    /// All writes that it has seen.
    theirs: Clock,
    /// Writes in its records that it got after it said so.
    later: Vec<(ActorId, u64)>,
    /// Records that it once had and has no more.
    removed: usize,
}

impl Ledger {
    /// A node's ledger with what its store holds. `seed` is random, and never the same twice.
    pub fn new(me: NodeId, seed: [u8; 32], loaded: Loaded) -> Self {
        let mut ledger = Self {
            me,
            rng: ChaCha8Rng::from_seed(seed),
            records: BTreeMap::new(),
            bytes: 0,
            index: BTreeMap::new(),
            clock: Clock::default(),
            meta: BTreeMap::new(),
            authors: BTreeMap::new(),
            cuts: Arc::default(),
            dead: BTreeMap::new(),
            spare: Spare::default(),
            graveyard: loaded.forgotten.into_iter().collect(),
            named: BTreeMap::new(),
            state: 0,
            buckets: Box::new([0; BUCKETS]),
            trail: audit::Trail::default(),
            retired_hash: 0,
            actor: None,
            overtaken: BTreeSet::new(),
            members: BTreeSet::from([me]),
            peers: BTreeMap::new(),
            queue: VecDeque::new(),
            incoming: VecDeque::new(),
            incoming_bytes: 0,
            flight: None,
            waits: Waits::default(),
            pull: None,
            taken: None,
            partial: false,
            pulled_last: me,
            repaired_last: me,
            repair_at: None,
            collect_at: None,
            collect_due: false,
            refusals: (None, 0),
            counters: Counters { unreadable: loaded.unreadable, ..Counters::default() },
        };
        for (actor, row) in loaded.actors {
            let retired = row.retired.then_some(row.seen.upto);
            if retired.is_none() {
                ledger.clock.merge(actor, &row.seen);
            }
            ledger.set_meta(actor, Meta { floor: row.floor, own: row.own, retired });
        }
        for (key, bytes) in loaded.records {
            ledger.put(key, Record::renewed(bytes));
        }
        ledger
    }

    /// The same, but so much stays of what is needed no more.
    #[must_use]
    pub fn keeping(self, spare: Spare) -> Self {
        Self { spare, ..self }
    }

    /// One event in, effects out.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Write { ticket, write } => self.on_write(ticket, write, effects),
            Event::Persisted(result) => self.on_persisted(now.mono, result, effects),
            Event::Members(members) => {
                self.peers.retain(|node, peer| peer.linked || members.contains(node));
                self.members = members;
            }
            Event::Cuts(cuts) => self.on_cuts(cuts, effects),
            Event::Linked(node) => self.on_linked(now.mono, node, effects),
            Event::Unlinked(node) => self.on_unlinked(now.mono, node, effects),
            Event::Digest(from, digest) => self.on_digest(now.mono, from, digest, effects),
            Event::Want(from, want) => self.on_want(now.mono, from, want, effects),
            Event::Records(from, records) => self.on_records(from, records),
            Event::Have(from, have) => self.on_have(from, &have, effects),
            Event::Compare(from, compare) => self.on_compare(from, &compare, effects),
            Event::Wake => self.on_wake(now.mono, effects),
        }
        self.commit(now, effects);
    }

    /// When to call [`Ledger::handle`] with [`Event::Wake`].
    pub fn next_wake(&self) -> Option<Mono> {
        let pull = self.pull.as_ref().map(|pull| pull.asked + PULL_PATIENCE);
        let times = [self.repair_at, self.collect_at, pull, self.waits.next()];
        times.into_iter().fold(None, earlier)
    }

    fn on_wake(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        while let Some(wait) = self.waits.due(now).map(|ticket| (ticket, self.waits.remove(ticket)))
        {
            if let (ticket, Some(wait)) = wait {
                self.answer(ticket, &wait, effects);
            }
        }
        if self.collect_at.is_some_and(|at| at <= now) {
            self.collect_at = Some(now + COLLECT_INTERVAL);
            self.collect_due = true;
        }
        self.repair(now, effects);
    }

    // -- what is known --------------------------------------------------------------------------

    /// A record as it counts, removed or not. What others wrote, and have on disk, is here before it
    /// is on disk here, too.
    pub fn get(&self, key: Key) -> Option<Record> {
        Record::decode(self.encoded(key)?).ok()?.counting(&self.cuts)
    }

    /// A record with whatever was written to it.
    fn stored(&self, key: Key) -> Option<Record> {
        Record::decode(self.records.get(&key)?).ok()
    }

    /// A record as it is encoded, removed or not: with whatever was written to it.
    pub fn encoded(&self, key: Key) -> Option<&[u8]> {
        let shown = self.flight.as_ref().and_then(|flight| flight.shown(key));
        shown.or_else(|| self.records.get(&key).map(|bytes| &bytes[..]))
    }

    /// All records of a kind in order of id as they count, removed or not, that are on disk here.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (Key, Record)> {
        let key = |byte| Key { kind, id: RecordId([byte; 16]) };
        let of_kind = self.records.range(key(0)..=key(u8::MAX));
        of_kind.filter_map(|(key, bytes)| {
            Some((*key, Record::decode(bytes).ok()?.counting(&self.cuts)?))
        })
    }

    /// How many records there are, removed ones included.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Actors that are listed in requests.
    pub fn listed(&self) -> usize {
        self.clock.actors().count()
    }

    /// Whether a write is here and on disk.
    pub fn has(&self, version: (ActorId, u64)) -> bool {
        let (actor, seq) = version;
        let retired = self.meta.get(&actor).and_then(|meta| meta.retired);
        retired.is_some_and(|last| seq <= last) || self.clock.has(actor, seq)
    }

    /// Whether whoever reads here sees a write: one that is shown may not be on disk yet.
    pub fn shows(&self, version: (ActorId, u64)) -> bool {
        self.has(version) || self.flight.as_ref().is_some_and(|flight| flight.shows(version))
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // -- writing --------------------------------------------------------------------------------

    fn on_write(&mut self, ticket: u64, write: Write, effects: &mut Vec<Effect>) {
        if self.queue.len() >= WRITES_MAX || self.waits.len() >= WAITS_MAX {
            self.refuse(ticket, Refusal::Busy, effects);
        } else {
            self.queue.push_back((ticket, write));
        }
    }

    fn refuse(&mut self, ticket: u64, refusal: Refusal, effects: &mut Vec<Effect>) {
        self.counters.refused += 1;
        effects.push(Effect::Written { ticket, result: Err(refusal) });
    }

    fn answer(&mut self, ticket: u64, wait: &Wait, effects: &mut Vec<Effect>) {
        let nodes = self.nodes_with(wait.dot);
        let receipt =
            Receipt { version: wait.dot, tag: wait.tag, nodes, enough: nodes >= wait.want };
        effects.push(Effect::Written { ticket, result: Ok(receipt) });
    }

    /// Nodes that have a write of this node on disk, this one included.
    fn nodes_with(&self, (actor, seq): (ActorId, u64)) -> u32 {
        let others = self.peers.values().filter(|peer| peer.known.has(actor, seq)).count();
        u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// A node has writes that it had not: answers whoever waited for as many nodes as have them
    /// now. Of each actor, what it had and what it has.
    fn recount(&mut self, news: &[(ActorId, u64, u64)], effects: &mut Vec<Effect>) {
        for (actor, before, now) in news {
            for ticket in self.waits.of(*actor, *before, *now) {
                let wait = self.waits.get(ticket);
                let enough = wait.is_some_and(|wait| self.nodes_with(wait.dot) >= wait.want);
                if let Some(wait) = enough.then(|| self.waits.remove(ticket)).flatten() {
                    self.answer(ticket, &wait, effects);
                }
            }
        }
    }

    // -- keeping --------------------------------------------------------------------------------

    fn put(&mut self, key: Key, bytes: Vec<u8>) {
        let Ok(record) = Record::decode(&bytes) else {
            self.counters.malformed += 1;
            return;
        };
        self.weigh(key);
        for dot in record.dots() {
            self.partial |= !self.has((dot.actor, dot.seq));
            if self.meta.get(&dot.actor).is_none_or(|meta| meta.retired < Some(dot.seq)) {
                self.index.entry(dot.actor).or_default().insert(dot.seq, key);
            }
        }
        if key.kind == Kind::BASELINE {
            self.named.extend(collect::names(&record));
        }
        self.authors.extend(record.actors());
        self.bury(key, &record);
        self.trail.add(key, &record);
        self.bytes += bytes.len();
        self.records.insert(key, bytes.into());
        self.sum(key);
    }

    fn remove(&mut self, key: Key) {
        self.weigh(key);
        self.dead.remove(&key);
        let Some(bytes) = self.records.remove(&key) else { return };
        let Ok(record) = Record::decode(&bytes) else { return };
        for dot in record.dots() {
            if let Some(index) = self.index.get_mut(&dot.actor)
                && index.get(&dot.seq) == Some(&key)
            {
                index.remove(&dot.seq);
            }
        }
    }

    /// Takes a record out of what is summed up over all.
    fn weigh(&mut self, key: Key) {
        self.sum(key);
        self.bytes -= self.records.get(&key).map_or(0, |bytes| bytes.len());
    }

    /// Adds a record to what is summed up over all, or takes it out.
    fn sum(&mut self, key: Key) {
        let weight = self.weight(key);
        self.state ^= weight;
        self.buckets[sync::bucket(&key)] ^= weight;
    }

    /// What a record adds to [`super::Digest::state`]. One that will be forgotten adds nothing:
    /// some have forgotten it already.
    fn weight(&self, key: Key) -> u64 {
        match self.records.get(&key) {
            Some(bytes) if !self.dead.contains_key(&key) => {
                hash(&[&key.kind.0.to_le_bytes(), &key.id.0, bytes])
            }
            _ => 0,
        }
    }

    fn set_meta(&mut self, actor: ActorId, meta: Meta) {
        let hash_of = |meta: Option<&Meta>| {
            meta.and_then(|meta| meta.retired).map_or(0, |last| hash_upto(actor, last))
        };
        self.retired_hash ^= hash_of(self.meta.get(&actor)) ^ hash_of(Some(&meta));
        if meta.retired.is_some() {
            self.index.remove(&actor);
        }
        self.meta.insert(actor, meta);
    }
}

#[cfg(test)]
mod tests;
