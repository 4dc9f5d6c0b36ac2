//! Every encoder has a next while there is a node that can be it, and its agent and its home mean
//! the same one.

use std::collections::BTreeSet;

use roost::id::NodeId;
use roost::session::agent;
use roost::session::leg::LegId;
use roost::wire::{ClientMessage, Message as _};

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A next is found within this time.
const FOUND: u64 = 15 * SEC;
/// Each node that the agent does not reach may be tried first, twice.
const IN_VAIN: u64 = 8 * SEC;

/// Who stood by, in which lives of it and of the agent, and for which home.
pub(crate) type Stood = (usize, (u64, u64), Option<usize>);

/// An encoder lacks a next.
#[derive(Debug)]
pub(crate) struct Lack {
    since: u64,
    home: usize,
    /// Nodes that could be it. With others the search begins anew.
    candidates: BTreeSet<usize>,
}

impl World {
    pub(super) fn check_next(&mut self) {
        for e in 0..self.plan.encoders {
            let lacked = self.checks.nextless.remove(&e);
            if !self.net.loss.is_empty() || !self.net.latency.is_empty() {
                continue;
            }
            let lack = self.lacks_next(e);
            let agent = self.hosts[self.host_of_encoder(e)].life;
            let stood_by = self.checks.last_next.get(&e).copied();
            if let Some(next) = self.next_of(e) {
                // A leg to one that was started anew is one to who stood by before, until its agent
                // hears that nobody answers.
                let home = self.home_of(e);
                let same = stood_by.is_some_and(|it| (it.0, it.1.1, it.2) == (next, agent, home));
                if !same {
                    let lives = (self.hosts[next].life, agent);
                    self.checks.last_next.insert(e, (next, lives, home));
                }
            } else if stood_by.is_some_and(|(next, lives, _)| {
                (self.hosts[next].life, self.runs(next)) != (lives.0, true)
            }) {
                // Its agent let it go, and only home can name it again.
                self.checks.last_next.remove(&e);
            }
            let Some((home, candidates)) = lack else { continue };
            let same = lacked.filter(|l| l.home == home && l.candidates == candidates);
            let since = same.map_or(self.now, |lack| lack.since);
            let agent = self.host_of_encoder(e);
            let vain = (0..self.plan.nodes)
                .filter(|x| self.nodes[*x].control.is_some() && !self.reach(agent, *x));
            let limit = FOUND + IN_VAIN * vain.count() as u64;
            if self.now > since + limit * self.patience() + SLACK {
                let text = format!(
                    "cam{e} at home at n{home} has no next for {} s, though {candidates:?} could \
                     be it: its agent says {:?}, its home {:?}",
                    (self.now - since) / SEC,
                    self.next_of(e),
                    self.next_by_home(e, home)
                );
                self.fail("next", text);
                return;
            }
            self.checks.nextless.insert(e, Lack { since, home, candidates });
        }
    }

    /// An agent that has a home does not say goodbye to who stands by before another does.
    pub(crate) fn check_let_go(
        &mut self,
        ix: usize,
        stood_by: Option<NodeId>,
        effects: &[agent::Effect],
    ) {
        let Some(agent) = &self.encoders[ix].agent else { return };
        if stood_by.is_none() || agent.next().is_some() || agent.home().is_none() {
            return;
        }
        let leads_to = |leg: &LegId| {
            let conn = self.encoders[ix].legs.get(leg).and_then(|leg| self.conns.get(&leg.conn?));
            conn.and_then(|conn| Some(self.nodes.get(conn.ends[1].host)?.id))
        };
        // One that is silent for long is given up, and is told nothing.
        let goodbye = |effect: &agent::Effect| match effect {
            agent::Effect::Send(leg, bytes) if leads_to(leg) == stood_by => {
                matches!(ClientMessage::decode(bytes), Ok(ClientMessage::Goodbye(_)))
            }
            _ => false,
        };
        if agent.home() != stood_by && effects.iter().any(goodbye) {
            let name = self.host_name(self.host_of_encoder(ix));
            self.fail("next", format!("{name} lets go of who stands by, and nobody else does"));
        }
    }

    /// For how long an encoder has had no next at its home.
    pub(super) fn lacks_next_for(&self, e: usize) -> u64 {
        self.checks.nextless.get(&e).map_or(0, |lack| self.now - lack.since)
    }

    /// Home of an encoder without a next that serves, and who could be next.
    fn lacks_next(&self, e: usize) -> Option<(usize, BTreeSet<usize>)> {
        let agent = self.host_of_encoder(e);
        if self.host_of_twin(e).is_some_and(|twin| self.hosts[twin].up) {
            return None;
        }
        let home = self.home_of(e).filter(|home| self.reach(agent, *home))?;
        // Nobody hears what it wishes.
        if self.next_of(e).is_some_and(|next| self.liars.contains(&next)) {
            return None;
        }
        let fits = |x: usize| {
            let control = self.nodes[x].control.as_ref();
            x != home
                && control.is_some_and(|c| !c.leaving())
                && !self.is_wished_away(x)
                && self.pool_takes(x, e)
                && self.pool_takes_by(home, x, e)
                && self.is_member(x)
                && self.reach(agent, x)
        };
        // A home that does not reach who stands by may not know of it, and it stands by still.
        let (next, by_home) = (self.next_of(e), self.next_by_home(e, home));
        let agree = |x: usize| by_home == Some(x) || (by_home.is_none() && !self.reach(home, x));
        if next.is_some_and(|next| fits(next) && agree(next)) {
            return None;
        }
        let stood_by = self.checks.last_next.get(&e).copied();
        // Who was started anew since then stands by no more, nor for an agent that was, nor for
        // another home.
        let lives = |x: usize| (self.hosts[x].life, self.hosts[agent].life);
        let stood_by = |x: usize| stood_by == Some((x, lives(x), Some(home)));
        let candidates: BTreeSet<usize> = (0..self.plan.nodes)
            .filter(|x| fits(*x) && (self.reach(home, *x) || stood_by(*x)))
            .collect();
        (!candidates.is_empty()).then_some((home, candidates))
    }

    fn next_by_home(&self, e: usize, home: usize) -> Option<usize> {
        let control = self.nodes[home].control.as_ref()?;
        let next = control.directory().entry(control.me(), self.encoders[e].id)?.next?;
        self.index.get(&next).copied()
    }
}
