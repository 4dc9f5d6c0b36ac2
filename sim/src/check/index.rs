//! Where encoders should be, and with whom, by the index that a node keeps is what its records say,
//! read anew.

use roost::access::Rights;

use crate::net::SEC;
use crate::world::World;

/// What is shown is on disk after this time, unless the disk is full.
const WRITTEN: u64 = 2 * SEC;

/// What a node's index is compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Index {
    life: u64,
    version: u64,
    since: u64,
    compared: bool,
}

impl World {
    pub(super) fn check_index(&mut self) {
        for ix in 0..self.plan.nodes {
            let Some(control) = self.nodes[ix].control.as_ref().filter(|_| self.runs(ix)) else {
                continue;
            };
            // Nothing that it says changes without another version.
            let (life, version) = (self.hosts[ix].life, control.rights().steering());
            let known = self.checks.indexed.get(&ix).copied();
            let known = known.filter(|it| (it.life, it.version) == (life, version));
            let fresh = Index { life, version, since: self.now, compared: false };
            let mut index = known.filter(|_| !self.full.contains(&ix)).unwrap_or(fresh);
            let due = !index.compared && self.now >= index.since + WRITTEN;
            index.compared |= due;
            self.checks.indexed.insert(ix, index);
            if let Some(name) = due.then(|| self.placed_otherwise(ix)).flatten() {
                return self.fail("index", format!("n{ix} places {name} by other records"));
            }
        }
    }

    /// An encoder of which a node's index says other things than its records.
    fn placed_otherwise(&self, ix: usize) -> Option<String> {
        let control = self.nodes[ix].control.as_ref()?;
        let (kept, ledger) = (control.rights(), control.ledger());
        let anew = Rights::of(Rights::KINDS.into_iter().flat_map(|kind| ledger.of_kind(kind)));
        let unlike = self.encoders.iter().find(|encoder| {
            let id = encoder.id;
            kept.guide(id) != anew.guide(id)
                || kept.wish(id) != anew.wish(id)
                || !kept.company(id).eq(anew.company(id))
        });
        Some(unlike?.name.clone())
    }
}
