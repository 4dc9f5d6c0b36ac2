//! Who stands by, seen over all encoders of this node: evenly many at each of the others, so that
//! nobody is stormed when this one dies.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, Host, World};
use crate::id::{EncoderId, NodeId};
use crate::placement::plan::{evens, weight_of};

/// Encoders that are given another next at a time, once a second: their agents all dial it. That is
/// as fast as encoders are moved.
const SPREAD_AT_ONCE: usize = 25;

/// For how many encoders of this node each other stands by, and its weight.
type Standbys = BTreeMap<NodeId, (u32, u64)>;

impl Host {
    /// Gives encoders another next: those that like another node better first, or whose next is
    /// full, then those that nobody watches, until no two nodes differ by two or more, by weight: a
    /// node that came back stands by for nobody, and another for all that it stood by for before.
    /// Those that are `going` elsewhere do not count. Says how many it gave another.
    pub fn spread_nexts(
        &mut self,
        world: &mut World<'_>,
        going: &BTreeSet<EncoderId>,
        effects: &mut Vec<Effect>,
    ) -> usize {
        let nexts: Vec<(EncoderId, NodeId)> = self
            .streams
            .iter()
            .filter(|(encoder, _)| !going.contains(encoder))
            .filter_map(|(encoder, stream)| Some((*encoder, stream.home.as_ref()?.next?)))
            .collect();
        let mut given = 0;
        for (encoder, next) in &nexts {
            if given == SPREAD_AT_ONCE {
                return given;
            }
            if let Some(to) = self.liked_next(world, *encoder, *next) {
                self.give_next(world, *encoder, to, effects);
                given += 1;
            }
        }
        // Counted anew the next time: who stands by is another for some of them.
        if given > 0 {
            return given;
        }
        let others = world.candidates.iter().filter(|it| it.node != world.me && it.load < it.limit);
        let mut standbys: Standbys =
            others.map(|it| (it.node, (0, weight_of(it.usable_weight())))).collect();
        for (_, next) in &nexts {
            if let Some((count, _)) = standbys.get_mut(next) {
                *count += 1;
            }
        }
        for (encoder, from) in nexts {
            let Some(to) = self.better_next(world, encoder, from, &standbys) else { continue };
            for (node, count) in &mut standbys {
                count.0 += u32::from(*node == to);
                count.0 -= u32::from(*node == from);
            }
            self.give_next(world, encoder, to, effects);
            given += 1;
            if given == SPREAD_AT_ONCE {
                break;
            }
        }
        given
    }

    fn give_next(
        &mut self,
        world: &mut World<'_>,
        encoder: EncoderId,
        to: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(claim) = self.streams.get_mut(&encoder).and_then(|it| it.home.as_mut()) {
            claim.next = Some(to);
        }
        self.settle(world, encoder, effects);
    }

    /// Who would stand by and is liked better than who does, since a pool has a node again, or as
    /// well and has room, where the other would take nobody.
    fn liked_next(&self, world: &World<'_>, encoder: EncoderId, next: NodeId) -> Option<NodeId> {
        let wish = world.rights.wish(encoder);
        let full =
            |node: NodeId| world.candidates.iter().any(|it| it.node == node && it.load >= it.limit);
        let (tier, helpless) = (wish.tier(next)?, full(next));
        if tier == 0 && !helpless {
            return None;
        }
        self.best_next(world, encoder).filter(|best| {
            let liked = wish.tier(*best);
            liked.is_some() && liked < Some(tier) || liked == Some(tier) && helpless && !full(*best)
        })
    }

    /// The emptiest node that makes it more even to stand by for this encoder, and that it likes as
    /// well.
    fn better_next(
        &self,
        world: &World<'_>,
        encoder: EncoderId,
        from: NodeId,
        standbys: &Standbys,
    ) -> Option<NodeId> {
        let full = *standbys.get(&from)?;
        let mut emptier: Vec<_> = standbys.iter().filter(|(_, it)| evens(full, **it, 1)).collect();
        // Those of a room share who stands by, so that they stay together when this node dies.
        let alone = world.rights.company(encoder).next().is_none();
        if emptier.is_empty() || !self.may_go(encoder) || !alone {
            return None;
        }
        let claim = self.streams.get(&encoder)?.home.as_ref()?;
        let wish = world.rights.wish(encoder);
        emptier.retain(|(node, _)| {
            !claim.unreachable.contains_key(*node) && wish.tier(**node) == wish.tier(from)
        });
        let fullness =
            |count: u32, weight: u64| ((u128::from(count) + 1) << 64) / u128::from(weight);
        let emptiest =
            emptier.into_iter().min_by_key(|(_, (count, weight))| fullness(*count, *weight));
        emptiest.map(|(node, _)| *node)
    }
}
