//! The simulator itself: the same seed means the same run, and it can fail.

use std::process::Command;

use roost_sim::plan::{Fault, Item, Plan, Who};
use roost_sim::{Watch, run, shrink};

/// The trace's hash as a fresh process prints it.
fn trace(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_roost-sim"))
        .args(["run", "--nodes", "4", "--seed", &seed.to_string()])
        .output()
        .expect("the simulator runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let (_, hash) = text.split_once(", trace ").expect("a trace");
    hash.split_whitespace().next().expect("a hash").to_owned()
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let first = trace(7);
    assert_eq!(first, trace(7));
    assert_ne!(first, trace(8));
}

#[test]
fn dropping_a_fault_leaves_the_rest_of_the_run_as_it_was() {
    let crash = |at_ms| Item {
        at_ms,
        until_ms: Some(at_ms + 3000),
        fault: Fault::Crash(vec![Who::Node(0)]),
    };
    let mut plan = Plan::calm(5, 3, 1);
    plan.settle_ms = 20_000;
    plan.faults = vec![crash(13_000)];
    let one = run(&plan, Watch::Keep);
    plan.faults.push(crash(20_000));
    let both = run(&plan, Watch::Keep);
    let before = |lines: &[String]| {
        let until = lines.iter().position(|l| l.contains("fault over")).expect("a fault");
        lines[..until].to_vec()
    };
    assert_eq!(before(&one.lines), before(&both.lines));
}

#[test]
fn a_cut_that_lasts_is_found_and_shrunk_to_itself() {
    // Agents that reach no node at all for the time of the check are no failure; an impossible
    // promise is: nodes that never meet must not count as one mesh.
    let mut plan = Plan::calm(3, 3, 1);
    plan.settle_ms = 100;
    let crash = Fault::Crash(vec![Who::Home(0)]);
    plan.faults = vec![
        Item { at_ms: 13_000, until_ms: Some(13_500), fault: Fault::Latency(1) },
        Item { at_ms: 14_000, until_ms: Some(14_010), fault: crash.clone() },
    ];
    let violation = run(&plan, Watch::Nobody).violation.expect("no time to recover");
    let small = shrink(&plan);
    assert_eq!(small.faults.len(), 1, "{violation}");
    assert_eq!(small.faults[0].fault, crash);
}

#[test]
fn until_a_fault_begins_a_run_is_the_same_without_it_to_the_last_byte() {
    for seed in [3, 6, 9, 12] {
        let plan = Plan::draw_storm(seed, Some(4), Some(1));
        let whole = run(&plan, Watch::Keep);
        assert_eq!(whole.violation, None, "seed {seed}");
        for index in 0..plan.faults.len() {
            let mut without = plan.clone();
            let at_ms = without.faults.remove(index).at_ms;
            // A probe of a tenth of a second earlier has seen nothing of it.
            let same = usize::try_from(at_ms / 100).expect("a number");
            // What people change is spread over the time until the last fault is over.
            if without.healed_ms() != plan.healed_ms() {
                continue;
            }
            let other = run(&without, Watch::Keep);
            let differs = whole.hashes.iter().zip(&other.hashes).position(|(a, b)| a != b);
            let differs = differs.unwrap_or(usize::MAX);
            assert!(differs >= same.saturating_sub(1), "seed {seed}: {differs} before {same}");
        }
    }
}
