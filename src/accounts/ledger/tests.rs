use proptest::prelude::*;
use rand::seq::IndexedRandom as _;

use super::super::{Batch, Change, Digest, Dot, Expect, Note, Row, Seen, Touched};
use super::*;
use crate::id::{AccountId, RecordId};

const MS: u64 = 1_000_000;

fn node(n: usize) -> NodeId {
    NodeId([n as u8 + 1; 16])
}

fn key(kind: Kind, n: u16) -> Key {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    Key { kind, id: RecordId(id) }
}

fn set(key: Key, value: u64) -> Write {
    change(key, Change::Set(1, value.to_le_bytes().to_vec()))
}

fn change(key: Key, change: Change) -> Write {
    Write {
        key,
        changes: vec![change],
        account: AccountId([7; 16]),
        expect: Expect::Any,
        wait: 0,
        patience: Duration::from_secs(1),
    }
}

#[derive(Debug, Clone, Default)]
struct Disk {
    records: BTreeMap<Key, Vec<u8>>,
    actors: BTreeMap<ActorId, Row>,
    forgotten: BTreeSet<Key>,
}

impl Disk {
    fn write(&mut self, batch: Batch) {
        batch.forgotten.iter().for_each(|key| drop(self.records.remove(key)));
        self.records.extend(batch.records);
        self.actors.extend(batch.actors);
        self.forgotten.extend(batch.forgotten);
    }

    fn load(&self) -> Loaded {
        Loaded {
            records: self.records.clone().into_iter().collect(),
            actors: self.actors.clone().into_iter().collect(),
            forgotten: self.forgotten.iter().copied().collect(),
            unreadable: 0,
        }
    }

    /// One record can no longer be read: what the store does then.
    fn lose(&mut self, key: Key) {
        self.records.remove(&key);
        let mut loaded = self.load();
        loaded.recount();
        self.actors = loaded.actors.into_iter().collect();
    }
}

/// Nodes with disks, joined by links that keep order.
struct Net {
    rng: ChaCha8Rng,
    now: Now,
    nodes: Vec<Option<Ledger>>,
    disks: Vec<Disk>,
    writing: Vec<Option<Batch>>,
    up: BTreeSet<(usize, usize)>,
    wires: BTreeMap<(usize, usize), VecDeque<Event>>,
    tickets: u64,
    /// Removed records that stay.
    kept: usize,
    answers: BTreeMap<u64, (usize, Result<Receipt, Refusal>)>,
    /// What somebody at each node knows who reads a record whenever it is told to have changed.
    listeners: Vec<BTreeMap<Key, Read>>,
    notes: Vec<(usize, Note)>,
    sent: usize,
    bytes: usize,
}

impl Net {
    fn new(count: usize, seed: u64) -> Self {
        let mut net = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Now { mono: Mono(1_000_000_000), wall: 1_800_000_000_000 },
            nodes: (0..count).map(|_| None).collect(),
            disks: vec![Disk::default(); count],
            writing: vec![None; count],
            up: BTreeSet::new(),
            wires: BTreeMap::new(),
            tickets: 0,
            kept: 0,
            answers: BTreeMap::new(),
            listeners: vec![BTreeMap::new(); count],
            notes: Vec::new(),
            sent: 0,
            bytes: 0,
        };
        (0..count).for_each(|at| net.start(at));
        net
    }

    fn linked(count: usize, seed: u64) -> Self {
        let mut net = Self::new(count, seed);
        net.link_all();
        net.settle();
        net
    }

    fn start(&mut self, at: usize) {
        let seed = self.rng.random();
        let mut ledger = Ledger::new(node(at), seed, self.disks[at].load());
        ledger = ledger.keeping(Spare { removed: self.kept, ..Spare::default() });
        let members = (0..self.nodes.len()).map(node).collect();
        ledger.handle(self.now, Event::Members(members), &mut Vec::new());
        self.listeners[at] = everything(&ledger);
        self.nodes[at] = Some(ledger);
    }

    fn at(&self, at: usize) -> &Ledger {
        self.nodes[at].as_ref().unwrap()
    }

    fn crash(&mut self, at: usize) {
        self.nodes[at] = None;
        (0..self.nodes.len()).for_each(|other| self.unlink(at, other));
        // What was being written may be there or not.
        if let Some(batch) = self.writing[at].take()
            && self.rng.random()
        {
            self.disks[at].write(batch);
        }
    }

    /// A record that another disk has as well can no longer be read.
    fn damage(&mut self, at: usize) {
        self.crash(at);
        let others = |key: &Key, mine: &[u8]| {
            let mine: Vec<_> = Record::decode(mine).unwrap().dots().collect();
            (0..self.disks.len()).filter(|other| *other != at).any(|other| {
                let theirs = self.disks[other].records.get(key);
                let theirs = theirs.map(|bytes| Record::decode(bytes).unwrap());
                theirs.is_some_and(|theirs| mine.iter().all(|dot| theirs.includes(dot)))
            })
        };
        let all = self.disks[at].records.iter();
        let keys: Vec<Key> =
            all.filter(|(key, bytes)| others(key, bytes)).map(|(key, _)| *key).collect();
        if let Some(key) = keys.choose(&mut self.rng) {
            self.disks[at].lose(*key);
        }
        self.start(at);
    }

    fn link(&mut self, a: usize, b: usize) {
        if a == b || self.nodes[a].is_none() || self.nodes[b].is_none() {
            return;
        }
        if self.up.insert((a.min(b), a.max(b))) {
            self.handle(a, Event::Linked(node(b)));
            self.handle(b, Event::Linked(node(a)));
        }
    }

    fn link_all(&mut self) {
        for a in 0..self.nodes.len() {
            (0..a).for_each(|b| self.link(a, b));
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        if self.up.remove(&(a.min(b), a.max(b))) {
            self.wires.remove(&(a, b));
            self.wires.remove(&(b, a));
            self.handle(a, Event::Unlinked(node(b)));
            self.handle(b, Event::Unlinked(node(a)));
        }
    }

    fn write(&mut self, at: usize, write: Write) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        self.handle(at, Event::Write { ticket, write });
        ticket
    }

    fn handle(&mut self, at: usize, event: Event) {
        let Some(ledger) = &mut self.nodes[at] else { return };
        let mut effects = Vec::new();
        ledger.handle(self.now, event, &mut effects);
        let links: Vec<usize> = (0..self.nodes.len())
            .filter(|to| self.up.contains(&(at.min(*to), at.max(*to))))
            .collect();
        for effect in effects {
            let mut send = |to: usize, event: Event| {
                if links.contains(&to) {
                    self.sent += 1;
                    self.bytes += match &event {
                        Event::Digest(_, x) => postcard::to_stdvec(x).unwrap().len(),
                        Event::Want(_, x) => postcard::to_stdvec(x).unwrap().len(),
                        Event::Records(_, x) => postcard::to_stdvec(x).unwrap().len(),
                        Event::Have(_, x) => postcard::to_stdvec(x).unwrap().len(),
                        Event::Compare(_, x) => postcard::to_stdvec(x).unwrap().len(),
                        _ => 0,
                    };
                    self.wires.entry((at, to)).or_default().push_back(event);
                }
            };
            let ix = |id: NodeId| usize::from(id.0[0]) - 1;
            let me = node(at);
            match effect {
                Effect::Persist(batch) => {
                    assert!(self.writing[at].replace(batch).is_none(), "one commit at a time");
                }
                Effect::Written { ticket, result } => {
                    self.answers.insert(ticket, (at, result));
                }
                Effect::Digest(to, x) => send(ix(to), Event::Digest(me, x)),
                Effect::Want(to, x) => send(ix(to), Event::Want(me, x)),
                Effect::Records(to, x) => send(ix(to), Event::Records(me, x)),
                Effect::Have(to, x) => send(ix(to), Event::Have(me, x)),
                Effect::Compare(to, x) => send(ix(to), Event::Compare(me, x)),
                Effect::Push(x) => {
                    links.iter().for_each(|to| send(*to, Event::Records(me, x.clone())));
                }
                Effect::Forward(from, x) => {
                    for to in links.iter().filter(|to| {
                        let (a, b) = (ix(from), **to);
                        a != b && !self.up.contains(&(a.min(b), a.max(b)))
                    }) {
                        send(*to, Event::Records(me, x.clone()));
                    }
                }
                Effect::Changed(key) => {
                    let now = self.nodes[at].as_ref().and_then(|ledger| read(ledger, key));
                    match now {
                        Some(now) => drop(self.listeners[at].insert(key, now)),
                        None => drop(self.listeners[at].remove(&key)),
                    }
                }
                Effect::Note(note) => self.notes.push((at, note)),
            }
        }
    }

    fn persist(&mut self, at: usize) {
        if let Some(batch) = self.writing[at].take() {
            self.disks[at].write(batch);
            self.handle(at, Event::Persisted(Ok(())));
        }
    }

    fn deliver(&mut self) -> bool {
        let waiting: Vec<_> =
            self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(way, _)| *way).collect();
        let Some(way) = waiting.choose(&mut self.rng) else { return false };
        let event = self.wires.get_mut(way).and_then(VecDeque::pop_front).unwrap();
        self.handle(way.1, event);
        true
    }

    /// Until nothing is under way.
    fn drain(&mut self) {
        for _ in 0..1_000_000 {
            let moved = self.deliver();
            let writing = (0..self.nodes.len()).filter(|at| self.writing[*at].is_some()).count();
            (0..self.nodes.len()).for_each(|at| self.persist(at));
            if !moved && writing == 0 {
                return;
            }
        }
        panic!("nodes talk without end");
    }

    fn pass(&mut self, ms: u64) {
        self.now = Now { mono: Mono(self.now.mono.0 + ms * MS), wall: self.now.wall + ms };
        for at in 0..self.nodes.len() {
            let due = self.nodes[at].as_ref().and_then(Ledger::next_wake);
            if due.is_some_and(|due| due <= self.now.mono) {
                self.handle(at, Event::Wake);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..4 * self.nodes.len() + 8 {
            self.drain();
            self.pass(2_000);
        }
        self.drain();
    }

    fn digests(&self) -> Vec<Digest> {
        let all = self.nodes.iter().flatten();
        all.map(|ledger| Digest { actor: None, ..ledger.digest() }).collect()
    }

    fn check_equal(&self) {
        let digests = self.digests();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }

    /// Equal writes mean equal records, at every moment.
    fn check_law(&self) {
        let digests = self.digests();
        for a in &digests {
            for b in &digests {
                assert!(a.clock != b.clock || a.state == b.state, "equal writes, other records");
            }
        }
    }

    /// Whoever listens knows what there is, and that is on a disk.
    fn check_shown(&self) {
        for (at, ledger) in self.nodes.iter().enumerate() {
            let Some(ledger) = ledger else { continue };
            let shown = everything(ledger);
            assert_eq!(shown, self.listeners[at], "a change was not told");
            for (key, (bytes, _)) in &shown {
                let on_disks = self.disks.iter().filter_map(|disk| disk.records.get(key));
                let on_disks: Vec<_> = on_disks.map(|it| Record::decode(it).unwrap()).collect();
                let somewhere = |dot: &Dot| on_disks.iter().any(|record| record.includes(dot));
                let record = Record::decode(bytes).unwrap();
                assert!(record.dots().all(|dot| somewhere(&dot)), "it is on no disk");
            }
        }
    }

    fn check_versions(&self) {
        let versions = self.answers.values().filter_map(|(_, result)| result.as_ref().ok());
        let versions: Vec<_> = versions.map(|receipt| receipt.version).collect();
        let set: BTreeSet<_> = versions.iter().collect();
        assert_eq!(set.len(), versions.len(), "a number was given twice");
    }
}

/// A record as it is stored, and as it counts.
type Read = (Vec<u8>, Option<Record>);

fn read(ledger: &Ledger, key: Key) -> Option<Read> {
    Some((ledger.encoded(key)?.to_vec(), ledger.get(key)))
}

/// What somebody reads who reads everything.
fn everything(ledger: &Ledger) -> BTreeMap<Key, Read> {
    let shown = ledger.flight.iter().flat_map(|flight| &flight.shown);
    let keys: BTreeSet<Key> = ledger.records.keys().chain(shown).copied().collect();
    keys.into_iter().map(|key| (key, read(ledger, key).unwrap())).collect()
}

/// What may happen to disks besides crashes.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Nothing.
    Good,
    /// An older one is put back.
    Back,
    /// Records of the first node's cannot be read any more.
    Damaged,
}

/// Writes, deliveries, cuts, crashes, and what may happen to disks.
fn chaos(seed: u64, fate: Fate) {
    let back = fate == Fate::Back;
    let mut net = Net::linked(4, seed);
    let mut backups = net.disks.clone();
    for _ in 0..400 {
        let (at, other) = (net.rng.random_range(0..4), net.rng.random_range(0..4));
        match net.rng.random_range(0..100) {
            0..25 => {
                let kinds = [Kind::ACCOUNT, Kind::ROOM];
                let kind = kinds[net.rng.random_range(0..2)];
                let key = key(kind, net.rng.random_range(0..6));
                let what = match net.rng.random_range(0..10) {
                    0 => Change::Delete,
                    1 => Change::Restore,
                    2 => Change::Disable,
                    3 => Change::Add(2, vec![net.rng.random_range(0..3)]),
                    4 => Change::Remove(2, vec![net.rng.random_range(0..3)]),
                    _ => Change::Set(1, net.tickets.to_le_bytes().to_vec()),
                };
                net.write(at, change(key, what));
            }
            25..60 => drop(net.deliver()),
            60..80 => net.persist(at),
            80..82 if net.writing[at].is_some() => {
                // The disk refuses; what it was given may be there all the same.
                let batch = net.writing[at].take().unwrap();
                if net.rng.random() {
                    net.disks[at].write(batch);
                    net.crash(at);
                } else {
                    net.handle(at, Event::Persisted(Err("disk full".into())));
                }
            }
            82..85 => net.unlink(at, other),
            85..89 => net.link(at, other),
            89..92 => net.crash(at),
            92..95 if net.nodes[at].is_none() => net.start(at),
            95 => backups[at] = net.disks[at].clone(),
            96 if back => {
                net.crash(at);
                net.disks[at] = backups[at].clone();
                net.start(at);
            }
            96 if fate == Fate::Damaged => net.damage(0),
            97 => net.pass(31_000),
            _ => net.pass(300),
        }
        if !back {
            net.check_law();
            net.check_shown();
        }
    }
    for at in 0..4 {
        if net.nodes[at].is_none() {
            net.start(at);
        }
    }
    net.link_all();
    net.settle();
    net.check_equal();
    net.check_versions();
    if back {
        return;
    }
    for (_, result) in net.answers.values() {
        let Ok(receipt) = result else { continue };
        assert!(net.nodes.iter().flatten().all(|ledger| ledger.has(receipt.version)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_acknowledged_write_is_lost_and_nodes_end_equal(seed: u64) {
        chaos(seed, Fate::Good);
    }

    #[test]
    fn a_store_that_was_set_back_never_reuses_a_number(seed: u64) {
        chaos(seed, Fate::Back);
    }

    #[test]
    fn a_record_that_cannot_be_read_comes_again_and_costs_no_other(seed: u64) {
        chaos(seed, Fate::Damaged);
    }
}

#[test]
fn a_write_counts_once_it_is_on_disk() {
    let mut net = Net::linked(2, 1);
    let ticket = net.write(0, set(key(Kind::ACCOUNT, 1), 5));
    assert!(net.at(0).get(key(Kind::ACCOUNT, 1)).is_none());
    assert!(!net.answers.contains_key(&ticket) && net.wires.values().all(VecDeque::is_empty));
    net.persist(0);
    let receipt = net.answers[&ticket].1.clone().unwrap();
    assert_eq!((receipt.nodes, receipt.enough), (1, true));
    let record = net.at(0).get(key(Kind::ACCOUNT, 1)).unwrap();
    assert_eq!(receipt.tag, record.tag());
    let by = record.values(1)[0].by.unwrap();
    assert_eq!((by.account, by.node), (AccountId([7; 16]), node(0)));
    net.drain();
    assert!(net.at(1).has(receipt.version));
}

#[test]
fn what_another_node_has_on_disk_is_shown_at_once_and_claimed_once_it_is_on_disk_here() {
    let mut net = Net::linked(2, 1);
    let k = key(Kind::ACCOUNT, 1);
    let value = |net: &Net| net.at(1).get(k).map(|record| record.values(1)[0].value.to_vec());
    let arrives = |net: &mut Net, number: u64| {
        let ticket = net.write(0, set(k, number));
        net.persist(0);
        while net.writing[1].is_none() {
            net.deliver();
        }
        net.answers[&ticket].1.clone().unwrap().version
    };
    let before = net.at(1).digest();
    let version = arrives(&mut net, 5);
    assert_eq!(value(&net), Some(5u64.to_le_bytes().to_vec()));
    assert!(!net.at(1).has(version) && net.at(1).digest() == before, "nothing is claimed");
    assert!(net.at(1).shows(version), "whoever waits for it reads it");
    net.check_shown();
    assert!(net.wires.get(&(1, 0)).is_none_or(VecDeque::is_empty), "nothing is acknowledged");

    net.writing[1] = None;
    net.handle(1, Event::Persisted(Err("no space".into())));
    assert_eq!((value(&net), net.at(1).shows(version)), (None, false), "the disk refuses it");
    net.check_shown();

    net.settle();
    assert!(net.at(1).has(version), "it comes again");
    let version = arrives(&mut net, 6);
    assert_eq!(value(&net), Some(6u64.to_le_bytes().to_vec()));
    net.writing[1] = None;
    net.crash(1);
    net.start(1);
    assert_eq!(value(&net), Some(5u64.to_le_bytes().to_vec()), "a crash takes it back");
    net.link_all();
    net.settle();
    assert!(net.at(1).has(version), "until it comes again");
    net.check_equal();
}

#[test]
fn whoever_waits_for_others_hears_when_they_have_it_or_time_is_up() {
    let mut net = Net::linked(3, 2);
    let three = Write { wait: 3, ..set(key(Kind::ROOM, 1), 1) };
    let ticket = net.write(0, three.clone());
    net.persist(0);
    assert!(!net.answers.contains_key(&ticket));
    net.drain();
    assert_eq!(net.answers[&ticket].1.as_ref().unwrap().nodes, 3);
    net.crash(2);
    let ticket = net.write(0, three);
    net.drain();
    assert!(!net.answers.contains_key(&ticket));
    net.pass(1_001);
    let receipt = net.answers[&ticket].1.clone().unwrap();
    assert_eq!((receipt.nodes, receipt.enough), (2, false));
}

#[test]
fn a_write_that_expects_another_state_is_refused() {
    let mut net = Net::linked(1, 3);
    let k = key(Kind::ROOM, 1);
    let with = |expect| Write { expect, ..set(k, 1) };
    let mut ask = |write| {
        let ticket = net.write(0, write);
        net.drain();
        net.answers[&ticket].1.clone()
    };
    assert_eq!(ask(with(Expect::Present)), Err(Refusal::Missing));
    let tag = ask(with(Expect::Absent)).unwrap().tag;
    assert_eq!(ask(with(Expect::Absent)), Err(Refusal::Exists));
    let next = ask(with(Expect::Tag(tag))).unwrap().tag;
    assert_eq!(ask(with(Expect::Tag(tag))), Err(Refusal::Changed));
    assert!(ask(with(Expect::Tag(next))).is_ok());
}

#[test]
fn a_full_disk_refuses_the_write_and_keeps_what_was_there() {
    let mut net = Net::linked(2, 4);
    let k = key(Kind::ROOM, 1);
    net.write(0, set(k, 1));
    net.drain();
    let before = net.at(0).digest();
    let ticket = net.write(0, set(k, 2));
    net.writing[0] = None;
    net.handle(0, Event::Persisted(Err("no space".into())));
    assert_eq!(net.answers[&ticket].1, Err(Refusal::Disk("no space".into())));
    assert_eq!((before.clock, before.state), (net.at(0).digest().clock, net.at(0).digest().state));
    net.write(0, set(k, 3));
    net.settle();
    net.check_equal();
    net.check_versions();
}

#[test]
fn concurrent_writes_are_shown_as_a_conflict_until_one_settles_it() {
    let mut net = Net::linked(2, 5);
    let k = key(Kind::ACCOUNT, 1);
    net.unlink(0, 1);
    net.write(0, set(k, 1));
    net.write(1, set(k, 2));
    net.drain();
    net.link_all();
    net.settle();
    net.check_equal();
    assert_eq!(net.at(0).get(k).unwrap().values(1).len(), 2);
    net.write(1, set(k, 3));
    net.settle();
    let record = net.at(0).get(k).unwrap();
    assert_eq!(record.values(1).len(), 1);
    assert_eq!(record.value(1), Some(&3u64.to_le_bytes()[..]));
}

#[test]
fn a_record_that_cannot_be_read_comes_again_from_another_node() {
    let mut net = Net::linked(3, 15);
    let (lost, gone) = (key(Kind::ACCOUNT, 1), key(Kind::ROOM, 1));
    for k in [lost, gone, key(Kind::ACCOUNT, 2)] {
        net.write(0, set(k, 1));
    }
    net.settle();
    net.write(1, change(gone, Change::Delete));
    net.settle();
    net.pass(31_000);
    net.settle();
    assert!(net.at(0).get(gone).is_none(), "forgotten");
    net.crash(0);
    net.disks[0].lose(lost);
    net.start(0);
    assert!(net.at(0).get(lost).is_none() && net.at(0).get(key(Kind::ACCOUNT, 2)).is_some());
    net.link_all();
    net.settle();
    net.check_equal();
    assert!((0..3).all(|at| net.at(at).get(lost).is_some() && net.at(at).get(gone).is_none()));
    assert!(!net.notes.iter().any(|(_, note)| matches!(note, Note::Overtaken { .. })));
    // Started again, nothing is missing any more.
    net.crash(0);
    net.start(0);
    assert!(net.at(0).get(lost).is_some());
}

/// What a node tells of changes, by the value that was written.
fn told(ledger: &Ledger) -> Vec<(AuditCursor, Key)> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = ledger.audit(before, 7);
        let Some(last) = page.last() else { return all };
        before = Some(last.cursor());
        all.extend(page.iter().map(|audit| (audit.cursor(), audit.key)));
    }
}

#[test]
fn every_node_tells_who_changed_what_where() {
    let mut net = Net::linked(3, 16);
    for n in 0..40u16 {
        let at = usize::from(n % 3);
        net.write(at, set(key(Kind::ACCOUNT, n % 5), n.into()));
        net.pass(1);
        net.drain();
    }
    net.write(2, change(key(Kind::ACCOUNT, 0), Change::Disable));
    net.settle();
    net.check_equal();
    let newest = &net.at(1).audit(None, 1)[0];
    assert_eq!((newest.key, newest.by.node), (key(Kind::ACCOUNT, 0), node(2)));
    assert_eq!(newest.what, [Touched::Disable]);
    let text = newest.cursor().to_string();
    assert_eq!(text.parse(), Ok(newest.cursor()), "{text}");
    let all = told(net.at(0));
    assert_eq!(all.len(), 41);
    assert!(all.windows(2).all(|pair| pair[0].0 > pair[1].0), "the newest first");
    assert!((1..3).all(|at| told(net.at(at)) == all));
    // Made anew out of the records at a start.
    net.crash(1);
    net.start(1);
    assert_eq!(told(net.at(1)), all);
}

#[test]
fn the_list_of_changes_keeps_the_newest() {
    let mut trail = audit::Trail::default();
    let by = |wall| super::super::Stamp { account: AccountId([7; 16]), node: node(0), wall };
    let most = super::super::AUDIT_MAX as u64;
    // In an order that is not theirs.
    for n in (0..most + 100).map(|n| n * 7_919 % (most + 100)) {
        let mut record = Record::default();
        let dot = Dot { actor: ActorId([1; 16]), seq: n + 1, nonce: [0; 4] };
        record.apply(dot, by(n), &[Change::Set(1, vec![])]).unwrap();
        trail.add(key(Kind::ROOM, n as u16), &record);
    }
    let mut ledger = Ledger::new(node(0), [0; 32], Loaded::default());
    ledger.trail = trail;
    let all = ledger.audit(None, usize::MAX);
    assert_eq!(all.len() as u64, most);
    assert!(all.iter().all(|audit| audit.by.wall >= 100), "the newest are there");
}

#[test]
fn a_disk_that_refuses_is_told_once_in_a_while() {
    let mut net = Net::linked(1, 17);
    for n in 0..50 {
        net.write(0, set(key(Kind::ROOM, 1), n));
        net.writing[0] = None;
        net.handle(0, Event::Persisted(Err("no space".into())));
        net.pass(300);
    }
    let commits = net.notes.iter().map(|(_, note)| match note {
        Note::Disk { commits, .. } => *commits,
        _ => 0,
    });
    assert_eq!(commits.collect::<Vec<_>>(), [1, 34], "every ten seconds, with their number");
}

#[test]
fn nodes_in_a_line_get_everything() {
    let mut net = Net::new(4, 6);
    for at in 1..4 {
        net.link(at - 1, at);
    }
    net.settle();
    net.write(0, set(key(Kind::ROOM, 1), 1));
    net.drain();
    assert!(net.at(3).get(key(Kind::ROOM, 1)).is_some(), "pushed on from node to node");
}

#[test]
fn a_machine_that_was_set_back_is_found_out_and_both_writes_are_kept() {
    let mut net = Net::linked(2, 7);
    let k = key(Kind::ACCOUNT, 1);
    net.write(0, set(k, 1));
    net.settle();
    let (memory, disk) = (net.at(0).clone(), net.disks[0].clone());
    net.write(0, set(k, 2));
    net.settle();
    net.unlink(0, 1);
    net.nodes[0] = Some(memory);
    net.disks[0] = disk;
    net.handle(0, Event::Unlinked(node(1)));
    // The generator was set back, too: the clock is not.
    net.pass(5);
    net.write(0, set(k, 3));
    net.drain();
    net.link_all();
    net.settle();
    net.check_equal();
    let record = net.at(1).get(k).unwrap();
    let values: BTreeSet<_> = record.values(1).iter().map(|v| v.value[0]).collect();
    assert_eq!(values, [2, 3].into());
    assert!(net.at(0).counters().clashes + net.at(1).counters().clashes > 0);
    let ticket = net.write(0, set(k, 4));
    net.settle();
    net.check_equal();
    assert_ne!(net.answers[&ticket].1.as_ref().unwrap().version.1, 3, "a new actor");
}

#[test]
fn a_folder_of_yesterday_is_told_and_takes_over_what_it_wrote() {
    let mut net = Net::linked(2, 8);
    net.write(0, set(key(Kind::ACCOUNT, 1), 1));
    net.settle();
    let yesterday = net.disks[0].clone();
    net.write(0, set(key(Kind::ACCOUNT, 2), 1));
    net.settle();
    net.crash(0);
    net.disks[0] = yesterday;
    net.start(0);
    net.write(0, set(key(Kind::ACCOUNT, 3), 1));
    net.drain();
    net.link_all();
    net.settle();
    net.check_equal();
    net.check_versions();
    assert!(net.at(0).get(key(Kind::ACCOUNT, 2)).is_some());
    assert!(net.at(1).get(key(Kind::ACCOUNT, 3)).is_some());
    assert!(net.notes.contains(&(0, Note::Overtaken { peer: node(1) })));
}

#[test]
fn what_was_removed_is_forgotten_and_does_not_come_back_with_an_old_store() {
    let mut net = Net::linked(3, 9);
    let (gone, account) = (key(Kind::ROOM, 1), key(Kind::ACCOUNT, 1));
    for k in [gone, account, key(Kind::ROOM, 2)] {
        net.write(0, set(k, 1));
    }
    net.settle();
    let yesterday = net.disks[2].clone();
    for k in [gone, account] {
        net.write(1, change(k, Change::Delete));
    }
    net.settle();
    net.pass(31_000);
    net.settle();
    net.check_equal();
    for at in 0..3 {
        assert!(net.at(at).get(gone).is_none(), "forgotten at {at}");
        assert!(!net.disks[at].records.contains_key(&gone));
        assert!(net.at(at).get(account).unwrap().is_deleted(), "accounts are never forgotten");
    }
    net.crash(2);
    net.disks[2] = yesterday;
    net.start(2);
    net.write(2, set(gone, 9));
    net.write(2, set(key(Kind::ROOM, 3), 9));
    net.drain();
    assert!(net.at(2).get(gone).unwrap().exists());
    net.link_all();
    net.settle();
    net.check_equal();
    for at in 0..3 {
        assert!(net.at(at).get(gone).is_none_or(|record| !record.exists()));
        assert!(net.at(at).get(key(Kind::ROOM, 3)).unwrap().exists());
    }
    assert!(net.notes.iter().any(|(at, note)| *at == 2 && matches!(note, Note::Reentered { .. })));
}

#[test]
fn who_removed_the_newest_is_told_by_every_node_also_after_a_start_and_by_a_new_one() {
    let mut net = Net::new(3, 21);
    net.kept = 2;
    (0..3).for_each(|at| {
        net.crash(at);
        net.start(at);
    });
    net.link_all();
    net.settle();
    let rooms: Vec<Key> = (1..=4).map(|n| key(Kind::ROOM, n)).collect();
    for room in &rooms {
        net.write(0, set(*room, 1));
    }
    net.settle();
    for room in &rooms {
        net.pass(1_000);
        net.write(1, change(*room, Change::Delete));
        net.settle();
    }
    net.pass(31_000);
    net.settle();
    net.crash(0);
    net.start(0);
    net.crash(2);
    net.disks[2] = Disk::default();
    net.start(2);
    net.link_all();
    net.settle();
    net.check_equal();
    for at in 0..3 {
        let removed: Vec<Key> = net
            .at(at)
            .audit(None, 100)
            .into_iter()
            .filter(|entry| entry.what == [Touched::Delete] && entry.by.node == node(1))
            .map(|entry| entry.key)
            .collect();
        assert_eq!(removed[..2], [rooms[3], rooms[2]], "at {at}, the newest first");
        assert!(at == 1 || removed.len() == 2, "the older ones are forgotten at {at}");
    }
}

#[test]
fn an_id_that_was_forgotten_is_not_given_again() {
    let mut net = Net::linked(2, 14);
    let k = key(Kind::ROOM, 1);
    net.write(0, set(k, 1));
    net.write(0, change(k, Change::Delete));
    net.settle();
    // The other node starts anew, and so has not forgotten it yet when this one has.
    net.handle(0, Event::Wake);
    net.pass(31_000);
    net.crash(1);
    net.persist(0);
    assert!(net.at(0).get(k).is_none());
    net.start(0);
    let ticket = net.write(0, set(k, 2));
    net.drain();
    assert_eq!(net.answers[&ticket].1, Err(Refusal::Gone));
    net.start(1);
    net.link_all();
    net.settle();
    net.check_equal();
}

#[test]
fn a_member_that_is_away_keeps_everything_from_being_forgotten() {
    let mut net = Net::linked(3, 10);
    let k = key(Kind::ROOM, 1);
    net.write(0, set(k, 1));
    net.settle();
    net.crash(2);
    net.write(1, change(k, Change::Delete));
    for _ in 0..5 {
        net.pass(31_000);
        net.settle();
    }
    assert!(net.at(0).get(k).unwrap().is_deleted());
    net.start(2);
    net.link_all();
    net.settle();
    net.check_equal();
    assert!(net.notes.is_empty(), "{:?}", net.notes);
}

#[test]
fn a_thousand_restarts_do_not_make_requests_grow() {
    let mut net = Net::linked(3, 11);
    for n in 0..1_000 {
        let at = n % 3;
        net.crash(at);
        net.start(at);
        net.link_all();
        net.write(at, set(key(Kind::ACCOUNT, n as u16), 1));
        net.drain();
        net.pass(2_001);
        net.drain();
        if n % 10 == 0 {
            net.pass(31_000);
            net.drain();
        }
    }
    net.settle();
    net.check_equal();
    let listed = (0..3).map(|at| net.at(at).listed()).max().unwrap();
    assert!(listed <= 100, "{listed} actors are listed");
    assert!(net.notes.is_empty(), "{:?}", net.notes);
    // A newcomer gets everything all the same.
    net.crash(2);
    net.disks[2] = Disk::default();
    net.start(2);
    net.link_all();
    net.settle();
    net.check_equal();
    assert!(net.at(2).count() >= 1_000);
}

/// A mesh of two with `count` accounts.
fn filled(count: u16) -> Net {
    let mut net = Net::linked(2, 12);
    for n in 0..count {
        let changes = vec![
            Change::Set(1, format!("account-{n}").into_bytes()),
            Change::Set(2, b"somebody who looks at cameras".to_vec()),
            Change::Set(3, vec![3; 16]),
            Change::Set(4, vec![4; 97]),
        ];
        net.write(0, Write { changes, ..set(key(Kind::ACCOUNT, n), 0) });
        if n % 200 == 0 {
            net.persist(0);
        }
    }
    net.settle();
    net
}

#[test]
fn catching_up_costs_the_difference() {
    let mut net = filled(10_000);
    for missed in [1u16, 1_000] {
        net.unlink(0, 1);
        net.drain();
        for n in 0..missed {
            net.write(0, set(key(Kind::ACCOUNT, n * 7), u64::from(n)));
            net.drain();
        }
        let changed = (0..missed).map(|n| net.at(0).records[&key(Kind::ACCOUNT, n * 7)].len());
        let difference: usize = changed.sum();
        net.bytes = 0;
        net.link_all();
        net.drain();
        net.check_equal();
        println!("{missed} missed: {difference} B of records, {} B sent", net.bytes);
        assert!(net.bytes <= difference * 3 / 2 + 4_096);
    }
    net.bytes = 0;
    net.pass(2_001);
    net.drain();
    println!("idle: {} B for two digests", net.bytes);
    assert!(net.bytes <= 200);
}

#[test]
fn records_stay_small() {
    let net = filled(1_000);
    let each = net.at(0).bytes() / net.at(0).count();
    println!("{each} B each, of which {} B are values", 11 + 29 + 16 + 97);
    assert!(each <= 153 + 100);
}

#[test]
fn a_clock_that_is_not_one_is_survived() {
    let mut net = Net::linked(2, 13);
    let seen = Seen { upto: u64::MAX, beyond: vec![u64::MAX, 0, 5] };
    let want = super::super::Want {
        clock: vec![(ActorId([3; 16]), seen)],
        retired: 7,
        ..Default::default()
    };
    net.handle(0, Event::Want(node(1), want));
    net.drain();
}

/// What each node shows of these records.
fn shown(net: &Net, keys: &[Key]) -> Vec<Vec<Option<(u64, bool)>>> {
    let of = |ledger: &Ledger| {
        let records = keys.iter().map(|key| ledger.get(*key));
        records.map(|record| record.map(|it| (it.tag(), it.exists()))).collect()
    };
    net.nodes.iter().flatten().map(of).collect()
}

#[test]
fn what_is_void_before_it_is_on_disk_is_told_as_it_counts() {
    let mut net = Net::linked(2, 1);
    let k = key(Kind::ACCOUNT, 1);
    net.write(0, set(k, 5));
    net.settle();
    net.write(1, change(k, Change::Disable));
    net.persist(1);
    while net.writing[0].is_none() {
        net.deliver();
    }
    net.check_shown();
    assert!(net.at(0).get(k).unwrap().is_off());
    net.handle(0, Event::Cuts([(node(1), super::super::Cut::default())].into()));
    net.check_shown();
    net.persist(0);
    net.check_shown();
    assert!(!net.at(0).get(k).unwrap().is_off());
}

#[test]
fn what_a_revoked_node_wrote_unseen_counts_at_no_node_in_whatever_order_it_comes() {
    for seed in 0..40 {
        let mut net = Net::linked(4, seed);
        let accounts: Vec<Key> = (0..6).map(|n| key(Kind::ACCOUNT, n)).collect();
        let rooms: Vec<Key> = (0..6).map(|n| key(Kind::ROOM, n)).collect();
        let keys = [&accounts[..], &rooms[..]].concat();
        for (n, key) in keys.iter().enumerate() {
            // Some of it by the node that is stolen later.
            if n % 6 < 4 {
                net.write(n % 4, set(*key, n as u64));
            }
        }
        net.settle();
        let before = shown(&net, &keys);
        // Two halves: the thief's hears of nothing, and goes on writing.
        for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
            net.unlink(a, b);
        }
        for n in 0..30u16 {
            let key = keys[usize::from(n * 7 % 12)];
            let write = match n % 5 {
                0 => change(key, Change::Delete),
                1 => change(key, Change::Disable),
                _ => set(key, u64::from(n)),
            };
            net.write(3, write);
        }
        net.drain();
        let seen = net.at(0).writes_of(node(3)).into_iter().collect();
        let cuts: Cuts = [(node(3), super::super::Cut { upto: seen })].into();
        for at in [0, 1] {
            net.handle(at, Event::Cuts(cuts.clone()));
        }
        // The other half hears of it before, during or after the meeting.
        let mut left = vec![2, 3];
        for round in 0..60 {
            if round == seed % 20 {
                net.link_all();
            }
            if net.rng.random_ratio(1, 20)
                && let Some(at) = left.pop()
            {
                net.handle(at, Event::Cuts(cuts.clone()));
            }
            net.deliver();
            (0..4).for_each(|at| net.persist(at));
        }
        left.into_iter().for_each(|at| net.handle(at, Event::Cuts(cuts.clone())));
        net.crash(1);
        net.start(1);
        net.handle(1, Event::Cuts(cuts.clone()));
        net.link_all();
        net.settle();
        net.check_equal();
        let after = shown(&net, &keys);
        assert!(after.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
        let exist = |shown: &[Option<(u64, bool)>]| {
            shown.iter().map(|it| it.is_some_and(|(_, exists)| exists)).collect::<Vec<_>>()
        };
        assert_eq!(exist(&after[0]), exist(&before[0]), "seed {seed}");
        for key in &keys {
            let values = net.at(0).get(*key).map(|record| record.value(1).map(<[u8]>::to_vec));
            let ours = keys.iter().position(|of| of == key).filter(|n| n % 6 < 4);
            let expected = ours.map(|n| Some((n as u64).to_le_bytes().to_vec()));
            assert_eq!(values, expected, "seed {seed}");
        }
        assert!(net.at(0).audit(None, 100).iter().any(|it| it.void && it.by.node == node(3)));
        // What others say of these records counts, on top of what is left of them.
        net.write(2, change(rooms[0], Change::Set(2, b"described".to_vec())));
        net.settle();
        let room = net.at(1).get(rooms[0]).unwrap();
        assert!(room.exists() && room.value(1) == Some(&6u64.to_le_bytes()));
        // Taken back, it is as if it had never been.
        (0..4).for_each(|at| net.handle(at, Event::Cuts(Cuts::new())));
        let again = shown(&net, &keys);
        assert!(again.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
        assert_ne!(exist(&again[0]), exist(&before[0]), "its removals, too");
    }
}
