//! Who is not watched does not send.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A camera that nobody takes anything of rests within this time: a stream lingers for three
/// seconds after its last viewer, at a node that is asked for it as well as at home.
const RESTS: u64 = 10 * SEC;

impl World {
    pub(super) fn check_resting(&mut self) {
        let calm = self.calm_for(RESTS) && self.whole();
        let mut sending = std::mem::take(&mut self.checks.unwatched);
        for ix in 0..self.encoders.len() {
            let (encoder, host) = (&self.encoders[ix], self.host_of_encoder(ix));
            let taken = |node: usize| {
                self.nodes[node].hubs.get(&encoder.id).is_some_and(|hub| hub.receivers() > 0)
            };
            let sends = self.runs(host) && encoder.watched();
            if !calm || !sends || (0..self.plan.nodes).any(taken) {
                sending.remove(&ix);
                continue;
            }
            let since = *sending.entry(ix).or_insert(self.now);
            if self.now > since + RESTS * self.patience() + SLACK {
                let name = self.host_name(host);
                self.fail("resting", format!("{name} sends what nobody watches"));
                break;
            }
        }
        self.checks.unwatched = sending;
    }
}
