//! Nodes as the planner sees them: how full each is, and in which order a wish likes them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Block, Duty, Seat, WEIGHT_ONE, Why, Wish};
use crate::id::{NodeId, RecordId};

/// The tier of a node where an encoder may not be at all.
pub(super) const NO_TIER: usize = usize::MAX;

/// How full a node is: its load relative to its weight. One without weight is fuller than any other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    load: u64,
    weight: u64,
}

impl Ord for Fill {
    fn cmp(&self, other: &Self) -> Ordering {
        let none = (self.weight == 0).cmp(&(other.weight == 0));
        none.then_with(|| (self.load * other.weight).cmp(&(other.load * self.weight)))
    }
}

impl PartialEq for Fill {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Fill {}

impl PartialOrd for Fill {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

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
        let tier = |wish: &Wish, seat: &Seat| wish.tier(seat.node).unwrap_or(NO_TIER);
        let anywhere = Wish::default();
        let tiers = wishes.iter().chain([&anywhere]);
        let tiers = tiers.map(|wish| seats.iter().map(|seat| tier(wish, seat)).collect());
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

    /// Whether a node takes any encoders.
    pub(super) fn takes(&self, seat: usize) -> bool {
        self.seats[seat].duty == Duty::Open && self.seats[seat].weight > 0
    }

    /// Whether every encoder likes every node as well, and all carry equal shares.
    pub(super) fn alike(&self) -> bool {
        let tiers = self.tiers.iter().all(|wish| wish.iter().all(|tier| *tier == wish[0]));
        tiers && self.seats.iter().all(|seat| seat.weight == self.seats[0].weight)
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

    /// How full a node would be with so many more.
    pub(super) fn fill(&self, seat: usize, with: u32) -> Fill {
        let (load, weight) = self.filled(seat);
        Fill { load: u64::from(load) + u64::from(with), weight }
    }

    /// Orders nodes by how full they would be with so many more.
    pub(super) fn fuller(&self, a: usize, b: usize, with: u32) -> Ordering {
        self.fill(a, with).cmp(&self.fill(b, with))
    }

    /// Moves what has to go to where it is liked best and emptiest. A room goes apart only if it
    /// fits nowhere as it is.
    pub(super) fn place(&mut self, blocks: &mut [Block]) -> bool {
        let mut order = super::parts(blocks, &|part| self.has_to_go(blocks, part));
        // What is watched before what is not, and what is hard to fit before the rest.
        order.sort_by_key(|part| {
            (super::all_free(blocks, part), std::cmp::Reverse(part.len()), part.first().copied())
        });
        let mut stepped = false;
        for mut part in order {
            if self.put_best(blocks, &part, NO_TIER) {
                stepped = true;
                continue;
            }
            part.sort_by_key(|at| (blocks[*at].free, *at));
            for at in part {
                stepped |= self.put_best(blocks, &[at], NO_TIER);
            }
        }
        stepped
    }

    /// Moves what is free to where it is liked better.
    pub(super) fn prefer(&mut self, blocks: &mut [Block]) -> bool {
        let parts = super::parts(blocks, &|part| {
            self.tier_of(blocks, part) > 0 && super::all_free(blocks, part)
        });
        let mut stepped = false;
        for part in parts {
            let tier = self.tier_of(blocks, &part);
            stepped |= self.put_best(blocks, &part, tier);
        }
        stepped
    }

    /// How many tiers a part could rise by; none if it is nowhere, or has to go anyway.
    fn tier_of(&self, blocks: &[Block], part: &[usize]) -> usize {
        let first = part.first().map(|at| &blocks[*at]);
        let stays = first.and_then(|block| Some((block.wish, block.to?)));
        stays
            .filter(|(_, seat)| !self.drains(*seat))
            .map_or(0, |(wish, seat)| self.tier(wish, seat))
    }

    /// Moves what is free to where most of its room are that cannot move, or most in all, as far
    /// as they fit there and like it no less.
    pub(super) fn join(&mut self, blocks: &mut [Block]) -> bool {
        let mut stepped = false;
        for parts in super::rooms(blocks).into_values() {
            let most = parts.iter().filter_map(|(seat, part)| {
                let seat = (*seat)?;
                let held = |at: &&usize| !blocks[**at].free && !self.drains(seat);
                Some((part.iter().filter(held).count(), part.len(), std::cmp::Reverse(seat)))
            });
            let Some((.., std::cmp::Reverse(home))) = most.max() else { continue };
            for at in parts.into_values().flatten() {
                let block = &mut blocks[at];
                let Some(seat) = block.to else { continue };
                let tier = self.tier(block.wish, home);
                let likes = tier != NO_TIER && tier <= self.tier(block.wish, seat);
                if seat != home && block.free && likes && self.fits(home, 1) {
                    self.put(block, home);
                    stepped = true;
                }
            }
        }
        stepped
    }

    fn put_best(&mut self, blocks: &mut [Block], part: &[usize], before: usize) -> bool {
        let Some(first) = part.first() else { return false };
        let size = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let Some(seat) = self.best(&blocks[*first], size, before) else { return false };
        for at in part {
            self.put(&mut blocks[*at], seat);
        }
        true
    }

    /// The emptiest node with room in the most liked tier that has any, if that is before `tier`.
    fn best(&self, block: &Block, size: u32, before: usize) -> Option<usize> {
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
            self.load[from] -= 1;
        }
        self.load[seat] += 1;
        block.to = Some(seat);
    }

    fn drains(&self, seat: usize) -> bool {
        self.seats[seat].duty == Duty::Draining
    }

    fn has_to_go(&self, blocks: &[Block], part: &[usize]) -> bool {
        match part.first().and_then(|at| blocks[*at].to) {
            None => true,
            Some(seat) => {
                let none = self.seats[seat].weight == 0;
                self.drains(seat) || (none && super::all_free(blocks, part))
            }
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

    /// Why a move is made. `joined` is its room, if others of it were there before.
    pub(super) fn why(
        &self,
        block: &Block,
        to: usize,
        joined: Option<RecordId>,
        before: &[u32],
    ) -> Why {
        let Some(from) = block.at else { return Why::Lost };
        let (here, there) = (self.tier(block.wish, from), self.tier(block.wish, to));
        let pools = self.wishes.get(block.wish).map_or(&[][..], |wish| &wish.pools);
        match (pools.get(there), joined) {
            _ if self.drains(from) => Why::Drain,
            (Some(pool), _) if there < here => Why::Preference(pool.name.clone()),
            _ if self.seats[from].weight == 0 => Why::NoCapacity,
            (_, Some(room)) => Why::Room(room),
            _ => Why::Balance(before[from], before[to]),
        }
    }
}
