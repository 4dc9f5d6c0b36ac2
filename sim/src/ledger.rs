//! The ledger's driver, and people who change it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use roost::accounts::{Batch, Change, Expect, Key, Kind, Loaded, Record, Row, VALUE_MAX, Write};
use roost::control::Event;
use roost::id::{AccountId, ActorId, RecordId};

use crate::check::Wait;
use crate::conn::End;
use crate::net::MS;
use crate::plan::log_uniform;
use crate::rng::{For, stream};
use crate::world::{Ev, World};

/// A commit takes between these.
const COMMIT: (u64, u64) = (MS / 2, 20 * MS);
/// Records that are changed: few, so that changes meet.
const RECORDS: u8 = 6;
/// The field that is written.
pub(crate) const FIELD: u16 = 1;
/// Those that hold much begin here.
const LONG: u16 = 16;
/// What marks a change that has to be refused.
pub(crate) const BLIND: u64 = 1 << 40;

/// A node's ledger on disk.
#[derive(Debug, Default, Clone)]
pub(crate) struct Books {
    records: BTreeMap<Key, Vec<u8>>,
    actors: BTreeMap<ActorId, Row>,
    forgotten: BTreeSet<Key>,
}

impl Books {
    fn write(&mut self, batch: Batch) {
        for key in &batch.forgotten {
            self.records.remove(key);
        }
        self.records.extend(batch.records);
        self.actors.extend(batch.actors);
        self.forgotten.extend(batch.forgotten);
    }

    pub(crate) fn load(&self) -> Loaded {
        let records = self.records.iter().map(|(key, bytes)| (*key, bytes.clone()));
        let actors = self.actors.iter().map(|(actor, row)| (*actor, row.clone()));
        let forgotten = self.forgotten.iter().copied().collect();
        let (records, actors) = (records.collect(), actors.collect());
        Loaded { records, actors, forgotten, unreadable: 0 }
    }

    /// What a backup holds: nobody's own writes.
    fn backup(&self) -> Self {
        let mut backup = self.clone();
        backup.actors.values_mut().for_each(|row| row.own = false);
        backup
    }

    /// Whether a write is on this disk.
    pub(crate) fn has(&self, (actor, seq): (ActorId, u64)) -> bool {
        self.actors
            .get(&actor)
            .is_some_and(|row| seq <= row.seen.upto || row.seen.beyond.contains(&seq))
    }

    /// Whether all writes of a record are there.
    fn covers(&self, key: Key, of: &Record) -> bool {
        let mine = self.records.get(&key).and_then(|bytes| Record::decode(bytes).ok());
        mine.is_some_and(|mine| of.dots().all(|dot| mine.includes(&dot)))
    }

    /// One record can no longer be read: what the store does then.
    fn lose(&mut self, key: Key) {
        self.records.remove(&key);
        let mut loaded = self.load();
        loaded.recount();
        self.actors = loaded.actors.into_iter().collect();
    }
}

impl World {
    /// People make their changes at random moments until the last fault is over.
    pub(crate) fn schedule_edits(&mut self) {
        for edit in 0..self.plan.writes {
            let mut rng = stream(self.plan.seed, For::Edit(edit));
            let at = rng.random_range(0..self.plan.healed_ms().max(1)) * MS;
            self.queue.push(at, Ev::Edit(edit));
        }
    }

    pub(crate) fn edit(&mut self, edit: usize) {
        let mut rng = stream(self.plan.seed, For::Edit(edit));
        let _when: u64 = rng.random();
        let ix = rng.random_range(0..self.plan.nodes);
        let kind = if rng.random_bool(0.7) { Kind::ACCOUNT } else { Kind::ROOM };
        let key = Key { kind, id: RecordId([rng.random_range(0..RECORDS); 16]) };
        let change = match rng.random_range(0..12) {
            10 => Change::Clear(FIELD),
            11 => Change::Restore,
            0..4 => Change::Set(FIELD, edit.to_le_bytes().to_vec()),
            4 => Change::Add(2, vec![rng.random_range(0..3)]),
            5 => Change::Remove(2, vec![rng.random_range(0..3)]),
            6 | 7 => Change::Disable,
            8 => Change::Enable,
            _ => Change::Delete,
        };
        if !self.runs(ix) || self.nodes[ix].control.is_none() {
            return;
        }
        let ticket = edit as u64;
        self.checks.edits.insert(ticket, (ix, self.hosts[ix].life, key, change.clone()));
        self.note_replaced(ix, key, &change);
        let mut changes = vec![change];
        // So much that what a node lacks does not go into one answer.
        if rng.random_bool(0.3) {
            let field = LONG + rng.random_range(0..4);
            changes.push(Change::Set(field, vec![edit as u8; VALUE_MAX]));
        }
        // What is out of use counts from its answer on, which is not to come late.
        let hurry = matches!(changes[..], [Change::Disable | Change::Enable, ..]);
        let wait = if rng.random_bool(0.7) || hurry { 0 } else { rng.random_range(2..=4) };
        let patience = Duration::from_millis(log_uniform(&mut rng, 100.0, 10_000.0));
        if wait > 0 {
            let (asked, nodes) = (self.now, wait as usize);
            let patience = patience.as_nanos() as u64;
            self.checks.waits.insert(ticket, Wait { asked, nodes, patience });
        }
        let write = Write {
            key,
            changes,
            account: AccountId([1; 16]),
            expect: Expect::Any,
            wait,
            patience,
        };
        self.trace.say(self.now, || format!("n{ix} is asked for change {ticket}"));
        if rng.random_bool(0.1) {
            self.edit_blindly(ix, ticket, write.clone());
        }
        self.node_event(ix, Event::Write { ticket, write });
    }

    /// What a value is given instead of.
    fn note_replaced(&mut self, ix: usize, key: Key, change: &Change) {
        let record = self.nodes[ix].control.as_ref().and_then(|it| it.ledger().get(key));
        if let (Change::Set(field, value), Some(record)) = (change, record) {
            let shown = record.values(*field).into_iter().map(|it| it.value.to_vec()).collect();
            self.checks.replaced.entry(key).or_default().insert(value.clone(), shown);
        }
    }

    /// Somebody changes a record that is not as they saw it.
    fn edit_blindly(&mut self, ix: usize, ticket: u64, write: Write) {
        let record = self.nodes[ix].control.as_ref().and_then(|it| it.ledger().get(write.key));
        let expect = Expect::Tag(record.map_or(0, |record| record.tag()) ^ 1);
        let write = Write { expect, ..write };
        self.node_event(ix, Event::Write { ticket: BLIND | ticket, write });
    }

    pub(crate) fn back_up(&mut self, fault: usize) {
        let books = self.nodes.iter().map(|node| node.disk.books.clone()).collect();
        self.backups.insert(fault, books);
    }

    /// Puts a node's backup back, or its books as they were with the folder that they were in.
    /// What nobody else has by now of later changes is lost.
    pub(crate) fn restore(&mut self, fault: usize, ix: usize, backup: bool) {
        let books = self.backups.get(&fault).and_then(|all| all.get(ix));
        let books = books.cloned().unwrap_or_default();
        self.nodes[ix].disk.books = if backup { books.backup() } else { books };
        self.lose_changes();
    }

    /// One of a node's records cannot be read any more.
    pub(crate) fn spoil(&mut self, ix: usize) {
        let mine = &self.nodes[ix].disk.books;
        let kept = |key: &Key, bytes: &[u8]| {
            let record = Record::decode(bytes).ok();
            record.is_some_and(|record| {
                // Who is down may stay so.
                let others = self.nodes.iter().enumerate();
                let others = others.filter(|(other, _)| *other != ix && self.runs(*other));
                others.map(|(_, node)| &node.disk.books).any(|books| books.covers(*key, &record))
            })
        };
        let all = mine.records.iter().filter(|(key, bytes)| kept(key, bytes));
        let keys: Vec<Key> = all.map(|(key, _)| *key).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[self.hosts[ix].rng.random_range(0..keys.len())];
        self.trace.say(self.now, || format!("n{ix} cannot read {key:?} any more"));
        self.nodes[ix].disk.books.lose(key);
        self.measure("records that could not be read", 1);
    }

    pub(crate) fn persist(&mut self, ix: usize, batch: Batch) {
        let took = self.hosts[ix].rng.random_range(COMMIT.0..COMMIT.1);
        if self.nodes[ix].writing.replace(batch).is_some() {
            self.fail("ledger", format!("n{ix} writes twice at once"));
        }
        let end = self.end_of(ix);
        self.queue.push(self.now + took, Ev::Persisted { end });
    }

    pub(crate) fn persisted(&mut self, end: End) {
        let Some(batch) = self.nodes[end.host].writing.take() else { return };
        if self.full.contains(&end.host) {
            self.mark("a write finds the disk full");
            self.node_event(end.host, Event::Persisted(Err("no space left".into())));
            return;
        }
        if batch.actors.iter().any(|(_, row)| row.retired) {
            self.mark("an actor is retired");
            self.trace.say(self.now, || format!("n{} retires actors", end.host));
        }
        if batch.records.iter().any(|(key, _)| key.kind == Kind::BASELINE) {
            self.checks.named_at = Some(self.now);
        }
        if !batch.forgotten.is_empty() {
            self.mark("a removed record is forgotten");
        }
        self.nodes[end.host].disk.books.write(batch);
        self.node_event(end.host, Event::Persisted(Ok(())));
        self.check_law(end.host);
    }

    /// The process dies: what was being written is there or it is not.
    pub(crate) fn tear(&mut self, ix: usize) {
        let Some(batch) = self.nodes[ix].writing.take() else { return };
        self.mark("a process dies while it writes");
        if self.hosts[ix].rng.random() {
            self.nodes[ix].disk.books.write(batch);
        }
    }
}
