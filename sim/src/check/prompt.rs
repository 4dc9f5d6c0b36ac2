//! Who can be linked is, soon; and what a node says of itself is known at once to whom it is linked
//! with.

use roost::id::Boot;

use super::SLACK;
use crate::net::SEC;
use crate::world::World;

/// Two nodes that run and reach each other are linked within this time: a dial that nobody answers
/// takes three seconds, and to one that was called down the next begins up to twelve later.
const LINKED: u64 = 16 * SEC;
/// What changed at a node is known to whoever is linked with it, or with one that is, within this
/// time.
const TOLD: u64 = SEC;
/// Who is linked and reached is believed to live within this time.
const SEEN: u64 = 3 * SEC;
/// What was lost while packets did not pass is sent again within this time after they do.
const SENT_AGAIN: u64 = 3 * SEC;
/// How far a node is in what it says of itself.
type Version = (Boot, u64);
/// What a node does not know of another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untold {
    since: u64,
    /// What the other said of itself then.
    says: Version,
    /// They are linked.
    direct: bool,
}
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
            let direct = could && linked;
            let lacks = !self.nodes[a].links.contains_key(&b) && self.sees(a, b);
            let told = direct || (!disturbed && lacks && self.is_between(a, b));
            let news = self.news(b, a).filter(|_| told && !self.checks.lied.contains(&a));
            let Some((says, knows)) = news else {
                self.checks.untold.remove(&(a, b));
                continue;
            };
            // Of a node that changes all the time the others know what it said a moment ago.
            let fresh = Untold { since: self.now, says, direct };
            let untold = self.checks.untold.entry((a, b)).or_insert(fresh);
            if (Some(untold.says)..Some(says)).contains(&knows) || untold.direct != direct {
                *untold = fresh;
            } else {
                let since = untold.since.max(quiet + SENT_AGAIN);
                if self.now > since + TOLD * self.patience() + SLACK {
                    late = Some(("news", format!("n{b} does not know what n{a} says of itself")));
                }
            }
        }
        if let Some((checker, text)) = late {
            self.fail(checker, text);
        }
    }

    /// A third node is linked with both, and no packet of the three is lost. It hands on to those that
    /// live and that lack a link.
    fn is_between(&self, a: usize, b: usize) -> bool {
        let linked = |a: usize, b: usize| {
            let has = |a: usize, b: usize| self.nodes[a].links.contains_key(&b);
            self.reach(a, b) && has(a, b) && has(b, a) && self.is_member(a) && self.is_member(b)
        };
        (0..self.plan.nodes).any(|c| c != a && c != b && linked(a, c) && linked(c, b))
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
            control.directory().digest().of.get(&id).copied()
        };
        let (says, knows) = (version(origin)?, version(who));
        (knows != Some(says)).then_some((says, knows))
    }
}
