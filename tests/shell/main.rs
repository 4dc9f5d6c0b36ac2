//! Whole nodes (tokio, quinn, chitchat, redb) on a network in memory, in paused time, beside the
//! simulator: what they end in must be right, and how long it takes must be what the simulator
//! says.

mod mesh;
mod net;

use roost_sim::calibrate::{Times, calibrate};
use roost_sim::plan;

/// Nodes of a mesh, unless `SHELL_NODES` says otherwise.
const NODES: usize = 12;
/// Meshes of whole nodes, unless `SHELL_RUNS` says otherwise.
const RUNS: usize = 11;
/// Meshes of the simulator, which is quicker.
const SEEDS: u64 = 21;
/// How far the medians of both may be apart, as a share of the simulator's.
const APART: f64 = 0.25;
/// Or by this, in seconds: nodes show whom they believe alive at beats of 50 ms, and are looked at
/// every 10 ms here and there.
const SHARP: f64 = 0.07;

/// Until everyone has a report or a newer one, in seconds: twice what was measured.
const REPORTED: f64 = 6.0;

/// Places some hundred kilometres apart.
const NET: plan::Net = plan::Net { delay_us: (10_000, 25_000), loss: 0.0, spikes: 0.01 };

#[test]
fn whole_nodes_take_as_long_as_the_simulator_says() {
    compare(NET);
}

#[test]
fn so_they_do_where_every_twentieth_packet_is_lost() {
    compare(plan::Net { loss: 0.05, ..NET });
}

/// What the simulator's model of reports is made of.
#[test]
fn a_report_reaches_everyone_within_seconds() {
    let nodes = number("SHELL_NODES", NODES);
    let runs: Vec<[f64; 3]> =
        (0..3).flat_map(|seed| alone(mesh::reports(nodes, NET, seed))).collect();
    let spread = |which: usize| {
        let mut all: Vec<f64> = runs.iter().map(|three| three[which]).collect();
        all.sort_by(f64::total_cmp);
        Spread { low: all[0], median: all[all.len() / 2], high: all[all.len() - 1] }
    };
    println!("{} reports at {nodes} nodes, in seconds", runs.len());
    for (which, name) in ["the first has it", "half have it", "the last has it"].iter().enumerate()
    {
        println!("{name:28} {:>22}", spread(which));
    }
    assert!(runs.len() >= 30, "reports that all have: {}", runs.len());
    assert!(spread(2).high < REPORTED, "the last had one after {:.2} s", spread(2).high);
}

/// A runtime of its own, whose time passes only while nobody works.
fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let done = runtime.block_on(what);
    runtime.shutdown_background();
    done
}

fn number(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |given| given.parse().expect("a number"))
}

fn compare(net: plan::Net) {
    let (nodes, runs) = (number("SHELL_NODES", NODES), number("SHELL_RUNS", RUNS));
    let begun = std::time::Instant::now();
    let real: Vec<Times> =
        (0..runs as u64).map(|seed| alone(mesh::play(nodes, net, seed))).collect();
    let took = begun.elapsed();
    let simulated: Vec<Times> = (0..SEEDS).map(|seed| calibrate(nodes, net, seed)).collect();
    println!(
        "{nodes} nodes, {} % loss: {runs} whole meshes in {:.1} s, {SEEDS} simulated in {:.1} s",
        net.loss * 100.0,
        took.as_secs_f64(),
        (begun.elapsed() - took).as_secs_f64()
    );
    println!("{:28} {:>22} {:>22}", "seconds", "whole nodes", "simulator");
    let mut wrong = Vec::new();
    for (row, (name, _)) in Times::default().named().iter().enumerate() {
        let (real, simulated) = (Spread::of(&real, row), Spread::of(&simulated, row));
        println!("{name:28} {real:>22} {simulated:>22}");
        if (real.median - simulated.median).abs() > SHARP.max(APART * simulated.median) {
            wrong.push(format!("{name}: {real} by whole nodes, {simulated} by the simulator"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Of several measurements of one thing.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(times: &[Times], row: usize) -> Self {
        let named = times.iter().map(|times| times.named()[row]);
        let mut all: Vec<f64> =
            named.map(|(name, time)| time.unwrap_or_else(|| panic!("never: {name}"))).collect();
        all.sort_by(f64::total_cmp);
        Self { low: all[0], median: all[all.len() / 2], high: all[all.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.2} ({:.2} to {:.2})", self.median, self.low, self.high))
    }
}
