//! Mesh time: what the clocks of the live members say between them. No clock needs to be right;
//! one that is wrong changes nothing as long as most are not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Control, Effect, Note};
use crate::id::NodeId;
use crate::time::{Mono, Now};

/// Readings of a member's clock by which it is judged. A reading takes a while to come, by which
/// the clock seems slow: the best of several is nearest to the truth.
const SAMPLES: usize = 16;

/// A node whose clock is further than this from the mesh's says so: more than any network delays
/// a report, less than what people notice when they compare logs.
pub const SKEW_ALARM: Duration = Duration::from_secs(30);

/// The clocks of the mesh as this node sees them.
#[derive(Debug, Default)]
pub struct Clocks {
    of: BTreeMap<NodeId, Clock>,
    /// What time it was in the mesh when that was last worked out.
    base: Option<(Mono, u64)>,
}

#[derive(Debug, Default)]
struct Clock {
    last: u64,
    /// How far it was ahead of this node's monotonic clock, in milliseconds.
    ahead: VecDeque<u64>,
}

fn ms(at: Mono) -> u64 {
    at.0 / 1_000_000
}

impl Clock {
    fn best(&self) -> Option<u64> {
        self.ahead.iter().max().copied()
    }
}

impl Clocks {
    /// A member's clock showed `wall` a moment ago.
    pub fn observe(&mut self, now: Now, node: NodeId, wall: u64) {
        let clock = self.of.entry(node).or_default();
        if wall == clock.last || wall == 0 {
            return;
        }
        clock.last = wall;
        if clock.ahead.len() == SAMPLES {
            clock.ahead.pop_front();
        }
        clock.ahead.push_back(wall.saturating_sub(ms(now.mono)));
    }

    /// Its clock is no concern of the mesh any more.
    pub fn forget(&mut self, node: NodeId) {
        self.of.remove(&node);
    }

    /// Works out mesh time anew: the middle one of the clocks of live members, the earlier of two
    /// in the middle. A node that never met another goes by its own clock; one that is alone later
    /// goes on from what it agreed on with the others, lest what they signed be over at once.
    pub fn settle(&mut self, now: Now, me: NodeId, alive: &BTreeSet<NodeId>) {
        let others = self.of.iter().filter(|(node, _)| **node != me && alive.contains(node));
        let others = others.filter_map(|(_, clock)| clock.best());
        let mut walls: Vec<u64> = others.map(|ahead| ahead.saturating_add(ms(now.mono))).collect();
        if walls.is_empty() {
            return;
        }
        walls.push(now.wall);
        let middle = (walls.len() - 1) / 2;
        let (_, middle, _) = walls.select_nth_unstable(middle);
        self.base = Some((now.mono, *middle));
    }

    /// What time it is in the mesh, in milliseconds since 1970: carried on by the monotonic clock.
    pub fn time(&self, now: Now) -> u64 {
        match self.base {
            Some((at, time)) => time.saturating_add(ms(now.mono).saturating_sub(ms(at))),
            None => now.wall,
        }
    }

    /// When mesh time was last worked out, and what it was.
    pub fn base(&self) -> Option<(Mono, u64)> {
        self.base
    }

    /// How far this node's clock is ahead of the mesh's, in milliseconds.
    pub fn skew(&self, now: Now) -> i64 {
        now.wall.wrapping_sub(self.time(now)).cast_signed()
    }

    /// How far a member's clock is ahead of the mesh's, in milliseconds.
    pub fn offset(&self, now: Now, node: NodeId) -> Option<i64> {
        let wall = self.of.get(&node)?.best()?.saturating_add(ms(now.mono));
        Some(wall.wrapping_sub(self.time(now)).cast_signed())
    }
}

impl Control {
    /// Works out mesh time anew, and says if this node's own clock is far from it.
    pub(super) fn tell_time(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.clocks.settle(now, self.me, &self.alive);
        if let Some((at, time)) = self.clocks.base() {
            effects.push(Effect::MeshTime(at, time));
        }
        let skew = self.clocks.skew(now);
        (self.skew, self.asked) = (Some(skew), now);
        let skewed = Duration::from_millis(skew.unsigned_abs()) > SKEW_ALARM;
        if skewed != self.skewed {
            self.skewed = skewed;
            effects.push(Effect::Note(Note::Skewed(skewed.then_some(skew))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId([0; 16]);
    const WALL: u64 = 1_800_000_000_000;
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3_600_000;

    fn at(ms: u64, off: i64) -> Now {
        Now { mono: Mono((5_000 + ms) * 1_000_000), wall: (WALL + ms).wrapping_add_signed(off) }
    }

    fn id(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn everyone(count: u8) -> BTreeSet<NodeId> {
        (0..count).map(id).collect()
    }

    #[test]
    fn a_clock_is_judged_by_the_reading_that_came_fastest_and_not_for_ever() {
        let mut clocks = Clocks::default();
        // Five seconds ahead, after 900, 200 and 700 ms on the way; the last one comes twice.
        for (sent, took) in [(0, 900), (1_000, 200), (2_000, 700), (2_000, 5_000)] {
            clocks.observe(at(sent + took, 0), id(1), WALL + sent + 5_000);
        }
        let now = at(8_000, 0);
        clocks.settle(now, ME, &BTreeSet::from([ME]));
        assert_eq!(clocks.offset(now, id(1)), Some(4_800));
        for second in 10..30 {
            clocks.observe(at(second * 1_000, 0), id(1), WALL + second * 1_000 - 2_000);
        }
        let now = at(30_000, 0);
        clocks.settle(now, ME, &BTreeSet::from([ME]));
        assert_eq!(clocks.offset(now, id(1)), Some(-2_000));
        clocks.forget(id(1));
        assert_eq!(clocks.offset(now, id(1)), None);
    }

    #[test]
    fn one_clock_that_is_ten_years_off_changes_nothing_wherever_it_is() {
        for (mine, theirs) in
            [(0, TEN_YEARS as i64), (TEN_YEARS as i64, 0), (0, -(TEN_YEARS as i64))]
        {
            let now = at(0, mine);
            let mut clocks = Clocks::default();
            assert_eq!(clocks.time(now), now.wall, "alone, its own");
            clocks.observe(now, id(1), (WALL - 20).wrapping_add_signed(theirs));
            clocks.observe(now, id(2), WALL - 10);
            clocks.settle(now, ME, &everyone(3));
            assert!(clocks.time(now).abs_diff(WALL) <= 20, "{mine} {theirs}");
            assert!((clocks.skew(now) - mine).abs() <= 20);
            // Its own clock is put right, or wrong: mesh time goes on evenly.
            let later = at(60_000, mine + 7_200_000);
            assert!(clocks.time(later).abs_diff(WALL + 60_000) <= 20);
        }
    }

    #[test]
    fn two_agree_on_the_earlier_clock_and_who_is_left_alone_stays_with_it() {
        let ahead = TEN_YEARS as i64;
        let mut first = Clocks::default();
        first.observe(at(0, 0), id(1), WALL.wrapping_add_signed(ahead));
        first.settle(at(0, 0), ME, &everyone(2));
        let mut second = Clocks::default();
        second.observe(at(0, ahead), ME, WALL);
        second.settle(at(0, ahead), id(1), &everyone(2));
        assert_eq!((first.time(at(0, 0)), second.time(at(0, ahead))), (WALL, WALL));
        second.settle(at(9_000, ahead), id(1), &BTreeSet::from([id(1)]));
        assert_eq!(second.time(at(9_000, ahead)), WALL + 9_000);
    }
}
