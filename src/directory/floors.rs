//! Epochs that are over: the highest of each encoder counts, also after its claims are gone.

use super::{Directory, Effect, Floor};
use crate::id::{EncoderId, Epoch, NodeId};

impl Directory {
    /// The highest epoch seen for an encoder, also after every claim to it is gone.
    pub fn floor(&self, encoder: EncoderId) -> Epoch {
        let claimed = self.claims(encoder).map(|(_, entry)| entry.epoch).max();
        self.floors.get(encoder).max(claimed.unwrap_or_default())
    }

    /// Notes an epoch that was seen elsewhere than in the directory.
    pub fn raise_floor(&mut self, encoder: EncoderId, epoch: Epoch) {
        self.counters.floors_dropped += self.floors.raise(encoder, epoch, self.limits.floors);
    }

    /// Tells a node that claims an encoder under an epoch that is over. While the claim that
    /// superseded it stands, its node hears of that one.
    pub(super) fn tell_floor(
        &mut self,
        to: NodeId,
        encoder: EncoderId,
        claimed: Epoch,
        effects: &mut Vec<Effect>,
    ) {
        let epoch = self.floor(encoder);
        if claimed < epoch && self.claims(encoder).all(|(_, claim)| claim.epoch < epoch) {
            self.counters.floors_told += 1;
            effects.push(Effect::Floor { to, floor: Floor { encoder, epoch } });
        }
    }
}
