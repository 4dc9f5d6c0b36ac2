//! How loads become even when nodes join, leave, die and return: with how many moves, and how soon.

use rand::RngExt as _;

use crate::check::{Evened, Violation};
use crate::net::{MS, SEC};
use crate::plan::{CALM_MS, Fault, Item, Plan, Who};
use crate::rng::{For, stream};
use crate::run::Watch;
use crate::world::World;

/// From one change to the next: the stability period, ten seconds, and what an encoder rests.
const STEP_MS: u64 = 110_000;
/// What happens to a mesh, one after the other.
pub const CHANGES: [&str; 6] = ["start", "joins", "leaves", "returns", "dies", "returns again"];

/// What came of it.
#[derive(Debug, Clone)]
pub struct Evenly {
    /// Of each of [`CHANGES`].
    pub changes: Vec<Evened>,
    /// Moves in the time after.
    pub rest: u64,
    /// What must hold and did not.
    pub violation: Option<Violation>,
}

impl Plan {
    /// A mesh of nodes with many encoders; one joins, leaves, returns, dies and returns, each some
    /// time after the other, while viewers come.
    pub fn evenly(seed: u64, nodes: usize, encoders: usize, viewers: usize) -> Self {
        let mut plan = Self::calm(seed, nodes, encoders);
        plan.name = format!("even-{nodes}");
        plan.viewers = viewers;
        plan.settle_ms = STEP_MS;
        let mut rng = stream(seed, For::Even);
        let at = |step: u64| step * STEP_MS;
        let one = |fault, from: u64, until: u64| Item {
            at_ms: at(from),
            until_ms: Some(at(until)),
            fault,
        };
        let last = nodes - 1;
        plan.faults = vec![
            one(Fault::Freeze(vec![Who::Node(last)]), 0, 1),
            one(Fault::Leave(Who::Node(0)), 2, 3),
            one(Fault::Crash(vec![Who::Node(last / 2)]), 4, 5),
        ];
        for viewer in 0..viewers {
            // Some come while encoders move, others before.
            let step = rng.random_range(1..=5);
            let late = rng.random_range(0..12_000);
            plan.faults.push(Item {
                at_ms: 0,
                until_ms: Some(at(step) + 29_000 + late),
                fault: Fault::Freeze(vec![Who::Viewer(viewer)]),
            });
        }
        plan.faults.sort_by_key(|item| item.at_ms);
        plan
    }

    /// Meshes of some dozen encoders whose nodes come, go, and do not see each other, while people
    /// watch: rough, so that views differ when encoders move.
    pub fn draw_even(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut rng = stream(seed, For::Even);
        let nodes = nodes.unwrap_or_else(|| rng.random_range(2..=6)).max(1);
        // Of many, some are still to go when somebody comes to watch them.
        let many = rng.random_bool(0.2);
        let drawn = if many { rng.random_range(80..=160) } else { rng.random_range(8..=40) };
        let encoders = encoders.unwrap_or(drawn).max(1);
        let mut plan = Self::calm(seed, nodes, encoders);
        // Many, so that some come at the very moment at which what they watch is on its way.
        let viewers = encoders.min(if !many && rng.random_bool(0.5) { 6 } else { 24 });
        plan.viewers = if many { viewers } else { rng.random_range(0..=viewers) };
        plan.settle_ms = 60_000;
        if rng.random_bool(if many { 0.7 } else { 0.2 }) {
            plan.net = crate::plan::Net { delay_us: (2_000, 60_000), loss: 0.005, spikes: 0.01 };
        }
        let mut at_ms = CALM_MS;
        if many {
            let until_ms = Some(CALM_MS + rng.random_range(1_000..3_000));
            let fault = Fault::Crash(vec![Who::Node(nodes - 1)]);
            plan.faults.push(Item { at_ms, until_ms, fault });
            at_ms += 15_000;
        }
        for _ in 0..rng.random_range(1..=4) {
            // Around the end of the period, so that it happens while encoders move.
            at_ms += 25_000 + rng.random_range(0..20_000);
            let (a, b) = (rng.random_range(0..nodes), rng.random_range(0..nodes));
            let until_ms = Some(at_ms + rng.random_range(1_000..50_000));
            let share = rng.random_range(1..=20) as f64 / 100.0;
            let some = rng.random_range(2..=6);
            let fault = match rng.random_range(0..13) {
                // Counts change, and no node does: nobody waits for long.
                10.. => Fault::Crash(
                    (0..encoders).filter(|e| e % some == a % some).map(Who::Encoder).collect(),
                ),
                0 | 1 => Fault::Crash(vec![Who::Node(a)]),
                2 => Fault::Leave(Who::Node(a)),
                3 => Fault::Freeze(vec![Who::Node(a)]),
                4 => Fault::Drain(a, Who::Node(b)),
                5 => Fault::Cordon(a, Who::Node(b)),
                6 => Fault::Capacity(a, Who::Node(b), [0, 50, 300][rng.random_range(0..3)]),
                7 => Fault::Liar(vec![Who::Node(a)]),
                8 => Fault::Cut {
                    from: vec![Who::Node(a)],
                    to: vec![Who::NotNode(a)],
                    one_way: rng.random_bool(0.3),
                },
                _ => Fault::Loss(share),
            };
            plan.faults.push(Item { at_ms, until_ms, fault });
        }
        let ends = plan.faults.iter().flat_map(|item| [Some(item.at_ms), item.until_ms]);
        let mut changes: Vec<u64> = ends.flatten().chain([0]).collect();
        if many {
            changes = plan.faults[..1].iter().filter_map(|item| item.until_ms).collect();
        }
        for viewer in 0..plan.viewers {
            if rng.random_bool(0.7) {
                let change = changes[rng.random_range(0..changes.len())];
                let late = rng.random_range(0..if many { 2_500 } else { 4_000 });
                let come = CALM_MS.max(change + 30_000 + late);
                plan.faults.push(Item {
                    at_ms: 0,
                    until_ms: Some(come),
                    fault: Fault::Freeze(vec![Who::Viewer(viewer)]),
                });
            }
        }
        let one = rng.random_range(0..nodes);
        let then = at_ms + rng.random_range(20_000..50_000);
        let back = then + rng.random_range(1_000..10_000);
        match rng.random_range(0..5) {
            // Whoever came back has none but those that moved to it, and then is the fullest.
            0 => {
                let half = (0..encoders).filter(|_| rng.random_bool(0.5)).map(Who::Encoder);
                let half = Fault::Crash(half.collect());
                let gone = back + 30_000 + rng.random_range(4_000..20_000);
                plan.faults.extend(
                    [
                        (then, Some(back), Fault::Crash(vec![Who::Node(one)])),
                        (gone, Some(gone + 60_000), half),
                    ]
                    .map(|(at_ms, until_ms, fault)| Item {
                        at_ms,
                        until_ms,
                        fault,
                    }),
                );
            }
            // All others believe that it has none, and go on filling it.
            1 => {
                plan.faults.extend(
                    [
                        (then, Some(back), Fault::Crash(vec![Who::Node(one)])),
                        (back, Some(back + 60_000), Fault::Liar(vec![Who::Node(one)])),
                    ]
                    .map(|(at_ms, until_ms, fault)| Item {
                        at_ms,
                        until_ms,
                        fault,
                    }),
                );
            }
            _ => {}
        }
        if rng.random_bool(0.2) {
            let size = rng.random_range(2..=encoders.clamp(2, 8));
            let drawn = (0..size).map(|_| rng.random_range(0..encoders));
            let who: Vec<usize> = drawn.collect();
            let room = who.iter().copied().map(Who::Encoder).collect();
            let fault = Fault::Room(rng.random_range(0..nodes), room);
            let at_ms = rng.random_range(3_000..40_000);
            plan.faults.push(Item { at_ms, until_ms: None, fault });
            // Some come when the others are at one node.
            for late in who.into_iter().skip(2) {
                if rng.random_bool(0.7) {
                    continue;
                }
                let until_ms = Some(then + rng.random_range(0..20_000));
                let fault = Fault::Freeze(vec![Who::Encoder(late)]);
                plan.faults.push(Item { at_ms: 0, until_ms, fault });
            }
        }
        if rng.random_bool(0.2) {
            let viewers = [0, 100, u32::MAX][rng.random_range(0..3)];
            let fault = Fault::Boast(vec![Who::Node(rng.random_range(0..nodes))], viewers);
            let at_ms = rng.random_range(0..20_000);
            plan.faults.push(Item { at_ms, until_ms: Some(at_ms + 60_000), fault });
        }
        plan
    }
}

/// Plays [`Plan::evenly`], and some time more.
pub fn even(nodes: usize, encoders: usize, viewers: usize, seed: u64, more_s: u64) -> Evenly {
    let plan = Plan::evenly(seed, nodes, encoders, viewers);
    let mut world = World::new(&plan, Watch::Nobody);
    world.lenient = true;
    // Of a node that is yet to join nobody was told.
    let known = |target: usize| if target + 1 == nodes { 0 } else { target };
    world.encoders.iter_mut().for_each(|it| it.target = known(it.target));
    world.viewers.iter_mut().for_each(|it| it.target = known(it.target));
    let end = world.end;
    world.end += more_s * SEC;
    let mut moves = None;
    while world.violation.is_none() {
        let Some((at, event)) = world.queue.pop() else { break };
        if at > world.end {
            break;
        }
        if at > end && moves.is_none() {
            moves = Some(world.moves_to_even_out());
        }
        world.now = at;
        world.step(event);
    }
    let rest = world.moves_to_even_out() - moves.unwrap_or_else(|| world.moves_to_even_out());
    let changes = CHANGES.iter().enumerate().filter_map(|(step, _)| {
        let around = step as u64 * STEP_MS * MS;
        let near = |it: &&Evened| it.since.abs_diff(around) < 20 * SEC;
        world.checks.even.told.iter().rfind(near).copied()
    });
    Evenly { changes: changes.collect(), rest, violation: world.violation.clone() }
}
