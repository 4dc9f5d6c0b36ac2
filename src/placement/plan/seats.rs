//! Nodes as the planner sees them: how full each is, and in which order a wish likes them.

use std::collections::BTreeMap;

use super::{Block, Duty, Seat, WEIGHT_ONE, Why, Wish};
use crate::id::NodeId;

/// The tier of a node where an encoder may not be at all.
pub(super) const NO_TIER: usize = usize::MAX;

/// All live nodes in order of id, with what is there as far as it is decided.
pub(super) struct Seats<'a> {
    pub(super) seats: Vec<Seat>,
    pub(super) index: BTreeMap<NodeId, usize>,
    pub(super) load: Vec<u32>,
    wishes: &'a [Wish],
    /// By wish and node: how many pools are liked better. The last wish is that of who has none.
    tiers: Vec<Vec<usize>>,
}

impl<'a> Seats<'a> {
    pub(super) fn new(seats: &[Seat], wishes: &'a [Wish]) -> Self {
        let mut seats = seats.to_vec();
        seats.sort_by_key(|seat| seat.node);
        seats.dedup_by_key(|seat| seat.node);
        let takes = |seat: &Seat| seat.duty == Duty::Open && seat.weight > 0;
        if !seats.iter().any(takes) {
            // Better a node that declares no capacity than none.
            seats.iter_mut().for_each(|seat| seat.weight = WEIGHT_ONE);
        }
        let index = seats.iter().enumerate().map(|(at, seat)| (seat.node, at)).collect();
        let tier = |wish: &Wish, node: NodeId| {
            let pool = wish.pools.iter().position(|pool| pool.nodes.contains(&node));
            pool.unwrap_or(if wish.only { NO_TIER } else { wish.pools.len() })
        };
        let anywhere = Wish::default();
        let tiers = wishes.iter().chain([&anywhere]);
        let tiers = tiers.map(|wish| seats.iter().map(|seat| tier(wish, seat.node)).collect());
        let tiers = tiers.collect();
        let load = vec![0; seats.len()];
        Self { seats, index, load, wishes, tiers }
    }

    /// The place of a wish; the last one is no wish.
    pub(super) fn wish(&self, wish: usize) -> usize {
        wish.min(self.wishes.len())
    }

    pub(super) fn tier(&self, wish: usize, seat: usize) -> usize {
        self.tiers[wish][seat]
    }

    pub(super) fn counts(&self, at: impl Iterator<Item = NodeId>) -> Vec<u32> {
        let mut counts = vec![0; self.seats.len()];
        for seat in at.filter_map(|node| self.index.get(&node)) {
            counts[*seat] += 1;
        }
        counts
    }

    /// Whether a node takes any encoders.
    pub(super) fn takes(&self, seat: usize) -> bool {
        self.seats[seat].duty == Duty::Open && self.seats[seat].weight > 0
    }

    /// Whether so many more fit.
    pub(super) fn fits(&self, seat: usize, size: u32) -> bool {
        self.takes(seat) && self.load[seat].saturating_add(size) <= self.seats[seat].limit
    }

    /// Whether moving `size` from one to the other makes them more even.
    pub(super) fn evens(&self, from: usize, to: usize, size: u32) -> bool {
        super::evens(self.filled(from), self.filled(to), size)
    }

    /// Whether moving one from one to the other leaves them as even as they are.
    pub(super) fn ties(&self, from: usize, to: usize) -> bool {
        let ((here, here_weight), (there, there_weight)) = (self.filled(from), self.filled(to));
        here > 0 && u64::from(here) * there_weight == (u64::from(there) + 1) * here_weight
    }

    fn filled(&self, seat: usize) -> (u32, u64) {
        (self.load[seat], self.seats[seat].weight)
    }

    /// Orders nodes by how full they would be with so many more.
    pub(super) fn fuller(&self, a: usize, b: usize, with: u32) -> std::cmp::Ordering {
        let ((a, a_weight), (b, b_weight)) = (self.filled(a), self.filled(b));
        let full = |load: u32, weight: u64| (u64::from(load) + u64::from(with)) * weight;
        // A node without weight is fuller than any other.
        let none = (a_weight == 0).cmp(&(b_weight == 0));
        none.then(full(a, b_weight).cmp(&full(b, a_weight)))
    }

    /// Moves what has to go, then what would rather be elsewhere, to where it is liked best and
    /// emptiest.
    pub(super) fn place(&mut self, blocks: &mut [Block]) {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.retain(|block| self.has_to_go(&blocks[*block]));
        // What is watched before what is not, and what is hard to fit before the rest.
        order.sort_by_key(|at| {
            let block = &blocks[*at];
            (block.free, std::cmp::Reverse(block.size()), *at)
        });
        for at in order {
            let block = &mut blocks[at];
            if let Some(seat) = self.best(block, NO_TIER) {
                self.put(block, seat);
            }
        }
        for block in blocks.iter_mut().filter(|block| block.free) {
            let Some(to) = block.to else { continue };
            let tier = self.tier(block.wish, to);
            if tier > 0
                && self.seats[to].duty != Duty::Draining
                && let Some(seat) = self.best(block, tier)
            {
                self.put(block, seat);
            }
        }
    }

    /// The emptiest node with room in the most liked tier that has any, if that is before `tier`.
    fn best(&self, block: &Block, before: usize) -> Option<usize> {
        let size = block.size();
        let fits = (0..self.seats.len()).filter(|seat| self.fits(*seat, size));
        let liked = fits.filter(|seat| self.tier(block.wish, *seat) < before);
        liked.min_by(|a, b| {
            let tier = self.tier(block.wish, *a).cmp(&self.tier(block.wish, *b));
            let next = |seat: &usize| block.next != Some(*seat);
            tier.then(self.fuller(*a, *b, size)).then(next(a).cmp(&next(b)))
        })
    }

    pub(super) fn put(&mut self, block: &mut Block, seat: usize) {
        if let Some(from) = block.to {
            self.load[from] -= block.size();
        }
        self.load[seat] += block.size();
        block.to = Some(seat);
    }

    fn has_to_go(&self, block: &Block) -> bool {
        match block.at.map(|at| self.seats[at]) {
            None => true,
            Some(seat) => seat.duty == Duty::Draining || (seat.weight == 0 && block.free),
        }
    }

    /// Why a block has to go that did not, and whether that is because it is bound to pools.
    pub(super) fn compelled(&self, block: &Block) -> Option<(Why, bool)> {
        let bound = !(0..self.seats.len())
            .any(|seat| self.takes(seat) && self.tier(block.wish, seat) != NO_TIER);
        let why = match block.at {
            None => Why::Lost,
            Some(at) if self.seats[at].duty == Duty::Draining => Why::Drain,
            Some(at) if self.tier(block.wish, at) == NO_TIER => {
                let pools = self.wishes.get(block.wish).map(|wish| wish.pools.as_slice());
                let first = pools.and_then(|pools| pools.first());
                Why::Preference(first.map_or_else(String::new, |pool| pool.name.clone()))
            }
            Some(_) => return None,
        };
        Some((why, bound))
    }

    /// Why a move is made.
    pub(super) fn why(&self, block: &Block, from: Option<usize>, to: usize, before: &[u32]) -> Why {
        let Some(from) = from else { return Why::Lost };
        let (here, there) = (self.tier(block.wish, from), self.tier(block.wish, to));
        let pools = self.wishes.get(block.wish).map_or(&[][..], |wish| &wish.pools);
        match pools.get(there) {
            _ if self.seats[from].duty == Duty::Draining => Why::Drain,
            Some(pool) if there < here => Why::Preference(pool.name.clone()),
            _ if self.seats[from].weight == 0 => Why::NoCapacity,
            _ => Why::Balance(before[from], before[to]),
        }
    }
}
