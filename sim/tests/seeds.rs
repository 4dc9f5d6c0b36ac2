//! Two hundred drawn plans of all kinds, in lots that run side by side.

use roost_sim::plan::Plan;
use roost_sim::{Watch, run};

fn play(seeds: std::ops::Range<u64>) {
    for plan in seeds.map(|seed| Plan::draw_any(seed, None, None)) {
        let seed = plan.seed;
        if let Some(violation) = run(&plan, Watch::Nobody).violation {
            let text = serde_json::to_string(&plan).expect("a plan can be written");
            panic!("seed {seed}: {violation}\n{text}");
        }
    }
}

macro_rules! lots {
    ($($name:ident = $seeds:expr,)*) => {
        $(#[test] fn $name() { play($seeds) })*
    };
}

lots! {
    seeds_from_0_hold = 0..25,
    seeds_from_25_hold = 25..50,
    seeds_from_50_hold = 50..75,
    seeds_from_75_hold = 75..100,
    seeds_from_100_hold = 100..125,
    seeds_from_125_hold = 125..150,
    seeds_from_150_hold = 150..175,
    seeds_from_175_hold = 175..200,
}
