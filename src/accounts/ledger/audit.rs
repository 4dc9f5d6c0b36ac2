//! Who changed what where, over all records: the newest changes by the clocks, out of the records'
//! own histories. Every node can tell, for the histories are everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::super::{AUDIT_MAX, Dot, Entry, Key, Kind, Record, Stamp, Touched};
use super::Ledger;
use crate::id::BadId;

/// A change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Of which record.
    pub key: Key,
    /// The write.
    pub dot: Dot,
    /// By whom.
    pub by: Stamp,
    /// What it touched.
    pub what: Vec<Touched>,
    /// It does not count: its node was shut out, and who did that had not seen it.
    pub void: bool,
}

/// A place in the list of changes, the same at every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor {
    wall: u64,
    dot: Dot,
}

impl Audit {
    /// Where this change is in the list.
    pub fn cursor(&self) -> AuditCursor {
        AuditCursor { wall: self.by.wall, dot: self.dot }
    }
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dot { actor, seq, nonce } = self.dot;
        write!(f, "{}.{actor}.{seq}.{:08x}", self.wall, u32::from_be_bytes(nonce))
    }
}

impl FromStr for AuditCursor {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(BadId);
        let wall = next()?.parse().map_err(|_not_one| BadId)?;
        let actor = next()?.parse()?;
        let seq = next()?.parse().map_err(|_not_one| BadId)?;
        let nonce = u32::from_str_radix(next()?, 16).map_err(|_not_one| BadId)?.to_be_bytes();
        Ok(Self { wall, dot: Dot { actor, seq, nonce } })
    }
}

/// The newest changes.
#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Trail(BTreeMap<AuditCursor, Audit>);

impl Trail {
    /// Takes in what a record remembers.
    pub(super) fn add(&mut self, key: Key, record: &Record) {
        // What the ledger does for itself is nobody's.
        if key.kind == Kind::BASELINE {
            return;
        }
        for entry in record.history() {
            let Entry { dot, by, what, .. } = entry;
            let audit = Audit { key, dot, by, what, void: false };
            let cursor = audit.cursor();
            let full = self.0.len() >= AUDIT_MAX;
            if full && self.0.first_key_value().is_some_and(|(oldest, _)| cursor < *oldest) {
                continue;
            }
            self.0.insert(cursor, audit);
            if self.0.len() > AUDIT_MAX {
                self.0.pop_first();
            }
        }
    }
}

impl Ledger {
    /// Changes over all records, the newest by the clocks first, from before a place: of the
    /// newest [`AUDIT_MAX`], and of what records remembered since this node's start.
    pub fn audit(&self, before: Option<AuditCursor>, limit: usize) -> Vec<Audit> {
        let trail = &self.trail.0;
        let older = match before {
            Some(before) => trail.range(..before),
            None => trail.range(..),
        };
        let newest = older.rev().take(limit).map(|(_, audit)| {
            let cut = self.cuts.get(&audit.by.node);
            let void = cut.is_some_and(|cut| audit.dot.seq > cut.last(audit.dot.actor));
            Audit { void, ..audit.clone() }
        });
        newest.collect()
    }
}
