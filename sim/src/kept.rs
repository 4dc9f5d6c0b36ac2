//! Plans that are kept as files, played again under other seeds and a little earlier or later: what
//! was a defect once is near to what may be one.

use rand::RngExt as _;
use rand::seq::IteratorRandom as _;

use crate::plan::{CALM_MS, Fault, Item, Join, Plan, log_uniform};
use crate::rng::{For, stream};

#[derive(rust_embed::RustEmbed)]
#[folder = "plans/"]
struct Files;

/// The most encoders of a plan that is played so often.
const ENCODERS_MAX: usize = 200;
/// How much earlier or later a fault comes, in milliseconds, at most.
const SHIFT: f64 = 1_000.0;

/// Who is invited while the founder is alone with a wrong clock is refused, and comes when it does
/// by chance.
fn hangs_on_its_seed(plan: &Plan) -> bool {
    let early = |item: &Item| item.at_ms < CALM_MS && matches!(item.fault, Fault::Clock(..));
    plan.join == Join::Invited && plan.faults.iter().any(early)
}

fn all() -> impl Iterator<Item = Plan> {
    // A test reads each as well, and fails for one that is none.
    let read = |name: std::borrow::Cow<str>| serde_json::from_slice(&Files::get(&name)?.data).ok();
    let small = |plan: &Plan| plan.encoders <= ENCODERS_MAX && !hangs_on_its_seed(plan);
    Files::iter().filter_map(read).filter(small)
}

impl Plan {
    /// One of those that are kept, under this seed: half of them as they are, in the others each
    /// fault comes a little earlier or later.
    pub fn draw_kept(seed: u64, nodes: Option<usize>, encoders: Option<usize>) -> Self {
        let mut rng = stream(seed, For::Kept);
        let kept = all().choose(&mut rng);
        let mut plan = kept.unwrap_or_else(|| Self::draw(seed, nodes, encoders));
        plan.name = format!("seed-{seed}, {}", plan.name);
        plan.seed = seed;
        plan.nodes = nodes.unwrap_or(plan.nodes).max(1);
        plan.encoders = encoders.unwrap_or(plan.encoders);
        if rng.random_bool(0.5) {
            for item in plan.faults.iter_mut().filter(|item| item.at_ms >= CALM_MS) {
                let by = log_uniform(&mut rng, 1.0, SHIFT);
                let sooner = rng.random_bool(0.5);
                let shift = |at: u64| {
                    if sooner { at.saturating_sub(by).max(CALM_MS) } else { at + by }
                };
                item.until_ms = item.until_ms.map(|until| shift(until).max(item.at_ms + 1));
                item.at_ms = shift(item.at_ms);
                item.until_ms = item.until_ms.map(|until| until.max(item.at_ms + 1));
            }
        }
        plan
    }
}
