//! Who stands by, seen over all encoders of this node: evenly many at each of the others, so that
//! nobody is stormed when this one dies.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Effect, Host, World};
use crate::id::{EncoderId, NodeId};
use crate::placement::plan::{evens, weight_of};

/// Encoders that are given another next at a time: their agents all dial it. With a look every five
/// seconds that is about as fast as encoders are moved.
const SPREAD_AT_ONCE: usize = 100;

/// Another node with its weight and the encoders of this one that it stands by for.
type Standby = (NodeId, u64, Vec<EncoderId>);

impl Host {
    /// Gives encoders that nobody watches another next, until no two nodes differ by two or more,
    /// by weight: a node that came back stands by for nobody, and another for all that it stood by
    /// for before.
    pub fn spread_nexts(&mut self, world: &mut World<'_>, effects: &mut Vec<Effect>) {
        let others = world.candidates.iter().filter(|it| it.node != world.me && it.load < it.limit);
        let mut standbys: BTreeMap<NodeId, Standby> = others
            .map(|it| (it.node, (it.node, weight_of(it.usable_weight()), Vec::new())))
            .collect();
        for (encoder, stream) in &self.streams {
            let next = stream.home.as_ref().and_then(|claim| claim.next);
            if let Some((.., encoders)) = next.and_then(|next| standbys.get_mut(&next)) {
                encoders.push(*encoder);
            }
        }
        let mut standbys: Vec<Standby> = standbys.into_values().collect();
        for _ in 0..SPREAD_AT_ONCE {
            // Fullest first.
            standbys.sort_by_key(|(node, weight, encoders)| {
                let fullness = ((encoders.len() as u128) << 64) / u128::from(*weight).max(1);
                (Reverse(fullness), *node)
            });
            let Some((from, at, to)) = self.better_next(world, &standbys) else { return };
            let encoder = standbys[from].2.remove(at);
            standbys[to].2.push(encoder);
            let next = standbys[to].0;
            if let Some(claim) = self.streams.get_mut(&encoder).and_then(|it| it.home.as_mut()) {
                claim.next = Some(next);
            }
            self.settle(world, encoder, effects);
        }
    }

    /// Which of them another could stand by for, and who.
    fn better_next(
        &self,
        world: &World<'_>,
        standbys: &[Standby],
    ) -> Option<(usize, usize, usize)> {
        let count = |of: &Standby| (u32::try_from(of.2.len()).unwrap_or(u32::MAX), of.1);
        for (from, full) in standbys.iter().enumerate() {
            let emptier = standbys.iter().enumerate().rev();
            for (to, other) in emptier.take_while(|(_, it)| evens(count(full), count(it), 1)) {
                let takes = |encoder: &EncoderId| {
                    let claim = self.streams.get(encoder).and_then(|it| it.home.as_ref());
                    let wish = world.rights.wish(*encoder);
                    self.may_go(*encoder)
                        && claim.is_some_and(|it| !it.unreachable.contains_key(&other.0))
                        && wish.tier(other.0) == wish.tier(full.0)
                };
                if let Some(at) = full.2.iter().position(takes) {
                    return Some((from, at, to));
                }
            }
        }
        None
    }
}
