//! A smaller plan that fails in the same way.

use crate::plan::Plan;
use crate::run::{Watch, run};

/// Leaves out whatever is not needed for the same checker to object: faults first, then viewers,
/// encoders and nodes from the end. Returns the plan as it is if it does not fail.
pub fn shrink(plan: &Plan) -> Plan {
    let Some(violation) = run(plan, Watch::Nobody).violation else { return plan.clone() };
    let fails = |plan: &Plan| {
        run(plan, Watch::Nobody).violation.is_some_and(|v| v.checker == violation.checker)
    };
    let mut best = plan.clone();
    loop {
        let mut candidates: Vec<Plan> = Vec::new();
        for index in 0..best.faults.len() {
            let mut fewer = best.clone();
            fewer.faults.remove(index);
            candidates.push(fewer);
        }
        let smaller = |edit: fn(&mut Plan)| {
            let mut fewer = best.clone();
            edit(&mut fewer);
            fewer
        };
        candidates.push(smaller(|plan| plan.browsers = plan.browsers.saturating_sub(1)));
        candidates.push(smaller(|plan| plan.viewers = plan.viewers.saturating_sub(1)));
        candidates.push(smaller(|plan| {
            plan.encoders = plan.encoders.saturating_sub(1).max(1);
            plan.viewers = plan.viewers.min(plan.encoders);
        }));
        candidates.push(smaller(|plan| plan.nodes = plan.nodes.saturating_sub(1).max(2)));
        let next = candidates.into_iter().find(|plan| *plan != best && fails(plan));
        match next {
            Some(plan) => best = plan,
            None => return best,
        }
    }
}
