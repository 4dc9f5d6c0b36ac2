//! Evening out: whatever is too much at one node goes to another, over a third if need be, until
//! no move makes anything more even.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::seats::{Fill, NO_TIER, Seats};
use super::{Block, Duty};

/// Single encoders that may move, by wish and node: those of one wish are interchangeable.
pub(super) struct Counts {
    /// Where they were at the beginning, by wish.
    first: BTreeMap<usize, Vec<u32>>,
    /// Where they are now.
    now: BTreeMap<usize, Vec<u32>>,
    /// Those that count, in order, those first that should get their move first.
    singles: Vec<usize>,
}

impl Counts {
    pub(super) fn of(seats: &Seats<'_>, blocks: &[Block]) -> Self {
        let nodes = seats.seats.len();
        let mut singles: Vec<usize> = (0..blocks.len()).collect();
        singles.retain(|at| {
            let block = &blocks[*at];
            let goes = block.at.is_none_or(|at| seats.seats[at].duty == Duty::Draining);
            block.room.is_none() && (block.free || goes)
        });
        singles.sort_by_key(|at| (blocks[*at].free, *at));
        let (mut first, mut now) = (BTreeMap::new(), BTreeMap::new());
        for &at in &singles {
            let block = &blocks[at];
            let count = |counts: &mut BTreeMap<usize, Vec<u32>>, seat: Option<usize>| {
                let counts = counts.entry(block.wish).or_insert_with(|| vec![0; nodes]);
                if let Some(seat) = seat {
                    counts[seat] += 1;
                }
            };
            count(&mut first, block.at);
            count(&mut now, block.to);
        }
        Self { first, now, singles }
    }

    /// Makes moves out of what differs between the beginning and the end.
    pub(super) fn settle(&self, blocks: &mut [Block]) {
        let mut need: BTreeMap<usize, BTreeMap<usize, u32>> = BTreeMap::new();
        let mut stay: BTreeMap<(usize, Option<usize>), u32> = BTreeMap::new();
        // Who is lost and fits nowhere keeps nobody else from leaving.
        for at in self.singles.iter().filter(|at| blocks[**at].to.is_none()) {
            *stay.entry((blocks[*at].wish, None)).or_default() += 1;
        }
        for (wish, first) in &self.first {
            let Some(now) = self.now.get(wish) else { continue };
            for (seat, (first, now)) in first.iter().zip(now).enumerate() {
                if now > first {
                    need.entry(*wish).or_default().insert(seat, now - first);
                }
                stay.insert((*wish, Some(seat)), *now.min(first));
            }
        }
        // Those who have a warm session where somebody is needed go there.
        let mut leave = self.leavers(blocks, &mut stay, &need);
        leave.retain(|at| {
            let block = &mut blocks[*at];
            let (Some(next), Some(need)) = (block.next, need.get_mut(&block.wish)) else {
                return true;
            };
            let taken = take(need, next);
            if taken {
                block.to = Some(next);
            }
            !taken
        });
        for at in leave {
            let block = &mut blocks[at];
            let need = need.entry(block.wish).or_default();
            block.to = match need.first_key_value().map(|(seat, _)| *seat) {
                Some(seat) if take(need, seat) => Some(seat),
                _ => block.at,
            };
        }
    }

    /// Who leaves, everyone else being set to stay: of those at one node rather who is wanted
    /// where it has its warm session.
    fn leavers(
        &self,
        blocks: &mut [Block],
        stay: &mut BTreeMap<(usize, Option<usize>), u32>,
        need: &BTreeMap<usize, BTreeMap<usize, u32>>,
    ) -> Vec<usize> {
        let wanted = |block: &Block| {
            let need = need.get(&block.wish);
            block.next.is_some_and(|next| need.is_some_and(|need| need.contains_key(&next)))
        };
        let mut leave = Vec::new();
        let (warm, cold): (Vec<usize>, Vec<usize>) =
            self.singles.iter().partition(|at| wanted(&blocks[**at]));
        // Whoever is watched is the first to get a move, so the last to stay.
        let mut order: Vec<usize> = cold.into_iter().chain(warm).collect();
        order.sort_by_key(|at| !blocks[*at].free);
        for at in order {
            let block = &mut blocks[at];
            match stay.get_mut(&(block.wish, block.at)) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    block.to = block.at;
                }
                _ => leave.push(at),
            }
        }
        leave.sort_by_key(|at| (blocks[*at].free, *at));
        leave
    }
}

fn take(need: &mut BTreeMap<usize, u32>, seat: usize) -> bool {
    let Some(left) = need.get_mut(&seat) else { return false };
    *left -= 1;
    if *left == 0 {
        need.remove(&seat);
    }
    true
}

/// Moves until nothing becomes more even: single encoders as far as they do, then rooms.
pub(super) fn out(seats: &mut Seats<'_>, counts: &mut Counts, blocks: &mut [Block]) -> bool {
    let rooms = super::rooms(blocks);
    // With rooms, whose sizes make even loads a matter of packing, a round trip may open the way
    // for another room, and that for another round trip.
    let round_trips = rooms.is_empty();
    let whole = rooms.into_values().filter(|parts| parts.len() == 1);
    let mut rooms: Vec<Vec<usize>> = whole.flat_map(BTreeMap::into_values).collect();
    rooms.retain(|room| super::all_free(blocks, room));
    rooms.sort_by_key(|room| (Reverse(room.len()), room.first().copied()));
    let mut stepped = singles(seats, counts);
    while move_room(seats, &rooms, blocks) {
        stepped = true;
        singles(seats, counts);
    }
    while round_trips && let Some(round) = saving(seats, counts) {
        stepped = true;
        for (from, to, step) in round {
            match step {
                Step::Goes(wish) => counts.go(wish, from, to),
                Step::Equal => {
                    seats.load[from] += 1;
                    seats.load[to] -= 1;
                }
            }
        }
    }
    stepped
}

/// A step of a round trip.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An encoder of this wish goes along.
    Goes(usize),
    /// From where one more arrives than leaves to where one more leaves than arrives: as even
    /// after it as before.
    Equal,
}

/// A round trip that leaves everything as even as it is and needs fewer moves, if there is one:
/// a cycle of negative cost. There is one only where pools overlap or weights tie.
fn saving(seats: &Seats<'_>, counts: &Counts) -> Option<Vec<(usize, usize, Step)>> {
    // While nobody moves, no step costs less than nothing. And where all may go anywhere and nodes
    // are equal, whoever takes any takes it from the fullest, and that is the least already.
    let alike = seats.alike() && counts.now.len() == 1;
    if counts.now == counts.first || alike {
        return None;
    }
    let nodes = seats.seats.len();
    let mut steps = Vec::new();
    for from in 0..nodes {
        for to in (0..nodes).filter(|to| *to != from) {
            if may_give(seats, from)
                && seats.takes(to)
                && let Some(wish) = counts.way(seats, from, to)
            {
                steps.push((from, to, counts.cost(wish, from, to), Step::Goes(wish)));
            }
            if seats.fits(from, 1) && may_give(seats, to) && seats.ties(to, from) {
                steps.push((from, to, 0, Step::Equal));
            }
        }
    }
    let (mut least, mut came) = (vec![0; nodes], vec![None; nodes]);
    let mut changed = None;
    for _ in 0..=nodes {
        changed = None;
        for &(from, to, cost, step) in &steps {
            if least[from] + cost < least[to] {
                least[to] = least[from] + cost;
                came[to] = Some((from, step));
                changed = Some(to);
            }
        }
        changed?;
    }
    let before = |node: usize| came[node].map(|(from, _)| from);
    let on_it = (0..nodes).try_fold(changed?, |node, _| before(node))?;
    let (mut round, mut at) = (Vec::new(), on_it);
    loop {
        let (from, step) = came[at]?;
        round.push((from, at, step));
        at = from;
        if at == on_it {
            return Some(round);
        }
    }
}

/// Moves one room from the fullest node that has one whose going makes anything more even.
fn move_room(seats: &mut Seats<'_>, rooms: &[Vec<usize>], blocks: &mut [Block]) -> bool {
    for from in by_load(seats) {
        if !may_give(seats, from) {
            continue;
        }
        for room in rooms {
            let Some(first) = room.first().map(|at| &blocks[*at]) else { continue };
            let tier = seats.tier(first.wish, from);
            if first.to != Some(from) || tier == NO_TIER {
                continue;
            }
            let size = u32::try_from(room.len()).unwrap_or(u32::MAX);
            let fits = |to: &usize| {
                seats.fits(*to, size)
                    && seats.tier(first.wish, *to) == tier
                    && seats.evens(from, *to, size)
            };
            let to = (0..seats.seats.len()).filter(fits).min_by(|a, b| seats.fuller(*a, *b, size));
            if let Some(to) = to {
                room.iter().for_each(|at| seats.put(&mut blocks[*at], to));
                return true;
            }
        }
    }
    false
}

fn may_give(seats: &Seats<'_>, seat: usize) -> bool {
    seats.seats[seat].duty == Duty::Open
}

/// Nodes, the fullest first.
fn by_load(seats: &Seats<'_>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..seats.seats.len()).collect();
    order.sort_by(|a, b| seats.fuller(*b, *a, 0).then(a.cmp(b)));
    order
}

/// Nodes that may still give, and nodes that have room, by how full they are: to look at all nodes
/// for each move is most of what it costs to plan for a large mesh.
struct Order {
    done: Vec<bool>,
    /// The last is the fullest, of equals the first in order of id.
    givers: BTreeSet<(Fill, Reverse<usize>)>,
    /// The first is the one that is emptiest with one more, of equals the first in order of id.
    takers: BTreeSet<(Fill, usize)>,
}

impl Order {
    fn of(seats: &Seats<'_>, counts: &Counts) -> Self {
        let done = vec![false; seats.seats.len()];
        let mut order = Self { done, givers: BTreeSet::new(), takers: BTreeSet::new() };
        (0..seats.seats.len()).for_each(|seat| order.put(seats, counts, seat));
        order
    }

    /// Forgets a node whose load or counts will change.
    fn take(&mut self, seats: &Seats<'_>, seat: usize) {
        self.givers.remove(&(seats.fill(seat, 0), Reverse(seat)));
        self.takers.remove(&(seats.fill(seat, 1), seat));
    }

    fn put(&mut self, seats: &Seats<'_>, counts: &Counts, seat: usize) {
        let has = || counts.now.values().any(|now| now[seat] > 0);
        if !self.done[seat] && may_give(seats, seat) && has() {
            self.givers.insert((seats.fill(seat, 0), Reverse(seat)));
        }
        if seats.fits(seat, 1) {
            self.takers.insert((seats.fill(seat, 1), seat));
        }
    }
}

fn singles(seats: &mut Seats<'_>, counts: &mut Counts) -> bool {
    let mut order = Order::of(seats, counts);
    let (mut moved, mut stepped) = (false, false);
    loop {
        match order.givers.last().map(|(_, Reverse(seat))| *seat) {
            Some(from) if step(seats, counts, &mut order, from) => (moved, stepped) = (true, true),
            Some(from) => {
                order.done[from] = true;
                order.givers.pop_last();
            }
            // What went on elsewhere may have opened a way.
            None if std::mem::take(&mut moved) => order = Order::of(seats, counts),
            None => return stepped,
        }
    }
}

/// Moves one encoder from this node to the emptiest that it reaches, through others if need be.
fn step(seats: &mut Seats<'_>, counts: &mut Counts, order: &mut Order, from: usize) -> bool {
    let takes = |to: &usize| seats.evens(from, *to, 1);
    let takers = || order.takers.iter().map(|(_, to)| *to).take_while(takes);
    let Some(emptiest) = takers().next() else { return false };
    let path = match counts.way(seats, from, emptiest) {
        Some(wish) => vec![(wish, from, emptiest)],
        None => match path(seats, counts, from, &takers().collect::<Vec<_>>()) {
            Some(path) => path,
            None => return false,
        },
    };
    let Some(&(.., last)) = path.last() else { return false };
    let touched: Vec<usize> = path.iter().map(|(.., to)| *to).chain([from]).collect();
    touched.iter().for_each(|seat| order.take(seats, *seat));
    for (wish, a, b) in path {
        counts.go(wish, a, b);
    }
    seats.load[from] -= 1;
    seats.load[last] += 1;
    touched.iter().for_each(|seat| order.put(seats, counts, *seat));
    true
}

impl Counts {
    /// The wish of an encoder that may go directly from one node to another: rather of one that
    /// is not at its first node any more, which costs no further move.
    fn way(&self, seats: &Seats<'_>, from: usize, to: usize) -> Option<usize> {
        let may = |wish: &usize, now: &[u32]| {
            let tier = seats.tier(*wish, from);
            now[from] > 0 && tier != NO_TIER && tier == seats.tier(*wish, to)
        };
        let ways = self.now.iter().filter(|(wish, now)| may(wish, now)).map(|(wish, _)| *wish);
        ways.min_by_key(|wish| self.cost(*wish, from, to))
    }

    /// How many more moves there are in all once one more goes from here to there.
    fn cost(&self, wish: usize, from: usize, to: usize) -> i64 {
        let (Some(now), Some(first)) = (self.now.get(&wish), self.first.get(&wish)) else {
            return 0;
        };
        i64::from(now[to] >= first[to]) - i64::from(now[from] > first[from])
    }

    fn go(&mut self, wish: usize, from: usize, to: usize) {
        if let Some(now) = self.now.get_mut(&wish) {
            now[from] -= 1;
            now[to] += 1;
        }
    }
}

/// The shortest chain of moves to the emptiest node that one leads to.
fn path(
    seats: &Seats<'_>,
    counts: &Counts,
    from: usize,
    to: &[usize],
) -> Option<Vec<(usize, usize, usize)>> {
    let mut came: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut reached = vec![from];
    let mut at = 0;
    while let Some(&node) = reached.get(at) {
        at += 1;
        for next in 0..seats.seats.len() {
            if next != from
                && !came.contains_key(&next)
                && seats.takes(next)
                && let Some(wish) = counts.way(seats, node, next)
            {
                came.insert(next, (wish, node));
                reached.push(next);
            }
        }
    }
    let mut end = *to.iter().find(|to| came.contains_key(to))?;
    let mut path = Vec::new();
    while end != from {
        let (wish, before) = came[&end];
        path.push((wish, before, end));
        end = before;
    }
    path.reverse();
    Some(path)
}
