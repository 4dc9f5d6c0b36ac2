//! The ledger: what was acknowledged is everywhere in the end, equal writes mean equal records,
//! and what was revoked stays so unless somebody who saw it undid it.

use std::collections::BTreeSet;

use roost::accounts::{Change, Key, Receipt, Record};
use roost::control::Control;
use roost::id::ActorId;

use crate::ledger::{BLIND, FIELD};
use crate::net::{MS, SEC};
use crate::plan::Fault;
use crate::world::World;

/// A change that was acknowledged.
#[derive(Debug)]
pub(crate) struct Acked {
    version: (ActorId, u64),
    /// At which node.
    at: usize,
    key: Key,
    change: Change,
    /// A disabling that an enabling has seen.
    undone: bool,
    /// Somebody who may have seen it gave the field another value.
    overwritten: bool,
    /// Nobody else had it when a disk that had was set back.
    lost: bool,
    /// The node that had it when it shut out the one where it was made, which no other node did.
    kept_by: Option<usize>,
}

/// The field that a change gives a value, or takes its values from.
fn field_of(change: &Change) -> Option<u16> {
    match change {
        Change::Set(field, _) | Change::Clear(field) => Some(*field),
        _ => None,
    }
}

/// A change that is to be on so many nodes before it is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) asked: u64,
    pub(crate) nodes: usize,
    pub(crate) patience: u64,
}

/// Where nothing is wrong, a change is on all nodes by then.
const SPREAD: u64 = 3 * SEC;

/// Two nodes with different writes under one number know it this long after they met.
const CONTACT: u64 = 2 * SEC;

impl World {
    pub(crate) fn acked(&mut self, ix: usize, ticket: u64, receipt: Receipt) {
        if ticket ^ BLIND < self.plan.writes as u64 {
            let text = format!("n{ix} changes a record that is not as it was expected");
            return self.fail("expected", text);
        }
        let Some((_, _, key, change)) = self.checks.edits.remove(&ticket) else { return };
        let Some(ledger) = self.nodes[ix].control.as_ref().map(Control::ledger) else { return };
        let version = receipt.version;
        if !ledger.has(version) {
            self.fail("acknowledged", format!("n{ix} acknowledges what is not on its disk"));
            return;
        }
        let disks = self.nodes.iter().filter(|node| node.disk.books.has(version)).count();
        if receipt.nodes as usize > disks && !self.checks.set_back {
            let text = format!("n{ix} says that {} nodes have it, and {disks} do", receipt.nodes);
            return self.fail("acknowledged", text);
        }
        if let Some(wait) = self.checks.waits.remove(&ticket) {
            let since = self.now - wait.asked;
            let calm = self.active.is_empty() && self.whole() && self.calm_for(since + SEC);
            let there = (0..self.plan.nodes).all(|node| self.runs(node) && self.is_member(node));
            let spread = SPREAD * self.patience();
            let few = !receipt.enough && wait.patience >= spread;
            let late = since > spread;
            if (few || late) && calm && there && wait.nodes <= self.plan.nodes {
                let (has, ms) = (receipt.nodes, since / MS);
                let text = format!("n{ix} says only after {ms} ms that {has} have a change");
                return self.fail("acknowledged", text);
            }
        }
        let twice = self.checks.acked.iter().any(|acked| acked.version == version);
        if change == Change::Enable {
            for acked in self.checks.acked.iter_mut().filter(|acked| acked.key == key) {
                acked.undone |= acked.change == Change::Disable && ledger.has(acked.version);
            }
        }
        let mut overwritten = false;
        if let Some(field) = field_of(&change) {
            let same =
                |acked: &&mut Acked| acked.key == key && field_of(&acked.change) == Some(field);
            for acked in self.checks.acked.iter_mut().filter(same) {
                acked.overwritten |= ledger.has(acked.version);
                // Of two, the one that came later may have been answered first.
                let there = self.nodes[acked.at].control.as_ref().map(Control::ledger);
                overwritten |= there.is_none_or(|there| there.has(version));
            }
        }
        let (undone, lost, kept_by) = (false, false, None);
        let acked = Acked { version, at: ix, key, change, undone, overwritten, lost, kept_by };
        self.checks.acked.push(acked);
        if self.net.cut_anywhere() {
            self.mark("a change is acknowledged in a split");
        }
        if receipt.enough && receipt.nodes > 1 {
            self.mark("a change is acknowledged when more nodes have it");
        }
        self.measure("changes acknowledged", 1);
        if twice {
            self.fail("numbers", format!("n{ix} gives number {} twice", version.1));
        }
    }

    /// A disk was set back: nobody need have any longer what is on no disk now.
    pub(crate) fn lose_changes(&mut self) {
        self.checks.set_back = true;
        for acked in &mut self.checks.acked {
            let mut disks = self.nodes.iter().map(|node| &node.disk.books);
            acked.lost |= !disks.any(|books| books.has(acked.version));
        }
    }

    /// A node is shut out: what whoever does that has of it goes on counting.
    pub(crate) fn keep_changes(&mut self, by: usize, node: usize) {
        let out = |fault: &Fault| matches!(fault, Fault::Revoke(_, of) if *of == node);
        let again = self.plan.faults.iter().filter(|item| out(&item.fault)).count() > 1;
        let Some(ledger) = self.nodes[by].control.as_ref().map(Control::ledger) else { return };
        if !again {
            for acked in self.checks.acked.iter_mut().filter(|acked| acked.at == node) {
                acked.kept_by = ledger.has(acked.version).then_some(by);
            }
        }
    }

    /// An enabling that was under way when its node died may count or not.
    pub(crate) fn edits_lost(&mut self, ix: usize) {
        let life = self.hosts[ix].life;
        let (unsure, blurred) = (&mut self.checks.unsure, &mut self.checks.blurred);
        self.checks.edits.retain(|_, (at, of, key, change)| {
            let lost = *at == ix && *of == life;
            if lost {
                blurred.insert(*key);
            }
            if lost && *change == Change::Enable {
                unsure.insert(*key);
            }
            !lost
        });
    }

    pub(crate) fn check_law(&mut self, ix: usize) {
        // Whether a removal counts, and a record is to be forgotten, depends on who is out.
        let digest =
            |control: &Control| (control.ledger().digest(), control.ledger().cuts().clone());
        let Some(mine) = self.nodes[ix].control.as_ref().map(digest) else { return };
        let others = self.nodes.iter().filter_map(|node| node.control.as_ref());
        let (mine, cuts) = mine;
        let mut others = others.map(digest).filter(|(_, theirs)| *theirs == cuts);
        if !others.any(|(theirs, _)| theirs.clock == mine.clock && theirs.state != mine.state) {
            self.checks.unlike.remove(&ix);
            return;
        }
        // A folder that was put back may have given a number twice, which is found on contact.
        let found = if self.checks.set_back { CONTACT } else { 0 };
        if self.now >= *self.checks.unlike.entry(ix).or_insert(self.now) + found {
            self.fail("law", format!("n{ix} and another have equal writes and other records"));
        }
    }

    /// Whether values of a record may be gone for another reason than that they were overwritten.
    fn may_be_gone(&self, key: Key) -> bool {
        let removed = |acked: &Acked| acked.key == key && acked.change == Change::Delete;
        // Who is let in again, or shut out twice, may have written what counted for a while.
        let mut out = BTreeSet::new();
        let outcasts = self.plan.faults.iter().any(|item| match item.fault {
            Fault::Revoke(_, node) => !out.insert(node),
            Fault::Readmit(..) => true,
            _ => false,
        });
        let under_way = self.checks.edits.values().any(|(_, _, of, _)| *of == key);
        self.checks.set_back
            || outcasts
            || under_way
            || self.checks.blurred.contains(&key)
            || self.checks.acked.iter().any(removed)
    }

    pub(super) fn check_ledger(&mut self) {
        let mut found = None;
        let mut first = None;
        // Where disks were set back, the one that has a change still may be of a node that is down.
        let up: Vec<&Control> =
            self.nodes.iter().filter_map(|node| node.control.as_ref()).collect();
        let held = |acked: &Acked| {
            !self.checks.set_back || up.iter().any(|it| it.ledger().has(acked.version))
        };
        for (ix, node) in self.nodes.iter().enumerate() {
            let Some(ledger) = node.control.as_ref().map(Control::ledger) else { continue };
            if !self.is_member(ix) {
                continue;
            }
            let digest = (ledger.digest().clock, ledger.digest().state);
            let spread = self.checks.named_at.is_none_or(|at| at + SEC <= self.now);
            if *first.get_or_insert(digest) != digest && spread {
                found = Some(("converged", format!("n{ix} has another ledger than the first")));
            }
            // What was changed at a node that is out may be known to nobody else.
            let counts = |acked: &&Acked| {
                self.is_member(acked.at) || acked.kept_by.is_some_and(|by| self.is_member(by))
            };
            let acked = self.checks.acked.iter().filter(|acked| !acked.lost && held(acked));
            for acked in acked.filter(counts) {
                let (actor, seq) = acked.version;
                // What was removed and forgotten, and is nowhere after records were lost, stays removed.
                let removed = acked.change == Change::Delete && ledger.encoded(acked.key).is_none();
                let gone = removed && self.plan.loses_records();
                if !ledger.has(acked.version) && !gone {
                    let text = format!("n{ix} lacks change {seq} of {}", actor.short());
                    found = Some(("acknowledged", text));
                }
                let back = |record: Record| record.exists() && !record.is_deleted();
                if acked.change == Change::Delete
                    && acked.key.kind.collected()
                    && ledger.get(acked.key).is_some_and(back)
                {
                    let text = format!("n{ix} has what was removed by change {seq}");
                    found = Some(("removed", text));
                }
                if let Change::Set(field, value) = &acked.change
                    && !acked.overwritten
                    && !self.may_be_gone(acked.key)
                    && ledger.get(acked.key).is_none_or(|record| {
                        !record.values(*field).iter().any(|sibling| sibling.value == value)
                    })
                {
                    let text = format!("n{ix} has lost the value of change {seq}");
                    found = Some(("acknowledged", text));
                }
                let standing = acked.change == Change::Disable && !acked.undone;
                if standing && !self.checks.unsure.contains(&acked.key) {
                    let off = ledger.get(acked.key).is_none_or(|record| record.is_off());
                    if !off {
                        let text = format!("n{ix} has undone what nobody undid, change {seq}");
                        found = Some(("revoked", text));
                    }
                }
            }
            for (key, replaced) in &self.checks.replaced {
                let Some(record) = ledger.get(*key) else { continue };
                let shown: Vec<&[u8]> =
                    record.values(FIELD).into_iter().map(|it| it.value).collect();
                let stale = |value: &&[u8]| {
                    let instead = replaced.get(*value);
                    instead.is_some_and(|all| all.iter().any(|it| shown.contains(&&it[..])))
                };
                if shown.iter().any(stale) {
                    let text = format!("n{ix} shows a value of {key:?} beside what replaced it");
                    found = Some(("replaced", text));
                }
            }
        }
        if let Some((checker, text)) = found {
            self.fail(checker, text);
        }
    }
}
