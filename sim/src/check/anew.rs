//! An encoder whose home starts anew at once is at home again soon, also while nobody watches.

use super::SLACK;
use crate::net::{MS, SEC};
use crate::plan::Fault;
use crate::world::World;

/// From the new start of its home until an encoder is at home somewhere, where nodes are near.
const AT_HOME: u64 = 1500 * MS;
/// A node that is away for longer than this is called down, and its agents hear of that.
const AWAY: u64 = SEC;

/// The node that an encoder was at home at has ended.
#[derive(Debug)]
pub(crate) struct Forgotten {
    encoder: usize,
    next: usize,
    home: usize,
    /// The life of home that ended, and when.
    life: u64,
    at: u64,
    /// When home was up again.
    anew: Option<u64>,
}

impl World {
    /// A fault is about to end homes: whose encoders does the next life of that node not know?
    pub(super) fn expect_anew(&mut self, fault: &Fault, hosts: &[usize]) {
        let alone = matches!(fault, Fault::Crash(_)) && self.active.len() <= 1;
        if !alone || self.plan.has_twins() || !self.calm_for(8 * SEC) {
            return;
        }
        for e in 0..self.plan.encoders {
            let (Some(home), Some(next)) = (self.home_of(e), self.next_of(e)) else { continue };
            let agent = self.host_of_encoder(e);
            let befell =
                hosts.contains(&home) && ![next, agent].iter().any(|it| hosts.contains(it));
            if befell
                && self.reach(agent, next)
                && self.reach(home, next)
                && !self.mute.contains_key(&e)
            {
                let life = self.hosts[home].life;
                let forgotten =
                    Forgotten { encoder: e, next, home, life, at: self.now, anew: None };
                self.checks.forgotten.push(forgotten);
            }
        }
    }

    pub(super) fn check_anew(&mut self) {
        let mut waiting = std::mem::take(&mut self.checks.forgotten);
        let (mut late, mut soon) = (None, 0);
        waiting.retain_mut(|it| {
            let node = &self.hosts[it.home];
            let anew = (node.up && node.life != it.life).then_some(self.now);
            it.anew = it.anew.or(anew);
            let id = self.encoders[it.encoder].id;
            if (0..self.plan.nodes).any(|node| self.claims(node, id) && self.hosts[node].up) {
                soon += u64::from(it.anew.is_some());
                return false;
            }
            let agent = self.host_of_encoder(it.encoder);
            let befell = [agent, it.next].iter().any(|host| self.hosts[*host].touched > it.at);
            // Who says nothing of what it has says nothing of what it has forgotten, either.
            let befell = befell || self.checks.lied.contains(&it.home);
            let rough = !self.whole() || self.checks.rough_at > it.at;
            if befell || rough || (it.anew.is_none() && self.now > it.at + AWAY) {
                return false;
            }
            let since = it.anew.unwrap_or(self.now);
            if self.now > since + AT_HOME * self.patience() + SLACK {
                let ms = (self.now - since) / MS;
                let (cam, home) = (it.encoder, it.home);
                late =
                    Some(format!("n{home}, home of cam{cam}, started {ms} ms ago: nobody has it"));
            }
            true
        });
        self.checks.forgotten = waiting;
        if soon > 0 {
            self.mark("an encoder whose home starts anew is at home again");
        }
        if let Some(text) = late {
            self.fail("anew", text);
        }
    }
}
