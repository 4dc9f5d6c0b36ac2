//! Drawn plans: each test plays a few seeds, so that they run side by side.

use roost_sim::plan::Plan;
use roost_sim::{Watch, run};

fn play(seeds: std::ops::Range<u64>) {
    play_all(seeds.map(|seed| Plan::draw(seed, None, None)));
}

fn play_all(plans: impl Iterator<Item = Plan>) {
    for plan in plans {
        let seed = plan.seed;
        if let Some(violation) = run(&plan, Watch::Nobody).violation {
            let text = serde_json::to_string(&plan).expect("a plan can be written");
            panic!("seed {seed}: {violation}\n{text}");
        }
    }
}

#[test]
fn seeds_1_to_8_hold() {
    play(1..9);
}

#[test]
fn seeds_9_to_16_hold() {
    play(9..17);
}

#[test]
fn seeds_17_to_24_hold() {
    play(17..25);
}

#[test]
fn seeds_25_to_32_hold() {
    play(25..33);
}

#[test]
fn rare_seeds_1_to_8_hold() {
    play_all((1..9).map(|seed| Plan::draw_rare(seed, None, None)));
}

#[test]
fn rare_seeds_9_to_16_hold() {
    play_all((9..17).map(|seed| Plan::draw_rare(seed, None, None)));
}

#[test]
fn trust_seeds_1_to_8_hold() {
    play_all((1..9).map(|seed| Plan::draw_trust(seed, None, None)));
}

#[test]
fn trust_seeds_9_to_16_hold() {
    play_all((9..17).map(|seed| Plan::draw_trust(seed, None, None)));
}

#[test]
fn steered_seeds_1_to_8_hold() {
    play_all((1..9).map(|seed| Plan::draw_steer(seed, None, None)));
}

#[test]
fn steered_seeds_9_to_16_hold() {
    play_all((9..17).map(|seed| Plan::draw_steer(seed, None, None)));
}

#[test]
fn even_seeds_1_to_8_hold() {
    play_all((1..9).map(|seed| Plan::draw_even(seed, None, None)));
}

#[test]
fn even_seeds_9_to_16_hold() {
    play_all((9..17).map(|seed| Plan::draw_even(seed, None, None)));
}
