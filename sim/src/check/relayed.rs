//! A node without a path of its own to a stream's home gets it over one between them.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Pictures come this long after there is a way for them: a link over which nothing comes is given
/// up after three seconds, and what was lost meanwhile is sent again after as many.
const RELAYED: u64 = 7 * SEC;
/// A page that has a picture of this age sees.
const RECENT: u64 = SEC;

impl World {
    pub(super) fn check_relayed(&mut self) {
        // Pictures of a camera that ignores requests may begin late.
        let quick = self.plan.camera.obeys || self.plan.camera.group < 60;
        let disturbed = !self.net.loss.is_empty()
            || !self.net.latency.is_empty()
            || !self.net.requests_lost.is_empty();
        if !quick || disturbed || self.plan.has_twins() {
            self.checks.dark.clear();
            return;
        }
        for page in 0..self.browsers.len() {
            let way = self.way_to(page);
            let sees = self.browsers[page].seen.fresh_at + RECENT > self.now;
            let Some((node, home)) = way.filter(|_| !sees) else {
                self.checks.dark.remove(&page);
                continue;
            };
            let since = *self.checks.dark.entry(page).or_insert(self.now);
            let quiet = self.hosts[node].touched.max(self.hosts[home].touched);
            if self.now > since.max(quiet) + RELAYED * self.patience() + SLACK {
                let text =
                    format!("page{page} at n{node} sees nothing that could come from n{home}");
                self.fail("relayed", text);
                return;
            }
        }
    }

    /// Where a page is and home of its encoder, if links lead from one to the other.
    fn way_to(&self, page: usize) -> Option<(usize, usize)> {
        let browser = &self.browsers[page];
        let (node, e) = (browser.at?, browser.watches);
        let home = self.home_of(e)?;
        let agent = self.host_of_encoder(e);
        let sends = self.reach(agent, home) && self.claims(home, self.encoders[e].id);
        (sends && self.leads(node, home)).then_some((node, home))
    }

    /// Links lead from a node that runs to another, over one between them if need be.
    pub(super) fn leads(&self, node: usize, home: usize) -> bool {
        let linked = |a: usize, b: usize| {
            a == b
                || (self.reach(a, b)
                    && self.is_member(a)
                    && self.is_member(b)
                    && self.nodes[a].links.contains_key(&b)
                    && self.nodes[b].links.contains_key(&a))
        };
        self.runs(node) && (0..self.plan.nodes).any(|via| linked(node, via) && linked(via, home))
    }
}
