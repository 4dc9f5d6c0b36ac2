//! What a record remembers of its changes: the newest, by rank. A write's rank is one above the
//! highest that its author saw, so that a later write never comes before what it changed, whatever
//! the clocks say. Which entries are kept depends on the writes that a state includes and on
//! nothing else: equal writes still mean equal states.

use std::cmp::Reverse;

use super::{Change, Dot, Record, Stamp};
use crate::accounts::types::{HISTORY_MAX, TOUCHED_MAX};

/// What a write did to a field or a set, or to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// Gave a field a value.
    Set(u16),
    /// Took a field's values away.
    Clear(u16),
    /// Put elements into a set.
    Add(u16),
    /// Took elements out of one.
    Remove(u16),
    /// Removed the record.
    Delete,
    /// Brought it back.
    Restore,
    /// Put it out of use.
    Disable,
    /// Put it into use again.
    Enable,
}

/// One change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The write.
    pub dot: Dot,
    /// By whom.
    pub by: Stamp,
    /// What it touched, in order; of a write that touched more than [`TOUCHED_MAX`] the first.
    pub what: Vec<Touched>,
    /// It does not count: see [`Record::counting`].
    pub void: bool,
}

/// The same without its name and stamp, as a state holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) rank: u32,
    /// As [`Touched::code`] has it.
    pub(super) what: Vec<u32>,
}

impl Past {
    /// Fields whose values it took away.
    pub(super) fn cleared(&self) -> impl Iterator<Item = u16> {
        self.what.iter().filter_map(|code| match Touched::from_code(*code) {
            Touched::Clear(field) => Some(field),
            _ => None,
        })
    }
}

impl Touched {
    fn of(change: &Change) -> Self {
        match change {
            Change::Set(field, _) => Self::Set(*field),
            Change::Clear(field) => Self::Clear(*field),
            Change::Add(set, _) => Self::Add(*set),
            Change::Remove(set, _) => Self::Remove(*set),
            Change::Delete => Self::Delete,
            Change::Restore => Self::Restore,
            Change::Disable => Self::Disable,
            Change::Enable => Self::Enable,
        }
    }

    /// One byte for most.
    fn code(self) -> u32 {
        let (how, number) = match self {
            Self::Set(field) => (0, field),
            Self::Clear(field) => (1, field),
            Self::Add(set) => (2, set),
            Self::Remove(set) => (3, set),
            Self::Delete => (4, 0),
            Self::Restore => (5, 0),
            Self::Disable => (6, 0),
            Self::Enable => (7, 0),
        };
        u32::from(number) << 3 | how
    }

    fn from_code(code: u32) -> Self {
        // Numbers have 16 bits; what is above belongs to nobody.
        let number = (code >> 3) as u16;
        match code & 7 {
            0 => Self::Set(number),
            1 => Self::Clear(number),
            2 => Self::Add(number),
            3 => Self::Remove(number),
            4 => Self::Delete,
            5 => Self::Restore,
            6 => Self::Disable,
            _ => Self::Enable,
        }
    }
}

impl Record {
    /// The newest changes, the newest first: [`HISTORY_MAX`] at most.
    pub fn history(&self) -> impl Iterator<Item = Entry> + '_ {
        let mut order: Vec<_> = self
            .history
            .iter()
            .filter_map(|(dot, past)| Some((*dot, *self.stamps.get(dot)?, past)))
            .collect();
        order.sort_by_key(|(dot, by, past)| Reverse((past.rank, by.wall, *dot)));
        order.into_iter().map(|(dot, by, past)| Entry {
            dot,
            by,
            what: past.what.iter().map(|code| Touched::from_code(*code)).collect(),
            void: self.void.contains(&dot),
        })
    }

    /// Notes a write whose stamp is noted already.
    pub(super) fn remember(&mut self, dot: Dot, changes: &[Change]) {
        let highest = self.history.values().map(|past| past.rank).max();
        let mut what: Vec<u32> = changes.iter().map(|change| Touched::of(change).code()).collect();
        what.sort_unstable();
        what.dedup();
        what.truncate(TOUCHED_MAX);
        let rank = highest.unwrap_or(0).saturating_add(1);
        self.history.insert(dot, Past { rank, what });
        self.forget_history();
    }

    /// Keeps the newest.
    pub(super) fn forget_history(&mut self) {
        while self.history.len() > HISTORY_MAX {
            let wall = |dot: &Dot| self.stamps.get(dot).map_or(0, |by| by.wall);
            let age = |(dot, past): &(&Dot, &Past)| (past.rank, wall(dot), **dot);
            let Some(oldest) = self.history.iter().min_by_key(age).map(|(dot, _)| *dot) else {
                return;
            };
            self.history.remove(&oldest);
        }
    }
}
