//! Nobody watches who may not: at once by what their node knows, and soon by what any node knows.
//! Nor does anyone send for long who may not.

use roost::access::Rights;

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Once nothing keeps nodes apart, what one of them knows of rights holds at all within this time.
const JUDGED: u64 = 5 * SEC;
/// A key that is taken away ends three seconds later, and keys are looked at every ten.
const KEY_ENDED: u64 = 13 * SEC;

impl World {
    pub(super) fn check_rights(&mut self) {
        if !self.plan.guarded {
            return;
        }
        let mut served = Vec::new();
        let mut found = None;
        for (ix, node) in self.nodes.iter().enumerate() {
            let Some(control) = node.control.as_ref().filter(|_| self.runs(ix)) else { continue };
            let now = self.clock(ix).wall;
            for (who, encoder) in control.clients().watchers() {
                let who = self.as_shown(who);
                let right = roost::access::Right::View;
                if !control.rights().permits(&who, right, encoder, now) {
                    let text = format!(
                        "n{ix} shows {:?} {}, which they may not see",
                        who.who,
                        encoder.short()
                    );
                    found = Some(text);
                }
                served.push((ix, who, encoder));
            }
        }
        if let Some(text) = found {
            return self.fail("rights", text);
        }
        let limit = JUDGED * self.patience() + SLACK;
        let sends = self.mute.iter().find_map(|(&agent, &since)| {
            let home = self.home_of(agent).filter(|home| self.runs(*home))?;
            let long = self.now >= since + KEY_ENDED + limit
                && self.calm_for(KEY_ENDED + limit)
                && self.active.len() == 1;
            (long && self.claims(home, self.encoders[agent].id)).then_some((agent, home))
        });
        if let Some((agent, home)) = sends {
            let text = format!("cam{agent} may not send any more, and is at home at n{home}");
            return self.fail("rights", text);
        }
        let settled = self.now >= self.checks.judged_at + limit;
        if !(settled && self.whole() && self.calm_for(limit)) {
            return;
        }
        for (ix, node) in self.nodes.iter().enumerate() {
            let Some(control) = node.control.as_ref().filter(|_| self.runs(ix)) else { continue };
            let ledger = control.ledger();
            let records = Rights::KINDS.into_iter().flat_map(|kind| ledger.of_kind(kind));
            let now = self.clock(ix).wall;
            let anew = self.permitted(&Rights::of(records), now);
            let permitted = self.permitted(&control.rights(), now);
            if permitted != anew {
                let text = format!("n{ix} judges rights by other records than it has");
                return self.fail("rights", text);
            }
            if permitted != self.granted(ledger, &control.rights()) {
                let text = format!("n{ix} judges rights otherwise than its records do");
                return self.fail("rights", text);
            }
            if let Some(viewer) = self.has_too_much(ix) {
                let text = format!("n{ix} lets viewer{viewer} do more than the least of its roles");
                return self.fail("rights", text);
            }
        }
        for (ix, who, encoder) in served {
            for (other, node) in self.nodes.iter().enumerate() {
                let Some(control) = node.control.as_ref().filter(|_| self.runs(other)) else {
                    continue;
                };
                // Who is shut out hears of nothing.
                let here = self.nodes[ix].control.as_ref();
                let knows = here.is_some_and(|here| here.roster().contains(node.id));
                if !(knows && control.roster().contains(self.nodes[ix].id)) {
                    continue;
                }
                let now = self.clock(other).wall;
                if !control.rights().permits(&who, roost::access::Right::View, encoder, now) {
                    let text = format!(
                        "n{ix} shows {:?} {}, which n{other} knows they may not see",
                        who.who,
                        encoder.short()
                    );
                    return self.fail("rights", text);
                }
            }
        }
    }
}
