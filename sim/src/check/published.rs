//! Whoever publishes is at home where it sends.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A leg that stands makes its node home within this time, or is ended.
const CLAIMED: u64 = 3 * SEC;

impl World {
    pub(super) fn check_published(&mut self) {
        if let Some(text) = (0..self.publishers.len()).find_map(|p| self.not_at_home(p)) {
            self.fail("published", text);
        }
    }

    fn not_at_home(&self, p: usize) -> Option<String> {
        let publisher = &self.publishers[p];
        let leg = publisher.leg.as_ref()?;
        let at = leg.end.host;
        let quiet = leg.since.max(self.hosts[at].touched).max(self.nodes[at].woke);
        if !self.runs(at) || !self.is_member(at) || self.now <= quiet + CLAIMED + SLACK {
            return None;
        }
        let control = self.nodes[at].control.as_ref()?;
        let claim = control.directory().entry(control.me(), publisher.id);
        let is = claim.is_some_and(|claim| claim.epoch.instance == leg.instance);
        (!is).then(|| format!("pub{p} sends to n{at}, which is not its home and lets it"))
    }

    /// When everything had time to recover, everyone knows where it is.
    pub(super) fn check_all_published(&mut self) {
        let members: Vec<usize> = (0..self.plan.nodes).filter(|ix| self.is_member(*ix)).collect();
        for p in (0..self.publishers.len()).filter(|_| !members.is_empty()) {
            let publisher = &self.publishers[p];
            let id = publisher.id;
            let Some(at) = publisher.leg.as_ref().map(|leg| leg.end.host) else {
                return self.fail("published", format!("pub{p} finds no node"));
            };
            let believe = |ix: &usize| {
                let control = self.nodes[*ix].control.as_ref()?;
                let home = control.directory().home(id, &|node| control.alive().contains(&node))?;
                self.index.get(&home.0).copied()
            };
            if let Some(ix) = members.iter().find(|ix| believe(ix) != Some(at)) {
                let text = format!("n{ix} believes pub{p} at {:?}, not n{at}", believe(ix));
                return self.fail("published", text);
            }
        }
    }
}
