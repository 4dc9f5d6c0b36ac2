//! Who should be linked and when to try again.
//!
//! Every pair of live members has a link. Both sides want it; the one with the lower id dials at
//! once and the other a moment later, so that there is rarely a second link to throw away. Who has
//! just started dials all that it remembers at once, for they take its former link for good. Failed
//! attempts are repeated with a capped, jittered, exponential delay: often for members that are
//! known to be up, rarely for those that are down, and often again for the addresses that the
//! operator gave while there is no link at all.

pub mod tie;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::id::NodeId;
use crate::time::{Mono, Now, earlier};

/// The most dials under way at once: a handshake costs about a millisecond of computing on each
/// side, so that a node that starts in a mesh of 200 keeps answering meanwhile.
pub const DIALS_MAX: usize = 32;
/// The most nodes that are remembered, ten times the supported size.
pub const TARGETS_MAX: usize = 2000;
/// The most addresses without a node that are tried.
pub const SEEDS_MAX: usize = 64;
/// The most addresses of one node that are tried.
pub const TARGET_ADDRS_MAX: usize = 8;
/// How much longer than the lower id the higher one waits: a slow handshake's time.
pub const YIELD: Duration = Duration::from_millis(300);
/// Delay before the first repetition.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest mean delay between attempts to reach a member that is up.
pub const RETRY_UP: Duration = Duration::from_secs(4);
/// Longest mean delay between attempts to reach a member that is down.
pub const RETRY_DOWN: Duration = Duration::from_secs(12);
/// Longest mean delay between attempts at a seed while this node is newly alone.
pub const RETRY_SEED: Duration = Duration::from_millis(800);
/// The same, once it has been alone for [`ALONE_LONG`].
pub const RETRY_SEED_LATER: Duration = Duration::from_secs(4);
/// How long a node is newly alone: somebody may be starting all nodes by hand.
pub const ALONE_LONG: Duration = Duration::from_secs(60);
/// A link that held for less counts as another failure, so that a link which comes up and goes
/// down at once is not dialled in a tight loop.
pub const STABLE: Duration = Duration::from_secs(5);
/// When a dial of which nothing is heard is over. Longer than any driver's own limit.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(15);

/// What happens to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Addresses of members, `host:port`, whose ids are not known. Adds to earlier ones.
    Seeds(Vec<String>),
    /// A member, its addresses, best first, and whether it is up. Replaces what was known of it,
    /// except that no addresses at all leave the known ones.
    Known {
        /// Which.
        node: NodeId,
        /// Where.
        addrs: Vec<String>,
        /// Whether it is up.
        up: bool,
    },
    /// No member any more.
    Forget(NodeId),
    /// A link is up, whoever dialled it.
    LinkUp {
        /// To whom.
        node: NodeId,
    },
    /// No link any more.
    LinkDown {
        /// To whom.
        node: NodeId,
    },
    /// A dial that was asked for came to nothing, or to a link that was not needed.
    DialFailed {
        /// As asked.
        node: Option<NodeId>,
        /// As asked.
        addr: String,
    },
    /// It is [`Peering::next_wake`].
    Wake,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Dial. Ends in [`Event::LinkUp`] or [`Event::DialFailed`].
    Dial {
        /// Who must answer there; `None` if any member may.
        node: Option<NodeId>,
        /// `host:port`.
        addr: String,
    },
}

#[derive(Debug)]
struct Target {
    addrs: Vec<String>,
    /// Which address is next.
    turn: usize,
    up: bool,
    linked_at: Option<Mono>,
    /// Failed rounds through all addresses.
    failures: u32,
    due: Mono,
    /// When the dial under way is given up.
    dialling: Option<Mono>,
}

#[derive(Debug)]
struct Seed {
    failures: u32,
    due: Mono,
    dialling: Option<Mono>,
}

/// The machine. See the module's documentation.
pub struct Peering {
    me: NodeId,
    rng: ChaCha8Rng,
    targets: BTreeMap<NodeId, Target>,
    seeds: BTreeMap<String, Seed>,
    links: usize,
    /// Dials under way.
    dials: usize,
    alone_since: Mono,
    /// There was a link since the start.
    met: bool,
    /// When something is to be done, or a little earlier.
    due: Option<Mono>,
}

impl Peering {
    /// A node without links. `rng_seed` is random.
    pub fn new(me: NodeId, rng_seed: [u8; 32]) -> Self {
        Self {
            me,
            rng: ChaCha8Rng::from_seed(rng_seed),
            targets: BTreeMap::new(),
            seeds: BTreeMap::new(),
            links: 0,
            dials: 0,
            alone_since: Mono(0),
            met: false,
            due: None,
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        let now = now.mono;
        if self.alone_since == Mono(0) {
            self.alone_since = now;
        }
        // To look at all targets at each event would count in a large mesh. So what is due may be
        // said to be so too early, and is worked out anew then.
        let alone = self.links == 0;
        let full = self.dials >= DIALS_MAX;
        let about = match &event {
            Event::Known { node, .. } | Event::LinkUp { node } | Event::LinkDown { node } => {
                Some(*node)
            }
            Event::DialFailed { node, .. } => *node,
            Event::Seeds(_) | Event::Forget(_) | Event::Wake => None,
        };
        match event {
            Event::Seeds(addrs) => {
                for addr in addrs {
                    if self.seeds.len() < SEEDS_MAX {
                        let seed = Seed { failures: 0, due: now, dialling: None };
                        self.seeds.entry(addr).or_insert(seed);
                    }
                }
            }
            Event::Known { node, addrs, up } => self.known(now, node, addrs, up),
            Event::Forget(node) => {
                if let Some(target) = self.targets.remove(&node) {
                    self.dials -= usize::from(target.dialling.is_some());
                    if target.linked_at.is_some() {
                        self.lost_a_link(now, true);
                    }
                }
            }
            Event::LinkUp { node } => self.link_up(now, node),
            Event::LinkDown { node } => self.link_down(now, node),
            Event::DialFailed { node: Some(node), addr } => self.target_failed(now, node, &addr),
            Event::DialFailed { node: None, addr } => self.seed_failed(now, &addr),
            Event::Wake => {}
        }
        match about {
            Some(node) if (alone, full) == (self.links == 0, self.dials >= DIALS_MAX) => {
                let target = self.targets.get(&node).and_then(|target| target.next(full));
                self.due = earlier(self.due, target);
            }
            _ => self.due = self.first_due(),
        }
        if self.due.is_some_and(|due| due <= now) {
            self.give_up_late_dials(now);
            self.dial(now, effects);
            self.due = self.first_due();
        }
        debug_assert_eq!(self.dials, self.counted(), "dials are counted as they come and go");
    }

    /// When to call again with [`Event::Wake`].
    pub fn next_wake(&self) -> Option<Mono> {
        self.due
    }

    fn first_due(&self) -> Option<Mono> {
        let full = self.dials >= DIALS_MAX;
        let targets = self.targets.values().filter_map(|target| target.next(full));
        let alone = self.links == 0;
        let seeds = self.seeds.values().filter_map(|seed| match seed.dialling {
            Some(deadline) => Some(deadline),
            None if full || !alone => None,
            None => Some(seed.due),
        });
        earlier(targets.min(), seeds.min())
    }

    /// Where a node was last known to be, if it ever was.
    pub fn addresses_of(&self, node: NodeId) -> Option<&[String]> {
        self.targets.get(&node).map(|target| target.addrs.as_slice())
    }

    fn known(&mut self, now: Mono, node: NodeId, mut addrs: Vec<String>, up: bool) {
        if node == self.me || !self.has_room_for(node) {
            return;
        }
        addrs.truncate(TARGET_ADDRS_MAX);
        // Nobody who is remembered from before the start knows yet that there is no link any more.
        let first = if self.met { now + self.courtesy(node) } else { now };
        let target = self.targets.entry(node).or_insert_with(|| Target::new(first));
        let moved = !addrs.is_empty() && addrs != target.addrs;
        let risen = up && !target.up;
        target.up = up;
        if moved {
            target.addrs = addrs;
            target.turn = 0;
        }
        if moved || risen {
            target.failures = 0;
            target.due = target.due.min(first);
        }
    }

    fn link_up(&mut self, now: Mono, node: NodeId) {
        self.met = true;
        if node == self.me || !self.has_room_for(node) {
            return;
        }
        let target = self.targets.entry(node).or_insert_with(|| Target::new(now));
        let asked_for = target.dialling.take().is_some();
        self.dials -= usize::from(asked_for);
        if target.linked_at.replace(now).is_none() {
            self.links += 1;
        }
        if !asked_for {
            // Perhaps the answer at a seed's address; if not, it ends by itself.
            let oldest = self.seeds.values_mut().filter(|seed| seed.dialling.is_some());
            if let Some(seed) = oldest.min_by_key(|seed| seed.dialling) {
                seed.dialling = None;
                self.dials -= 1;
            }
        }
    }

    fn link_down(&mut self, now: Mono, node: NodeId) {
        let courtesy = self.courtesy(node);
        let jitter = self.jitter();
        let Some(target) = self.targets.get_mut(&node) else { return };
        let Some(since) = target.linked_at.take() else { return };
        let held = now.since(since) >= STABLE;
        target.failures = if held { 0 } else { target.failures.saturating_add(1) };
        target.due = now + courtesy + target.delay().mul_f64(jitter);
        self.lost_a_link(now, held);
    }

    fn lost_a_link(&mut self, now: Mono, held: bool) {
        self.links -= 1;
        if self.links == 0 {
            self.alone_since = now;
            for seed in self.seeds.values_mut() {
                seed.failures = if held { 0 } else { seed.failures.saturating_add(1) };
                seed.due = now + backoff(seed.failures, RETRY_SEED);
            }
        }
    }

    fn target_failed(&mut self, now: Mono, node: NodeId, addr: &str) {
        let jitter = self.jitter();
        let Some(target) = self.targets.get_mut(&node) else { return };
        let dialled = target.dialling.take().is_some();
        self.dials -= usize::from(dialled);
        if !dialled || target.addrs.get(target.turn).is_none_or(|a| a != addr) {
            return;
        }
        target.turn += 1;
        if target.turn < target.addrs.len() {
            target.due = now;
            return;
        }
        target.turn = 0;
        target.due = now + target.delay().mul_f64(jitter);
        target.failures = target.failures.saturating_add(1);
    }

    fn seed_failed(&mut self, now: Mono, addr: &str) {
        let jitter = self.jitter();
        let newly = now.since(self.alone_since) < ALONE_LONG;
        let cap = if newly { RETRY_SEED } else { RETRY_SEED_LATER };
        let Some(seed) = self.seeds.get_mut(addr) else { return };
        self.dials -= usize::from(seed.dialling.take().is_some());
        seed.due = now + backoff(seed.failures, cap).mul_f64(jitter);
        seed.failures = seed.failures.saturating_add(1);
    }

    fn give_up_late_dials(&mut self, now: Mono) {
        let late = |dialling: Option<Mono>| dialling.is_some_and(|deadline| deadline <= now);
        let targets: Vec<(NodeId, String)> = self
            .targets
            .iter()
            .filter(|(_, target)| late(target.dialling))
            .map(|(node, target)| (*node, target.addrs.get(target.turn).cloned()))
            .map(|(node, addr)| (node, addr.unwrap_or_default()))
            .collect();
        for (node, addr) in targets {
            self.target_failed(now, node, &addr);
        }
        let seeds: Vec<String> = self
            .seeds
            .iter()
            .filter(|(_, seed)| late(seed.dialling))
            .map(|(addr, _)| addr.clone())
            .collect();
        for addr in seeds {
            self.seed_failed(now, &addr);
        }
    }

    /// Dials whoever is due, as far as the limit allows: members that are up first, then those
    /// that have waited longest.
    fn dial(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let mut room = DIALS_MAX.saturating_sub(self.dials);
        let deadline = now + DIAL_DEADLINE;
        let mut due: Vec<(bool, Mono, NodeId)> = self
            .targets
            .iter()
            .filter(|(_, target)| target.wanted() && target.dialling.is_none())
            .filter(|(_, target)| target.due <= now)
            .map(|(node, target)| (!target.up, target.due, *node))
            .collect();
        due.sort_unstable();
        if self.links == 0 {
            let seeds = self.seeds.iter_mut().filter(|(_, seed)| seed.dialling.is_none());
            for (addr, seed) in seeds.filter(|(_, seed)| seed.due <= now).take(room) {
                seed.dialling = Some(deadline);
                effects.push(Effect::Dial { node: None, addr: addr.clone() });
                room -= 1;
                self.dials += 1;
            }
        }
        for (_, _, node) in due.into_iter().take(room) {
            if let Some(target) = self.targets.get_mut(&node)
                && let Some(addr) = target.addrs.get(target.turn)
            {
                target.dialling = Some(deadline);
                effects.push(Effect::Dial { node: Some(node), addr: addr.clone() });
                self.dials += 1;
            }
        }
    }

    fn counted(&self) -> usize {
        self.targets.values().filter(|target| target.dialling.is_some()).count()
            + self.seeds.values().filter(|seed| seed.dialling.is_some()).count()
    }

    fn has_room_for(&self, node: NodeId) -> bool {
        self.targets.contains_key(&node) || self.targets.len() < TARGETS_MAX
    }

    /// How long to let the other side go first.
    fn courtesy(&mut self, node: NodeId) -> Duration {
        if self.me < node { Duration::ZERO } else { YIELD.mul_f64(self.jitter()) }
    }

    fn jitter(&mut self) -> f64 {
        self.rng.random_range(0.8..1.25)
    }
}

impl Target {
    fn new(due: Mono) -> Self {
        Self {
            addrs: Vec::new(),
            turn: 0,
            up: false,
            linked_at: None,
            failures: 0,
            due,
            dialling: None,
        }
    }

    /// When something is to be done about it; `full` if no dials may begin.
    fn next(&self, full: bool) -> Option<Mono> {
        let due = || (!full && self.wanted()).then_some(self.due);
        self.dialling.or_else(due)
    }

    fn wanted(&self) -> bool {
        self.linked_at.is_none() && !self.addrs.is_empty()
    }

    fn delay(&self) -> Duration {
        backoff(self.failures, if self.up { RETRY_UP } else { RETRY_DOWN })
    }
}

fn backoff(failures: u32, cap: Duration) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(cap)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn known(number: u8, up: bool) -> Event {
        Event::Known { node: id(number), addrs: vec![format!("n{number}:1")], up }
    }

    fn at(ms: u64) -> Now {
        Now { mono: Mono(1_000_000_000 + ms * 1_000_000), wall: 0 }
    }

    /// Everything that `machine` does on its own until `until`, dials failing after `fail` ms.
    fn play(machine: &mut Peering, from: u64, until: u64, fail: u64) -> Vec<(u64, Effect)> {
        let mut log = Vec::new();
        let mut failing: BTreeMap<(u64, usize), Effect> = BTreeMap::new();
        let mut count = 0;
        let mut now = from;
        loop {
            let wake = machine
                .next_wake()
                .map(|wake| now.max(wake.since(at(0).mono).as_nanos().div_ceil(1_000_000) as u64));
            let fails = failing.keys().next().map(|key| key.0);
            now = match (wake, fails) {
                (None, None) => return log,
                (a, b) => a.unwrap_or(u64::MAX).min(b.unwrap_or(u64::MAX)),
            };
            if now > until {
                return log;
            }
            let mut effects = Vec::new();
            if fails == Some(now)
                && let Some((_, Effect::Dial { node, addr })) = failing.pop_first()
            {
                machine.handle(at(now), Event::DialFailed { node, addr }, &mut effects);
            } else {
                machine.handle(at(now), Event::Wake, &mut effects);
            }
            for effect in effects {
                count += 1;
                failing.insert((now + fail, count), effect.clone());
                log.push((now, effect));
            }
        }
    }

    fn gaps(log: &[(u64, Effect)]) -> Vec<u64> {
        log.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }

    #[test]
    fn the_lower_id_dials_at_once_and_the_higher_one_waits() {
        let mut effects = Vec::new();
        let mut low = Peering::new(id(1), [1; 32]);
        low.handle(at(0), known(2, true), &mut effects);
        assert_eq!(effects, [Effect::Dial { node: Some(id(2)), addr: "n2:1".into() }]);

        effects.clear();
        let mut high = Peering::new(id(2), [1; 32]);
        high.handle(at(0), known(0, true), &mut effects);
        assert_eq!(effects.len(), 1, "who has just started waits for nobody that it remembers");
        effects.clear();
        high.handle(at(0), Event::LinkUp { node: id(0) }, &mut effects);
        high.handle(at(0), known(1, true), &mut effects);
        assert_eq!(effects, []);
        let wake = high.next_wake().unwrap().since(at(0).mono);
        assert!((240..=375).contains(&wake.as_millis()), "{wake:?}");
        high.handle(at(100), Event::LinkUp { node: id(1) }, &mut effects);
        high.handle(at(1000), Event::Wake, &mut effects);
        assert_eq!(effects, [], "the other side was first");
        assert_eq!(high.next_wake(), None);
    }

    #[test]
    fn a_member_that_is_up_is_tried_soon_and_then_every_few_seconds() {
        let mut machine = Peering::new(id(1), [3; 32]);
        let mut effects = Vec::new();
        machine.handle(at(0), known(2, true), &mut effects);
        let Effect::Dial { node, addr } = effects.pop().unwrap();
        machine.handle(at(1), Event::DialFailed { node, addr }, &mut effects);
        let log = play(&mut machine, 1, 60_000, 1);
        assert!((80..=130).contains(&(log[0].0)), "{log:?}");
        let gaps = gaps(&log);
        assert!(gaps.iter().all(|gap| *gap <= 5_100), "{gaps:?}");
        assert!(gaps[8..].iter().all(|gap| *gap >= 3_000), "{gaps:?}");
    }

    #[test]
    fn a_member_that_is_down_is_tried_rarely_but_for_ever() {
        let mut machine = Peering::new(id(1), [3; 32]);
        machine.handle(at(0), known(2, false), &mut Vec::new());
        let mut effects = Vec::new();
        let addr = "n2:1".to_owned();
        machine.handle(at(1), Event::DialFailed { node: Some(id(2)), addr }, &mut effects);
        let log = play(&mut machine, 1, 600_000, 1);
        let gaps = gaps(&log);
        assert!(gaps[10..].iter().all(|gap| (9_000..=15_100).contains(gap)), "{gaps:?}");
        assert!(gaps.len() > 40);
        // Up again: at once.
        effects.clear();
        machine.handle(at(600_001), known(2, true), &mut effects);
        assert_eq!(effects.len(), 1);
    }

    #[test]
    fn seeds_are_tried_while_alone_and_only_then() {
        let mut machine = Peering::new(id(1), [3; 32]);
        let mut effects = Vec::new();
        let seeds = vec!["a:1".to_owned(), "b:1".to_owned()];
        machine.handle(at(0), Event::Seeds(seeds.clone()), &mut effects);
        assert_eq!(effects.len(), 2);
        for addr in seeds {
            machine.handle(at(1), Event::DialFailed { node: None, addr }, &mut Vec::new());
        }
        let log = play(&mut machine, 1, 300_000, 1);
        let a = |addr: &str| Effect::Dial { node: None, addr: addr.into() };
        let times: Vec<u64> =
            log.iter().filter(|(_, e)| *e == a("a:1")).map(|(at, _)| *at).collect();
        let gaps: Vec<(u64, u64)> = times.windows(2).map(|w| (w[0], w[1] - w[0])).collect();
        assert!(gaps.iter().filter(|(at, _)| *at < 58_000).all(|(_, gap)| *gap <= 1_010));
        assert!(gaps.iter().all(|(_, gap)| *gap <= 5_010), "{gaps:?}");
        assert!(gaps.iter().filter(|(at, _)| *at > 62_000).all(|(_, gap)| *gap >= 3_000));

        effects.clear();
        machine.handle(at(300_001), Event::LinkUp { node: id(7) }, &mut effects);
        assert_eq!(play(&mut machine, 300_001, 400_000, 1), []);
        machine.handle(at(400_001), Event::LinkDown { node: id(7) }, &mut effects);
        let log = play(&mut machine, 400_001, 400_500, 1);
        assert!(log.iter().any(|(_, e)| *e == a("b:1")), "alone again: {log:?}");
    }

    #[test]
    fn addresses_are_tried_in_turn() {
        let mut machine = Peering::new(id(1), [3; 32]);
        let addrs = vec!["x:1".to_owned(), "y:1".to_owned()];
        let mut effects = Vec::new();
        machine.handle(at(0), Event::Known { node: id(2), addrs, up: true }, &mut effects);
        let Effect::Dial { node, addr } = effects.pop().unwrap();
        machine.handle(at(1), Event::DialFailed { node, addr }, &mut effects);
        let mut order = vec!["x:1".to_owned()];
        order.extend(effects.drain(..).map(|Effect::Dial { addr, .. }| addr));
        machine.handle(
            at(2),
            Event::DialFailed { node: Some(id(2)), addr: "y:1".into() },
            &mut effects,
        );
        assert_eq!(effects, [], "a whole round failed");
        order.extend(
            play(&mut machine, 2, 400, 1).into_iter().map(|(_, Effect::Dial { addr, .. })| addr),
        );
        assert_eq!(order[..4], ["x:1", "y:1", "x:1", "y:1"]);
    }

    /// How often it dials until then, if each link goes down as soon as it is up.
    fn flaps(machine: &mut Peering, until: u64) -> u32 {
        let (mut now, mut dials) = (0, 0);
        while now < until {
            let mut effects = Vec::new();
            machine.handle(at(now), Event::LinkUp { node: id(2) }, &mut effects);
            machine.handle(at(now + 1), Event::LinkDown { node: id(2) }, &mut effects);
            while effects.is_empty() {
                let wake = machine.next_wake().unwrap().since(at(0).mono).as_nanos();
                now = wake.div_ceil(1_000_000) as u64;
                machine.handle(at(now), Event::Wake, &mut effects);
            }
            dials += 1;
        }
        dials
    }

    #[test]
    fn a_link_that_flaps_is_not_dialled_in_a_tight_loop() {
        let mut machine = Peering::new(id(1), [3; 32]);
        machine.handle(at(0), known(2, true), &mut Vec::new());
        let dials = flaps(&mut machine, 20_000);
        assert!(dials < 14, "{dials}");
    }

    #[test]
    fn nor_is_a_seed_whose_link_flaps() {
        let mut machine = Peering::new(id(1), [3; 32]);
        machine.handle(at(0), Event::Seeds(vec!["n2:1".into()]), &mut Vec::new());
        let dials = flaps(&mut machine, 10_000);
        assert!(dials < 18, "{dials}");
    }

    #[test]
    fn a_dial_that_nobody_reports_on_is_repeated() {
        let mut machine = Peering::new(id(1), [3; 32]);
        let mut effects = Vec::new();
        machine.handle(at(0), known(2, true), &mut effects);
        machine.handle(at(0), Event::Seeds(vec!["s:1".into()]), &mut effects);
        assert_eq!(effects.len(), 2);
        let log = play(&mut machine, 0, 20_000, 100_000);
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log.iter().all(|(at, _)| *at >= 15_000));
    }

    #[test]
    fn at_most_so_many_dials_are_under_way_and_all_get_their_turn() {
        let mut machine = Peering::new(id(0), [3; 32]);
        let mut effects = Vec::new();
        for number in 1..=200 {
            machine.handle(at(0), known(number, number % 2 == 0), &mut effects);
        }
        assert_eq!(effects.len(), DIALS_MAX);
        let mut seen: BTreeSet<NodeId> = BTreeSet::new();
        while let Some(Effect::Dial { node: Some(node), .. }) = effects.pop() {
            seen.insert(node);
            machine.handle(at(5), Event::LinkUp { node }, &mut effects);
            assert!(machine.dials <= DIALS_MAX);
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn the_forgotten_are_left_alone() {
        let mut machine = Peering::new(id(1), [3; 32]);
        machine.handle(at(0), known(2, true), &mut Vec::new());
        machine.handle(at(0), Event::LinkUp { node: id(2) }, &mut Vec::new());
        machine.handle(at(1), Event::Forget(id(2)), &mut Vec::new());
        machine.handle(at(2), Event::LinkDown { node: id(2) }, &mut Vec::new());
        assert_eq!(machine.next_wake(), None);
        assert_eq!(machine.links, 0);
    }

    proptest! {
        #[test]
        fn no_order_of_events_confuses_it(
            events in prop::collection::vec((0u8..7, 0u8..5, 0u64..3000, any::<bool>()), 0..200),
        ) {
            let mut machine = Peering::new(id(2), [3; 32]);
            let mut now = 0;
            for (kind, number, after, flag) in events {
                now += after;
                let addr = format!("n{number}:1");
                let event = match kind {
                    0 => Event::Seeds(vec![addr]),
                    1 => known(number, flag),
                    2 => Event::Forget(id(number)),
                    3 => Event::LinkUp { node: id(number) },
                    4 => Event::LinkDown { node: id(number) },
                    5 => Event::DialFailed { node: flag.then(|| id(number)), addr },
                    _ => Event::Wake,
                };
                let mut effects = Vec::new();
                machine.handle(at(now), event, &mut effects);
                prop_assert!(effects.len() <= DIALS_MAX);
                let linked = machine.targets.values().filter(|t| t.linked_at.is_some()).count();
                prop_assert_eq!(linked, machine.links);
                for Effect::Dial { node, .. } in effects {
                    prop_assert_ne!(node, Some(id(2)), "itself");
                    let linked = node.and_then(|node| machine.targets[&node].linked_at);
                    prop_assert_eq!(linked, None);
                }
                prop_assert!(machine.next_wake().is_none_or(|wake| wake > at(now).mono));
            }
        }
    }
}
