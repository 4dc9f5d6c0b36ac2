//! A town of machines whose views are old, whose messages are late or lost, and whose moves fail.

use proptest::prelude::*;

use super::*;
use crate::placement::plan::{Pool, weight_of};

fn node(at: usize) -> NodeId {
    NodeId([u8::try_from(at).unwrap() + 1; 16])
}

fn at(node: NodeId) -> usize {
    usize::from(node.0[0]) - 1
}

fn encoder(number: usize) -> EncoderId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    EncoderId(id)
}

#[derive(Debug)]
enum Mail {
    To(usize, Event),
    Arrives(EncoderId, usize, usize),
}

/// What is wrong with the network and the views.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    delay_ms: u64,
    stale_ms: u64,
    lost_percent: u64,
    failed_percent: u64,
}

struct Town {
    now: u64,
    random: u64,
    weather: Weather,
    seats: Vec<Seat>,
    machines: Vec<Balance>,
    homes: BTreeMap<EncoderId, usize>,
    watched: BTreeSet<EncoderId>,
    moving: BTreeSet<EncoderId>,
    wishes: Vec<Wish>,
    rooms: BTreeMap<EncoderId, RecordId>,
    /// Homes as they were.
    past: Vec<(u64, BTreeMap<EncoderId, usize>)>,
    mail: Vec<(u64, Mail)>,
    moves: Vec<(u64, EncoderId, usize, usize, Why)>,
    looks: usize,
    /// Hears nothing.
    deaf: Option<usize>,
    /// How many of each node are to have another next.
    standbys: Vec<usize>,
    /// When a node gave so many another.
    spread: Vec<(u64, usize, usize)>,
}

impl Town {
    /// So many encoders at each node.
    fn new(counts: &[usize], weather: Weather, random: u64) -> Self {
        let mut homes = BTreeMap::new();
        for (home, count) in counts.iter().enumerate() {
            for _ in 0..*count {
                homes.insert(encoder(homes.len()), home);
            }
        }
        let seat = |at| Seat { node: node(at), weight: WEIGHT_ONE, limit: 9_999, duty: Duty::Open };
        let mut town = Self {
            now: 0,
            random,
            weather,
            seats: (0..counts.len()).map(seat).collect(),
            machines: counts.iter().map(|_| Balance::new(Mono(0))).collect(),
            past: vec![(0, homes.clone())],
            homes,
            watched: BTreeSet::new(),
            moving: BTreeSet::new(),
            wishes: Vec::new(),
            rooms: BTreeMap::new(),
            mail: Vec::new(),
            moves: Vec::new(),
            looks: 0,
            deaf: None,
            standbys: vec![0; counts.len()],
            spread: Vec::new(),
        };
        town.tell_all(&|| Event::Nodes);
        town
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn tell_all(&mut self, event: &dyn Fn() -> Event) {
        (0..self.machines.len()).for_each(|at| self.tell(at, event()));
    }

    fn count(&self, at: usize) -> u32 {
        u32::try_from(self.homes.values().filter(|home| **home == at).count()).unwrap()
    }

    fn counts(&self) -> Vec<u32> {
        (0..self.seats.len()).map(|at| self.count(at)).collect()
    }

    /// What a node believes that there is: some time ago it was true.
    fn believed(&mut self) -> Vec<Unit> {
        let then = self.now.saturating_sub(self.draw(self.weather.stale_ms + 1) * 1_000_000);
        let past = self.past.iter().rev().find(|(at, _)| *at <= then);
        let homes = past.map_or(&self.homes, |(_, homes)| homes);
        let unit = |(&encoder, &home): (&EncoderId, &usize)| Unit {
            encoder,
            room: self.rooms.get(&encoder).copied(),
            at: node(home),
            next: None,
            free: !self.watched.contains(&encoder),
            wish: 0,
        };
        homes.iter().map(unit).collect()
    }

    fn tell(&mut self, me: usize, event: Event) {
        let mut out = Vec::new();
        let linked = self.seats.iter().map(|seat| seat.node).collect();
        let mut believed = BTreeMap::<NodeId, u32>::new();
        self.believed().iter().for_each(|unit| *believed.entry(unit.at).or_default() += 1);
        let steered = !self.wishes.is_empty() || !self.rooms.is_empty();
        let (homes, watched, moving) = (&self.homes, &self.watched, &self.moving);
        let may_go = |id: EncoderId| {
            homes.get(&id) == Some(&me) && !watched.contains(&id) && !moving.contains(&id)
        };
        let world = World {
            me: node(me),
            count: self.count(me),
            seats: &self.seats,
            load: &|node| believed.get(&node).copied().unwrap_or(0),
            steered: &|| steered,
            linked: &linked,
            may_go: &may_go,
        };
        self.machines[me].handle(Mono(self.now), &world, event, &mut out);
        for effect in out {
            self.follow(me, effect);
        }
    }

    fn follow(&mut self, me: usize, effect: Effect) {
        match effect {
            Effect::Planned(_) => {}
            Effect::Spread => {
                let given = self.standbys[me].min(25);
                self.standbys[me] -= given;
                self.spread.push((self.now, me, given));
                self.tell(me, Event::Spread(given));
            }
            Effect::Look => {
                self.looks += 1;
                let (units, wishes) = (self.believed(), self.wishes.clone());
                self.tell(me, Event::Look { units, wishes });
            }
            Effect::Ask(to, ask) => self.send(to, Event::Asked(node(me), ask)),
            Effect::Answer(to, answer) => self.send(to, Event::Answered(node(me), answer)),
            Effect::Release(to, release) => self.send(to, Event::Released(node(me), release)),
            Effect::Move { encoder, to, why } => {
                assert!(!self.watched.contains(&encoder), "nobody is disturbed");
                self.moving.insert(encoder);
                self.moves.push((self.now, encoder, me, at(to), why));
                let took = (50 + self.draw(2_000)) * 1_000_000;
                self.mail.push((self.now + took, Mail::Arrives(encoder, me, at(to))));
            }
        }
    }

    fn send(&mut self, to: NodeId, event: Event) {
        if self.draw(100) < self.weather.lost_percent || self.deaf == Some(at(to)) {
            return;
        }
        let late = self.draw(self.weather.delay_ms + 1) * 1_000_000;
        self.mail.push((self.now + late, Mail::To(at(to), event)));
    }

    /// Everything that happens until then.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + seconds * 1_000_000_000;
        loop {
            let due = self.machines.iter().map(Balance::next_wake);
            let due = due.map(|due| due.map_or(u64::MAX, |it| it.0)).enumerate();
            let (me, wake) = due.min_by_key(|(_, due)| *due).unwrap();
            let first = self.mail.iter().enumerate().min_by_key(|(at, (due, _))| (*due, *at));
            let first = first.map(|(at, (due, _))| (at, *due));
            let mail = first.map_or(u64::MAX, |(_, due)| due);
            if wake.min(mail) > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(wake.min(mail));
            match first {
                Some((at, due)) if due <= wake => match self.mail.remove(at).1 {
                    Mail::To(to, event) => self.tell(to, event),
                    Mail::Arrives(encoder, from, to) => self.arrives(encoder, from, to),
                },
                _ => self.tell(me, Event::Wake),
            }
        }
    }

    fn arrives(&mut self, encoder: EncoderId, from: usize, to: usize) {
        self.moving.remove(&encoder);
        let done = self.draw(100) >= self.weather.failed_percent;
        if done {
            self.homes.insert(encoder, to);
            self.past.push((self.now, self.homes.clone()));
            self.tell(to, Event::Home(encoder));
        }
        self.tell(from, Event::Moved { encoder, done });
        if done {
            self.tell_all(&|| Event::Changed);
        }
    }

    /// Every move made the whole more even, so that there is an end to it, and nobody moved twice
    /// within a while.
    fn check_moves(&self) {
        let uneven = |homes: &BTreeMap<EncoderId, usize>| {
            let mut counts: Vec<u64> = vec![0; self.seats.len()];
            homes.values().for_each(|home| counts[*home] += 1);
            counts.into_iter().map(|count| count * count).sum::<u64>()
        };
        let (first, moves) = (uneven(&self.past[0].1), self.past.len() as u64 - 1);
        let last = uneven(&self.homes);
        assert!(last + 2 * moves <= first, "{first} to {last} in {moves} moves");
        let mut last: BTreeMap<EncoderId, u64> = BTreeMap::new();
        for (when, encoder, ..) in &self.moves {
            if let Some(before) = last.insert(*encoder, *when) {
                let rest = Duration::from_nanos(when - before);
                assert!(rest >= COOL_DOWN, "{encoder:?} moved twice within {rest:?}");
            }
        }
    }
}

fn spread(counts: &[u32]) -> u32 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn a_node_that_is_new_is_filled_after_the_period_and_not_before() {
    let mut town = Town::new(&[334, 333, 333, 0], Weather::default(), 1);
    town.pass(29);
    assert_eq!(town.moves.len(), 0);
    town.pass(11);
    assert_eq!(town.counts(), [250; 4]);
    assert_eq!(town.moves.len(), 250, "no more than need be");
    town.check_moves();
    let looks = town.looks;
    town.pass(3_600);
    assert_eq!(town.moves.len(), 250, "then nothing moves");
    assert!(town.looks - looks < 300, "nor is much looked for: {} looks", town.looks - looks);
}

#[test]
fn who_stands_by_is_spread_at_the_pace_of_moves_from_the_end_of_the_period_on() {
    let mut town = Town::new(&[500, 500, 0], Weather::default(), 1);
    town.standbys[0] = 60;
    town.pass(60);
    let of_first = || town.spread.iter().filter(|(_, me, _)| *me == 0);
    assert_eq!(of_first().map(|it| it.2).take(4).collect::<Vec<_>>(), [25, 25, 10, 0]);
    let times: Vec<u64> = of_first().map(|it| it.0 / 1_000_000_000).take(4).collect();
    assert_eq!(times, [30, 31, 32, 33]);
    assert!(town.moves.last().unwrap().0 > 33_000_000_000, "while others move");
    assert!(of_first().skip(3).all(|it| it.2 == 0), "then only to see that there is nothing");
    assert!(of_first().count() < 12, "and seldom: {:?}", town.spread);
}

#[test]
fn what_moved_a_moment_before_a_change_of_nodes_moves_again_once_the_period_is_over() {
    for period in [30, 5] {
        let mut town = Town::new(&[40, 0], Weather::default(), 1);
        town.tell_all(&|| Event::Period(Duration::from_secs(period)));
        town.pass(period + 5);
        assert_eq!(town.counts(), [20, 20]);
        // All that is there has just come.
        town.seats[1].weight = 0;
        town.tell_all(&|| Event::Nodes);
        town.pass(period - 1);
        assert_eq!(town.counts(), [20, 20]);
        town.pass(6);
        assert_eq!(town.counts(), [40, 0], "with a period of {period} s");
    }
}

#[test]
fn any_change_of_nodes_begins_the_period_anew() {
    let mut town = Town::new(&[10, 0], Weather::default(), 1);
    for _ in 0..5 {
        town.pass(20);
        town.seats[1].limit += 1;
        town.tell_all(&|| Event::Nodes);
    }
    town.pass(29);
    assert_eq!(town.moves.len(), 0);
    town.tell_all(&|| Event::Unsettled);
    town.pass(29);
    assert_eq!(town.moves.len(), 0);
    town.pass(5);
    assert_eq!(town.counts(), [5, 5]);
    town.homes.values_mut().for_each(|home| *home = 0);
    town.past = vec![(town.now, town.homes.clone())];
    town.tell_all(&|| Event::Period(Duration::from_secs(2)));
    town.tell_all(&|| Event::Unsettled);
    town.pass(1);
    assert_eq!(town.counts(), [10, 0]);
    town.pass(6);
    assert_eq!(town.counts(), [5, 5], "a shorter period counts at once");
}

#[test]
fn what_was_granted_stays_if_nodes_changed_meanwhile() {
    let mut town = Town::new(&[4, 0, 0], Weather { delay_ms: 400, ..Weather::default() }, 1);
    town.pass(30);
    assert!(town.machines[0].counters().asked > 0 && town.moves.is_empty());
    town.seats.pop();
    town.tell_all(&|| Event::Nodes);
    town.pass(20);
    assert_eq!(town.moves, []);
    assert!((0..2).all(|at| !town.machines[1].expects(encoder(at))), "the promise ends");
}

#[test]
fn what_is_watched_stays_and_what_is_left_is_evened_out() {
    let mut town = Town::new(&[20, 0], Weather::default(), 1);
    town.watched = (0..15).map(encoder).collect();
    town.pass(60);
    assert_eq!(town.counts(), [15, 5]);
    assert!(town.moves.iter().all(|(_, id, ..)| !town.watched.contains(id)));
    town.watched.clear();
    town.tell_all(&|| Event::Changed);
    town.pass(60);
    assert_eq!(town.counts(), [10, 10]);
    town.check_moves();
}

#[test]
fn who_becomes_watched_while_somebody_is_asked_stays_and_the_promise_ends() {
    let mut town = Town::new(&[2, 0], Weather { delay_ms: 400, ..Weather::default() }, 1);
    town.pass(30);
    assert_eq!((town.moves.len(), town.machines[0].leaving()), (0, 1), "somebody is asked");
    town.watched = (0..2).map(encoder).collect();
    town.pass(2);
    assert_eq!(town.moves.len(), 0);
    assert!(town.machines[1].promised.is_empty(), "nobody waits for it");
    assert_eq!((town.machines[0].counters.granted, town.machines[0].counters.skipped), (1, 1));
}

#[test]
fn a_node_without_capacity_is_emptied_and_takes_nothing() {
    let mut town = Town::new(&[4, 4, 4], Weather::default(), 1);
    town.seats[0].weight = 0;
    town.tell_all(&|| Event::Nodes);
    town.pass(60);
    assert_eq!(town.counts(), [0, 6, 6]);
    assert!(town.moves.iter().all(|(.., why)| *why == Why::NoCapacity));
    town.seats.iter_mut().for_each(|seat| seat.weight = 0);
    town.tell_all(&|| Event::Nodes);
    town.pass(120);
    assert_eq!(town.counts(), [4, 4, 4], "without any all are equal");
}

#[test]
fn a_node_says_why_it_does_not_take_what_it_is_asked_to() {
    let mut town = Town::new(&[5, 3], Weather::default(), 1);
    let ask = |count, to_even, size: usize| Ask {
        ticket: 9,
        encoders: (100..100 + size).map(encoder).collect(),
        count,
        weight: WEIGHT_ONE,
        to_even,
    };
    let judge = |town: &mut Town, ask| {
        town.mail.clear();
        town.tell(1, Event::Asked(node(0), ask));
        match &town.mail[..] {
            [(_, Mail::To(0, Event::Answered(_, answer)))] => (answer.refused, answer.count),
            mail => panic!("{mail:?}"),
        }
    };
    assert_eq!(judge(&mut town, ask(4, true, 1)), (Some(Refusal::Uneven), 3));
    assert_eq!(judge(&mut town, ask(5, true, 1)), (None, 3));
    assert_eq!(judge(&mut town, ask(5, true, 1)), (None, 3), "the same again is no other");
    assert_eq!(judge(&mut town, ask(6, true, 3)), (Some(Refusal::Uneven), 3), "as a whole");
    assert_eq!(judge(&mut town, ask(0, false, 1)), (None, 3), "there is need");
    let mut other = ask(5, true, 1);
    other.encoders = vec![encoder(200)];
    assert_eq!(judge(&mut town, other.clone()), (Some(Refusal::Uneven), 4), "a promise counts");
    town.tell(1, Event::Home(encoder(100)));
    assert_eq!(judge(&mut town, other.clone()), (None, 3), "until it is kept");
    town.tell(1, Event::Released(node(2), Release { ticket: 9, encoders: vec![encoder(200)] }));
    assert!(town.machines[1].expects(encoder(200)), "not everyone may let go");
    town.tell(1, Event::Released(node(0), Release { ticket: 8, encoders: vec![encoder(200)] }));
    assert!(town.machines[1].expects(encoder(200)), "what is late is about something else");
    town.tell(1, Event::Released(node(0), Release { ticket: 9, encoders: vec![encoder(200)] }));
    assert!(!town.machines[1].expects(encoder(200)));
    judge(&mut town, ask(5, true, 1));
    town.now += 11_000_000_000;
    assert_eq!(judge(&mut town, other), (None, 3), "or too old");
    assert_eq!(judge(&mut town, ask(9, false, TOGETHER_MAX + 1)).0, Some(Refusal::Other));
    assert_eq!(judge(&mut town, ask(9, false, 0)).0, Some(Refusal::Other));
    town.seats[1].limit = 3;
    assert_eq!(judge(&mut town, ask(99, false, 1)).0, Some(Refusal::Full));
    town.seats[1].weight = 0;
    assert_eq!(judge(&mut town, ask(99, false, 1)).0, Some(Refusal::NoCapacity));
    town.seats[1].duty = Duty::Cordoned;
    assert_eq!(judge(&mut town, ask(99, false, 1)).0, Some(Refusal::Closed));
}

#[test]
fn a_node_that_is_deaf_is_asked_more_and_more_seldom_and_keeps_nobody_else_waiting() {
    let mut town = Town::new(&[9, 0, 0], Weather::default(), 1);
    town.deaf = Some(1);
    town.pass(40);
    assert_eq!(town.counts(), [6, 0, 3], "its share of three");
    town.pass(600);
    let counters = town.machines[0].counters;
    assert!((6..60).contains(&counters.unanswered), "{counters:?}");
    town.deaf = None;
    town.pass(61);
    assert_eq!(town.counts(), [3, 3, 3]);
}

#[test]
fn a_room_goes_whole_or_not_at_all() {
    let room = RecordId([9; 16]);
    let mut town = Town::new(&[7, 3], Weather::default(), 1);
    town.rooms = (0..3).map(|n| (encoder(n), room)).collect();
    town.seats[1].limit = 6;
    town.pass(60);
    let with: BTreeSet<usize> = (0..3).map(|n| town.homes[&encoder(n)]).collect();
    assert_eq!((with.len(), town.counts()), (1, vec![5, 5]));
    let moves = town.moves.len();
    town.pass(600);
    assert_eq!(town.moves.len(), moves);
}

#[test]
fn who_prefers_a_pool_goes_there_however_full_it_is() {
    let mut town = Town::new(&[2, 6], Weather::default(), 1);
    let pool = Pool { name: "south".into(), nodes: BTreeSet::from([node(1)]) };
    town.wishes = vec![Wish { pools: vec![pool], only: false }];
    town.pass(60);
    assert_eq!(town.counts(), [0, 8]);
    assert!(town.moves.iter().all(|(.., why)| *why == Why::Preference("south".into())));
}

#[test]
fn numbers_of_newer_versions_are_other_reasons() {
    for (number, refusal) in Refusal::ALL.into_iter().enumerate() {
        let number = u32::try_from(number).unwrap();
        assert_eq!((u32::from(refusal), Refusal::from(number)), (number, refusal));
    }
    assert_eq!(Refusal::from(77), Refusal::Other);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Views up to three seconds old, messages that are late, lost, or overtake each other, and
    /// moves that come to nothing.
    #[test]
    fn whatever_anyone_believes_no_move_is_worth_undoing_and_all_is_even_in_the_end(
        counts in proptest::collection::vec(0..60usize, 2..7),
        delay_ms in 0..800u64,
        stale_ms in 0..3_000u64,
        lost_percent in 0..20u64,
        failed_percent in 0..10u64,
        random in any::<u64>(),
    ) {
        let weather = Weather { delay_ms, stale_ms, lost_percent, failed_percent };
        let mut town = Town::new(&counts, weather, random);
        town.pass(600);
        town.check_moves();
        prop_assert!(spread(&town.counts()) <= 1, "{:?}", town.counts());
    }

    #[test]
    fn weights_are_kept_to(
        mesh in proptest::collection::vec((0..40usize, 1..4u32), 2..6),
        delay_ms in 0..500u64,
        stale_ms in 0..2_000u64,
        random in any::<u64>(),
    ) {
        let counts: Vec<usize> = mesh.iter().map(|(count, _)| *count).collect();
        let weather = Weather { delay_ms, stale_ms, ..Weather::default() };
        let mut town = Town::new(&counts, weather, random);
        for (seat, (_, weight)) in town.seats.iter_mut().zip(&mesh) {
            seat.weight = weight_of(f64::from(*weight));
        }
        town.tell_all(&|| Event::Nodes);
        town.pass(600);
        let filled = |at: usize| (town.count(at), town.seats[at].weight);
        for from in 0..mesh.len() {
            for to in (0..mesh.len()).filter(|to| *to != from) {
                prop_assert!(!evens(filled(from), filled(to), 1), "{:?}", town.counts());
            }
        }
    }
}
