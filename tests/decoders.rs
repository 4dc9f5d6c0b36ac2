//! Every decoder of network bytes, over seeded mutations of what the mesh really says: the same
//! functions as the targets in `tests/fuzz`, which go on for as long as they are let.

#[path = "fuzz/src/lib.rs"]
pub mod fuzz;

#[path = "fuzz/src/vectors.rs"]
mod vectors;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use fuzz::TARGETS;

/// Inputs per decoder and per machine, multiplied by `DECODER_RUNS` if that is set. A whole node costs a millisecond or so per input in a
/// development build, a decoder microseconds.
const RUNS: u64 = 3_000;
const RUNS_OF_MACHINES: u64 = 300;

#[test]
fn no_bytes_make_a_decoder_panic() {
    let times = std::env::var("DECODER_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has nothing to start from", target.name);
        if let Some(folder) = std::env::var_os("DECODER_CORPUS") {
            write_seeds(&std::path::Path::new(&folder).join(target.name), &seeds);
        }
        let machine = matches!(target.name, "node" | "membership" | "clients" | "port");
        let began = std::time::Instant::now();
        for seed in &seeds {
            play(target, "as recorded", seed);
        }
        let runs: u64 = if machine { RUNS_OF_MACHINES } else { RUNS };
        for number in 0..runs * times {
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let input = mutated(&seeds, &mut rng);
            play(target, &format!("seed {number}"), &input);
        }
        println!("{:12} {:6} ms", target.name, began.elapsed().as_millis());
    }
}

/// For `cargo fuzz`, which starts from files.
fn write_seeds(folder: &std::path::Path, seeds: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("it can be written");
    }
}

fn play(target: &fuzz::Target, which: &str, input: &[u8]) {
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if result.is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{} fails on {which}: {hex}", target.name);
    }
}

/// Random bytes, or a recorded input with some of its bytes changed, cut, repeated or mixed.
fn mutated(seeds: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    if rng.random_range(0..8) == 0 {
        let length = rng.random_range(0..200);
        return (0..length).map(|_| rng.random()).collect();
    }
    let mut input = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        if input.is_empty() {
            return input;
        }
        let at = rng.random_range(0..input.len());
        let end = (at + rng.random_range(1..40)).min(input.len());
        match rng.random_range(0..8) {
            0 => input.truncate(at),
            1 => input[at] ^= 1 << rng.random_range(0..8),
            2 => input[at] = rng.random(),
            3 => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 => input[at..end].fill(0xff),
            _ => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                let from = rng.random_range(0..=other.len());
                let tail = &other[from..(from + 64).min(other.len())];
                input.splice(at..end, tail.iter().copied());
            }
        }
    }
    input
}

#[test]
fn the_documented_bytes_are_those_that_are_sent() {
    let documented = include_str!("../docs/protocol.md");
    let missing: Vec<String> = vectors::all()
        .into_iter()
        .map(|(what, value)| format!("| {what} | `{value}` |"))
        .filter(|line| !documented.contains(line))
        .collect();
    assert!(missing.is_empty(), "docs/protocol.md lacks:\n{}", missing.join("\n"));
}
