//! Which live nodes this one has no link to, as its header tells: what this node says is handed on
//! to those by others. Nothing is told in a mesh where everyone is linked, however many they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Control;
use crate::id::NodeId;
use crate::time::{Mono, earlier};

/// How long a live node may be without a link before that is told: links come up meanwhile, also
/// when a mesh starts or heals, and each brings all that was missed before it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Changes are told to everybody at most this often, and a lost link as much later: another often
/// takes its place at once.
const SPACING: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// Told of. Who goes down stays: to take it out would have to be told, too.
    told: BTreeSet<NodeId>,
    /// Live nodes without a link, and from when on that is told.
    awaited: BTreeMap<NodeId, Mono>,
    /// When something may be told again, and when there is something to tell.
    rested: Mono,
    due: Option<Mono>,
}

impl Lacking {
    pub(super) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// A live node's link is gone.
    pub(super) fn lost(&mut self, now: Mono, node: NodeId) {
        self.awaited.insert(node, now + SPACING);
    }
}

impl Control {
    /// Who lives, who is linked or who is a member has changed.
    pub(super) fn await_links(&mut self, now: Mono) {
        let (alive, linked) = (&self.alive, &self.linked);
        let lacking = &mut self.lacking;
        lacking.awaited.retain(|node, _| alive.contains(node) && !linked.contains(node));
        for node in alive.difference(linked).filter(|node| **node != self.me) {
            lacking.awaited.entry(*node).or_insert(now + PATIENCE);
        }
        self.plan_telling();
    }

    fn plan_telling(&mut self) {
        let Lacking { told, awaited, rested, .. } = &self.lacking;
        let over = told.iter().any(|node| !self.stays_told(*node));
        let news = awaited.iter().filter(|(node, _)| !told.contains(node));
        let first = news.map(|(_, at)| (*at).max(*rested)).min();
        self.lacking.due = earlier(first, over.then_some(*rested));
    }

    fn stays_told(&self, node: NodeId) -> bool {
        !self.linked.contains(&node) && self.roster.contains(node)
    }

    /// Tells what is due, and of lost links also if a change of an entry goes out anyway: nobody
    /// would hand that on to those nodes.
    pub(super) fn tell_lacking(&mut self, now: Mono) {
        let hurry = self.directory.has_changes();
        if self.lacking.due.is_none_or(|due| due > now && !hurry) {
            return;
        }
        let until = if hurry { now + SPACING } else { now };
        let stay = self.lacking.told.iter().copied().filter(|node| self.stays_told(*node));
        let lacks = |node: &NodeId| self.alive.contains(node) && !self.linked.contains(node);
        let late = self.lacking.awaited.iter().filter(|(node, at)| **at <= until && lacks(node));
        let told: BTreeSet<NodeId> = stay.chain(late.map(|(node, _)| *node)).collect();
        if told != self.lacking.told {
            self.lacking.told = told;
            self.lacking.rested = now + SPACING;
            self.put_header();
        }
        self.plan_telling();
    }

    /// What this node's header is to say.
    pub(super) fn told_lacking(&self) -> BTreeSet<NodeId> {
        self.lacking.told.clone()
    }
}
