//! How fast members are probed, by how far apart they are.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

use super::identity::PACKET_MAX;
use crate::id::NodeId;
use crate::time::Mono;

/// A round trip that is shorter than the threshold of a faster timing by this factor is believed.
const SLOW_TO_FASTEN: f64 = 0.7;
/// How long round trips must stay short before the timing becomes faster.
const FASTEN_AFTER: Duration = Duration::from_secs(10);
/// How long round trips must stay long before the timing becomes slower: a busy moment of this
/// machine, or a connection that has not measured anything yet, is no reason. Until then distant
/// members are suspected too often, and refute it in time.
const SLACKEN_AFTER: Duration = Duration::from_secs(3);

/// One set of intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// From one probe to the next.
    pub(super) period: Duration,
    /// How long a direct answer may take.
    pub(super) rtt: Duration,
    /// From suspicion to verdict.
    pub(super) suspect: Duration,
    /// From one round of gossip to the next.
    pub(super) gossip: Duration,
}

impl Timing {
    /// From one beat to the next.
    pub(super) fn beat(&self) -> Duration {
        self.gossip * 4
    }

    /// How long a member that lives takes to object to what it is said to be: it is asked, which is a
    /// probe, and what it says has to come around.
    pub(super) fn refute(&self) -> Duration {
        (self.period * 3 / 2).min(REFUTE_MAX)
    }

    /// How long a node may be silent to those that it sends beats to: two may get lost.
    pub(super) fn silence(&self) -> Duration {
        self.beat() * 5 / 2 + self.rtt
    }
}

const fn timing(period: u64, rtt: u64, suspect: u64, gossip: u64) -> Timing {
    Timing {
        period: Duration::from_millis(period),
        rtt: Duration::from_millis(rtt),
        suspect: Duration::from_millis(suspect),
        gossip: Duration::from_millis(gossip),
    }
}

/// Fastest first. In each, an indirect probe (two round trips) fits between `rtt` and `period`.
const TIMINGS: [Timing; 4] = [
    timing(250, 100, 1000, 50),
    timing(500, 200, 2000, 100),
    timing(1500, 700, 4000, 100),
    timing(4000, 1800, 10_000, 200),
];

/// What others say of a member is believed after this at the latest, however far apart members were
/// lately: who is dead is not to be found out later than they did.
const REFUTE_MAX: Duration = Duration::from_millis(750);

/// Measurements of each link's round trip that are remembered; there is one a second.
const TRIPS_KEPT: usize = 5;

/// What links measured lately. A node that stood still for a moment, or was cut off, answers late
/// what waited for it, and its links' smoothed round trips are long for some seconds after: each
/// link counts by its shortest of late, so that nodes which stumble one after another do not look
/// like a mesh whose members are far apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Trips {
    /// In order of node; the latest of each come first.
    of: Vec<(NodeId, [Duration; TRIPS_KEPT])>,
}

impl Trips {
    /// Takes in the smoothed round trip of every link that there is; the longest of their
    /// shortest, if there is any link. Quick if the links are those of before, in order.
    pub(super) fn observe(&mut self, trips: &[(NodeId, Duration)]) -> Option<Duration> {
        let note = |kept: &mut [Duration; TRIPS_KEPT], trip: &Duration| {
            kept.rotate_right(1);
            kept[0] = *trip;
            kept.iter().min().copied()
        };
        if !self.of.iter().map(|(node, _)| node).eq(trips.iter().map(|(node, _)| node)) {
            let mut before = std::mem::take(&mut self.of).into_iter().peekable();
            let mut kept = |node: NodeId| {
                while before.next_if(|(id, _)| *id < node).is_some() {}
                before.next_if(|(id, _)| *id == node).map_or([Duration::MAX; TRIPS_KEPT], |it| it.1)
            };
            self.of = trips.iter().map(|(node, _)| (*node, kept(*node))).collect();
        }
        let both = self.of.iter_mut().zip(trips);
        both.filter_map(|((_, kept), (_, trip))| note(kept, trip)).max()
    }

    /// A link's latest round trip, if one was measured since it came up.
    pub(super) fn latest(&self, node: NodeId) -> Option<Duration> {
        let at = self.of.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        Some(self.of[at].1[0])
    }
}

/// The timing in force and the wish to change it.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    index: usize,
    wish: Option<(usize, Mono)>,
}

impl Pace {
    /// For a mesh of which nothing is known: close together.
    pub(super) fn new() -> Self {
        Self { index: 0, wish: None }
    }

    pub(super) fn timing(&self) -> Timing {
        TIMINGS[self.index]
    }

    /// Takes in the largest round trip of all links; true if the timing changed.
    pub(super) fn observe(&mut self, now: Mono, rtt: Duration) -> bool {
        let rtt = rtt.min(Duration::from_secs(60));
        let fits = |rtt: Duration| {
            let needed = rtt.mul_f64(1.5);
            TIMINGS.iter().position(|t| needed <= t.rtt).unwrap_or(TIMINGS.len() - 1)
        };
        let slower = fits(rtt);
        let faster = fits(rtt.mul_f64(1.0 / SLOW_TO_FASTEN));
        let (target, after) = if slower > self.index {
            (slower, SLACKEN_AFTER)
        } else if faster < self.index {
            (faster, FASTEN_AFTER)
        } else {
            self.wish = None;
            return false;
        };
        let since = match self.wish {
            Some((wished, since)) if (wished > self.index) == (target > self.index) => since,
            _ => now,
        };
        self.wish = Some((target, since));
        if now.since(since) < after {
            return false;
        }
        self.index = target;
        self.wish = None;
        true
    }

    pub(super) fn config(&self) -> Config {
        let timing = self.timing();
        let count = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        let every = |frequency, n| Some(PeriodicParams { frequency, num_members: count(n) });
        Config {
            probe_period: timing.period,
            probe_rtt: timing.rtt,
            num_indirect_probes: count(4),
            // With foca's own choice, one observer in a few hundred runs misses a verdict until
            // the next full exchange.
            max_transmissions: NonZeroU8::new(16).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: timing.suspect,
            // Forgetting is the business of whoever removes a member for good.
            remove_down_after: None,
            max_packet_size: count(PACKET_MAX - 1),
            // Without it, members that were wrongly declared down never learn of it.
            notify_down_members: true,
            periodic_announce: every(Duration::from_secs(5), 1),
            periodic_announce_to_down_members: every(Duration::from_secs(5), 2),
            periodic_gossip: every(timing.gossip, 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Observes `rtt` once a second; after how many seconds the timing changed.
    fn seconds(pace: &mut Pace, now: &mut Mono, rtt: u64) -> Option<u64> {
        (0..100).find(|_| {
            let changed = pace.observe(*now, MS(rtt));
            *now = *now + MS(1000);
            changed
        })
    }

    #[test]
    fn the_timing_follows_round_trips_that_last() {
        let mut pace = Pace::new();
        let mut now = Mono(0);
        assert_eq!(seconds(&mut pace, &mut now, 2), None);
        assert!(!pace.observe(now, MS(300)));
        now = now + MS(2500);
        assert!(!pace.observe(now, MS(20)), "the burst is over");
        assert_eq!(seconds(&mut pace, &mut now, 300), Some(3));
        assert_eq!(pace.timing().rtt, MS(700));
        assert_eq!(seconds(&mut pace, &mut now, 130), None, "too near to the threshold");
        assert_eq!(seconds(&mut pace, &mut now, 10), Some(10));
        assert_eq!(pace.timing(), Pace::new().timing());
        assert_eq!(seconds(&mut pace, &mut now, u64::MAX), Some(3));
        assert_eq!(pace.timing().suspect, MS(10_000));
    }
    #[test]
    fn nodes_that_stumble_in_turn_are_not_far_away() {
        let mut trips = Trips::default();
        let (a, b, far) = (NodeId([1; 16]), NodeId([2; 16]), NodeId([3; 16]));
        trips.observe(&[(a, MS(2)), (b, MS(2))]);
        for late in [a, a, b, b, a, a, b] {
            let trip = |node: NodeId| (node, if node == late { MS(200) } else { MS(3) });
            assert!(trips.observe(&[trip(a), trip(b)]).is_some_and(|longest| longest <= MS(3)));
        }
        for _ in 0..3 {
            assert_eq!(trips.observe(&[(a, MS(2)), (far, MS(300))]), Some(MS(300)));
        }
        assert_eq!(trips.observe(&[]), None);
    }
}
