//! Epochs that are over: the highest of each encoder counts, also after its claims are gone.

use std::cmp::Reverse;

use super::{Directory, Effect, Entry, Floor};
use crate::id::{EncoderId, Epoch, NodeId};

impl Directory {
    /// The highest epoch seen for an encoder, also after every claim to it is gone.
    pub fn floor(&self, encoder: EncoderId) -> Epoch {
        let claimed = self.claims(encoder).map(|(_, entry)| entry.epoch).max();
        self.claims.floors.get(encoder).max(claimed.unwrap_or_default())
    }

    /// Everything that is at home at nodes that are `alive`, in order of encoder: what
    /// [`Directory::home`] says of each, found by going through all parts once.
    pub fn homes(&self, alive: &dyn Fn(NodeId) -> bool) -> Vec<(EncoderId, NodeId, &Entry)> {
        let mut claims = Vec::new();
        for (&node, part) in &self.parts {
            let lives = alive(node);
            let of_it = part.entries();
            claims.extend(of_it.map(|(encoder, entry)| (encoder, entry, Reverse(node), lives)));
        }
        claims.sort_unstable_by_key(|(encoder, entry, node, _)| (*encoder, entry.epoch, *node));
        let homes = claims.chunk_by(|a, b| a.0 == b.0).filter_map(|claims| {
            let (encoder, highest, ..) = claims.last()?;
            let floor = self.claims.floors.get(*encoder).max(highest.epoch);
            let (_, entry, node, _) = claims.iter().rev().find(|(.., lives)| *lives)?;
            (entry.epoch >= floor).then_some((*encoder, node.0, *entry))
        });
        homes.collect()
    }

    /// Notes an epoch that was seen elsewhere than in the directory.
    pub fn raise_floor(&mut self, encoder: EncoderId, epoch: Epoch) {
        self.counters.floors_dropped +=
            self.claims.floors.raise(encoder, epoch, self.limits.floors);
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
