//! Whoever publishes is at home where it sends, and is seen.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A leg that stands makes its node home within this time, or is ended.
const CLAIMED: u64 = 3 * SEC;
/// Whoever watches has a picture this long after there is a way for it: as long as other pages, and
/// after the node at which it arrives stood still, once the publisher has said that it is current.
const SEEN: u64 = 9 * SEC;
/// A page that has a picture of this age sees.
const RECENT: u64 = SEC;

impl World {
    pub(super) fn check_published(&mut self) {
        for p in 0..self.publishers.len() {
            if let Some(text) = self.not_at_home(p) {
                return self.fail("published", text);
            }
            let dark =
                self.onlooker_way(p) && self.publishers[p].seen.fresh_at + RECENT <= self.now;
            if !dark {
                self.checks.dark_onlookers.remove(&p);
                continue;
            }
            let since = *self.checks.dark_onlookers.entry(p).or_insert(self.now);
            if self.now > since + SEEN * self.patience() + SLACK {
                let at = self.publishers[p].page_at.unwrap_or_default();
                let text = format!("a page at n{at} sees nothing of pub{p}, and could");
                return self.fail("published", text);
            }
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

    /// Pictures could come to the page of a publisher, and nothing befell anyone on the way lately.
    fn onlooker_way(&self, p: usize) -> bool {
        let publisher = &self.publishers[p];
        let (Some(page), Some(leg)) = (publisher.page_at, &publisher.leg) else { return false };
        let home = leg.end.host;
        // Pictures of a camera that ignores requests may begin late.
        let quick = self.plan.camera.obeys || self.plan.camera.group < 60;
        let quiet = self.net.loss.is_empty()
            && self.net.latency.is_empty()
            && self.net.requests_lost.is_empty()
            && [page, home].iter().all(|host| self.now > self.hosts[*host].touched + SEC);
        quick && quiet && self.claims(home, publisher.id) && self.leads(page, home)
    }

    /// When everything had time to recover, everyone knows where it is.
    pub(super) fn check_all_published(&mut self) {
        let members: Vec<usize> = (0..self.plan.nodes).filter(|ix| self.is_member(*ix)).collect();
        for p in (0..self.publishers.len()).filter(|_| !members.is_empty()) {
            let publisher = &self.publishers[p];
            let (id, seen) = (publisher.id, publisher.seen.fresh_at + 2 * SEC >= self.now);
            let at = publisher.leg.as_ref().map(|leg| leg.end.host);
            let Some(at) = at else {
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
            if !seen {
                return self.fail("published", format!("nobody sees pub{p}, who sends to n{at}"));
            }
        }
    }
}
