//! Nobody moves without a reason.

use roost::id::Epoch;

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// How long after a fault an encoder may still move because of it.
const AFTERMATH: u64 = 30 * SEC;

/// An agent that stood still no longer than this finds its home again.
const BLINK: u64 = 4 * SEC;
/// By then it would have moved.
const SETTLED: u64 = 3 * SEC;

/// An agent that goes on after it stood still.
#[derive(Debug)]
pub(crate) struct Woken {
    agent: usize,
    life: u64,
    epoch: Epoch,
    home: usize,
    stood_at: u64,
    until: u64,
}

impl World {
    /// An agent goes on.
    pub(crate) fn note_woken(&mut self, host: usize) {
        let stood_at = self.hosts[host].frozen_at;
        let Some(ix) = self.encoder_at(host).filter(|_| self.now < stood_at + BLINK) else {
            return;
        };
        let Some(agent) = &self.encoders[ix].agent else { return };
        let home = agent.home().and_then(|home| self.index.get(&home).copied());
        let (life, epoch) = (self.hosts[host].life, agent.epoch());
        if let Some(home) = home {
            let until = self.now + SETTLED;
            self.checks.woken.push(Woken { agent: ix, life, epoch, home, stood_at, until });
        }
    }

    /// It was the agent that stood still: its home is as it was.
    fn check_woken(&mut self) {
        let mut woken = std::mem::take(&mut self.checks.woken);
        let mut moved = None;
        woken.retain(|it| {
            let host = self.host_of_encoder(it.agent);
            let Some(agent) = &self.encoders[it.agent].agent else { return false };
            let quiet = |other: usize| self.hosts[other].touched < it.stood_at;
            let nodes = (0..self.plan.nodes).all(quiet);
            let alone = self.hosts[host].life == it.life
                && nodes
                && self.is_member(it.home)
                && self.reach(host, it.home);
            if !alone || !self.net.loss.is_empty() || !self.net.latency.is_empty() {
                return false;
            }
            if agent.epoch() != it.epoch && !self.is_sent(self.encoders[it.agent].id) {
                moved = Some(self.host_name(host));
            }
            self.now < it.until
        });
        self.checks.woken = woken;
        if let Some(name) = moved {
            self.fail("steady", format!("{name} left its home because it stood still itself"));
        }
    }

    /// Where nothing went wrong for long, no agent claims a home anew: neither loss nor distance
    /// of the network is a reason.
    pub(super) fn check_steady(&mut self) {
        self.check_woken();
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
