//! Two agents of one encoder: one is at home, the other waits until it is gone.

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// When nothing went wrong for this long, it is settled which.
const SETTLED: u64 = 15 * SEC;

impl World {
    /// Both live and nothing happens: home does not go from one to the other.
    pub(super) fn check_twins(&mut self) {
        for e in 0..self.plan.encoders {
            let Some(twin) = self.host_of_twin(e) else { return };
            let hosts = [self.host_of_encoder(e), twin];
            let lives = hosts.map(|host| self.hosts[host].life);
            let at_home = self.at_home(e);
            let before = self.checks.at_home.insert(e, (lives, at_home.clone()));
            let settled = hosts.iter().all(|host| self.runs(*host))
                && self.whole()
                && self.calm_for(SETTLED * self.patience() + SLACK);
            if !settled {
                continue;
            }
            let text = if at_home.len() > 1 {
                format!("both agents of cam{e} believe that they are at home")
            } else if before.is_some_and(|(b, who)| b == lives && who != at_home) {
                format!("home of cam{e} goes over to {at_home:?} of its agents")
            } else {
                continue;
            };
            self.fail("twins", text);
            return;
        }
    }

    /// Agents of an encoder that are at home, and run.
    pub(super) fn at_home(&self, e: usize) -> Vec<usize> {
        let home = |ix: &usize| {
            let agent = self.encoders[*ix].agent.as_ref();
            agent.is_some_and(|agent| agent.home().is_some())
        };
        self.agents_of(e).filter(home).collect()
    }
}
