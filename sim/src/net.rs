//! What packets meet on their way: delay, loss, and cuts.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::plan;
use crate::rng::{For, mix, stream};
use crate::tables::Slots;

/// A millisecond, in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// A second, in nanoseconds.
pub(crate) const SEC: u64 = 1_000_000_000;

/// After this long without an answer QUIC sends the first packets of a handshake again, and then
/// after twice the time each: three times the round trip that `net::transport` assumes.
pub(crate) const PROBE_FIRST: u64 = 150 * MS;

/// What a slow host keeps waiting before it drops datagrams.
const QUEUE: u64 = 200 * MS;

pub(crate) struct Net {
    seed: u64,
    plan: plan::Net,
    /// By sender, then by receiver.
    paths: Vec<Slots<Box<ChaCha8Rng>>>,
    cuts: BTreeMap<(usize, usize), u32>,
    /// Packets of a path that are still lost in a run.
    bursting: BTreeMap<(usize, usize), u32>,
    /// When what a slow host has sent so far is on its way.
    sent_by: BTreeMap<usize, u64>,
    /// Faults in force.
    pub(crate) latency: Vec<u64>,
    pub(crate) loss: Vec<f64>,
    pub(crate) duplicate: Vec<f64>,
    pub(crate) reorder: Vec<f64>,
    pub(crate) requests_lost: Vec<f64>,
    pub(crate) bursts: Vec<f64>,
    /// Slow hosts with their kilobits a second.
    pub(crate) slow: Vec<(usize, u64)>,
}

fn jittered(base: u64, spikes: f64, rng: &mut ChaCha8Rng) -> u64 {
    let spike = if rng.random_bool(spikes) { rng.random_range(0..50 * MS) } else { 0 };
    base + rng.random_range(0..=base / 8) + spike
}

impl Net {
    pub(crate) fn new(seed: u64, plan: plan::Net) -> Self {
        Self {
            seed,
            plan,
            paths: Vec::new(),
            cuts: BTreeMap::new(),
            bursting: BTreeMap::new(),
            sent_by: BTreeMap::new(),
            bursts: Vec::new(),
            slow: Vec::new(),
            latency: Vec::new(),
            loss: Vec::new(),
            duplicate: Vec::new(),
            reorder: Vec::new(),
            requests_lost: Vec::new(),
        }
    }

    /// No packet passes from `from` to `to`.
    pub(crate) fn blocked(&self, from: usize, to: usize) -> bool {
        !self.cuts.is_empty() && self.cuts.contains_key(&(from, to))
    }

    /// Any cut at all.
    pub(crate) fn cut_anywhere(&self) -> bool {
        !self.cuts.is_empty()
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            *self.cuts.entry((from, to)).or_default() += 1;
        }
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&(from, to));
            }
        }
    }

    /// One way, without jitter.
    pub(crate) fn base(&self, a: usize, b: usize) -> u64 {
        let (low, high) = self.plan.delay_us;
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let span = (high - low) * 1000 + 1;
        low * 1000 + mix(self.seed ^ mix(pair)) % span + self.latency.iter().sum::<u64>()
    }

    fn path(&mut self, from: usize, to: usize) -> &mut ChaCha8Rng {
        let seed = self.seed;
        if self.paths.len() <= from {
            self.paths.resize_with(from + 1, Slots::default);
        }
        self.paths[from].get_or_insert(to, || Box::new(stream(seed, For::Path(from, to))))
    }

    pub(crate) fn loss_share(&self) -> f64 {
        let passes = self.loss.iter().fold(1.0 - self.plan.loss, |p, loss| p * (1.0 - loss));
        1.0 - passes
    }

    /// One way, with jitter.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> u64 {
        let (base, spikes) = (self.base(from, to), self.plan.spikes);
        jittered(base, spikes, self.path(from, to))
    }

    /// The same for what is sent again until it arrives.
    pub(crate) fn delay_reliable(&mut self, from: usize, to: usize) -> u64 {
        let mut delay = self.delay(from, to);
        let burst = self.bursts(from, to);
        let loss = self.loss_share().min(0.9);
        let again = 2 * self.base(from, to) + self.base(from, to) / 4 + 25 * MS;
        let rng = self.path(from, to);
        let mut wait = again;
        // The run is over when it is sent again.
        if burst {
            delay += wait;
            wait *= 2;
        }
        while rng.random_bool(loss) {
            delay += wait;
            wait = (wait * 2).min(4 * SEC);
        }
        delay
    }

    /// The same for a flight of a handshake, of so many packets: each is needed, and no round trip
    /// was measured yet that would tell when to send it again.
    pub(crate) fn flight(&mut self, from: usize, to: usize, packets: i32) -> u64 {
        let mut delay = self.delay(from, to);
        let burst = self.bursts(from, to);
        let loss = self.loss_share().min(0.9);
        let mut wait = PROBE_FIRST;
        if burst {
            delay += wait;
            wait *= 2;
        }
        let mut lost = 1.0 - (1.0 - loss).powi(packets);
        while self.path(from, to).random_bool(lost) {
            delay += wait;
            wait = (wait * 2).min(4 * SEC);
            lost = loss;
        }
        delay
    }

    /// A packet of this path is lost in a run of such.
    fn bursts(&mut self, from: usize, to: usize) -> bool {
        let begins = self.bursts.iter().sum::<f64>().min(1.0);
        if begins == 0.0 {
            return false;
        }
        let left = self.bursting.get(&(from, to)).copied().unwrap_or(0);
        let rng = self.path(from, to);
        let left = match left {
            0 if rng.random_bool(begins) => rng.random_range(1..=15),
            left => left,
        };
        self.bursting.insert((from, to), left.saturating_sub(1));
        left > 0
    }

    /// How long a packet of this size waits for a slow host's earlier ones, and `None` if there
    /// is no room for it to wait.
    pub(crate) fn waits(
        &mut self,
        now: u64,
        from: usize,
        bytes: usize,
        loose: bool,
    ) -> Option<u64> {
        let slow = self.slow.iter().filter(|(host, _)| *host == from).map(|(_, kbit)| *kbit);
        let Some(kbit) = slow.min() else { return Some(0) };
        let free = self.sent_by.get(&from).copied().unwrap_or(0).max(now);
        if loose && free > now + QUEUE {
            return None;
        }
        // A bit at a kilobit a second takes a millisecond.
        let sent = free + (bytes as u64 * 8 * MS / kbit.max(1));
        // What must arrive is sent by someone who waits for the path, not by the path.
        self.sent_by.insert(from, sent.min(now + 10 * QUEUE));
        Some(sent.min(now + 10 * QUEUE) - now)
    }

    /// Delays of the copies of a datagram that arrive, two at most.
    pub(crate) fn datagram(&mut self, from: usize, to: usize) -> (Option<u64>, Option<u64>) {
        if self.blocked(from, to) {
            return (None, None);
        }
        let burst = self.bursts(from, to);
        let loss = if burst { 1.0 } else { self.loss_share() };
        let twice = self.duplicate.iter().sum::<f64>().min(1.0);
        let late = self.reorder.iter().sum::<f64>().min(1.0);
        let (base, spikes) = (self.base(from, to), self.plan.spikes);
        let rng = self.path(from, to);
        let lost = rng.random_bool(loss);
        let twice = rng.random_bool(twice);
        let mut delay = || {
            let delay = jittered(base, spikes, rng);
            let extra = if rng.random_bool(late) { rng.random_range(0..50 * MS) } else { 0 };
            delay + extra
        };
        let first = (!lost || twice).then(&mut delay);
        (first, (!lost && twice).then(&mut delay))
    }

    /// A request for a keyframe gets lost.
    pub(crate) fn request_lost(&mut self, from: usize, to: usize) -> bool {
        let lost = self.requests_lost.iter().sum::<f64>().min(1.0);
        lost > 0.0 && self.path(from, to).random_bool(lost)
    }

    /// How much later than its own time something happens that waited for an outage of this
    /// length to end: the sender's next repetition.
    pub(crate) fn resume(&mut self, from: usize, to: usize, outage: u64) -> u64 {
        let delay = self.delay(from, to);
        let rng = self.path(from, to);
        delay + rng.random_range(0..=outage.min(2 * SEC))
    }
}
