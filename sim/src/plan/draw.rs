//! Plans of seeds: what is drawn of each kind.

use rand::RngExt as _;

use super::{CALM_MS, Camera, Fault, Item, Join, Net, Plan, Who};
use crate::rng::{For, stream};

impl Plan {
    /// The plan of a seed: sizes, network and faults are drawn, each kind of fault being in or
    /// out of the whole run.
    pub fn draw(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut rng = stream(seed, For::Plan);
        let drawn = rng.random_range(3..=8);
        let nodes = nodes.unwrap_or(drawn).max(1);
        let drawn = rng.random_range(1..=3);
        let encoders = encoders.unwrap_or(drawn);
        let mut plan = Self::calm(seed, nodes, encoders);
        plan.browsers = rng.random_range(0..=encoders.min(2));
        plan.burst_ms = rng.random_range(0..2000);
        if rng.random_bool(0.3) {
            plan.join = Join::Invited;
        }
        if rng.random_bool(0.25) {
            plan.net = Net { delay_us: (2_000, 60_000), loss: 0.005, spikes: 0.01 };
        }
        let kinds: Vec<bool> = (0..8).map(|_| rng.random_bool(0.5)).collect();
        let count = rng.random_range(1..=6);
        let mut at = CALM_MS;
        for _ in 0..count {
            at += rng.random_range(0..7_000);
            let kind = rng.random_range(0..kinds.len());
            let span = log_uniform(&mut rng, 100.0, 20_000.0);
            let shape: u64 = rng.random();
            let a = rng.random_range(0..nodes);
            let b = rng.random_range(0..nodes);
            let e = rng.random_range(0..encoders.max(1));
            if !kinds[kind] {
                continue;
            }
            let share = log_uniform(&mut rng, 10.0, 200.0) as f64 / 1000.0;
            let fault = drawn_fault(kind, shape, (a, b, e), nodes, share);
            let until_ms = Some(at + span);
            plan.faults.push(Item { at_ms: at, until_ms, fault });
        }
        plan.writes = rng.random_range(0..=80);
        plan.guarded = rng.random_bool(0.3);
        plan.signals = rng.random_range(0..=4);
        plan
    }

    /// The same; in every third plan something befalls one encoder first, while all else is calm.
    pub fn draw_plain(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut plan = Self::draw(seed, nodes, encoders).with_publishers();
        let mut rng = stream(seed, For::First);
        if plan.viewers == 0 || !rng.random_bool(0.33) {
            return plan;
        }
        for item in &mut plan.faults {
            item.at_ms += CALM_MS;
            item.until_ms = item.until_ms.map(|until_ms| until_ms + CALM_MS);
        }
        // One that somebody watches.
        let e = rng.random_range(0..plan.encoders.min(plan.viewers));
        let (fault, lasts) = match rng.random_range(0..8) {
            0 => {
                plan.guarded = true;
                let by = rng.random_range(0..plan.nodes);
                (Fault::Mute(by, vec![Who::Encoder(e)]), rng.random_range(14_000..25_000))
            }
            // One of its viewers does not reach home any more, and perhaps next does not, either.
            which @ 1..=5 => {
                let next = (which > 2).then_some(Who::Next(e));
                let (from, to) = (next.into_iter().chain([Who::Viewer(e)]), vec![Who::Home(e)]);
                let fault = Fault::Cut { from: from.collect(), to, one_way: false };
                (fault, rng.random_range(2_000..8_000))
            }
            // Its home starts anew before anyone calls it down.
            _ => (Fault::Crash(vec![Who::Home(e)]), rng.random_range(100..600)),
        };
        let first = Item { at_ms: CALM_MS, until_ms: Some(CALM_MS + lasts), fault };
        plan.faults.insert(0, first);
        plan
    }

    /// The same as [`Plan::draw`] with rarer things in addition: second agents, folders that are
    /// put back, cameras whose keyframes are far apart, and requests for them that get lost.
    pub fn draw_rare(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut plan = Self::draw(seed, nodes, encoders).with_publishers();
        let mut rng = stream(seed, For::Rare);
        if rng.random_bool(0.5) {
            let obeys = rng.random_bool(0.8);
            // Ten seconds: in any longer group too few newcomers ever see anything.
            let most = if obeys { 600 } else { 150 };
            plan.camera = Camera { group: rng.random_range(30..most), obeys };
        }
        for _ in 0..rng.random_range(0..=4) {
            let at_ms = CALM_MS + rng.random_range(0..30_000);
            let until_ms = Some(at_ms + log_uniform(&mut rng, 100.0, 30_000.0));
            let (a, b) = (rng.random_range(0..plan.nodes), rng.random_range(0..plan.nodes));
            let e = rng.random_range(0..plan.encoders.max(1));
            let fault = match rng.random_range(0..13) {
                9 if plan.encoders > 0 => Fault::Leave(Who::Encoder(e)),
                10 if plan.viewers > 0 => Fault::Freeze(vec![Who::Viewer(a % plan.viewers)]),
                11 if plan.viewers > 0 => Fault::Leave(Who::Viewer(a % plan.viewers)),
                12 if plan.guarded && plan.encoders > 0 => Fault::Mute(b, vec![Who::Encoder(e)]),
                // Long enough for what goes over a third node to be missed.
                8 if plan.browsers > 0 => {
                    let until_ms = Some(at_ms + rng.random_range(12_000..25_000));
                    let (from, to) = (vec![Who::Page(0)], vec![Who::Home(0)]);
                    let fault = Fault::Cut { from, to, one_way: false };
                    plan.faults.push(Item { at_ms, until_ms, fault });
                    continue;
                }
                0 | 1 if plan.encoders > 0 => Fault::Twin(e),
                2 => Fault::OldFolder(vec![Who::Node(a)]),
                3 => Fault::OldFolder(vec![Who::Home(e), Who::Node(b)]),
                4 if plan.browsers > 0 => Fault::Freeze(vec![Who::Page(0)]),
                6 => Fault::OldBackup(vec![Who::Node(a)]),
                7 => Fault::Unreadable(vec![Who::Node(a), Who::Node(b)]),
                _ => Fault::RequestsLost(0.5),
            };
            plan.faults.push(Item { at_ms, until_ms, fault });
        }
        if plan.encoders > 0 && rng.random_bool(0.15) {
            plan.forgotten_and_back(&mut rng);
        }
        if plan.encoders > 0 && rng.random_bool(0.15) {
            // Two agents of one encoder come at the same moment, and neither knows of the other.
            let e = rng.random_range(0..plan.encoders);
            let at_ms = CALM_MS + rng.random_range(0..20_000);
            let both = at_ms + rng.random_range(1_000..20_000);
            let (gone, again) = (Fault::Crash(vec![Who::Encoder(e)]), Fault::Twin(e));
            plan.faults.push(Item { at_ms, until_ms: Some(both), fault: gone });
            plan.faults.push(Item { at_ms: both, until_ms: Some(both + 12_000), fault: again });
        }
        plan
    }

    /// An encoder and its home end at once, and with them all that anybody claims; then somebody
    /// starts its agent on another machine, with the disk of long ago.
    fn forgotten_and_back(&mut self, rng: &mut impl rand::Rng) {
        let e = rng.random_range(0..self.encoders);
        let mut at = CALM_MS;
        let mut then = |fault, lasts| {
            self.faults.push(Item { at_ms: at, until_ms: Some(at + lasts), fault });
            at += rng.random_range(4_000..8_000);
        };
        then(Fault::Twin(e), 500);
        for _ in 0..2 {
            then(Fault::Crash(vec![Who::Home(e)]), 1_000);
        }
        then(Fault::Crash(vec![Who::Home(e), Who::Encoder(e)]), 30_000);
        then(Fault::Twin(e), 12_000);
    }

    /// The same, in every fourth plan with somebody who publishes, mostly to a node that stands
    /// still for a while.
    fn with_publishers(mut self) -> Self {
        let mut rng = stream(self.seed, For::Publishers);
        if !rng.random_bool(0.25) {
            return self;
        }
        self.publishers = rng.random_range(1..=2);
        if rng.random_bool(0.7) {
            let at_ms = CALM_MS + rng.random_range(0..20_000);
            let until_ms = Some(at_ms + log_uniform(&mut rng, 600.0, 12_000.0));
            let fault = Fault::Freeze(vec![Who::Publisher(0)]);
            self.faults.push(Item { at_ms, until_ms, fault });
        }
        self
    }

    /// The same with members that are shut out, let in again and given other keys, and clocks that
    /// are years off.
    pub fn draw_trust(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut plan = Self::draw(seed, nodes, encoders);
        let mut rng = stream(seed, For::Trust);
        for _ in 0..rng.random_range(1..=8) {
            let at_ms = CALM_MS + rng.random_range(0..20_000);
            let (a, b) = (rng.random_range(0..plan.nodes), rng.random_range(0..plan.nodes));
            let years = rng.random_range(-20..=20) * 365 * 24 * 3_600_000;
            let (until_ms, fault) = match rng.random_range(0..8) {
                // Of all but the first, so that somebody is always in.
                0..3 if b > 0 => (None, Fault::Revoke(a, b)),
                3 | 4 => (None, Fault::Readmit(a, b)),
                5 => (Some(at_ms + 10_000), Fault::Clock(a, years)),
                _ => (None, Fault::Rotate(a)),
            };
            plan.faults.push(Item { at_ms, until_ms, fault });
        }
        if rng.random_bool(0.2) {
            // Somebody who is linked cannot say that it knows the new key.
            let at_ms = CALM_MS + rng.random_range(0..20_000);
            let (a, b) = (rng.random_range(0..plan.nodes), rng.random_range(0..plan.nodes));
            let until_ms = Some(at_ms + rng.random_range(15_000..30_000));
            let still = Fault::Freeze(vec![Who::Node(b)]);
            plan.faults.push(Item { at_ms, until_ms, fault: still });
            plan.faults.push(Item { at_ms: at_ms + 20, until_ms: None, fault: Fault::Rotate(a) });
        }
        plan
    }

    /// The same with nodes that are drained and cordoned, also all of them, encoders that are sent
    /// elsewhere, and a pool that they prefer or are bound to, of nodes that come and go.
    pub fn draw_steer(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut plan = Self::draw(seed, nodes, encoders);
        let mut rng = stream(seed, For::Steer);
        for _ in 0..rng.random_range(1..=8) {
            let at_ms = CALM_MS + rng.random_range(0..25_000);
            let until_ms = Some(at_ms + log_uniform(&mut rng, 1_000.0, 40_000.0));
            let (a, b) = (rng.random_range(0..plan.nodes), rng.random_range(0..plan.nodes));
            let e = rng.random_range(0..plan.encoders.max(1));
            let (until_ms, fault) = match rng.random_range(0..14) {
                12 | 13 => (until_ms, Fault::Limit(a, Who::Node(b), rng.random_range(0..=2))),
                8 | 9 => (until_ms, Fault::Label(a, Who::Node(b))),
                10 => (until_ms, Fault::Pool(a, false)),
                11 => (until_ms, Fault::Pool(a, true)),
                0 | 1 => (until_ms, Fault::Drain(a, Who::Home(e))),
                2 => (until_ms, Fault::Drain(a, Who::Node(b))),
                3 => (until_ms, Fault::Drain(a, Who::Nodes)),
                4 => (until_ms, Fault::Cordon(a, Who::Home(e))),
                5 => (until_ms, Fault::Cordon(a, Who::NotNode(b))),
                _ => (None, Fault::Send(e, b)),
            };
            if matches!(fault, Fault::Pool(..)) {
                // It has a node, and somebody comes anew while it counts.
                let label = Fault::Label(a, Who::Node(b));
                plan.faults.push(Item { at_ms, until_ms, fault: label });
                let (at_ms, until_ms) = (at_ms + 2_000, Some(at_ms + 3_000));
                let crash = Fault::Crash(vec![Who::Encoder(e), Who::Home(e)]);
                plan.faults.push(Item { at_ms, until_ms, fault: crash });
            }
            plan.faults.push(Item { at_ms, until_ms, fault });
        }
        if plan.encoders > 0 && rng.random_bool(0.2) {
            let at_ms = CALM_MS + rng.random_range(0..20_000);
            let lasts = rng.random_range(8_000..30_000);
            let (a, b) = (rng.random_range(0..plan.nodes), rng.random_range(0..plan.nodes));
            let who = vec![Who::Encoder(rng.random_range(0..plan.encoders))];
            let until_ms = Some(at_ms + lasts);
            for fault in [Fault::Label(a, Who::Node(b)), Fault::Bind(a, who)] {
                plan.faults.push(Item { at_ms, until_ms, fault });
            }
        }
        plan
    }
}

fn drawn_fault(
    kind: usize,
    shape: u64,
    (a, b, e): (usize, usize, usize),
    nodes: usize,
    share: f64,
) -> Fault {
    let pick = |of: u64| shape % of;
    match kind {
        0 => Fault::Crash(match pick(4) {
            0 => vec![Who::Home(e)],
            1 => vec![Who::Node(a)],
            2 => vec![Who::Node(a), Who::Node(b)],
            _ => vec![Who::Encoder(e)],
        }),
        1 => Fault::Freeze(match pick(4) {
            0 => vec![Who::Home(e)],
            1 => vec![Who::Node(a), Who::Node(b)],
            2 => vec![Who::Encoder(e)],
            _ => vec![Who::Node(a)],
        }),
        2 => Fault::Leave(if pick(2) == 0 { Who::Home(e) } else { Who::Node(a) }),
        3 => {
            let (from, to) = match pick(6) {
                0 => (vec![Who::Node(a)], vec![Who::Node(b)]),
                1 => (vec![Who::Node(a)], vec![Who::NotNode(a), Who::Encoders, Who::Viewers]),
                2 => (vec![Who::Encoder(e)], vec![Who::Home(e)]),
                3 => (vec![Who::Viewers], vec![Who::Home(e)]),
                4 => (vec![Who::Encoder(e)], vec![Who::Nodes]),
                _ => {
                    let half = |even| (0..nodes).filter(move |n| (n % 2 == 0) == even);
                    (half(true).map(Who::Node).collect(), half(false).map(Who::Node).collect())
                }
            };
            Fault::Cut { from, to, one_way: pick(3) == 0 }
        }
        4 => Fault::Latency(5 + shape % 150),
        5 => Fault::Loss(share),
        6 => Fault::Duplicate(share),
        _ => Fault::Reorder(share),
    }
}

pub(crate) fn log_uniform(rng: &mut impl rand::Rng, low: f64, high: f64) -> u64 {
    let x: f64 = rng.random_range(low.ln()..high.ln());
    x.exp() as u64
}
