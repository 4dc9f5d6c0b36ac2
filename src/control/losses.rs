//! Whether as many nodes can be lost as people want.

use std::time::Duration;

use super::{Control, Note};
use crate::accounts::{Key, Kind};
use crate::time::Mono;

/// The setting that says how many nodes the mesh has to be able to lose.
const SETTING: &str = "survivable-losses";
/// Its value.
const VALUE: u16 = 2;

/// So long fewer can be lost before it is told: a node that starts again, and the view of one that
/// has just started, are no news.
const LOW_FOR: Duration = Duration::from_secs(5);

/// What was told last, and since when it is otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    low: bool,
    otherwise: Option<Mono>,
}

impl Control {
    /// How many nodes have to be survivable; of values that differ since a partition the greatest
    /// counts. A value that is no number asks for nothing.
    fn wanted_losses(&self) -> Option<u32> {
        let rights = self.rights.read();
        let named = rights.named(Kind::SETTING, None, SETTING);
        let values = named.filter_map(|id| {
            let record = self.ledger.get(Key { kind: Kind::SETTING, id });
            let record = record.filter(|record| record.exists())?;
            let values = record.values(VALUE).into_iter();
            let numbers =
                values.filter_map(|it| str::from_utf8(it.value).ok()?.trim().parse().ok());
            numbers.max()
        });
        values.max()
    }

    /// To be called about every second with how many can be lost; says when that becomes too few,
    /// and when it is enough again.
    pub fn heed_losses(&mut self, now: Mono, losses: u32) -> Option<Note> {
        let wanted = self.wanted_losses();
        let low = wanted.is_some_and(|wanted| losses < wanted);
        if low == self.told_losses.low {
            self.told_losses.otherwise = None;
            return None;
        }
        let since = *self.told_losses.otherwise.get_or_insert(now);
        if now.since(since) < LOW_FOR {
            return None;
        }
        self.told_losses = Told { low, otherwise: None };
        Some(Note::Losses { losses, low: wanted.filter(|_| low) })
    }
}
