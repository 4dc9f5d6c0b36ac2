//! Which encoders should move so that every node carries its share: a pure function of what is
//! known, so that everyone who knows the same plans the same.
//!
//! What must be left is left first (nodes that are lost, that drain, that declare no capacity),
//! then preferences are followed, then counts are evened out. Encoders of one wish are
//! interchangeable until the very end: the plan is made on counts per wish and node, and only what
//! differs at the end becomes a move. So nothing moves twice, and nothing moves there and back.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{EncoderId, NodeId, RecordId};

mod even;
mod seats;
#[cfg(test)]
mod tests;

use seats::Seats;

/// The weight of a node that declares a capacity of 1: weights are whole numbers, so that every
/// node computes the same to the last bit.
pub const WEIGHT_ONE: u64 = 1_000;
/// The greatest weight: with it, a count times a weight stays far below 2^64.
pub const WEIGHT_TOP: u64 = 1_000_000 * WEIGHT_ONE;

/// A declared capacity as a weight. Not a number counts as 1.
pub fn weight_of(capacity: f64) -> u64 {
    if capacity.is_nan() {
        return WEIGHT_ONE;
    }
    (capacity.max(0.0) * WEIGHT_ONE as f64).round().min(WEIGHT_TOP as f64) as u64
}

/// Whether moving `size` encoders makes two nodes more even: the one that gives is fuller than the
/// one that takes will be. For equal weights and a single encoder: the counts differ by two or
/// more.
pub fn evens(from: (u32, u64), to: (u32, u64), size: u32) -> bool {
    let ((from, from_weight), (to, to_weight)) = (from, to);
    to_weight > 0 && u64::from(from) * to_weight > (u64::from(to) + u64::from(size)) * from_weight
}

/// What a node is willing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Takes encoders.
    Open,
    /// Keeps what it has and takes nothing more.
    Cordoned,
    /// Gives everything away.
    Draining,
}

/// A live node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Which.
    pub node: NodeId,
    /// Its share relative to others: see [`weight_of`]. A node with 0 is emptied and takes nothing
    /// while another has more.
    pub weight: u64,
    /// More encoders than this it does not take, whatever happens.
    pub limit: u32,
    /// What it is willing to do.
    pub duty: Duty,
}

/// An encoder that is somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Which.
    pub encoder: EncoderId,
    /// Its room: all of one room are at one node.
    pub room: Option<RecordId>,
    /// Its home. One that has no seat is lost, and everything there moves.
    pub at: NodeId,
    /// Where it has a warm session: if it has to move, rather there.
    pub next: Option<NodeId>,
    /// It may move without need: nobody watches, and it did not move a moment ago.
    pub free: bool,
    /// Its wish, by its place in the list.
    pub wish: usize,
}

/// Where encoders would like to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wish {
    /// Pools, the most liked first; the rest of the mesh comes after them. Of a pool that has no
    /// node or no room the next one is taken.
    pub pools: Vec<Pool>,
    /// Nowhere else but in those pools.
    pub only: bool,
}

/// A named set of nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pool {
    /// What people call it.
    pub name: String,
    /// Those that are in it, alive or not.
    pub nodes: BTreeSet<NodeId>,
}

/// Why an encoder should move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The node it is at is gone.
    Lost,
    /// The node it is at drains.
    Drain,
    /// The node it is at declares no capacity.
    NoCapacity,
    /// It prefers this pool.
    Preference(String),
    /// The others of its room are there.
    Room(RecordId),
    /// The node it leaves had so many, the one it goes to so many.
    Balance(u32, u32),
}

/// One encoder goes from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub encoder: EncoderId,
    /// Its home so far.
    pub from: NodeId,
    /// Its home then.
    pub to: NodeId,
    /// Why.
    pub why: Why,
}

/// An encoder that should move and cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub encoder: EncoderId,
    /// Where it stays.
    pub at: NodeId,
    /// Why it should go.
    pub why: Why,
    /// No node takes it: all are full, or none is in a pool that it is bound to.
    pub bound: bool,
}

/// What should happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In order of encoder.
    pub moves: Vec<Move>,
    /// What should move and cannot, in order of encoder.
    pub stuck: Vec<Stuck>,
    /// Each node's encoders before and after, in order of node.
    pub loads: Vec<(NodeId, u32, u32)>,
}

/// Encoders that move together: one, or those of a room.
#[derive(Debug)]
struct Block {
    /// Places in the list of units.
    members: Vec<usize>,
    /// Where it is; `None` if that node is lost.
    at: Option<usize>,
    /// Where it goes.
    to: Option<usize>,
    next: Option<usize>,
    wish: usize,
    free: bool,
    room: Option<RecordId>,
}

impl Block {
    fn size(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }
}

/// Fewest moves to even counts. Work grows with `n log n` for `n` encoders, and with the number of
/// moves times that of nodes.
///
/// A wish that is not in the list is none. An encoder or a node that is given twice is a mistake
/// of the caller; the first one counts.
pub fn plan(seats: &[Seat], units: &[Unit], wishes: &[Wish]) -> Plan {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|unit| (units[*unit].encoder, *unit));
    order.dedup_by_key(|unit| units[*unit].encoder);
    let mut seats = Seats::new(seats, wishes);
    let before = seats.counts(order.iter().map(|unit| units[*unit].at));
    let (mut blocks, joining) = blocks(&seats, units, &order, &before);
    for block in &blocks {
        if let Some(at) = block.at {
            seats.load[at] += block.size();
        }
    }
    seats.place(&mut blocks);
    let mut counts = even::Counts::of(&seats, &blocks);
    even::out(&mut seats, &mut counts, &mut blocks);
    counts.settle(&mut blocks);

    let mut plan = Plan::default();
    let joining: BTreeSet<usize> = joining.into_iter().collect();
    for block in &blocks {
        for &member in &block.members {
            let unit = &units[member];
            let from = seats.index.get(&unit.at).copied();
            let (encoder, at) = (unit.encoder, unit.at);
            if block.to.is_none() || block.to == from {
                let why = seats.compelled(block);
                plan.stuck.extend(why.map(|(why, bound)| Stuck { encoder, at, why, bound }));
                continue;
            }
            let Some(to) = block.to else { continue };
            let why = match block.room {
                Some(room) if joining.contains(&member) && block.to == block.at => Why::Room(room),
                _ => seats.why(block, from, to, &before),
            };
            plan.moves.push(Move { encoder, from: at, to: seats.seats[to].node, why });
        }
    }
    plan.moves.sort_by_key(|one| one.encoder);
    plan.stuck.sort_by_key(|one| one.encoder);
    let mut after = before.clone();
    for one in &plan.moves {
        if let Some(from) = seats.index.get(&one.from) {
            after[*from] -= 1;
        }
        after[seats.index[&one.to]] += 1;
    }
    let both = before.into_iter().zip(after);
    let nodes = seats.seats.iter().map(|seat| seat.node);
    plan.loads = nodes.zip(both).map(|(node, (before, after))| (node, before, after)).collect();
    plan
}

/// What moves together, and those who have to join the others of their room first. `counts` is
/// what each node has.
fn blocks(
    seats: &Seats<'_>,
    units: &[Unit],
    order: &[usize],
    counts: &[u32],
) -> (Vec<Block>, Vec<usize>) {
    let mut counts = counts.to_vec();
    let index = |node: NodeId| seats.index.get(&node).copied();
    let block = |members: Vec<usize>, at: Option<usize>, room: Option<RecordId>| {
        let first = members.first().map(|member| &units[*member]);
        let next = first.and_then(|unit| index(unit.next?));
        let wish = seats.wish(first.map_or(usize::MAX, |unit| unit.wish));
        let free = members.iter().all(|member| units[*member].free);
        Block { members, at, to: at, next, wish, free, room }
    };
    let mut blocks = Vec::with_capacity(order.len());
    let mut rooms: BTreeMap<RecordId, Vec<usize>> = BTreeMap::new();
    for &unit in order {
        match units[unit].room {
            Some(room) => rooms.entry(room).or_default().push(unit),
            None => blocks.push(block(vec![unit], index(units[unit].at), None)),
        }
    }
    let mut joining = Vec::new();
    for (room, members) in rooms {
        // Where most are that cannot move; if all can, where most are.
        let mut at: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for &member in &members {
            if let Some(seat) = index(units[member].at) {
                let (fixed, all) = at.entry(seat).or_default();
                *fixed += usize::from(!units[member].free);
                *all += 1;
            }
        }
        let most = at.iter().max_by_key(|(seat, count)| (**count, std::cmp::Reverse(**seat)));
        let home = most.map(|(seat, _)| *seat);
        let wish = members.first().map_or(usize::MAX, |member| units[*member].wish);
        let wish = seats.wish(wish);
        // One that is watched elsewhere stays until nobody watches, unless its node goes; whoever
        // does not fit stays out; and nobody follows a room that is about to leave.
        let mut joins = |member: &usize| {
            let seat = index(units[*member].at);
            let Some(home) = home.filter(|home| seat != Some(*home)) else { return true };
            let goes = |seat: usize| seats.seats[seat].duty == Duty::Draining;
            let free = units[*member].free || seat.is_none_or(goes);
            let fits = seats.takes(home) && counts[home] < seats.seats[home].limit;
            counts[home] += u32::from(free && fits);
            free && fits
        };
        let (inside, outside): (Vec<usize>, Vec<usize>) =
            members.into_iter().partition(|member| joins(member));
        for member in outside {
            // It waits where it is until it can join.
            let alone = block(vec![member], index(units[member].at), Some(room));
            blocks.push(Block { free: false, ..alone });
        }
        joining.extend(inside.iter().filter(|member| index(units[**member].at) != home));
        if !inside.is_empty() {
            blocks.push(Block { wish, ..block(inside, home, Some(room)) });
        }
    }
    (blocks, joining)
}
