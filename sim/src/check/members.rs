//! Who is alive: everyone agrees in the end, the dead are found out in time, and nobody is called
//! dead without reason.

use std::collections::BTreeSet;

use roost::id::NodeId;

use super::SLACK;
use crate::net::{MS, SEC};
use crate::plan::Fault;
use crate::world::World;

/// A node that died is down for everyone within this time, where nodes are near.
const FOUND: u64 = 2_500 * MS;
/// The same where they are far apart.
const FOUND_FAR: u64 = 20 * SEC;
/// How long after a fault a wrong verdict may still come of it.
const AFTERMATH: u64 = 5 * SEC;
/// The same where they are far apart, and suspected for four to ten seconds.
const AFTERMATH_FAR: u64 = 20 * SEC;

/// A node is down by then for another.
#[derive(Debug)]
pub(crate) struct Expected {
    dead: usize,
    life: u64,
    at: u64,
    by: u64,
    /// Who must know.
    observer: usize,
    observer_life: u64,
}

impl World {
    pub(super) fn expect_downs(&mut self, fault: &Fault, hosts: &[usize]) {
        if !matches!(fault, Fault::Crash(_) | Fault::Freeze(_)) {
            return;
        }
        let found = if self.plan.net.is_near() { FOUND } else { FOUND_FAR };
        let disturbed = !self.net.loss.is_empty() || !self.net.latency.is_empty();
        if disturbed {
            return;
        }
        for &dead in hosts.iter().filter(|host| **host < self.plan.nodes) {
            for observer in 0..self.plan.nodes {
                let knew = self.nodes[observer]
                    .control
                    .as_ref()
                    .is_some_and(|control| control.alive().contains(&self.nodes[dead].id));
                let calm = self.now >= self.hosts[observer].touched + 10 * SEC;
                if observer != dead && self.runs(observer) && knew && calm {
                    self.checks.downs.push(Expected {
                        dead,
                        life: self.hosts[dead].life,
                        at: self.now,
                        by: self.now + found + SLACK,
                        observer,
                        observer_life: self.hosts[observer].life,
                    });
                }
            }
        }
    }

    pub(super) fn check_downs(&mut self) {
        let mut waiting = std::mem::take(&mut self.checks.downs);
        let mut late = None;
        waiting.retain(|expected| {
            let observer = &self.hosts[expected.observer];
            let dead = &self.hosts[expected.dead];
            let still = self.runs(expected.observer)
                && observer.life == expected.observer_life
                && observer.touched < expected.at
                && dead.life == expected.life
                && !self.runs(expected.dead)
                && self.net.loss.is_empty()
                && self.net.latency.is_empty();
            let knows = self.nodes[expected.observer]
                .control
                .as_ref()
                .is_some_and(|control| !control.alive().contains(&self.nodes[expected.dead].id));
            if !still || knows {
                return false;
            }
            if self.now >= expected.by {
                late = Some(format!(
                    "n{} still believes that n{} is alive, {} ms after it stopped",
                    expected.observer,
                    expected.dead,
                    (self.now - expected.at) / MS
                ));
            }
            true
        });
        self.checks.downs = waiting;
        if let Some(text) = late {
            self.fail("found", text);
        }
    }

    /// A node calls another dead: there must be a reason.
    pub(crate) fn check_verdict(&mut self, observer: usize, verdict: NodeId) {
        let Some(&judged) = self.index.get(&verdict) else { return };
        let aftermath = if self.plan.net.is_near() { AFTERMATH } else { AFTERMATH_FAR };
        let quiet = |host: usize| self.now >= self.hosts[host].touched + aftermath;
        let innocent = self.runs(judged)
            && !self.hosts[judged].stopping
            && self.is_member(judged)
            && quiet(judged)
            && (quiet(observer) || self.stood_still(observer, judged))
            && self.reach(judged, observer)
            && self.active.is_empty();
        if innocent {
            self.fail("verdict", format!("n{observer} calls n{judged} down, which runs"));
        } else if self.are_alike(observer, judged) {
            let text = format!("n{observer} calls n{judged} down, which it reached all along");
            self.fail("verdict", text);
        } else if self.is_member(judged) && self.hears(observer, judged) {
            self.fail("verdict", format!("n{observer} calls n{judged} down, which it hears"));
        } else if !self.runs(judged) {
            let took = self.now.saturating_sub(self.hosts[judged].touched) / MS;
            self.measure("ms from a node's end to a verdict", took);
        }
    }

    /// A node goes on after it stood still, which is no reason to judge another to which nothing
    /// happened meanwhile.
    fn stood_still(&self, ix: usize, other: usize) -> bool {
        let host = &self.hosts[ix];
        host.thawed == host.touched
            && self.now < host.touched + AFTERMATH
            && self.hosts[other].touched + AFTERMATH < host.frozen_at
    }

    pub(super) fn check_members(&mut self) {
        let live: BTreeSet<NodeId> = (0..self.plan.nodes)
            .filter(|ix| self.is_member(*ix))
            .map(|ix| self.nodes[ix].id)
            .collect();
        for ix in (0..self.plan.nodes).filter(|ix| self.is_member(*ix)) {
            let Some(control) = &self.nodes[ix].control else { continue };
            let names = |set: BTreeSet<NodeId>| {
                set.into_iter().map(|node| self.name_of(node)).collect::<Vec<_>>().join(" ")
            };
            let seen = control.alive().clone();
            if seen != live {
                let text =
                    format!("n{ix} sees [{}], but [{}] run", names(seen), names(live.clone()));
                self.fail("members", text);
                return;
            }
            let linked: BTreeSet<NodeId> =
                control.linked().iter().copied().chain([control.me()]).collect();
            if linked != live {
                let text =
                    format!("n{ix} is linked to [{}], but [{}] run", names(linked), names(live));
                self.fail("links", text);
                return;
            }
        }
    }
}
