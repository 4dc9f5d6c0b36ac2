//! Who can be linked is, soon; and what a node says of itself is known at once to whom it is linked
//! with.

use roost::id::Boot;

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Two nodes that run and reach each other are linked within this time: a dial that nobody answers
/// takes three seconds, and to one that was called down the next begins up to twelve later.
const LINKED: u64 = 16 * SEC;
/// What changed at a node is known to whoever is linked with it within this time.
const TOLD: u64 = SEC;
/// Who is linked and reached is believed to live within this time.
const SEEN: u64 = 3 * SEC;
/// What was lost while packets did not pass is sent again within this time after they do.
const SENT_AGAIN: u64 = 3 * SEC;
/// How far a node is in what it says of itself.
pub(crate) type Version = (Boot, u64);
/// In larger meshes pairs are too many to look at each so often.
pub(super) const NODES_MAX: usize = 16;

impl World {
    pub(super) fn check_prompt(&mut self) {
        if self.plan.nodes > NODES_MAX {
            return;
        }
        let disturbed = !self.net.loss.is_empty() || !self.net.latency.is_empty();
        let pairs = (0..self.plan.nodes).flat_map(|a| (0..self.plan.nodes).map(move |b| (a, b)));
        let mut late = None;
        for (a, b) in pairs.filter(|(a, b)| a != b) {
            let linked =
                self.nodes[a].links.contains_key(&b) && self.nodes[b].links.contains_key(&a);
            let quiet = self.hosts[a].touched.max(self.hosts[b].touched);
            let could = !disturbed && self.reach(a, b) && self.is_member(a) && self.is_member(b);
            if !could || linked {
                self.checks.unlinked.remove(&(a, b));
            } else {
                let since = *self.checks.unlinked.entry((a, b)).or_insert(self.now);
                if self.now > since.max(quiet) + LINKED * self.patience() + SLACK {
                    late = Some(("links", format!("n{a} and n{b} could be linked, and are not")));
                }
            }
            let seen = self.sees(a, b);
            if !could || !linked || seen {
                self.checks.unseen.remove(&(a, b));
            } else {
                let since = *self.checks.unseen.entry((a, b)).or_insert(self.now);
                if self.now > since.max(quiet) + SEEN * self.patience() + SLACK {
                    late =
                        Some(("members", format!("n{a} calls n{b} down, which it is linked with")));
                }
            }
            let news =
                self.news(b, a).filter(|_| could && linked && !self.checks.lied.contains(&a));
            let Some((says, knows)) = news else {
                self.checks.untold.remove(&(a, b));
                continue;
            };
            // Of a node that changes all the time the others know what it said a moment ago.
            let lacks = self.checks.untold.entry((a, b)).or_insert((self.now, says));
            if (Some(lacks.1)..Some(says)).contains(&knows) {
                *lacks = (self.now, says);
            } else {
                let since = lacks.0;
                if self.now > since.max(quiet + SENT_AGAIN) + TOLD * self.patience() + SLACK {
                    late = Some(("news", format!("n{b} does not know what n{a} says of itself")));
                }
            }
        }
        if let Some((checker, text)) = late {
            self.fail(checker, text);
        }
    }

    fn sees(&self, who: usize, other: usize) -> bool {
        let control = self.nodes[who].control.as_ref();
        control.is_none_or(|control| control.alive().contains(&self.nodes[other].id))
    }

    /// What a node says of itself, by its version, and what another knows of that, if it is less.
    fn news(&self, who: usize, origin: usize) -> Option<(Version, Option<Version>)> {
        let id = self.nodes[origin].id;
        let version = |ix: usize| {
            let control = self.nodes[ix].control.as_ref()?;
            control.directory().digest().0.get(&id).copied()
        };
        let (says, knows) = (version(origin)?, version(who));
        (knows != Some(says)).then_some((says, knows))
    }
}
