//! A smaller plan that fails in the same way.

use crate::plan::{CALM_MS, Fault, Item, Plan, Who};
use crate::run::{Watch, run};

/// Faults are not made shorter than this, in milliseconds.
const SHORTEST: u64 = 10;

/// Leaves out whatever is not needed for the same checker to object: faults, then clients, changes
/// and nodes, then those that a fault befalls, then time. What is tried depends on the plan alone.
/// Returns the plan as it is if it does not fail.
pub fn shrink(plan: &Plan) -> Plan {
    let Some(violation) = run(plan, Watch::Nobody).violation else { return plan.clone() };
    let fails = |plan: &Plan| {
        run(plan, Watch::Nobody).violation.is_some_and(|v| v.checker == violation.checker)
    };
    let mut best = plan.clone();
    best.faults = fewest(&best.faults, |faults| {
        let faults = faults.to_vec();
        fails(&Plan { faults, ..best.clone() })
    });
    loop {
        let next = smaller(&best).into_iter().find(|plan| *plan != best && fails(plan));
        match next {
            Some(plan) => best = plan,
            None => return best,
        }
    }
}

/// The fewest items that `fail` together: halves are tried first, then ever smaller parts.
fn fewest(items: &[Item], fail: impl Fn(&[Item]) -> bool) -> Vec<Item> {
    let mut kept = items.to_vec();
    let mut part = kept.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < kept.len() {
            let until = (from + part).min(kept.len());
            let rest = [&kept[..from], &kept[until..]].concat();
            if fail(&rest) { kept = rest } else { from = until }
        }
        part /= 2;
    }
    kept
}

/// Plans a step smaller, those that save most first.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut out = Vec::new();
    let mut with = |edit: &dyn Fn(&mut Plan)| {
        let mut fewer = plan.clone();
        edit(&mut fewer);
        let (nodes, encoders) = (fewer.nodes, fewer.encoders);
        fewer.faults.retain(|item| is_there(&item.fault, nodes, encoders));
        out.push(fewer);
    };
    for index in 0..plan.faults.len() {
        with(&|plan| drop(plan.faults.remove(index)));
    }
    with(&|plan| plan.writes = 0);
    with(&|plan| plan.signals = 0);
    with(&|plan| plan.writes /= 2);
    with(&|plan| plan.browsers = plan.browsers.saturating_sub(1));
    with(&|plan| plan.publishers = plan.publishers.saturating_sub(1));
    with(&|plan| plan.viewers = plan.viewers.saturating_sub(1));
    with(&|plan| {
        plan.encoders = plan.encoders.saturating_sub(1).max(1);
        plan.viewers = plan.viewers.min(plan.encoders);
    });
    with(&|plan| plan.nodes = plan.nodes.saturating_sub(1).max(2));
    for index in 0..plan.faults.len() {
        let sides: usize = match &plan.faults[index].fault {
            Fault::Crash(who) | Fault::Freeze(who) | Fault::OldFolder(who) => who.len(),
            Fault::Room(_, who) | Fault::Bind(_, who) => who.len(),
            Fault::Cut { from, to, .. } => from.len() + to.len(),
            _ => 0,
        };
        for one in 0..sides {
            with(&|plan| leave_out(&mut plan.faults[index].fault, one));
        }
        with(&|plan| {
            let item = &mut plan.faults[index];
            if let Some(until) = item.until_ms {
                let span = (until - item.at_ms) / 2;
                item.until_ms = Some(item.at_ms + span.max(SHORTEST));
            }
        });
    }
    // All faults as early as the mesh is calm, and the first as close before the next as can be.
    if let Some(first) = plan.faults.iter().map(|item| item.at_ms).min().filter(|at| *at > CALM_MS)
    {
        with(&|plan| {
            for item in &mut plan.faults {
                item.at_ms -= first - CALM_MS;
                item.until_ms = item.until_ms.map(|until| until - (first - CALM_MS));
            }
        });
    }
    out
}

/// Whether whom a fault names by a bare number is left: who is named otherwise need not be.
fn is_there(fault: &Fault, nodes: usize, encoders: usize) -> bool {
    match fault {
        Fault::Drain(node, _)
        | Fault::Cordon(node, _)
        | Fault::Capacity(node, ..)
        | Fault::Limit(node, ..)
        | Fault::Mute(node, _)
        | Fault::Pool(node, _)
        | Fault::Room(node, _)
        | Fault::Bind(node, _)
        | Fault::Label(node, _)
        | Fault::Rotate(node)
        | Fault::Clock(node, _) => *node < nodes,
        Fault::Revoke(by, node) | Fault::Readmit(by, node) => *by.max(node) < nodes,
        Fault::Send(encoder, node) => *encoder < encoders && *node < nodes,
        Fault::Twin(encoder) => *encoder < encoders,
        _ => true,
    }
}

/// One of those that a fault befalls is spared, unless it is the only one of its side.
fn leave_out(fault: &mut Fault, one: usize) {
    let spare = |who: &mut Vec<Who>, one: usize| {
        if who.len() > 1 {
            who.remove(one);
        }
    };
    match fault {
        Fault::Crash(who) | Fault::Freeze(who) | Fault::OldFolder(who) => spare(who, one),
        Fault::Room(_, who) | Fault::Bind(_, who) => spare(who, one),
        Fault::Cut { from, to, .. } => match one.checked_sub(from.len()) {
            None => spare(from, one),
            Some(one) => spare(to, one),
        },
        _ => {}
    }
}
