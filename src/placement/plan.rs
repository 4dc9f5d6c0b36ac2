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
    /// Its room: those of one room are at one node, if they fit there.
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

impl Wish {
    /// How many pools are liked better than where this node is; `None` if an encoder may not be
    /// there.
    pub fn tier(&self, node: NodeId) -> Option<usize> {
        let pool = self.pools.iter().position(|pool| pool.nodes.contains(&node));
        pool.or((!self.only).then_some(self.pools.len()))
    }

    /// The pools in words.
    pub fn words(&self) -> String {
        let names: Vec<&str> = self.pools.iter().map(|pool| pool.name.as_str()).collect();
        let what = if names.len() == 1 { "pool" } else { "pools" };
        format!("{what} {}", names.join(", "))
    }
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

/// An encoder as it is moved about.
#[derive(Debug)]
struct Block {
    /// Its place in the list of units.
    unit: usize,
    /// Where it is; `None` if that node is lost.
    at: Option<usize>,
    /// Where it goes.
    to: Option<usize>,
    next: Option<usize>,
    wish: usize,
    free: bool,
    room: Option<RecordId>,
}

/// Fewest moves to even counts. Work grows with `n log n` for `n` encoders, and with the number of
/// moves times that of nodes.
///
/// Every step takes something off the first of these that it changes: encoders where they cannot
/// stay, pools that are liked better, encoders apart from their room, unevenness, moves. So it
/// ends; and as a step depends on nothing but where everything is, a plan that is carried out
/// leaves nothing to plan.
///
/// A wish that is not in the list is none. An encoder or a node that is given twice is a mistake
/// of the caller; the first one counts.
pub fn plan(seats: &[Seat], units: &[Unit], wishes: &[Wish]) -> Plan {
    let mut seats = Seats::new(seats, wishes);
    let mut blocks = blocks(&seats, units);
    for at in blocks.iter().filter_map(|block| block.at) {
        seats.load[at] += 1;
    }
    let before = seats.load.clone();
    loop {
        let mut stepped = seats.place(&mut blocks);
        stepped |= seats.prefer(&mut blocks);
        stepped |= seats.join(&mut blocks);
        let mut counts = even::Counts::of(&seats, &blocks);
        stepped |= even::out(&mut seats, &mut counts, &mut blocks);
        if !stepped {
            break;
        }
        counts.settle(&mut blocks);
    }

    let mut plan = Plan::default();
    let homes: BTreeSet<_> =
        blocks.iter().filter_map(|block| Some((block.room?, block.at?))).collect();
    for block in &blocks {
        let Unit { encoder, at, .. } = units[block.unit];
        match block.to.filter(|to| block.at != Some(*to)) {
            Some(to) => {
                let joined = block.room.filter(|room| homes.contains(&(*room, to)));
                let why = seats.why(block, to, joined, &before);
                plan.moves.push(Move { encoder, from: at, to: seats.seats[to].node, why });
            }
            None => {
                let why = seats.compelled(block);
                plan.stuck.extend(why.map(|(why, bound)| Stuck { encoder, at, why, bound }));
            }
        }
    }
    let both = before.into_iter().zip(&seats.load);
    let nodes = seats.seats.iter().map(|seat| seat.node);
    plan.loads = nodes.zip(both).map(|(node, (before, after))| (node, before, *after)).collect();
    plan
}

/// All encoders, in order. Those of a room share the wish of its first.
fn blocks(seats: &Seats<'_>, units: &[Unit]) -> Vec<Block> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|unit| (units[*unit].encoder, *unit));
    order.dedup_by_key(|unit| units[*unit].encoder);
    let index = |node: NodeId| seats.index.get(&node).copied();
    let mut wishes = BTreeMap::new();
    let block = |unit: usize| {
        let Unit { room, at, next, free, wish, .. } = units[unit];
        let wish = room.map_or(wish, |room| *wishes.entry(room).or_insert(wish));
        let at = index(at);
        Block { unit, at, to: at, next: next.and_then(index), wish: seats.wish(wish), free, room }
    };
    order.into_iter().map(block).collect()
}

/// What moves together and concerns the caller: one encoder, or those of a room that are at one
/// node. Most concern nobody.
fn parts(blocks: &[Block], concerns: &dyn Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let alone = (0..blocks.len()).filter(|at| blocks[*at].room.is_none());
    let alone = alone.filter(|at| concerns(&[*at])).map(|at| vec![at]);
    let rooms = rooms(blocks).into_values().flat_map(BTreeMap::into_values);
    alone.chain(rooms.filter(|part| concerns(part))).collect()
}

/// Who of each room is where.
fn rooms(blocks: &[Block]) -> BTreeMap<RecordId, BTreeMap<Option<usize>, Vec<usize>>> {
    let mut rooms: BTreeMap<_, BTreeMap<_, Vec<usize>>> = BTreeMap::new();
    for (at, block) in blocks.iter().enumerate() {
        if let Some(room) = block.room {
            rooms.entry(room).or_default().entry(block.to).or_default().push(at);
        }
    }
    rooms
}

fn all_free(blocks: &[Block], part: &[usize]) -> bool {
    part.iter().all(|at| blocks[*at].free)
}
