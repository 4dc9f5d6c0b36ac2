//! What there is to plan with, and what would become of it if something happened.

use std::collections::{BTreeMap, BTreeSet};

use super::losses::{Share, Survivability, survivability, worst};
use super::plan::{Duty, Plan, Seat, Unit, Why, Wish, plan};
use crate::id::{EncoderId, NodeId};

/// What a [`Plan`] is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// Nodes that live, in order of id.
    pub seats: Vec<Seat>,
    /// Encoders that are at home at one of them, in order of id. One that has lost its home is
    /// placed when it asks, not by a plan.
    pub units: Vec<Unit>,
    /// What units refer to. One that refers to none of these has no wish.
    pub wishes: Vec<Wish>,
    /// Encoders that cannot be asked to move.
    pub stays: BTreeSet<EncoderId>,
    /// Nodes whose limits are not known.
    pub unknown: BTreeSet<NodeId>,
}

/// Something that could happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WhatIf {
    /// So many nodes are lost at once, those that are the worst to lose.
    pub lose: u32,
    /// These are drained.
    pub drain: BTreeSet<NodeId>,
    /// These come, or take encoders again.
    pub add: Vec<Seat>,
}

/// What would become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The nodes that are lost.
    pub lost: Vec<NodeId>,
    /// The nodes that are left, with what they would be willing to do.
    pub seats: Vec<Seat>,
    /// What would follow.
    pub plan: Plan,
    /// How many more could be lost after it.
    pub survivability: Survivability,
}

impl Demand {
    /// How many nodes can be lost with every encoder placed, `homeless` ones included.
    ///
    /// Encoders that are bound to pools are placed for sure if all that could go to those pools,
    /// and comes first, finds room there. That may be more than will go: where pools decide, more
    /// nodes may be lost than is said.
    pub fn survivability(&self, homeless: u64) -> Survivability {
        let mut found = survivability(&self.shares(None), homeless);
        for bound in self.bound() {
            let within = survivability(&self.shares(Some(bound)), homeless);
            if within.losses < found.losses {
                found = Survivability { exact: false, ..within };
            }
        }
        found
    }

    /// What would become of all if something happened. `homeless` encoders have no home now.
    pub fn imagine(&self, what: &WhatIf, homeless: u64) -> Outlook {
        let mut then = self.clone();
        let added: BTreeSet<NodeId> = what.add.iter().map(|seat| seat.node).collect();
        then.seats.retain(|seat| !added.contains(&seat.node));
        then.seats.extend(&what.add);
        then.seats.sort_by_key(|seat| seat.node);
        for seat in then.seats.iter_mut().filter(|seat| what.drain.contains(&seat.node)) {
            seat.duty = Duty::Draining;
        }
        let lost = then.worst(what.lose, homeless);
        then.seats.retain(|seat| !lost.contains(&seat.node));
        let mut plan = plan(&then.seats, &then.units, &then.wishes);
        self.leave_what_stays(&mut plan);
        let to: BTreeMap<EncoderId, NodeId> =
            plan.moves.iter().map(|it| (it.encoder, it.to)).collect();
        for unit in &mut then.units {
            unit.at = to.get(&unit.encoder).copied().unwrap_or(unit.at);
        }
        let left: BTreeSet<NodeId> = then.seats.iter().map(|seat| seat.node).collect();
        let before = then.units.len();
        then.units.retain(|unit| left.contains(&unit.at));
        let homeless = homeless + (before - then.units.len()) as u64;
        let survivability = then.survivability(homeless);
        Outlook { lost, seats: then.seats, plan, survivability }
    }

    /// A plan moves what has to go; some of it cannot be asked to.
    fn leave_what_stays(&self, plan: &mut Plan) {
        let stays = |encoder: EncoderId, why: &Why| {
            self.stays.contains(&encoder) && !matches!(why, Why::Lost)
        };
        let (left, moves) =
            std::mem::take(&mut plan.moves).into_iter().partition(|it| stays(it.encoder, &it.why));
        plan.moves = moves;
        for it in left {
            let mut shift = |node: NodeId, by: i64| {
                if let Some((.., after)) = plan.loads.iter_mut().find(|(of, ..)| *of == node) {
                    *after = after.saturating_add_signed(by as i32);
                }
            };
            shift(it.from, 1);
            shift(it.to, -1);
            let (encoder, at, why) = (it.encoder, it.from, it.why);
            plan.stuck.push(super::plan::Stuck { encoder, at, why, bound: false });
        }
        plan.stuck.sort_by_key(|it| it.encoder);
    }

    /// So many nodes, those whose loss leaves the most encoders without a place.
    fn worst(&self, lose: u32, homeless: u64) -> Vec<NodeId> {
        let scopes = std::iter::once(None).chain(self.bound().map(Some));
        let all = scopes.map(|scope| worst(&self.shares(scope), homeless, lose as usize));
        // Of equals the first: where it does not matter, pools do not decide.
        let most = all.reduce(|most, other| if other.1 > most.1 { other } else { most });
        most.map(|(nodes, _)| nodes).unwrap_or_default()
    }

    /// The wishes that bind any encoder.
    fn bound(&self) -> impl Iterator<Item = &Wish> {
        let used: BTreeSet<usize> = self.units.iter().map(|unit| unit.wish).collect();
        let wishes = self.wishes.iter().enumerate().filter(move |(at, _)| used.contains(at));
        wishes.map(|(_, wish)| wish).filter(|wish| wish.only)
    }

    /// What matters when nodes are lost: to all encoders, or to those that are bound as `scope` is.
    fn shares(&self, scope: Option<&Wish>) -> Vec<Share> {
        let meets = |wish: &Wish| match scope {
            Some(scope) => self
                .seats
                .iter()
                .any(|seat| scope.tier(seat.node).is_some() && wish.tier(seat.node).is_some()),
            None => true,
        };
        let meets: Vec<bool> = self.wishes.iter().map(meets).collect();
        let mut loads: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for unit in &self.units {
            let (all, counted) = loads.entry(unit.at).or_default();
            *all += 1;
            let same = scope.is_some() && self.wishes.get(unit.wish) == scope;
            *counted += u32::from(same || meets.get(unit.wish).copied().unwrap_or(true));
        }
        let share = |seat: &Seat| {
            let (all, load) = loads.get(&seat.node).copied().unwrap_or_default();
            let reluctant = seat.duty != Duty::Open;
            let within = scope.is_none_or(|scope| scope.tier(seat.node).is_some() && !reluctant);
            let known = !self.unknown.contains(&seat.node);
            let room = match within {
                true => known.then(|| seat.limit.saturating_sub(all)),
                false => Some(0),
            };
            Share { node: seat.node, load, room, reluctant: reluctant && scope.is_none() }
        };
        self.seats.iter().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plan::{Pool, WEIGHT_ONE};
    use super::*;

    fn node(n: usize) -> NodeId {
        NodeId([n as u8; 16])
    }

    fn seat(n: usize, limit: u32) -> Seat {
        Seat { node: node(n), weight: WEIGHT_ONE, limit, duty: Duty::Open }
    }

    fn pool(nodes: &[usize]) -> Wish {
        let nodes = nodes.iter().map(|n| node(*n)).collect();
        Wish { pools: vec![Pool { name: "p".into(), nodes }], only: true }
    }

    /// Nodes with these limits and encoders: at which node, of which wish.
    fn demand(limits: &[u32], at: &[(usize, usize)], wishes: Vec<Wish>) -> Demand {
        let seats = limits.iter().enumerate().map(|(n, limit)| seat(n, *limit)).collect();
        let unit = |(n, (at, wish)): (usize, &(usize, usize))| Unit {
            encoder: EncoderId([n as u8 + 1; 16]),
            room: None,
            at: node(*at),
            next: None,
            free: true,
            wish: *wish,
        };
        let units = at.iter().enumerate().map(unit).collect();
        Demand { seats, units, wishes, ..Demand::default() }
    }

    #[test]
    fn a_pool_that_encoders_are_bound_to_decides_how_many_nodes_can_be_lost() {
        let at = [(0, 0), (1, 0), (2, 9), (3, 9)];
        let found = demand(&[9; 4], &at, vec![pool(&[0, 1])]).survivability(0);
        assert_eq!((found.losses, found.exact), (1, false));
        assert_eq!(BTreeSet::from_iter(found.worst), BTreeSet::from([node(0), node(1)]));
        let mut free = pool(&[0, 1]);
        free.only = false;
        let found = demand(&[9; 4], &at, vec![free]).survivability(0);
        assert_eq!((found.losses, found.exact), (3, true));
        // Two halves that have nothing to do with each other.
        let at = [(0, 0), (1, 0), (2, 1), (3, 1)];
        let found = demand(&[2; 4], &at, vec![pool(&[0, 1]), pool(&[2, 3])]).survivability(0);
        assert_eq!(found.losses, 1, "what is lost in one half does not come to the other");
    }

    #[test]
    fn the_worst_nodes_are_lost_and_what_was_there_goes_elsewhere_or_is_stuck() {
        let at = [(0, 9), (0, 9), (0, 9), (1, 9), (2, 9)];
        let demand = demand(&[4; 3], &at, vec![]);
        let then = demand.imagine(&WhatIf { lose: 1, ..WhatIf::default() }, 0);
        assert_eq!((&then.lost, then.plan.moves.len()), (&vec![node(0)], 3));
        assert_eq!(then.survivability.losses, 0);
        let then = demand.imagine(&WhatIf { lose: 2, ..WhatIf::default() }, 0);
        assert_eq!((then.lost.len(), then.plan.stuck.len()), (2, 1));
        assert_eq!(then.plan.moves.iter().filter(|it| it.why != Why::Lost).count(), 0);
        assert_eq!(then.survivability.unplaced, 1);
    }

    #[test]
    fn a_drained_node_gives_all_but_what_stays_and_one_that_comes_takes_its_share() {
        let mut demand = demand(&[9; 2], &[(0, 9), (0, 9), (1, 9), (1, 9)], vec![]);
        demand.stays.insert(EncoderId([1; 16]));
        let what =
            WhatIf { drain: BTreeSet::from([node(0)]), add: vec![seat(7, 9)], ..WhatIf::default() };
        let then = demand.imagine(&what, 0);
        let stuck: Vec<_> = then.plan.stuck.iter().map(|it| (it.encoder, it.at)).collect();
        assert_eq!(stuck, [(EncoderId([1; 16]), node(0))]);
        let after: BTreeMap<NodeId, u32> =
            then.plan.loads.iter().map(|(node, _, after)| (*node, *after)).collect();
        assert_eq!(after[&node(0)], 1);
        assert_eq!(after.values().sum::<u32>(), 4);
        assert_eq!(then.seats.len(), 3);
    }

    /// Whether there is a way to place everything that these losses leave: every encoder in turn at
    /// every node that it may be at.
    fn fits(demand: &Demand, lost: u32) -> bool {
        let left = |n: usize| lost >> n & 1 == 0;
        let mut room: Vec<u32> = demand.seats.iter().map(|seat| seat.limit).collect();
        let index = |of: NodeId| usize::from(of.0[0]);
        for unit in demand.units.iter().filter(|unit| left(index(unit.at))) {
            room[index(unit.at)] = room[index(unit.at)].saturating_sub(1);
        }
        let displaced: Vec<&Unit> =
            demand.units.iter().filter(|unit| !left(index(unit.at))).collect();
        fn all(
            demand: &Demand,
            left: &dyn Fn(usize) -> bool,
            of: &[&Unit],
            room: &mut [u32],
        ) -> bool {
            let Some((first, rest)) = of.split_first() else { return true };
            (0..room.len()).any(|n| {
                let wish = demand.wishes.get(first.wish);
                let may = wish.is_none_or(|wish| wish.tier(node(n)).is_some());
                if !may || !left(n) || room[n] == 0 {
                    return false;
                }
                room[n] -= 1;
                let found = all(demand, left, rest, room);
                room[n] += 1;
                found
            })
        }
        all(demand, &left, &displaced, &mut room)
    }

    proptest! {
        /// Against every set of nodes that could be lost.
        #[test]
        fn whichever_that_many_nodes_are_lost_there_is_a_place_for_all_also_in_their_pools(
            limits in proptest::collection::vec(0..5u32, 1..5),
            at in proptest::collection::vec((0..4usize, 0..3usize), 0..7),
            pools in proptest::collection::vec(proptest::collection::vec(0..4usize, 0..3), 2),
        ) {
            let nodes = limits.len();
            let at: Vec<_> = at.into_iter().map(|(at, wish)| (at % nodes, wish)).collect();
            let demand = demand(&limits, &at, pools.iter().map(|of| pool(of)).collect());
            let found = demand.survivability(0);
            if found.unplaced > 0 && found.losses == 0 {
                return Ok(());
            }
            for lost in (0..1u32 << nodes).filter(|set| set.count_ones() <= found.losses) {
                prop_assert!(fits(&demand, lost), "{lost:b} of {demand:?}");
            }
        }

        #[test]
        fn what_is_imagined_loses_no_encoder_and_keeps_to_limits(
            limits in proptest::collection::vec(0..5u32, 1..5),
            at in proptest::collection::vec((0..4usize, 0..3usize), 0..7),
            pools in proptest::collection::vec(proptest::collection::vec(0..4usize, 0..3), 2),
            lose in 0..3u32,
            drain in 0..4usize,
        ) {
            let nodes = limits.len();
            let at: Vec<_> = at.into_iter().map(|(at, wish)| (at % nodes, wish)).collect();
            let demand = demand(&limits, &at, pools.iter().map(|of| pool(of)).collect());
            let lose = lose.min(nodes as u32 - 1);
            let what = WhatIf { lose, drain: BTreeSet::from([node(drain)]), add: vec![] };
            let then = demand.imagine(&what, 0);
            prop_assert_eq!(then.lost.len(), lose as usize);
            let gone: BTreeSet<NodeId> = then.lost.iter().copied().collect();
            prop_assert!(then.plan.moves.iter().all(|it| !gone.contains(&it.to)));
            let after: u32 = then.plan.loads.iter().map(|(.., after)| after).sum();
            let lost = then.plan.stuck.iter().filter(|it| gone.contains(&it.at)).count();
            prop_assert_eq!(after as usize + lost, at.len());
            for (node, before, after) in &then.plan.loads {
                let limit = limits[usize::from(node.0[0])];
                prop_assert!(*after <= limit.max(*before));
            }
        }
    }
}
