//! What people decided about this node, and what the header tells the others of it.

use super::{Control, Note};
use crate::accounts::{Key, Kind};
use crate::id::RecordId;
use crate::session::host::DrainState;
use crate::time::Now;

/// Fields of a node's record.
const DRAIN: u16 = 3;
const CORDON: u16 = 4;
const CAPACITY: u16 = 5;
const LIMIT: u16 = 6;

/// What a node's record says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Hands over what it serves, and takes nothing new.
    pub(super) drain: bool,
    /// Takes nothing new.
    pub(super) cordon: bool,
    /// Its capacity, in hundredths of a processor, if people declare one.
    pub(super) capacity: Option<u32>,
    /// It takes so many encoders at most.
    pub(super) limit: Option<u32>,
}

impl Control {
    pub(super) fn own_record(&self) -> Key {
        Key { kind: Kind::NODE, id: RecordId(self.me.0) }
    }

    /// Reads this node's record. Of values that differ since a partition the careful one counts: if
    /// anyone wants it empty, it is emptied, and the lowest number holds.
    pub(super) fn heed_wishes(&mut self) {
        let record = self.ledger.get(self.own_record()).filter(|record| record.exists());
        let flag = |field| {
            let mut values = record.iter().flat_map(|record| record.values(field));
            values.any(|sibling| sibling.value == [1])
        };
        let number = |field| {
            let values = record.iter().flat_map(|record| record.values(field));
            let numbers = values.filter_map(|it| postcard::from_bytes::<i64>(it.value).ok());
            numbers.min().map(|number| u32::try_from(number.max(0)).unwrap_or(u32::MAX))
        };
        let wishes = Wishes {
            drain: flag(DRAIN),
            cordon: flag(CORDON),
            capacity: number(CAPACITY),
            limit: number(LIMIT),
        };
        if wishes != self.wishes {
            self.wishes = wishes;
            self.nodes_dirty = true;
            self.rest.hurry();
        }
    }

    /// How far this node is emptied, whether or not it is to be.
    pub fn drain_state(&mut self, now: Now) -> DrainState {
        let mut state = None;
        self.host(now, &mut Vec::new(), |host, world, _| state = Some(host.drain_state(world)));
        let cordoned = self.wishes.cordon;
        state.map_or_else(DrainState::default, |state| DrainState { cordoned, ..state })
    }

    /// What is worth a line, after the record or the encoders here changed.
    pub(super) fn news_of_wishes(&mut self) -> Vec<Note> {
        let mut news = Vec::new();
        let Wishes { drain, cordon, .. } = self.wishes;
        if std::mem::replace(&mut self.told_wishes.drain, drain) != drain {
            self.drained = false;
            news.push(if drain { Note::Draining } else { Note::Undrained });
        }
        if std::mem::replace(&mut self.told_wishes.cordon, cordon) != cordon {
            news.push(Note::Cordoned(cordon));
        }
        let empty = drain && self.host.homes() == 0;
        if std::mem::replace(&mut self.drained, empty) != empty && empty {
            news.push(Note::Drained);
        }
        news
    }
}
