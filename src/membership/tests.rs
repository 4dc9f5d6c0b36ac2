//! A mesh of machines in virtual time: links that come up some time after one side wants them,
//! lose datagrams, and go away some time after the other side is gone.

use std::collections::{BTreeSet, VecDeque};

use super::*;
use proptest::prelude::*;

#[expect(non_snake_case, reason = "reads as a unit")]
const fn MS(span: u64) -> Duration {
    Duration::from_millis(span)
}
/// How long a link outlives the other side.
const LINK_IDLE: Duration = Duration::from_secs(3);
/// What a receive buffer holds for a process that is frozen.
const INBOX: usize = 200;

#[derive(Debug, Clone, Copy)]
struct Net {
    /// One way.
    delay: (Duration, Duration),
    loss: f64,
    /// From wanting a link to having it.
    dial: (Duration, Duration),
    /// From one attempt to reach a node that is down to the next.
    redial: Duration,
}

const LAN: Net =
    Net { delay: (MS(0), MS(2)), loss: 0.0, dial: (MS(5), MS(60)), redial: Duration::from_secs(4) };

struct Node {
    machine: Membership,
    boot: u64,
    alive: bool,
    frozen: bool,
    inbox: VecDeque<Event>,
    woken_for: Option<Mono>,
    effects: Vec<(Mono, Effect)>,
    remembered: BTreeSet<usize>,
}

#[derive(Debug)]
enum Happening {
    /// To a node of this boot, over the link of this number if any.
    Arrive {
        to: usize,
        boot: u64,
        link: u64,
        event: Event,
    },
    Wake {
        node: usize,
        boot: u64,
        at: Mono,
    },
    Links,
    RoundTrips,
    Join(usize),
}

struct Mesh {
    now: Mono,
    queue: BTreeMap<(Mono, u64), Happening>,
    count: u64,
    nodes: Vec<Node>,
    /// Number of the link, by pair.
    links: BTreeMap<(usize, usize), u64>,
    /// When a pair is tried again, or since when it is dead.
    pairs: BTreeMap<(usize, usize), Mono>,
    /// Nodes in different parts do not reach each other.
    part: Vec<u8>,
    /// Messages of these reach nobody, though they hear all.
    mute: BTreeSet<usize>,
    /// Nothing reaches these, though all hear them.
    deaf: BTreeSet<usize>,
    net: Net,
    rng: ChaCha8Rng,
}

fn id(index: usize) -> NodeId {
    let mut id = [0xaa; 16];
    id[0] = index as u8;
    NodeId(id)
}

fn peer(index: usize, boot: u64) -> Peer {
    let addrs = vec![format!("10.0.0.{index}:9443"), format!("relay{index}.example.org:9443")];
    Peer { node: id(index), boot: Boot(boot), addrs }
}

impl Mesh {
    /// Nodes that know nobody; node 0 is everybody's seed, all start within `burst`.
    fn new(count: usize, seed: u64, net: Net, burst: Duration) -> Self {
        let mut mesh = Self {
            now: Mono(1_000_000_000_000),
            queue: BTreeMap::new(),
            count: 0,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            pairs: BTreeMap::new(),
            part: vec![0; count],
            mute: BTreeSet::new(),
            deaf: BTreeSet::new(),
            net,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        for index in 0..count {
            let node = mesh.start(index, 1);
            mesh.nodes.push(node);
            mesh.nodes[index].alive = false;
            let at = if index == 0 { MS(0) } else { mesh.between(MS(0), burst) };
            mesh.push(at, Happening::Join(index));
        }
        mesh.push(MS(0), Happening::Links);
        mesh.push(MS(0), Happening::RoundTrips);
        mesh
    }

    fn start(&mut self, index: usize, boot: u64) -> Node {
        let now = Now { mono: self.now, wall: 0 };
        let seed = self.rng.random();
        let machine = Membership::new(peer(index, boot), now, seed, &mut Vec::new());
        Node {
            machine,
            boot,
            alive: true,
            frozen: false,
            inbox: VecDeque::new(),
            woken_for: None,
            effects: Vec::new(),
            remembered: BTreeSet::from([0]),
        }
    }

    fn push(&mut self, after: Duration, happening: Happening) {
        self.count += 1;
        // Things of the same instant happen in any order.
        let tie = self.rng.random_range(0..1_000_000) * 1_000_000_000 + self.count;
        self.queue.insert((self.now + after, tie), happening);
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high { low } else { self.rng.random_range(low..high) }
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        let on = |n: usize| self.nodes[n].alive && !self.nodes[n].frozen;
        on(a) && on(b) && self.part[a] == self.part[b]
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(end, |_| false);
    }

    /// True if the condition came to hold in time.
    fn run_until(&mut self, end: Mono, holds: impl Fn(&Self) -> bool) -> bool {
        let mut checked = self.now;
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            self.now = entry.key().0;
            let happening = entry.remove();
            self.happen(happening);
            if self.now.since(checked) >= MS(5) {
                checked = self.now;
                if holds(self) {
                    return true;
                }
            }
        }
        self.now = end;
        holds(self)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { to, boot, link, event } => {
                let from = match &event {
                    Event::Datagram { from, .. } | Event::State { from, .. } => from.0[0] as usize,
                    _ => to,
                };
                let node = &mut self.nodes[to];
                if !node.alive || node.boot != boot {
                    return;
                }
                if from != to {
                    let pair = (from.min(to), from.max(to));
                    let cut = self.part[from] != self.part[to]
                        || self.mute.contains(&from)
                        || self.deaf.contains(&to);
                    if self.links.get(&pair) != Some(&link) || cut {
                        return;
                    }
                }
                if node.frozen {
                    if node.inbox.len() < INBOX {
                        node.inbox.push_back(event);
                    }
                    return;
                }
                self.feed(to, event);
            }
            Happening::Wake { node, boot, at } => {
                let this = &mut self.nodes[node];
                if this.alive && !this.frozen && this.boot == boot && this.woken_for == Some(at) {
                    this.woken_for = None;
                    self.feed(node, Event::Wake);
                }
            }
            Happening::Links => {
                self.tend_links();
                let busy = !self.pairs.is_empty();
                self.push(if busy { MS(10) } else { MS(50) }, Happening::Links);
            }
            Happening::RoundTrips => {
                for index in 0..self.nodes.len() {
                    let linked = &self.nodes[index].machine.linked;
                    if !linked.is_empty() && !self.nodes[index].frozen {
                        let trip = 2 * self.net.delay.1;
                        let trips = linked.keys().map(|node| (*node, trip)).collect();
                        self.deliver_locally(index, Event::Rtt(trips));
                    }
                }
                self.push(MS(1000), Happening::RoundTrips);
            }
            Happening::Join(index) => {
                self.nodes[index] = self.start(index, self.nodes[index].boot);
                self.schedule_wake(index);
            }
        }
    }

    fn tend_links(&mut self) {
        for b in 1..self.nodes.len() {
            for a in 0..b {
                let up = self.links.contains_key(&(a, b));
                let reach = self.reach(a, b);
                let muted = [a, b].iter().any(|n| self.mute.contains(n) || self.deaf.contains(n));
                match (up, reach && !muted) {
                    (true, true) => {
                        self.pairs.remove(&(a, b));
                    }
                    (true, false) => {
                        let since = *self.pairs.entry((a, b)).or_insert(self.now);
                        if self.now.since(since) >= LINK_IDLE {
                            self.links.remove(&(a, b));
                            self.pairs.remove(&(a, b));
                            self.deliver_locally(a, Event::Unlinked(id(b)));
                            self.deliver_locally(b, Event::Unlinked(id(a)));
                        }
                    }
                    (false, true) => {
                        let wanted = |x: usize, y: usize| self.nodes[x].machine.is_up(id(y));
                        let (fast, slow) = (
                            wanted(a, b) || wanted(b, a),
                            self.nodes[a].remembered.contains(&b)
                                || self.nodes[b].remembered.contains(&a),
                        );
                        if !fast && !slow {
                            continue;
                        }
                        let first = !self.nodes[b].machine.linked.contains_key(&id(0)) && a == 0;
                        let wait = if fast || first {
                            self.between(self.net.dial.0, self.net.dial.1)
                        } else {
                            self.between(MS(0), self.net.redial)
                        } + 3 * self.net.delay.1;
                        let at = self.now + wait;
                        let due = *self.pairs.entry((a, b)).or_insert(at);
                        if due <= self.now {
                            self.count += 1;
                            self.links.insert((a, b), self.count);
                            self.pairs.remove(&(a, b));
                            for (x, y) in [(a, b), (b, a)] {
                                self.nodes[x].remembered.insert(y);
                                self.deliver_locally(x, Event::Linked(id(y)));
                            }
                        } else if fast && due.since(self.now) > wait {
                            self.pairs.insert((a, b), at);
                        }
                    }
                    (false, false) => {
                        self.pairs.remove(&(a, b));
                    }
                }
            }
        }
    }

    fn deliver_locally(&mut self, to: usize, event: Event) {
        let boot = self.nodes[to].boot;
        self.happen(Happening::Arrive { to, boot, link: 0, event });
    }

    fn feed(&mut self, index: usize, event: Event) {
        let now = Now { mono: self.now, wall: 0 };
        let mut effects = Vec::new();
        self.nodes[index].machine.handle(now, event, &mut effects);
        for effect in effects {
            let (to, event, stream) = match effect {
                Effect::Datagram { to, bytes } => {
                    assert!(bytes.len() <= PACKET_MAX, "{} bytes", bytes.len());
                    (to, Event::Datagram { from: id(index), bytes }, false)
                }
                Effect::State { to, bytes, reply } => {
                    (to, Event::State { from: id(index), bytes, reply }, true)
                }
                other => {
                    self.nodes[index].effects.push((self.now, other));
                    continue;
                }
            };
            let to = to.0[0] as usize;
            let pair = (index.min(to), index.max(to));
            let Some(link) = self.links.get(&pair).copied() else { continue };
            let mut delay = self.between(self.net.delay.0, self.net.delay.1);
            if self.rng.random_bool(self.net.loss) {
                if !stream {
                    continue;
                }
                delay += 3 * self.net.delay.1;
            }
            let boot = self.nodes[to].boot;
            self.push(delay, Happening::Arrive { to, boot, link, event });
        }
        self.schedule_wake(index);
    }

    fn schedule_wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let wake = node.machine.next_wake();
        if wake == node.woken_for {
            return;
        }
        node.woken_for = wake;
        if let Some(at) = wake {
            let boot = node.boot;
            // A scheduler's lateness.
            let late = self.between(MS(0), MS(2));
            let after = at.since(self.now) + late;
            self.push(after, Happening::Wake { node: index, boot, at });
        }
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
    }

    fn restart(&mut self, index: usize) {
        let boot = self.nodes[index].boot + 1;
        let remembered = self.nodes[index].remembered.clone();
        for other in 0..self.nodes.len() {
            let pair = (index.min(other), index.max(other));
            if other != index && self.links.remove(&pair).is_some() {
                self.pairs.remove(&pair);
                self.deliver_locally(other, Event::Unlinked(id(index)));
            }
        }
        self.nodes[index] = self.start(index, boot);
        self.nodes[index].remembered = remembered;
        self.schedule_wake(index);
    }

    fn freeze(&mut self, index: usize) {
        self.nodes[index].frozen = true;
    }

    fn thaw(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.frozen = false;
        let queued = std::mem::take(&mut node.inbox);
        // The timer may come first or last.
        if self.rng.random_bool(0.5) {
            self.feed(index, Event::Wake);
        }
        for event in queued {
            self.feed(index, event);
        }
        self.feed(index, Event::Wake);
    }

    fn all_see_all(&self) -> bool {
        (0..self.nodes.len()).all(|a| {
            (0..self.nodes.len()).all(|b| {
                a == b
                    || !self.nodes[a].alive
                    || !self.nodes[b].alive
                    || self.nodes[a].machine.is_up(id(b))
            })
        })
    }

    fn settle(&mut self) {
        let end = self.now + Duration::from_secs(20);
        assert!(self.run_until(end, Self::all_see_all), "the mesh does not come together");
        self.run(Duration::from_secs(3));
    }

    fn forget_effects(&mut self) {
        for node in &mut self.nodes {
            node.effects.clear();
        }
    }

    /// Verdicts of `observers` on `subjects`.
    fn downs(&self, observers: &[usize], subjects: &[usize]) -> usize {
        let of = |effect: &Effect| match effect {
            Effect::Down(node) | Effect::Left(node) => subjects.contains(&(node.0[0] as usize)),
            _ => false,
        };
        let nodes = observers.iter().map(|observer| &self.nodes[*observer]);
        nodes.flat_map(|node| &node.effects).filter(|(_, effect)| of(effect)).count()
    }
}

fn quantiles(name: &str, mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    let max = *spans.last().unwrap();
    println!(
        "{name}: p50 {:?}, p90 {:?}, max {max:?} of {}",
        spans[spans.len() / 2],
        spans[spans.len() * 9 / 10],
        spans.len()
    );
    max
}

#[test]
fn sixteen_nodes_in_one_burst_from_one_seed_all_know_all_within_two_seconds() {
    let mut spans = Vec::new();
    for seed in 0..15 {
        let mut mesh = Mesh::new(16, seed, LAN, MS(100));
        mesh.run(MS(100));
        let start = mesh.now - MS(100);
        let end = start + Duration::from_secs(10);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        spans.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(5));
        let all: Vec<usize> = (0..16).collect();
        assert_eq!(mesh.downs(&all, &all), 0, "seed {seed}");
    }
    assert!(quantiles("converged, N=16", spans) <= Duration::from_secs(2));
}

#[test]
fn slow_links_at_the_burst_bring_nobody_down() {
    let net = Net { dial: (MS(100), MS(900)), ..LAN };
    let mut spans = Vec::new();
    for seed in 0..10 {
        let mut mesh = Mesh::new(16, seed, net, MS(100));
        mesh.run(MS(100));
        let start = mesh.now;
        let end = start + Duration::from_secs(10);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        spans.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(5));
        let all: Vec<usize> = (0..16).collect();
        assert_eq!(mesh.downs(&all, &all), 0, "seed {seed}");
    }
    let max = quantiles("converged, N=16, links take up to 0.9 s", spans);
    assert!(max <= Duration::from_secs(2));
}

#[test]
fn a_killed_node_is_down_for_everyone_within_two_seconds() {
    let runs = [(2, 0.0, 50), (3, 0.0, 50), (5, 0.0, 50), (16, 0.0, 50), (16, 0.02, 15)];
    for (count, loss, seeds) in runs {
        let mut spans = Vec::new();
        for seed in 0..seeds {
            let mut mesh = Mesh::new(count, seed, Net { loss, ..LAN }, MS(100));
            mesh.settle();
            mesh.run(MS(seed * 37));
            let victim = seed as usize % count;
            mesh.kill(victim);
            let start = mesh.now;
            let gone = |mesh: &Mesh| {
                let others = (0..count).filter(|other| *other != victim);
                others.clone().all(|o| !mesh.nodes[o].machine.is_up(id(victim)))
            };
            assert!(mesh.run_until(start + Duration::from_secs(10), gone), "seed {seed}");
            spans.push(mesh.now.since(start));
            mesh.run(Duration::from_secs(2));
            let others: Vec<usize> = (0..count).filter(|other| *other != victim).collect();
            assert_eq!(mesh.downs(&others, &others), 0, "seed {seed}");
        }
        let name = format!("killed, all know, N={count}, loss {loss}");
        assert!(quantiles(&name, spans) <= MS(2000));
    }
}

#[test]
fn a_node_frozen_for_a_minute_returns_without_disturbing_anyone() {
    let mut spans = Vec::new();
    for seed in 0..10 {
        let mut mesh = Mesh::new(5, seed, LAN, MS(100));
        mesh.settle();
        mesh.freeze(2);
        mesh.run(Duration::from_secs(60));
        let others = [0, 1, 3, 4];
        assert!(others.iter().all(|o| mesh.nodes[*o].machine.state(id(2)) == Some(Liveness::Down)));
        mesh.forget_effects();
        mesh.thaw(2);
        let start = mesh.now;
        let end = start + Duration::from_secs(10);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        spans.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(20));
        assert!(mesh.all_see_all(), "seed {seed}");
        assert_eq!(mesh.downs(&others, &[0, 1, 2, 3, 4]), 0, "seed {seed}");
        assert_eq!(mesh.downs(&[2], &others), 0, "seed {seed}");
        let stalled = mesh.nodes[2].effects.iter().any(|(_, effect)| {
            matches!(effect, Effect::Stalled(span) if *span > Duration::from_secs(59))
        });
        assert!(stalled, "seed {seed}");
    }
    assert!(quantiles("frozen 60 s, all see all again", spans) <= Duration::from_secs(6));
}

#[test]
fn a_node_cut_off_for_a_minute_returns_without_disturbing_anyone() {
    let mut spans = Vec::new();
    let mut detected = Vec::new();
    for seed in 0..10 {
        let mut mesh = Mesh::new(5, seed, LAN, MS(100));
        mesh.settle();
        mesh.forget_effects();
        mesh.part[2] = 1;
        let start = mesh.now;
        let all_know = |mesh: &Mesh| {
            [0, 1, 3, 4].iter().all(|other| {
                !mesh.nodes[*other].machine.is_up(id(2)) && !mesh.nodes[2].machine.is_up(id(*other))
            })
        };
        assert!(mesh.run_until(start + Duration::from_secs(9), all_know), "seed {seed}");
        detected.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(60));
        mesh.forget_effects();
        mesh.part[2] = 0;
        let start = mesh.now;
        let end = start + Duration::from_secs(10);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        spans.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(20));
        assert_eq!(mesh.downs(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]), 0, "seed {seed}");
    }
    assert!(quantiles("cut off, both sides know", detected) <= MS(2500));
    assert!(quantiles("cut off 60 s, all see all again", spans) <= Duration::from_secs(6));
}

#[test]
fn a_link_that_works_one_way_disturbs_nobody() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(5, seed, LAN, MS(100));
        mesh.settle();
        mesh.forget_effects();
        let deaf = seed % 2 == 0;
        if deaf {
            mesh.deaf.insert(3)
        } else {
            mesh.mute.insert(3)
        };
        let others = [0, 1, 2, 4];
        mesh.run(Duration::from_secs(20));
        assert!(others.iter().all(|o| !mesh.nodes[*o].machine.is_up(id(3))), "seed {seed}");
        assert_eq!(mesh.downs(&others, &others), 0, "seed {seed}, deaf {deaf}");
        mesh.mute.clear();
        mesh.deaf.clear();
        mesh.forget_effects();
        let end = mesh.now + Duration::from_secs(10);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        assert_eq!(mesh.downs(&others, &others), 0, "seed {seed}");
    }
}

#[test]
fn after_a_short_cut_nobody_believes_what_the_other_side_says_of_its_own() {
    let mut verdicts = 0;
    for seed in 0..60 {
        let mut mesh = Mesh::new(8, seed, LAN, MS(100));
        mesh.settle();
        mesh.forget_effects();
        // Around the moment at which verdicts fall, and before sides are reborn.
        let span = mesh.between(MS(1_000), MS(3_000));
        let (some, others): (Vec<usize>, Vec<usize>) = match seed % 3 {
            0 => ((0..3).collect(), (3..8).collect()),
            _ => (vec![0], (1..8).collect()),
        };
        match seed % 3 {
            0 => some.iter().for_each(|node| mesh.part[*node] = 1),
            1 => mesh.mute.extend(&some),
            _ => mesh.deaf.extend(&some),
        }
        mesh.run(span);
        mesh.part.fill(0);
        mesh.mute.clear();
        mesh.deaf.clear();
        mesh.run(Duration::from_secs(5));
        assert!(mesh.all_see_all(), "seed {seed}");
        verdicts += mesh.downs(&some, &others) + mesh.downs(&others, &some);
        assert_eq!(mesh.downs(&some, &some), 0, "seed {seed}, {span:?}");
        assert_eq!(mesh.downs(&others, &others), 0, "seed {seed}, {span:?}");
    }
    assert!(verdicts > 100, "there was something to believe: {verdicts}");
}

#[test]
fn ten_minutes_far_apart_and_lossy_bring_nobody_down() {
    let net = Net { delay: (MS(145), MS(150)), loss: 0.02, ..LAN };
    for (count, seed) in [(3, 1), (5, 2), (16, 3)] {
        let mut mesh = Mesh::new(count, seed, net, MS(100));
        mesh.settle();
        mesh.forget_effects();
        mesh.run(Duration::from_secs(600));
        let all: Vec<usize> = (0..count).collect();
        assert_eq!(mesh.downs(&all, &all), 0, "N={count}");
        assert!(mesh.all_see_all());
        let suspects = mesh.nodes.iter().flat_map(|node| &node.effects);
        let suspects = suspects.filter(|(_, effect)| matches!(effect, Effect::Suspect(_))).count();
        println!("300 ms, 2 % loss, N={count}: {suspects} suspicions in 10 minutes");
    }
}

#[test]
fn ten_minutes_of_hiccups_bring_nobody_down() {
    let mut mesh = Mesh::new(5, 4, Net { loss: 0.01, ..LAN }, MS(100));
    mesh.settle();
    mesh.forget_effects();
    for _ in 0..600 {
        let node = mesh.rng.random_range(0..5);
        mesh.freeze(node);
        let span = mesh.between(MS(50), MS(700));
        mesh.run(span);
        mesh.thaw(node);
        mesh.run(Duration::from_secs(1) - span);
    }
    assert_eq!(mesh.downs(&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]), 0);
}

#[test]
fn two_halves_find_together_again() {
    let mut spans = Vec::new();
    for seed in 0..10 {
        let mut mesh = Mesh::new(8, seed, LAN, MS(100));
        mesh.settle();
        for index in 0..4 {
            mesh.part[index] = 1;
        }
        mesh.run(Duration::from_secs(30));
        mesh.forget_effects();
        mesh.part.fill(0);
        let start = mesh.now;
        let end = start + Duration::from_secs(30);
        assert!(mesh.run_until(end, Mesh::all_see_all), "seed {seed}");
        spans.push(mesh.now.since(start));
        mesh.run(Duration::from_secs(10));
        let all: Vec<usize> = (0..8).collect();
        assert!(mesh.all_see_all());
        assert_eq!(mesh.downs(&all, &all), 0, "seed {seed}");
    }
    assert!(quantiles("two halves, 30 s, healed", spans) <= Duration::from_secs(10));
}

#[test]
fn all_nodes_restart_at_once_and_find_together_without_the_seed() {
    let mut mesh = Mesh::new(4, 9, LAN, MS(100));
    mesh.settle();
    for index in 0..4 {
        mesh.kill(index);
    }
    mesh.run(Duration::from_secs(10));
    for index in 1..4 {
        mesh.restart(index);
    }
    let end = mesh.now + Duration::from_secs(10);
    assert!(mesh.run_until(end, Mesh::all_see_all));
}

#[test]
fn a_quick_restart_is_a_rename_and_not_a_death() {
    let mut mesh = Mesh::new(3, 9, LAN, MS(100));
    mesh.settle();
    mesh.forget_effects();
    mesh.restart(2);
    mesh.run(Duration::from_secs(5));
    assert!(mesh.all_see_all());
    assert_eq!(mesh.downs(&[0, 1], &[2]), 0);
    for observer in [0, 1] {
        let renamed = mesh.nodes[observer]
            .effects
            .iter()
            .any(|(_, effect)| *effect == Effect::Renamed(peer(2, 2)));
        assert!(renamed, "{:?}", mesh.nodes[observer].effects);
    }
}

#[test]
fn a_node_that_leaves_has_left_for_everyone_at_once() {
    let mut mesh = Mesh::new(5, 3, LAN, MS(100));
    mesh.settle();
    mesh.forget_effects();
    mesh.feed(1, Event::Leave);
    let end = mesh.now + MS(300);
    let left = |mesh: &Mesh| {
        [0, 2, 3, 4].iter().all(|o| mesh.nodes[*o].machine.state(id(1)) == Some(Liveness::Left))
    };
    assert!(mesh.run_until(end, left));
    mesh.run(Duration::from_secs(1));
    mesh.kill(1);
    mesh.run(Duration::from_secs(20));
    assert!(left(&mesh), "and stays so");
    assert_eq!(mesh.nodes[1].machine.next_wake(), None);
    mesh.restart(1);
    let end = mesh.now + Duration::from_secs(5);
    assert!(mesh.run_until(end, Mesh::all_see_all));
}

#[test]
fn an_old_data_folder_put_back_grows_beyond_its_newer_self() {
    let mut mesh = Mesh::new(3, 5, LAN, MS(100));
    mesh.settle();
    for _ in 0..3 {
        mesh.restart(2);
        mesh.run(Duration::from_secs(5));
    }
    mesh.nodes[2].boot = 0;
    mesh.restart(2);
    let end = mesh.now + Duration::from_secs(10);
    assert!(mesh.run_until(end, Mesh::all_see_all));
    mesh.run(Duration::from_secs(10));
    assert!(mesh.all_see_all());
    assert_eq!(mesh.nodes[2].machine.boot(), Boot(4));
    assert_eq!(mesh.nodes[2].machine.counters().reborn_outgrown, 1);
}

#[test]
fn a_datagram_in_another_name_is_dropped() {
    let mut mesh = Mesh::new(3, 5, LAN, MS(100));
    mesh.settle();
    let now = Now { mono: mesh.now, wall: 0 };
    let mut effects = Vec::new();
    // What node 2 would send, over the link of node 1.
    let probe = mesh.nodes[2].machine.swim.identity().clone();
    let mut asked = swim::Asked::default();
    let target = mesh.nodes[0].machine.me.clone();
    assert_eq!(probe.node, id(2));
    mesh.nodes[2].machine.swim.announce(target, &mut asked).unwrap();
    let (_, bytes) = asked.datagrams.pop().unwrap();
    let event = Event::Datagram { from: id(1), bytes };
    mesh.nodes[0].machine.handle(now, event, &mut effects);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Datagram { to, .. } if *to == id(2)))
    );
    assert_eq!(mesh.nodes[0].machine.counters().not_the_sender, 1);
}

#[test]
fn the_same_seed_plays_the_same_game() {
    let play = || {
        let mut mesh = Mesh::new(6, 42, Net { loss: 0.05, ..LAN }, MS(100));
        mesh.run(Duration::from_secs(20));
        mesh.nodes.into_iter().map(|node| node.effects).collect::<Vec<_>>()
    };
    assert_eq!(play(), play());
}

fn member_with_company() -> (Membership, Now, Vec<u8>, Vec<u8>) {
    let mut mesh = Mesh::new(3, 5, LAN, MS(100));
    mesh.settle();
    let mut asked = swim::Asked::default();
    let target = mesh.nodes[0].machine.me.clone();
    mesh.nodes[2].machine.swim.announce(target, &mut asked).unwrap();
    mesh.nodes[2].machine.swim.gossip(&mut asked).unwrap();
    let datagram = asked.datagrams.pop().unwrap().1;
    let mut effects = Vec::new();
    mesh.nodes[2].machine.push(id(0), Told::All, true, &mut effects);
    let Some(Effect::State { bytes, .. }) = effects.pop() else { panic!("no state") };
    let now = Now { mono: mesh.now, wall: 0 };
    (mesh.nodes.swap_remove(0).machine, now, datagram, bytes)
}

#[test]
fn arbitrary_bytes_never_panic() {
    let (machine, now, datagram, state) = member_with_company();
    let machine = std::cell::RefCell::new(machine);
    let feed = |datagrams: bool, bytes: Vec<u8>| {
        let mut machine = machine.borrow_mut();
        let from = id(2);
        let event = if datagrams {
            Event::Datagram { from, bytes }
        } else {
            Event::State { from, bytes, reply: true }
        };
        let mut effects = Vec::new();
        machine.handle(now, event, &mut effects);
        for effect in effects {
            if let Effect::Datagram { bytes, .. } = effect {
                assert!(bytes.len() <= PACKET_MAX);
            }
        }
    };
    proptest!(|(
        datagrams in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..1200),
        kind in 0u8..3,
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    )| {
        feed(datagrams, noise.clone());
        feed(true, [vec![kind], noise].concat());
        let mut bytes = if datagrams { datagram.clone() } else { state.clone() };
        for (at, to) in hits {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        feed(datagrams, bytes);
    });
}

#[test]
fn members_that_are_shut_out_are_no_split_and_a_split_delays_no_verdict() {
    for (seed, shut_out) in [(1, true), (2, true), (3, false), (4, false)] {
        let mut mesh = Mesh::new(5, seed, LAN, MS(100));
        mesh.settle();
        for gone in [3, 4] {
            if shut_out {
                for node in [0, 1, 2] {
                    mesh.feed(node, Event::Forget(id(gone)));
                }
            }
            mesh.kill(gone);
        }
        // The split settles about a second after its deaths are known.
        mesh.run(if shut_out { MS(400) } else { MS(1_900) });
        mesh.kill(2);
        let start = mesh.now;
        let found = |mesh: &Mesh| [0, 1].iter().all(|it| !mesh.nodes[*it].machine.is_up(id(2)));
        assert!(mesh.run_until(start + Duration::from_secs(9), found), "seed {seed}");
        let took = mesh.now.since(start);
        assert!(took <= MS(2_500), "seed {seed}: {took:?}");
        let split = |it: &usize| mesh.nodes[*it].machine.counters().reborn_split > 0;
        assert!(!shut_out || ![0, 1].iter().any(split), "seed {seed}");
    }
}
