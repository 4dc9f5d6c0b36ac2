//! An agent that has a home holds no more connections than it has a use for.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Home and next.
const AGENT: usize = 2;
/// What else was asked is let go after this time, once nothing is amiss.
const LET_GO: u64 = 10 * SEC;

impl World {
    pub(super) fn check_legs(&mut self) {
        let limit = LET_GO * self.patience() + SLACK;
        for e in 0..self.encoders.len() {
            let held = self.encoders[e].legs.len();
            // Without a home several are dialled at a time.
            let at_home = self.runs(self.host_of_encoder(e))
                && self.home_by(e).is_some_and(|home| self.claims(home, self.encoders[e].id));
            if !at_home || held <= AGENT {
                self.checks.crowded.remove(&e);
                continue;
            }
            let since = *self.checks.crowded.entry(e).or_insert(self.now);
            if self.whole() && self.calm_for(limit) && self.now > since + limit {
                let text = format!("{} holds {held} connections", self.encoders[e].name);
                return self.fail("legs", text);
            }
        }
    }
}
