//! Who is a member: the same wherever the same was said, and nobody acts on what a revocation made
//! void.

use std::collections::{BTreeMap, BTreeSet};

use roost::admission::{Outcast, Roster, Statement};
use roost::control::Control;
use roost::id::{NodeId, StatementId};

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// A change of keys ends within this time once all that are linked know of it: two writes, and as
/// long as a link may be mute.
const KEY_KNOWN: u64 = 10 * SEC;
/// Clients of a node that is out have been shown out after this time.
const SHOWN_OUT: u64 = 2 * SEC;

impl World {
    /// A running node that everybody who is in lets in.
    pub(crate) fn is_member(&self, ix: usize) -> bool {
        let rosters = self.nodes.iter().filter_map(|node| node.control.as_ref());
        let mut own = rosters.map(Control::roster);
        let id = self.nodes[ix].id;
        self.nodes[ix].control.is_some() && own.all(|roster| roster.outcast(id).is_none())
    }

    /// The rosters that equal sets of statements give, and what each node does by its own.
    pub(super) fn check_trust(&mut self) {
        let mut by_set: BTreeMap<[u8; 16], (usize, BTreeSet<NodeId>)> = BTreeMap::new();
        let mut found = None;
        for (ix, node) in self.nodes.iter().enumerate() {
            let Some(control) = &node.control else { continue };
            let roster = control.roster();
            let members: BTreeSet<NodeId> = roster.members().collect();
            let digest = roster.digest().hash;
            let (first, known) = by_set.entry(digest).or_insert_with(|| (ix, members.clone()));
            if *known != members {
                found = Some(format!("n{first} and n{ix} know the same and have other members"));
            }
            if let Some(text) = self.acts_on_the_void(control) {
                found = Some(format!("n{ix} {text}"));
            }
        }
        if let Some(text) = found {
            self.fail("trust", text);
        }
    }

    /// Who knows that it is out serves nobody.
    pub(super) fn check_shut(&mut self) {
        for ix in 0..self.plan.nodes {
            let serves =
                self.nodes[ix].control.as_ref().filter(|_| self.runs(ix)).is_some_and(|it| {
                    let clients = it.clients();
                    let busy = clients.homes() > 0 || clients.watchers().next().is_some();
                    it.roster().outcast(it.me()).is_some() && busy
                });
            if !serves {
                self.checks.serving.remove(&ix);
                continue;
            }
            let since = *self.checks.serving.entry(ix).or_insert(self.now);
            if self.now > since + SHOWN_OUT {
                return self
                    .fail("trust", format!("n{ix} knows that it is out and serves clients"));
            }
        }
    }

    /// Who is in, by what a node knows.
    pub(crate) fn members_by(&self, ix: usize) -> BTreeSet<NodeId> {
        let control = self.nodes[ix].control.as_ref();
        control.map(|control| control.roster().members().collect()).unwrap_or_default()
    }

    /// Somebody has shut a node out: whomever that had let in before, as far as is known there, is in
    /// still.
    pub(crate) fn check_only_named(&mut self, by: usize, node: NodeId, before: &BTreeSet<NodeId>) {
        let after = self.members_by(by);
        let mut out = before.iter().filter(|it| **it != node && !after.contains(it));
        if let Some(other) = out.next() {
            let (other, node) = (self.name_of(*other), self.name_of(node));
            self.fail("trust", format!("{other} is out at n{by} together with {node}"));
        }
    }

    /// A node takes its new key as soon as all that are linked know of it, whoever else does not.
    pub(super) fn check_keys(&mut self) {
        let limit = KEY_KNOWN * self.patience() + SLACK;
        for ix in 0..self.plan.nodes {
            if !self.waits_in_vain(ix) {
                self.checks.key_known.remove(&ix);
                continue;
            }
            let since = *self.checks.key_known.entry(ix).or_insert(self.now);
            if self.now > since + limit {
                let text = format!("n{ix} does not take the key that all linked nodes know");
                return self.fail("key", text);
            }
        }
    }

    /// Changes its key, and all that are linked run and accept the new one.
    fn waits_in_vain(&self, ix: usize) -> bool {
        let node = &self.nodes[ix];
        let Some((control, next)) = node.control.as_ref().zip(node.disk.next_key.as_ref()) else {
            return false;
        };
        let knows = |peer: &NodeId| {
            self.index.get(peer).copied().filter(|peer| self.runs(*peer)).is_some_and(|peer| {
                let roster = self.nodes[peer].control.as_ref().map(Control::roster);
                roster.is_some_and(|roster| roster.member_with_key(&next.public()) == Some(node.id))
            })
        };
        self.runs(ix) && control.rotating() && control.linked().iter().all(knows)
    }

    /// What a node has of one that is out, by its own roster.
    fn acts_on_the_void(&self, control: &Control) -> Option<String> {
        let roster = control.roster();
        for (out, _) in roster.outcasts() {
            let name = self.name_of(out);
            let me = out == control.me();
            if !me && control.alive().contains(&out) {
                return Some(format!("has {name} among the living, which is out"));
            }
            if control.linked().contains(&out) || me && !control.linked().is_empty() {
                return Some(format!("is linked though {name} is out"));
            }
            if !me && control.peers().nodes.iter().any(|peer| peer.node == out) {
                return Some(format!("sends clients to {name}, which is out"));
            }
            if !me && control.directory().entries(out).next().is_some() {
                return Some(format!("believes what {name} says of encoders, which is out"));
            }
        }
        let cuts = cuts(roster);
        for member in roster.members() {
            for admission in roster.chain(member).unwrap_or_default() {
                let founder = admission.by == admission.node;
                let acts = [Some(admission.by), admission.terms.map(|terms| terms.by)];
                let id = Statement::Admission(admission).id(roster.mesh());
                let void = |(out, cut): &(NodeId, BTreeSet<StatementId>)| {
                    acts.contains(&Some(*out)) && !cut.contains(&id)
                };
                if !founder && cuts.iter().any(void) {
                    return Some(format!("takes {} in, by a void act", self.name_of(member)));
                }
            }
        }
        None
    }

    /// When everything had time to recover, all know the same.
    pub(super) fn check_same_statements(&mut self) {
        let mut digests = BTreeMap::new();
        for ix in (0..self.plan.nodes).filter(|ix| self.is_member(*ix)) {
            if let Some(control) = &self.nodes[ix].control {
                digests.entry(control.roster().digest().hash).or_insert(ix);
            }
        }
        if digests.len() > 1 {
            let text = format!("{:?} know different things of members", digests.values());
            self.fail("statements", text);
        }
        for (ix, node) in self.nodes.iter().enumerate() {
            if node.control.is_some() && node.disk.next_key.is_some() && self.is_member(ix) {
                self.fail("key", format!("n{ix} still changes its key"));
                return;
            }
        }
    }
}

fn cuts(roster: &Roster) -> Vec<(NodeId, BTreeSet<StatementId>)> {
    let mut cuts = Vec::new();
    for (node, why) in roster.outcasts() {
        if let Outcast::Revoked(by) = why {
            cuts.extend(by.iter().map(|(_, it)| (node, it.cut.iter().copied().collect())));
        }
    }
    cuts
}
