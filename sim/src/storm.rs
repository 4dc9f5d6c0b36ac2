//! Plans whose faults come in shapes: networks in halves, rings and bridges, partitions that flap,
//! bursts, slow hosts, clocks that are years off, full disks, floods of newcomers, and no node left.

use rand::RngExt as _;

use crate::plan::{CALM_MS, Fault, Item, Join, Plan, Who, log_uniform};
use crate::rng::{For, stream};

/// How many classes there are.
const CLASSES: usize = 10;

impl Plan {
    /// The plan of a seed, of whatever kind: kinds take turns.
    pub fn draw_any(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        match seed % 7 {
            0 => Self::draw_storm(seed, nodes, encoders),
            1 => Self::draw_plain(seed, nodes, encoders),
            2 => Self::draw_trust(seed, nodes, encoders),
            3 => Self::draw_steer(seed, nodes, encoders),
            4 => Self::draw_even(seed, nodes, encoders),
            5 => Self::draw_kept(seed, nodes, encoders),
            _ => Self::draw_rare(seed, nodes, encoders),
        }
    }

    /// A mesh under faults of shapes: each class is in or out of the whole run, with a rate of its
    /// own between one and eight a minute, evenly in its logarithm.
    pub fn draw_storm(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut plan = Self::draw(seed, nodes, encoders);
        let mut rng = stream(seed, For::Storm);
        plan.faults.clear();
        let span = rng.random_range(10_000..40_000);
        let classes: Vec<bool> = (0..CLASSES).map(|_| rng.random_bool(0.5)).collect();
        for (class, _) in classes.iter().enumerate().filter(|(_, on)| **on) {
            let rate = log_uniform(&mut rng, 1000.0, 8000.0);
            let count = (rate * span / 60_000_000).max(1);
            for _ in 0..count {
                let at = CALM_MS + rng.random_range(0..span);
                let last = log_uniform(&mut rng, 200.0, 15_000.0);
                storm(&mut plan, &mut rng, class, at, last);
            }
        }
        plan.faults.sort_by_key(|item| item.at_ms);
        plan
    }
}

fn storm(plan: &mut Plan, rng: &mut impl rand::Rng, class: usize, at_ms: u64, last: u64) {
    let nodes = plan.nodes;
    let one = rng.random_range(0..nodes);
    let e = rng.random_range(0..plan.encoders.max(1));
    let until_ms = Some(at_ms + last);
    let cut = |from: Vec<Who>, to: Vec<Who>, one_way| Fault::Cut { from, to, one_way };
    let who = |set: &dyn Fn(usize) -> bool| {
        (0..nodes).filter(|ix| set(*ix)).map(Who::Node).collect::<Vec<_>>()
    };
    let fault = match class {
        0 if nodes > 3 => {
            // A ring: each reaches its neighbours only.
            for ix in 0..nodes {
                let far = who(&|x| x > ix + 1 && (ix, x) != (0, nodes - 1));
                if !far.is_empty() {
                    let fault = cut(vec![Who::Node(ix)], far, false);
                    plan.faults.push(Item { at_ms, until_ms, fault });
                }
            }
            return;
        }
        1 if nodes > 2 => {
            // Two sides that both reach one node between them.
            let half = |x: usize| (x + nodes - one) % nodes <= nodes / 2;
            cut(who(&|x| x != one && half(x)), who(&|x| x != one && !half(x)), false)
        }
        2 => {
            // A partition that comes and goes.
            let period = log_uniform(rng, 100.0, 3_000.0);
            let one_way = rng.random_bool(0.3);
            for turn in 0..(last / (2 * period)).clamp(2, 8) {
                let at_ms = at_ms + turn * 2 * period;
                let fault = cut(vec![Who::Node(one)], vec![Who::NotNode(one)], one_way);
                plan.faults.push(Item { at_ms, until_ms: Some(at_ms + period), fault });
            }
            return;
        }
        3 => Fault::Bursts(log_uniform(rng, 5.0, 80.0) as f64 / 1000.0),
        4 => Fault::Slow(vec![Who::Node(one)], log_uniform(rng, 300.0, 20_000.0)),
        5 => {
            // From minutes in a second to years in the whole of it, ahead or behind.
            let until_ms = Some(at_ms + last.max(5_000));
            let gains = i64::try_from(log_uniform(rng, 6e4, 3e10)).unwrap_or(0);
            let gains = if rng.random_bool(0.5) { gains } else { -gains / 100 };
            let fault = Fault::Drift(vec![Who::Node(one)], gains);
            plan.faults.push(Item { at_ms, until_ms, fault });
            return;
        }
        6 => Fault::DiskFull(if rng.random_bool(0.3) {
            vec![Who::Nodes]
        } else {
            vec![Who::Node(one)]
        }),
        7 => {
            // Newcomers wait outside and come at once.
            plan.join = Join::Invited;
            let late = who(&|x| x > 0 && (x + one) % 2 == 0);
            let late = if late.is_empty() { vec![Who::Node(nodes - 1)] } else { late };
            plan.faults.push(Item { at_ms: 0, until_ms, fault: Fault::Freeze(late) });
            return;
        }
        8 => Fault::Crash(vec![Who::Nodes]),
        _ => {
            let side = rng.random_range(1..nodes.max(2));
            let mut from = who(&|x| x < side);
            from.push(Who::Encoder(e));
            cut(from, who(&|x| x >= side), rng.random_bool(0.3))
        }
    };
    plan.faults.push(Item { at_ms, until_ms, fault });
}
