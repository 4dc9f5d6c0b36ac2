//! What an agent says of its camera is what its home says of it.

use roost::directory::SourceState;
use roost::session::host::AGENT_GONE;

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Within this time.
const TOLD: u64 = SEC;
/// Who stood still learns of a connection that is gone by what it says next on it.
const NOTICED: u64 = 4 * SEC;

impl World {
    pub(super) fn check_signals(&mut self) {
        let disturbed = !self.net.loss.is_empty() || !self.net.latency.is_empty();
        let mut late = None;
        for ix in 0..self.encoders.len() {
            let known = self.is_signal_known(ix);
            if disturbed || known {
                self.checks.unsaid.remove(&ix);
                continue;
            }
            let since = *self.checks.unsaid.entry(ix).or_insert(self.now);
            if self.now > since + TOLD * self.patience() + SLACK {
                late = Some(ix);
            }
        }
        if let Some(ix) = late {
            let (name, signal) = (&self.encoders[ix].name, &self.encoders[ix].signal);
            let text = format!("home of {name} does not know that it says {signal:?}");
            self.fail("signal", text);
        }
    }

    /// Or there is nobody yet who could know.
    fn is_signal_known(&self, ix: usize) -> bool {
        let (encoder, host) = (&self.encoders[ix], self.host_of_encoder(ix));
        let Some(agent) = encoder.agent.as_ref().filter(|_| self.runs(host)) else { return true };
        let home = agent.home().and_then(|home| self.index.get(&home).copied());
        let Some(home) = home.filter(|home| self.reach(host, *home)) else { return true };
        let control = self.nodes[home].control.as_ref();
        let entry = control.and_then(|it| it.directory().entry(it.me(), encoder.id));
        let claim = entry.filter(|entry| entry.epoch == agent.epoch());
        let gone = SourceState::NoSignal(AGENT_GONE.into());
        let woken = self.now < self.hosts[host].touched + NOTICED;
        claim.is_none_or(|it| it.source == encoder.signal || (it.source == gone && woken))
    }
}
