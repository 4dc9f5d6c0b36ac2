//! How many nodes the mesh can lose.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// A node that lives, as far as it matters when nodes are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which.
    pub node: NodeId,
    /// Encoders at home there.
    pub load: u32,
    /// How many more its limit allows; `None` if that is not known.
    pub room: Option<u32>,
    /// It is drained or cordoned: it takes encoders only while all that live are.
    pub reluctant: bool,
}

/// How many nodes can be lost at once, whichever they are, with every encoder still placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivability {
    /// So many. One node always remains.
    pub losses: u32,
    /// False if it may be more, since the limit of some node is not known (it counts as full), or
    /// since so many losses can leave none but nodes that are drained or cordoned: they take
    /// encoders then, and are not counted on.
    pub exact: bool,
    /// The fewest nodes whose loss would leave encoders without a place. Nobody if one node is
    /// enough for all, or if there is no place for all even now.
    pub worst: Vec<NodeId>,
    /// How many encoders their loss would leave without a place.
    pub unplaced: u64,
}

/// Computes it for these nodes and for encoders that have no home among them.
///
/// Without the nodes S all are placed if what was at S fits into the room of the others:
/// homeless + load(S) <= room(all) - room(S). So the worst S of a size are the nodes with the
/// greatest load + room, and taking them in that order is exact, since any encoder fits into any
/// room.
pub fn survivability(shares: &[Share], homeless: u64) -> Survivability {
    let takers = shares.iter().filter(|share| !share.reluctant).count();
    let room = |share: &Share| room(share, takers);
    let weight = |share: &Share| u64::from(share.load) + room(share);
    let order = worst_first(shares, takers);
    let all: u64 = shares.iter().map(room).sum();
    // The last one cannot be lost: what would carry the encoders then?
    let most = shares.len().saturating_sub(1);
    let sums = order.iter().scan(homeless, |needed, share| {
        *needed += weight(share);
        Some(*needed)
    });
    let needed = std::iter::once(homeless).chain(sums.take(most));
    let too_many = needed.enumerate().find(|(_, needed)| *needed > all);
    let (lost, unplaced) = too_many.map_or((most + 1, 0), |(lost, needed)| (lost, needed - all));
    let refuge = (1..shares.len()).contains(&takers) && lost >= takers;
    let unknown = shares.iter().any(|share| share.room.is_none());
    let enough = lost > most;
    Survivability {
        losses: u32::try_from(lost.saturating_sub(1)).unwrap_or(u32::MAX),
        exact: enough || !(refuge || unknown),
        worst: order.iter().take(if enough { 0 } else { lost }).map(|it| it.node).collect(),
        unplaced,
    }
}

/// So many nodes, those whose loss leaves the most encoders without a place, and how many that is.
pub(super) fn worst(shares: &[Share], homeless: u64, lose: usize) -> (Vec<NodeId>, u64) {
    let takers = shares.iter().filter(|share| !share.reluctant).count();
    let mut order = worst_first(shares, takers);
    let left = order.split_off(lose.min(order.len()));
    let needed: u64 = homeless + order.iter().map(|share| u64::from(share.load)).sum::<u64>();
    let room: u64 = left.iter().map(|share| room(share, takers)).sum();
    (order.into_iter().map(|share| share.node).collect(), needed.saturating_sub(room))
}

/// In the order in which they would be missed.
fn worst_first(shares: &[Share], takers: usize) -> Vec<Share> {
    let weight = |share: &Share| u64::from(share.load) + room(share, takers);
    let mut order = shares.to_vec();
    order.sort_by_key(|share| (Reverse((weight(share), share.load)), share.node));
    order
}

fn room(share: &Share, takers: usize) -> u64 {
    match share.room {
        Some(room) if takers == 0 || !share.reluctant => u64::from(room),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(of: &[(u32, u32)]) -> Vec<Share> {
        let numbered = of.iter().zip(0u8..);
        let share = |(&(load, room), n)| Share {
            node: NodeId([n; 16]),
            load,
            room: Some(room),
            reluctant: false,
        };
        numbered.map(share).collect()
    }

    /// How many encoders have no place when these are lost.
    fn without(shares: &[Share], homeless: u64, lost: impl Fn(usize) -> bool) -> u64 {
        let left = || (0..).zip(shares).filter(|(at, _)| !lost(*at)).map(|(_, share)| share);
        let all_reluctant = left().all(|share| share.reluctant);
        let takers = left().filter(|share| all_reluctant || !share.reluctant);
        let room: u64 = takers.map(|share| u64::from(share.room.unwrap_or(0))).sum();
        let gone = (0..).zip(shares).filter(|(at, _)| lost(*at));
        let needed: u64 = homeless + gone.map(|(_, share)| u64::from(share.load)).sum::<u64>();
        needed.saturating_sub(room)
    }

    #[test]
    fn half_full_nodes_can_lose_half_of_them() {
        let found = survivability(&shares(&[(2, 1), (1, 2), (2, 1), (1, 2)]), 0);
        assert_eq!((found.losses, found.worst.len(), found.unplaced), (2, 3, 3));
    }

    #[test]
    fn the_largest_node_is_the_worst_to_lose() {
        let found = survivability(&shares(&[(1, 3), (40, 60), (1, 3)]), 0);
        let worst = vec![NodeId([1; 16])];
        assert_eq!(found, Survivability { losses: 0, exact: true, worst, unplaced: 34 });
    }

    #[test]
    fn a_cordoned_node_is_not_counted_on_unless_all_are() {
        let mut nodes = shares(&[(2, 8), (2, 8)]);
        let found = survivability(&nodes, 0);
        assert_eq!((found.losses, found.exact, found.worst), (1, true, vec![]));
        nodes[1].reluctant = true;
        let found = survivability(&nodes, 0);
        let worst = vec![NodeId([0; 16])];
        assert_eq!((found.losses, found.exact, found.worst), (0, false, worst));
        nodes[0].reluctant = true;
        assert_eq!(survivability(&nodes, 0).losses, 1);
    }

    #[test]
    fn one_node_or_none_cannot_be_lost_and_no_place_for_all_is_said() {
        for few in [&[][..], &[(3, 9)]] {
            let found = survivability(&shares(few), 0);
            assert_eq!((found.losses, found.worst, found.unplaced), (0, vec![], 0));
        }
        let found = survivability(&shares(&[(3, 0), (3, 1)]), 4);
        assert_eq!((found.losses, found.worst, found.unplaced), (0, vec![], 3));
        let huge = shares(&[(u32::MAX, u32::MAX), (u32::MAX, u32::MAX)]);
        assert_eq!(survivability(&huge, u64::from(u32::MAX)).losses, 0);
    }

    proptest! {
        /// Against every set of nodes that could be lost.
        #[test]
        fn no_set_of_that_many_nodes_is_one_too_many_and_the_worst_are_the_worst(
            of in proptest::collection::vec((0..12u32, 0..12u32, 0..8u8), 1..9),
            homeless in 0..6u64,
        ) {
            let pairs: Vec<_> = of.iter().map(|(load, room, _)| (*load, *room)).collect();
            let mut shares = shares(&pairs);
            for (share, (_, _, mood)) in shares.iter_mut().zip(&of) {
                share.reluctant = *mood == 0;
                share.room = share.room.filter(|_| *mood != 1);
            }
            let found = survivability(&shares, homeless);
            let worst_of = |size: u32| {
                let sets = (0u32..1 << shares.len()).filter(|set| set.count_ones() == size);
                sets.map(|set| without(&shares, homeless, |at| set >> at & 1 == 1)).max()
            };
            let now = worst_of(0).unwrap();
            if now > 0 {
                prop_assert_eq!((found.losses, found.unplaced), (0, now));
                return Ok(());
            }
            for size in 0..=found.losses {
                prop_assert_eq!(worst_of(size), Some(0));
            }
            if found.losses as usize == shares.len() - 1 {
                prop_assert_eq!((found.worst.len(), found.unplaced), (0, 0));
            } else if found.exact {
                prop_assert_eq!(found.worst.len() as u32, found.losses + 1);
                prop_assert_eq!(worst_of(found.losses + 1), Some(found.unplaced));
                let these = |at: usize| found.worst.contains(&shares[at].node);
                prop_assert_eq!(without(&shares, homeless, these), found.unplaced);
            }
        }
    }
}
