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
        let (home, sends) = match self.watched_publisher(e) {
            Some(publisher) => (publisher.leg.as_ref()?.end.host, true),
            None => {
                let home = self.home_of(e)?;
                (home, self.reach(self.host_of_encoder(e), home))
            }
        };
        let sends = sends && self.claims(home, self.watched_id(e));
        let linked = |a: usize, b: usize| {
            a == b
                || (self.reach(a, b)
                    && self.is_member(a)
                    && self.is_member(b)
                    && self.nodes[a].links.contains_key(&b)
                    && self.nodes[b].links.contains_key(&a))
        };
        let leads = (0..self.plan.nodes).any(|via| linked(node, via) && linked(via, home));
        (sends && self.runs(node) && leads).then_some((node, home))
    }
}
