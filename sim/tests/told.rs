//! Runs are told to people, and failing plans are made small.

use roost_sim::plan::{Fault, Item, Plan, Who};
use roost_sim::{Watch, explain, run, shrink};

fn item(at_ms: u64, until_ms: u64, fault: Fault) -> Item {
    Item { at_ms, until_ms: Some(until_ms), fault }
}

#[test]
fn a_failover_is_told_with_its_reason_and_drawn() {
    let mut plan = Plan::calm(4, 3, 1);
    plan.faults = vec![item(13_000, 16_000, Fault::Crash(vec![Who::Home(0)]))];
    let told = explain(&plan, None);
    assert_eq!(told.violation, None);
    let moved: Vec<&str> = told.text.lines().filter(|line| line.contains("MOVED")).collect();
    assert_eq!(moved.len(), 1, "{}", told.text);
    assert!(moved[0].contains("killed; viewer0 saw nothing new for"), "{}", moved[0]);
    for sign in
        ["viewBox", "prefers-color-scheme:dark", "home n", " killed", "class=\"gap\"", "/svg>"]
    {
        assert!(told.svg.contains(sign), "the drawing lacks {sign}");
    }
    // Telling changes nothing.
    assert_eq!(explain(&plan, None).text, told.text);
    let lines: usize = explain(&plan, Some("cam0")).text.lines().count();
    assert!(lines < told.text.lines().count() / 2, "{lines} lines are of cam0 alone");
}

#[test]
fn whoever_tells_a_run_does_not_change_it() {
    let plan = Plan::draw(7, None, None);
    let kept = run(&plan, Watch::Keep);
    let told = explain(&plan, None);
    let killed = kept.lines.iter().filter(|line| line.contains(" starts")).count();
    assert_eq!(told.text.matches(" starts").count(), killed);
}

#[test]
fn a_failing_plan_shrinks_to_the_same_small_plan_each_time() {
    // A promise that cannot be kept: everyone sees pictures a moment after home died.
    let mut plan = Plan::draw(11, Some(6), Some(3));
    plan.settle_ms = 1;
    plan.faults = vec![
        item(12_500, 13_000, Fault::Latency(20)),
        item(14_000, 15_000, Fault::Reorder(0.05)),
        item(17_000, 17_500, Fault::Freeze(vec![Who::Viewer(0)])),
        item(20_000, 20_200, Fault::Crash(vec![Who::Home(0), Who::Node(5), Who::Encoder(1)])),
    ];
    let before = run(&plan, Watch::Nobody).violation.expect("no time to recover");
    let small = shrink(&plan);
    let after = run(&small, Watch::Nobody).violation.expect("it fails still");
    assert_eq!(before.checker, after.checker);
    assert_eq!(small.faults.len(), 1, "{small:?}");
    assert!(small.nodes < 6 && small.writes == 0 && small.faults[0].at_ms <= 12_500, "{small:?}");
    let Fault::Crash(who) = &small.faults[0].fault else { panic!("{small:?}") };
    assert_eq!(who.len(), 1, "{small:?}");
    assert_eq!(small, shrink(&plan));
}
