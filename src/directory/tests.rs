use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::grow::{LATER_MAX, Later};
use crate::id::{Epoch, NAME_MAX};
use crate::wire::{LinkMessage, MAX_MESSAGE, Message};

fn node(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn encoder(n: u16) -> EncoderId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    EncoderId(id)
}

fn epoch(counter: u64) -> Epoch {
    Epoch { counter, instance: 1 }
}

fn entry(name: &str, counter: u64) -> Entry {
    Entry {
        name: name.into(),
        epoch: epoch(counter),
        next: None,
        source: SourceState::Ready,
        viewers: 0,
        why: String::new(),
        stays: false,
        later: Later::default(),
    }
}

fn small() -> Limits {
    Limits { entries: 40, tombstones: 3, delta: 4, floors: 100 }
}

/// Nodes joined by links that keep order but may lose whole messages.
struct Net {
    now: Now,
    nodes: BTreeMap<NodeId, Directory>,
    links: BTreeSet<(NodeId, NodeId)>,
    wires: BTreeMap<(NodeId, NodeId), VecDeque<Event>>,
    delivered: u64,
}

impl Net {
    fn new(count: u8, links: &[(u8, u8)], limits: Limits) -> Self {
        let mut net = Self {
            now: Now::default(),
            nodes: BTreeMap::new(),
            links: BTreeSet::new(),
            wires: BTreeMap::new(),
            delivered: 0,
        };
        for n in 0..count {
            let mut directory = Directory::new(node(n), Boot(1));
            directory.limits = limits;
            net.nodes.insert(node(n), directory);
        }
        for (a, b) in links {
            net.link(*a, *b);
        }
        net
    }

    fn line(count: u8) -> Self {
        let links: Vec<_> = (1..count).map(|n| (n - 1, n)).collect();
        Self::new(count, &links, Limits::default())
    }

    fn at(&mut self, n: u8) -> &mut Directory {
        self.nodes.get_mut(&node(n)).unwrap()
    }

    fn handle(&mut self, at: NodeId, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.nodes.get_mut(&at).unwrap().handle(self.now, event, &mut effects);
        self.send(at, effects.clone());
        effects
    }

    fn send(&mut self, from: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            let (all, event) = match effect {
                Effect::Digest { to, digest } => (vec![to], Event::Digest { from, digest }),
                Effect::Delta { to, delta } => (to, Event::Delta { from, delta }),
                _ => continue,
            };
            for to in all {
                if self.links.contains(&(from, to)) {
                    self.wires.entry((from, to)).or_default().push_back(event.clone());
                }
            }
        }
    }

    fn link(&mut self, a: u8, b: u8) {
        if a == b || !self.links.insert((node(a), node(b))) {
            return;
        }
        self.links.insert((node(b), node(a)));
        self.handle(node(a), Event::Linked(node(b)));
        self.handle(node(b), Event::Linked(node(a)));
        self.put_headers();
    }

    fn unlink(&mut self, a: u8, b: u8) {
        if !self.links.remove(&(node(a), node(b))) {
            return;
        }
        self.links.remove(&(node(b), node(a)));
        self.wires.remove(&(node(a), node(b)));
        self.wires.remove(&(node(b), node(a)));
        self.handle(node(a), Event::Unlinked(node(b)));
        self.handle(node(b), Event::Unlinked(node(a)));
        self.put_headers();
    }

    fn put_headers(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let lacks = |other: &NodeId| *other != id && !self.links.contains(&(id, *other));
            let lacking = self.nodes.keys().copied().filter(lacks).collect();
            let header = Header { name: id.short(), lacking, ..Header::default() };
            self.nodes.get_mut(&id).unwrap().put_header(header);
            self.flush(id);
        }
    }

    fn put(&mut self, n: u8, key: u16, entry: Option<Entry>) {
        self.at(n).put_entry(encoder(key), entry);
    }

    fn flush(&mut self, id: NodeId) {
        let mut effects = Vec::new();
        self.nodes.get_mut(&id).unwrap().flush(&mut effects);
        self.send(id, effects);
    }

    fn restart(&mut self, n: u8, boot: u64) {
        let peers: Vec<_> =
            self.links.iter().filter(|(a, _)| *a == node(n)).map(|(_, b)| b.0[0]).collect();
        let limits = self.at(n).limits;
        for peer in &peers {
            self.unlink(n, *peer);
        }
        let mut directory = Directory::new(node(n), Boot(boot));
        directory.limits = limits;
        self.nodes.insert(node(n), directory);
        for peer in &peers {
            self.link(n, *peer);
        }
    }

    /// Delivers the oldest message of the `pick`th busy wire, or loses it.
    fn deliver(&mut self, pick: usize, lose: bool) -> bool {
        self.wires.retain(|_, wire| !wire.is_empty());
        if self.wires.is_empty() {
            return false;
        }
        let key = *self.wires.keys().nth(pick % self.wires.len()).unwrap();
        let event = self.wires.get_mut(&key).unwrap().pop_front().unwrap();
        self.delivered += 1;
        assert!(self.delivered < 200_000, "the nodes never stop talking");
        if !lose {
            self.handle(key.1, event);
        }
        true
    }

    fn drain(&mut self) {
        while self.deliver(0, false) {}
    }

    /// Delivers everything, then lets `rounds` of repair run.
    fn settle(&mut self, rounds: u32) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.flush(id);
        }
        self.drain();
        for _ in 0..rounds {
            for pause in [REPAIR_INTERVAL * 2, DIGEST_SPACING] {
                self.now.mono = self.now.mono + pause;
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.handle(id, Event::Wake);
                }
                self.drain();
            }
        }
    }

    fn assert_equal(&self) {
        for (id, directory) in &self.nodes {
            for origin in self.nodes.keys() {
                let own = &self.nodes[origin];
                assert_eq!(directory.header(*origin), own.header(*origin), "{origin:?} at {id:?}");
                let ours: Vec<_> = directory.entries(*origin).collect();
                let theirs: Vec<_> = own.entries(*origin).collect();
                assert_eq!(ours, theirs, "{origin:?} at {id:?}");
                assert_eq!(directory.count(*origin), theirs.len());
            }
            let entries = directory.parts.values().flat_map(Part::entries);
            let claimed: BTreeSet<_> = entries.map(|(encoder, _)| encoder).collect();
            assert_eq!(directory.encoders().collect::<BTreeSet<_>>(), claimed);
            assert_eq!(directory.digest(), self.nodes[&node(0)].digest());
        }
    }
}

#[test]
fn who_claims_what_is_over_is_told_so_unless_whoever_superseded_it_still_stands() {
    let mut net = Net::new(3, &[(0, 1), (1, 2), (0, 2)], Limits::default());
    let told = |net: &mut Net| {
        net.put(2, 1, Some(entry("cam", 4)));
        let mut sent = Vec::new();
        net.at(2).flush(&mut sent);
        let deltas = sent.into_iter().filter_map(|effect| match effect {
            Effect::Delta { delta, .. } => Some(Event::Delta { from: node(2), delta }),
            _ => None,
        });
        let answers: Vec<Effect> = deltas.flat_map(|event| net.handle(node(0), event)).collect();
        net.put(2, 1, None);
        net.settle(1);
        answers.into_iter().any(|effect| {
            effect
                == Effect::Floor {
                    to: node(2),
                    floor: Floor { encoder: encoder(1), epoch: epoch(5) },
                }
        })
    };
    net.put(1, 1, Some(entry("cam", 5)));
    net.settle(1);
    assert!(!told(&mut net), "it hears of the other claim");
    net.put(1, 1, None);
    net.settle(1);
    assert!(told(&mut net), "nobody else can tell it");
    assert_eq!(net.at(0).counters().floors_told, 1);
}

#[test]
fn a_change_crosses_nodes_without_a_direct_link_at_once() {
    let mut net = Net::line(4);
    net.settle(3);
    net.put(0, 1, Some(entry("cam", 1)));
    net.flush(node(0));
    net.drain();
    assert_eq!(net.at(3).entry(node(0), encoder(1)), Some(&entry("cam", 1)));
    net.put(0, 1, None);
    net.flush(node(0));
    net.drain();
    assert_eq!(net.at(3).entry(node(0), encoder(1)), None);
    net.assert_equal();
}

#[test]
fn in_a_full_mesh_nothing_is_forwarded() {
    let mut net = Net::new(3, &[(0, 1), (1, 2), (0, 2)], Limits::default());
    net.settle(2);
    let before: u64 = net.nodes.values().map(|d| d.counters().forwarded).sum();
    net.put(0, 1, Some(entry("cam", 1)));
    net.flush(node(0));
    assert_eq!(net.wires.values().map(VecDeque::len).sum::<usize>(), 2, "one delta per link");
    net.drain();
    assert_eq!(net.nodes.values().map(|d| d.counters().forwarded).sum::<u64>(), before);
    net.assert_equal();
}

#[test]
fn many_puts_are_one_delta_and_unchanged_ones_none() {
    let mut net = Net::line(2);
    net.settle(1);
    for key in 0..10 {
        net.put(0, key, Some(entry("cam", 1)));
        net.put(0, key, Some(entry("cam", 1)));
    }
    let mut effects = Vec::new();
    net.at(0).flush(&mut effects);
    let deltas = effects.iter().filter(|effect| matches!(effect, Effect::Delta { .. })).count();
    assert_eq!(deltas, 1);
    effects.clear();
    net.put(0, 3, Some(entry("cam", 1)));
    net.at(0).flush(&mut effects);
    assert_eq!(effects, []);
}

#[test]
fn a_stale_digest_is_answered_with_everything_in_pieces_of_limited_size() {
    let mut net = Net::line(2);
    net.drain();
    let header = net.at(0).parts[&node(0)].seq;
    for key in 0..2_500 {
        net.put(0, key, Some(entry("cam", 1)));
    }
    let digest = Digest { of: BTreeMap::from([(node(1), (Boot(1), 99))]), only: false };
    let effects = net.handle(node(0), Event::Digest { from: node(1), digest });
    let deltas: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Delta { delta, .. } => Some(delta),
            _ => None,
        })
        .collect();
    assert_eq!(deltas.iter().map(|d| d.entries.len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    assert_eq!((deltas[0].from, deltas[0].to), (0, header + 1000));
    assert!(deltas.windows(2).all(|pair| pair[0].to == pair[1].from));
    net.settle(1);
    assert_eq!(net.at(1).count(node(0)), 2_500);
}

#[test]
fn a_chain_is_not_cut_where_a_later_piece_may_hold_something_earlier() {
    let mut net = Net::new(2, &[(0, 1)], Limits { delta: 1, ..Limits::default() });
    let put = |key: u16| (encoder(key), Some(entry("cam", 1)));
    for (from, to, entries) in
        [(0, 2, vec![put(0), put(1)]), (1, 9, vec![put(2)]), (9, 10, vec![put(3)])]
    {
        let delta = Delta { origin: node(7), boot: Boot(1), from, to, header: None, entries };
        net.handle(node(0), Event::Delta { from: node(1), delta });
    }
    let limits = net.at(0).limits;
    let deltas = net.at(0).parts[&node(7)].since(node(7), None, &limits);
    let pieces: Vec<_> = deltas.iter().map(|d| (d.from, d.to, d.entries.len())).collect();
    // Encoder 2 may have changed at 2: whoever stopped there might never hear of it.
    assert_eq!(pieces, [(0, 9, 3), (9, 10, 1)]);
}

#[test]
fn a_reader_below_the_tombstones_gets_a_replacement() {
    let mut net = Net::new(3, &[(0, 1), (1, 2)], small());
    for key in 0..20 {
        net.put(0, key, Some(entry("cam", 1)));
    }
    net.settle(3);
    net.unlink(1, 2);
    for key in 0..15 {
        net.put(0, key, None);
    }
    net.settle(1);
    assert_eq!(net.at(2).count(node(0)), 20);
    net.link(1, 2);
    net.settle(3);
    assert_eq!(net.at(2).count(node(0)), 5);
    net.assert_equal();
}

#[test]
fn a_lost_delta_is_found_as_a_gap_and_repaired() {
    let mut net = Net::line(2);
    net.settle(1);
    net.now.mono = net.now.mono + DIGEST_SPACING;
    net.put(0, 1, Some(entry("a", 1)));
    net.flush(node(0));
    net.deliver(0, true);
    net.put(0, 2, Some(entry("b", 1)));
    net.flush(node(0));
    net.drain();
    assert_eq!(net.at(1).counters().gaps, 1);
    net.assert_equal();
}

#[test]
fn of_many_links_that_come_up_at_once_few_are_told_of_everyone_and_all_become_equal() {
    let mut net = Net::new(20, &[], Limits::default());
    for n in 0..20 {
        net.at(n).put_header(Header::default());
        net.put(n, u16::from(n), Some(entry("cam", 1)));
        net.flush(node(n));
    }
    for (a, b) in (0..20u8).flat_map(|b| (0..b).map(move |a| (node(a), node(b)))) {
        net.links.extend([(a, b), (b, a)]);
        net.handle(a, Event::Linked(b));
        net.handle(b, Event::Linked(a));
    }
    let digests = net.wires.values().flatten().filter_map(|event| match event {
        Event::Digest { digest, .. } => Some(digest.only),
        _ => None,
    });
    let (only, whole): (Vec<bool>, Vec<bool>) = digests.partition(|only| *only);
    assert_eq!((only.len(), whole.len()), (20 * 19 - 20, 20), "all come up at one instant");
    net.drain();
    net.assert_equal();
}

#[test]
fn a_digest_of_an_older_node_asks_for_everyone() {
    let of = BTreeMap::from([(node(1), (Boot(3), 9))]);
    let older = postcard::to_stdvec(&(of.clone(),)).unwrap();
    let (digest, rest) = postcard::take_from_bytes::<Digest>(&older).unwrap();
    assert_eq!((digest, rest.len()), (Digest { of: of.clone(), only: false }, 0));
    let only = postcard::to_stdvec(&Digest { of, only: true }).unwrap();
    assert_eq!(only[..older.len()], older, "an older node reads the same and answers with all");
}

#[test]
fn a_new_boot_replaces_the_old_and_an_old_ones_delta_is_answered() {
    let mut net = Net::line(2);
    net.put(0, 1, Some(entry("cam", 1)));
    net.settle(1);
    let old = net.at(1).parts[&node(0)].since(node(0), None, &Limits::default());
    net.restart(0, 2);
    net.put(0, 2, Some(entry("other", 1)));
    net.settle(1);
    assert_eq!(net.at(1).entry(node(0), encoder(1)), None);
    assert_eq!(net.at(1).floor(encoder(1)), epoch(1), "the floor outlives the entry");
    let effects = net.handle(node(1), Event::Delta { from: node(0), delta: old[0].clone() });
    assert!(matches!(&effects[..], [Effect::Delta { to, delta }]
        if *to == [node(0)] && delta.boot == Boot(2) && delta.from == 0));
    net.settle(1);
    net.assert_equal();
}

#[test]
fn a_node_whose_folder_was_put_back_is_not_overridden_by_its_past() {
    let mut net = Net::line(3);
    for key in 0..5 {
        net.put(0, key, Some(entry("cam", 1)));
    }
    net.settle(1);
    for (boot, puts) in [(1, 1), (0, 1), (1, 20)] {
        net.restart(0, boot);
        for n in 0..puts {
            net.put(0, 7, Some(entry("now", n)));
        }
        net.settle(2);
        assert_eq!(net.at(0).counters().overtaken, 1);
        assert_eq!(net.at(0).count(node(0)), 1);
        net.assert_equal();
    }
    // Having moved on, it changes and is believed as before.
    net.put(0, 8, Some(entry("more", 3)));
    net.settle(1);
    assert_eq!(net.at(2).count(node(0)), 2);
}

#[test]
fn the_highest_epoch_of_those_alive_is_home() {
    let mut net = Net::line(3);
    net.put(0, 1, Some(entry("cam", 1)));
    net.put(1, 1, Some(entry("cam", 3)));
    net.put(2, 1, Some(entry("cam", 3)));
    net.settle(2);
    let home = |net: &mut Net, alive: &dyn Fn(NodeId) -> bool| {
        net.at(0).home(encoder(1), alive).map(|(id, _)| id)
    };
    assert_eq!(home(&mut net, &|_| true), Some(node(1)));
    assert_eq!(home(&mut net, &|id| id != node(1)), Some(node(2)));
    // Node 0 was superseded: outliving the others does not bring the encoder back.
    assert_eq!(home(&mut net, &|id| id == node(0)), None);
    assert_eq!(home(&mut net, &|_| false), None);
    assert_eq!(net.at(0).claims(encoder(1)).count(), 3);
    assert_eq!(net.at(0).floor(encoder(1)), epoch(3));
}

#[test]
fn a_name_leads_to_the_encoder_that_is_alive() {
    let mut net = Net::line(3);
    net.put(0, 1, Some(entry("cam", 9)));
    net.put(1, 2, Some(entry("cam", 1)));
    net.put(2, 3, Some(entry("cam", 1)));
    net.settle(2);
    let directory = net.at(0);
    assert_eq!(directory.by_name("cam", &|_| true), Some(encoder(1)));
    assert_eq!(directory.by_name("cam", &|id| id != node(0)), Some(encoder(2)));
    assert_eq!(directory.by_name("cam", &|_| false), Some(encoder(1)), "the last known");
    assert_eq!(directory.by_name("other", &|_| true), None);
}

#[test]
fn floors_forget_the_oldest_touched() {
    let mut directory = Directory::new(node(0), Boot(1));
    directory.limits = Limits { floors: 2, ..Limits::default() };
    for key in [1, 2, 1, 3] {
        directory.raise_floor(encoder(key), epoch(u64::from(key)));
    }
    directory.raise_floor(encoder(1), epoch(0));
    assert_eq!(directory.floor(encoder(1)), epoch(1), "never lowered");
    assert_eq!(directory.floor(encoder(2)), Epoch::default());
    assert_eq!(directory.floor(encoder(3)), epoch(3));
    assert_eq!(directory.counters().floors_dropped, 1);
}

#[test]
fn a_forgotten_node_stays_away_until_it_boots_again() {
    let mut net = Net::line(3);
    net.put(2, 1, Some(entry("cam", 1)));
    net.settle(2);
    assert_eq!(net.at(0).count(node(2)), 1);
    net.at(0).forget(node(2));
    assert_eq!(net.at(0).by_name("cam", &|_| true), None);
    net.settle(2);
    assert_eq!(net.at(0).count(node(2)), 0);
    net.restart(2, 2);
    net.put(2, 1, Some(entry("cam", 2)));
    net.settle(2);
    assert_eq!(net.at(0).count(node(2)), 1);
}

#[test]
fn what_is_over_a_limit_is_refused_and_counted() {
    let mut net = Net::line(2);
    net.settle(1);
    let good =
        Delta { origin: node(9), boot: Boot(1), from: 0, to: 1, header: None, entries: vec![] };
    let long = "x".repeat(NAME_MAX + 1);
    let many = (0..=ENTRIES_MAX as u16).map(|key| (encoder(key), Some(entry("cam", 1))));
    let bad = [
        Delta { from: 2, ..good.clone() },
        Delta { boot: Boot(u64::MAX), ..good.clone() },
        Delta { entries: vec![(encoder(1), Some(entry(&long, 1)))], ..good.clone() },
        Delta { header: Some(Header { name: long.clone(), ..Header::default() }), ..good.clone() },
        Delta { entries: many.collect(), ..good.clone() },
    ];
    for (count, delta) in bad.into_iter().enumerate() {
        assert_eq!(net.handle(node(0), Event::Delta { from: node(1), delta }), []);
        assert_eq!(net.at(0).counters().refused, count as u64 + 1);
    }
    assert_eq!(net.at(0).digest().of.len(), 2);
    net.put(0, 1, Some(entry(&long, 1)));
    assert_eq!(net.at(0).counters().refused, 6);
    let reason = "\u{e9}".repeat(REASON_MAX);
    net.put(0, 1, Some(Entry { source: SourceState::NoSignal(reason), ..entry("cam", 1) }));
    net.settle(1);
    net.assert_equal();
}

#[test]
fn the_largest_delta_fits_into_one_message() {
    let largest = Entry {
        name: "x".repeat(NAME_MAX),
        epoch: Epoch { counter: Epoch::COUNTER_MAX, instance: u64::MAX },
        next: Some(node(255)),
        source: SourceState::NoSignal("y".repeat(REASON_MAX)),
        viewers: u32::MAX,
        why: "w".repeat(WHY_MAX),
        stays: false,
        later: Later(vec![0; LATER_MAX]),
    };
    let header = Header {
        name: "x".repeat(NAME_MAX),
        addrs: vec!["z".repeat(ADDR_MAX); ADDRS_MAX],
        lacking: (0..ORIGINS_MAX as u16).map(|n| NodeId(encoder(n).0)).collect(),
        draining: true,
        cordoned: true,
        capacity: None,
        limit: None,
        measured: u32::MAX,
        later: Later::default(),
    };
    assert!(header_fits(&header) && entry_fits(&largest));
    let entries = (0..ENTRIES_MAX).map(|n| (encoder(n as u16), Some(largest.clone())));
    let removed = (0..TOMBSTONES_MAX).map(|n| (encoder(n as u16), None));
    let delta = Delta {
        origin: node(0),
        boot: Boot(BOOT_MAX),
        from: u64::MAX,
        to: u64::MAX,
        header: Some(header),
        entries: entries.chain(removed).collect(),
    };
    let bytes = LinkMessage::DirectoryDelta(delta).encode().len();
    assert!(bytes <= MAX_MESSAGE, "{bytes}");
}

#[derive(Debug, Clone)]
enum Act {
    Put(u8, u16, u64),
    Remove(u8, u16),
    Flush(u8),
    Link(u8, u8),
    Unlink(u8, u8),
    Deliver(usize),
    Lose(usize),
    Wake(u8, u64),
    Restart(u8),
    Restore(u8),
}

const NODES: u8 = 5;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let n = 0..NODES;
    let act = prop_oneof![
        8 => (n.clone(), 0..30u16, 0..5u64).prop_map(|(n, k, e)| Act::Put(n, k, e)),
        5 => (n.clone(), 0..30u16).prop_map(|(n, k)| Act::Remove(n, k)),
        4 => n.clone().prop_map(Act::Flush),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Act::Link(a, b)),
        2 => (n.clone(), n.clone()).prop_map(|(a, b)| Act::Unlink(a, b)),
        16 => (0..100usize).prop_map(Act::Deliver),
        4 => (0..100usize).prop_map(Act::Lose),
        3 => (n.clone(), 0..3_000u64).prop_map(|(n, ms)| Act::Wake(n, ms)),
        1 => n.clone().prop_map(Act::Restart),
        1 => n.prop_map(Act::Restore),
    ];
    proptest::collection::vec(act, 0..200)
}

fn run(net: &mut Net, acts: Vec<Act>) {
    let mut boots = [1; NODES as usize];
    for act in acts {
        match act {
            Act::Put(n, key, e) => net.put(n, key, Some(entry(&format!("cam{}", key % 7), e))),
            Act::Remove(n, key) => net.put(n, key, None),
            Act::Flush(n) => net.flush(node(n)),
            Act::Link(a, b) => net.link(a, b),
            Act::Unlink(a, b) => net.unlink(a, b),
            Act::Deliver(pick) => drop(net.deliver(pick, false)),
            Act::Lose(pick) => drop(net.deliver(pick, true)),
            Act::Wake(n, ms) => {
                net.now.mono = net.now.mono + Duration::from_millis(ms);
                net.handle(node(n), Event::Wake);
            }
            Act::Restart(n) => {
                boots[n as usize] += 1;
                net.restart(n, boots[n as usize]);
            }
            Act::Restore(n) => net.restart(n, boots[n as usize]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn after_losses_all_linked_nodes_become_equal(
        acts in acts(),
        links in proptest::collection::vec((0..NODES, 0..NODES), 0..8),
    ) {
        let mut net = Net::new(NODES, &links, small());
        let acts = acts.into_iter().filter(|act| !matches!(act, Act::Restore(_))).collect();
        run(&mut net, acts);
        for directory in net.nodes.values() {
            let alive = |node: NodeId| node.0[0].is_multiple_of(2);
            let home = |id| directory.home(id, &alive).map(|(node, entry)| (id, node, entry));
            let homes: Vec<_> = directory.encoders().filter_map(home).collect();
            prop_assert_eq!(directory.homes(&alive), homes);
        }
        for n in 1..NODES {
            net.link(n - 1, n);
        }
        net.settle(12);
        net.assert_equal();
    }

    #[test]
    fn repeats_in_any_order_change_nothing(acts in acts(), seed in any::<u64>()) {
        let mut net = Net::new(NODES, &[(0, 1), (1, 2), (2, 3), (3, 4)], small());
        let acts = acts.into_iter().filter(|act| !matches!(act, Act::Restore(_))).collect();
        run(&mut net, acts);
        for n in 1..NODES {
            net.link(n - 1, n);
        }
        net.settle(12);
        let digests: Vec<_> = net.nodes.values().map(Directory::digest).collect();
        // Every delta that any node could send to any reader, in a shuffled order.
        let mut old = Vec::new();
        for from in net.nodes.values() {
            for (origin, part) in &from.parts {
                for reader in 0..part.seq {
                    old.extend(part.since(*origin, Some((part.boot, reader)), &small()));
                }
            }
        }
        old.sort_by_key(|delta| {
            (delta.to ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ delta.from.rotate_left(17)
        });
        for (n, delta) in old.into_iter().enumerate() {
            let to = (n % NODES as usize) as u8;
            let event = Event::Delta { from: node((to + 1) % NODES), delta };
            let effects = net.handle(node(to), event);
            // A part of an own chain may be answered with what is newer, never taken over.
            let changed = effects.iter().any(|effect| {
                matches!(
                    effect,
                    Effect::Changed(_) | Effect::HeaderChanged(_) | Effect::LinksChanged(_)
                )
            });
            prop_assert!(!changed, "{:?}", effects);
        }
        prop_assert_eq!(&digests, &net.nodes.values().map(Directory::digest).collect::<Vec<_>>());
        net.assert_equal();
    }

    #[test]
    fn any_delta_and_digest_is_survived(
        deltas in proptest::collection::vec(
            (0..4u8, 0..3u64, 0..50u64, 0..50u64, proptest::collection::vec(
                (0..50u16, proptest::option::of(0..3u64)), 0..20)),
            0..60,
        ),
        digest in proptest::collection::btree_map(0..4u8, (any::<u64>(), any::<u64>()), 0..4),
        only in any::<bool>(),
    ) {
        let mut net = Net::new(3, &[(0, 1), (1, 2)], small());
        for (origin, boot, from, to, entries) in deltas {
            let entries = entries.into_iter();
            let entries = entries.map(|(key, e)| (encoder(key), e.map(|e| entry("cam", e))));
            let delta = Delta {
                origin: node(origin),
                boot: Boot(boot),
                from,
                to,
                header: (to % 3 == 0).then(Header::default),
                entries: entries.collect(),
            };
            net.handle(node(1), Event::Delta { from: node(0), delta });
            prop_assert!(net.at(1).parts.values().all(|part| part.count() <= small().entries));
        }
        let digest = digest.into_iter().map(|(n, (b, s))| (node(n), (Boot(b), s))).collect();
        net.handle(node(1), Event::Digest { from: node(2), digest: Digest { of: digest, only } });
    }
}
