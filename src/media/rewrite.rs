//! One viewer's own numbering, continuous whatever happens to the stream behind it.

use super::assemble::{MAX_GAP, REORDER_PACKETS, Unwrapper};
use super::{CLOCK_RATE, Packet};

/// A timestamp further than this from the one before is another time line: ten seconds.
const MAX_TICKS: i32 = 10 * CLOCK_RATE as i32;

/// Ticks between two frames as long as none were seen: 30 fps.
const DEFAULT_TICKS: u32 = CLOCK_RATE / 30;

/// Rewrites sequence numbers and timestamps for one WebRTC viewer.
///
/// A browser takes a jump in the sequence for loss and asks for packets that never were; so the
/// numbers go on without a jump when the stream comes from elsewhere or packets were left out on
/// purpose, and keep the gaps that real loss made.
#[derive(Debug, Clone)]
pub struct Rewriter {
    numbers: Unwrapper,
    /// Source and output number of the present stretch's first packet.
    base: Option<(u64, u64)>,
    highest_in: u64,
    /// The highest number that was given out; before the first, the one below it.
    highest_out: u64,
    /// Added to the source's timestamps.
    shift: u32,
    /// Source and output timestamp of the newest packet.
    newest: Option<(u32, u32)>,
    interval: u32,
    switch: Option<u32>,
    /// Packets of a stretch that is over, dropped.
    pub stale: u64,
    /// Jumps of the source's numbering that nobody announced.
    pub restarts: u64,
}

impl Rewriter {
    /// A rewriter whose first packet gets this number. It is below 65,536 by its type: a
    /// receiver starts with a rollover counter of zero and could not decrypt anything else
    /// (RFC 3711 §3.3.1).
    pub fn new(first_sequence: u16) -> Self {
        Self {
            numbers: Unwrapper::default(),
            base: None,
            highest_in: 0,
            // One round up, so that "one below the first" is a number.
            highest_out: 0x1_0000 + u64::from(first_sequence) - 1,
            shift: 0,
            newest: None,
            interval: DEFAULT_TICKS,
            switch: None,
            stale: 0,
            restarts: 0,
        }
    }

    /// The next packet comes from another source. Its timestamp continues the present one by
    /// `elapsed` ticks: the time since the newest packet, less the age of the picture with which
    /// the new source begins. At least one tick passes.
    pub fn switch(&mut self, elapsed: u32) {
        self.skip();
        self.numbers = Unwrapper::default();
        self.switch = Some(elapsed.clamp(1, MAX_TICKS.unsigned_abs()));
    }

    /// Packets of this source were left out on purpose: the next one follows without a gap.
    pub fn skip(&mut self) {
        self.base = None;
    }

    /// The number and timestamp under which the viewer gets this packet; `None` for one that
    /// belongs before the present stretch, which is too late for its place. A packet that comes
    /// again gets the same number again.
    pub fn rewrite(&mut self, packet: &Packet) -> Option<(u64, u32)> {
        let mut number = self.numbers.unwrap(packet.sequence);
        // After a deliberate gap a jump ahead is no surprise; far back, the numbers wrapped in it.
        let jumped = match self.base {
            Some(_) => number.abs_diff(self.highest_in) > MAX_GAP,
            None => number + REORDER_PACKETS < self.highest_in,
        };
        if jumped {
            self.restarts += u64::from(self.base.is_some());
            self.skip();
            self.numbers = Unwrapper::default();
            number = self.numbers.unwrap(packet.sequence);
            self.highest_in = 0;
        }
        let sequence = match self.base {
            Some((from, to)) if number >= from => to + (number - from),
            // A late packet must not begin the stretch after a deliberate gap.
            None if number > self.highest_in || self.newest.is_none() || self.switch.is_some() => {
                self.base = Some((number, self.highest_out + 1));
                self.highest_in = number;
                self.highest_out + 1
            }
            _ => {
                self.stale += 1;
                return None;
            }
        };
        let timestamp = self.time(packet.timestamp, sequence > self.highest_out);
        self.highest_in = self.highest_in.max(number);
        self.highest_out = self.highest_out.max(sequence);
        Some((sequence - 0x1_0000, timestamp))
    }

    fn time(&mut self, source: u32, newest: bool) -> u32 {
        let Some((last, out)) = self.newest else {
            self.switch = None;
            self.newest = Some((source, source));
            return source;
        };
        if let Some(elapsed) = self.switch.take() {
            self.shift = out.wrapping_add(elapsed).wrapping_sub(source);
        } else {
            let step = source.wrapping_sub(last).cast_signed();
            if step.unsigned_abs() > MAX_TICKS.unsigned_abs() {
                self.shift = out.wrapping_add(self.interval).wrapping_sub(source);
            } else if newest && step > 0 {
                self.interval = step.unsigned_abs().min(CLOCK_RATE);
            }
        }
        let timestamp = source.wrapping_add(self.shift);
        if newest {
            self.newest = Some((source, timestamp));
        }
        timestamp
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(sequence: u16, timestamp: u32) -> Packet {
        Packet { sequence, timestamp, marker: true, payload: [1].as_slice().into() }
    }

    fn number(rewriter: &mut Rewriter, sequence: u16) -> Option<u64> {
        rewriter.rewrite(&packet(sequence, 0)).map(|(number, _)| number)
    }

    #[test]
    fn loss_stays_visible_and_reordering_keeps_its_places() {
        let mut rewriter = Rewriter::new(65_535);
        let sent = [65_534, 65_535, 1, 0, 0, 3];
        let got: Vec<_> = sent.iter().map(|&s| number(&mut rewriter, s)).collect();
        let first = 65_535;
        let wanted = [0, 1, 3, 2, 2, 5].map(|n| Some(first + n));
        assert_eq!(got, wanted);
    }

    #[test]
    fn what_precedes_the_first_packet_is_too_late() {
        let mut rewriter = Rewriter::new(0);
        assert_eq!(number(&mut rewriter, 100), Some(0));
        assert_eq!(number(&mut rewriter, 99), None);
        assert_eq!(number(&mut rewriter, 101), Some(1));
        assert_eq!(rewriter.stale, 1);
    }

    #[test]
    fn a_deliberate_gap_is_closed() {
        let mut rewriter = Rewriter::new(5);
        assert_eq!(number(&mut rewriter, 100), Some(5));
        rewriter.skip();
        assert_eq!(number(&mut rewriter, 99), None, "late, from before the gap");
        assert_eq!(number(&mut rewriter, 500), Some(6));
        assert_eq!(number(&mut rewriter, 501), Some(7));
        assert_eq!(number(&mut rewriter, 101), None);
    }

    #[test]
    fn a_switch_continues_numbers_and_time() {
        let mut rewriter = Rewriter::new(5);
        assert_eq!(rewriter.rewrite(&packet(100, 1_000)), Some((5, 1_000)));
        assert_eq!(rewriter.rewrite(&packet(101, 7_000)), Some((6, 7_000)));
        rewriter.switch(18_000);
        assert_eq!(rewriter.rewrite(&packet(9, 4_000_000_000)), Some((7, 25_000)));
        assert_eq!(rewriter.rewrite(&packet(10, 4_000_006_000)), Some((8, 31_000)));
        assert_eq!(rewriter.rewrite(&packet(8, 4_000_000_000)), None);
    }

    #[test]
    fn an_encoder_that_starts_anew_unannounced_is_followed() {
        let mut rewriter = Rewriter::new(5);
        rewriter.rewrite(&packet(100, 1_000));
        rewriter.rewrite(&packet(101, 7_000));
        assert_eq!(rewriter.rewrite(&packet(50_000, 3_000_000_000)), Some((7, 13_000)));
        assert_eq!(rewriter.rewrite(&packet(50_001, 3_000_006_000)), Some((8, 19_000)));
        assert_eq!(rewriter.restarts, 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send,
        Lose(u16),
        Leave(u16),
        Switch { sequence: u16, timestamp: u32, elapsed: u32 },
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Send),
            1 => (1u16..100).prop_map(Step::Lose),
            1 => (1u16..65_000).prop_map(Step::Leave),
            1 => (any::<u16>(), any::<u32>(), 0u32..900_000).prop_map(
                |(sequence, timestamp, elapsed)| Step::Switch { sequence, timestamp, elapsed }),
        ]
    }

    proptest! {
        #[test]
        fn numbers_grow_by_one_and_by_the_loss_whatever_the_sources_do(
            first: u16, steps in prop::collection::vec(a_step(), 1..400),
        ) {
            let mut rewriter = Rewriter::new(first);
            let (mut sequence, mut timestamp) = (77u16, 1_000u32);
            // Loss before a deliberate gap is not known as loss: `unseen` is taken back then.
            let (mut expected, mut unseen) = (u64::from(first), 0);
            let mut last: Option<u32> = None;
            let mut wanted_step = None;
            let mut fresh = true;
            for step in steps {
                match step {
                    Step::Send => {
                        let got = rewriter.rewrite(&packet(sequence, timestamp));
                        let (number, time) = got.expect("in order");
                        prop_assert_eq!(number, expected);
                        if let (Some(last), Some(step)) = (last, wanted_step) {
                            prop_assert_eq!(time.wrapping_sub(last), step);
                        }
                        expected += 1;
                        unseen = 0;
                        sequence = sequence.wrapping_add(1);
                        timestamp = timestamp.wrapping_add(6_000);
                        last = Some(time);
                        wanted_step = Some(6_000);
                        fresh = false;
                    }
                    Step::Lose(count) if !fresh => {
                        sequence = sequence.wrapping_add(count);
                        expected += u64::from(count);
                        unseen += u64::from(count);
                    }
                    Step::Lose(_) => {}
                    // Leaving out a whole round of numbers cannot be told from reordering.
                    Step::Leave(_) if fresh => {}
                    Step::Leave(count) => {
                        rewriter.skip();
                        expected -= std::mem::take(&mut unseen);
                        sequence = sequence.wrapping_add(count);
                        fresh = true;
                    }
                    Step::Switch { sequence: s, timestamp: t, elapsed } => {
                        rewriter.switch(elapsed);
                        expected -= std::mem::take(&mut unseen);
                        (sequence, timestamp) = (s, t);
                        wanted_step = Some(elapsed.max(1));
                        fresh = true;
                    }
                }
            }
        }
    }
}
