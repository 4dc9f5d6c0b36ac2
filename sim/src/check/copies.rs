//! Who has heard all that a node said of itself believes just that: nobody asks for what it seems to
//! have, so a difference would stay.

use roost::directory::Directory;

use super::SLACK;
use super::prompt::NODES_MAX;
use crate::net::SEC;
use crate::world::World;

/// A node whose folder is an older copy repeats numbers that others know by other things; whom it is
/// linked with tells it that within this time.
const TOLD: u64 = SEC;

impl World {
    pub(super) fn check_copies(&mut self) {
        if self.plan.nodes > NODES_MAX {
            return;
        }
        let mut otherwise = std::mem::take(&mut self.checks.otherwise);
        let mut wrong = None;
        for origin in 0..self.plan.nodes {
            for who in (0..self.plan.nodes).filter(|who| *who != origin) {
                if self.checks.lied.contains(&origin) || !self.knows_otherwise(who, origin) {
                    otherwise.remove(&(who, origin));
                    continue;
                }
                let since = *otherwise.entry((who, origin)).or_insert(self.now);
                if self.now > since + TOLD * self.patience() + SLACK {
                    wrong = Some((who, origin));
                }
            }
        }
        self.checks.otherwise = otherwise;
        if let Some((who, origin)) = wrong {
            let text =
                format!("n{who} has heard all of n{origin}, and believes other things of it");
            self.fail("copies", text);
        }
    }

    /// Whether two nodes are equally far in what one said of itself, and differ in it, though they are
    /// linked or no number was ever given twice.
    fn knows_otherwise(&self, who: usize, origin: usize) -> bool {
        let linked = |a: usize, b: usize| self.nodes[a].links.contains_key(&b);
        let open = self.reach(who, origin) && linked(who, origin) && linked(origin, who);
        let open = open || !self.plan.has_older_folders();
        let directory = |ix: usize| self.nodes[ix].control.as_ref().map(|it| it.directory());
        let (Some(own), Some(copy)) = (directory(origin), directory(who)) else { return false };
        let id = self.nodes[origin].id;
        let position = |it: &Directory| it.digest().of.get(&id).copied();
        open && position(own) == position(copy)
            && (own.header(id) != copy.header(id) || !own.entries(id).eq(copy.entries(id)))
    }
}
