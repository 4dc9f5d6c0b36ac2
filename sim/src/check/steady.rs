//! Nobody moves without a reason.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// How long after a fault an encoder may still move because of it.
const AFTERMATH: u64 = 30 * SEC;

impl World {
    /// Where nothing went wrong for long, no agent claims a home anew: neither loss nor distance
    /// of the network is a reason.
    pub(super) fn check_steady(&mut self) {
        for (ix, encoder) in self.encoders.iter().enumerate() {
            let Some(agent) = &encoder.agent else {
                self.checks.epochs.remove(&ix);
                continue;
            };
            let (epoch, home) = (agent.epoch(), agent.home());
            let before = self.checks.epochs.insert(ix, epoch);
            let calm = self.active.is_empty() && self.calm_for(AFTERMATH + SLACK);
            if before.is_some_and(|before| before != epoch) && calm && !self.is_sent(encoder.id) {
                let home = home.map_or_else(|| "nowhere".into(), |node| self.name_of(node));
                let name = self.host_name(self.host_of_encoder(ix));
                self.fail("steady", format!("{name} moved to {home} for no reason"));
                return;
            }
        }
    }
}
