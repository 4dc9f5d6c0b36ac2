//! What a viewer showed: losses, damage, the picture's age, and every gap.

use std::collections::VecDeque;
use std::time::Duration;

use crate::agent::{Event, Gap, Report};
use crate::flow;
use crate::media::Frame;
use crate::media::assemble::Assembled;
use crate::time::{Mono, Now};

/// A pause between frames counts as a gap from here on, or from three frame intervals if that is
/// more: what a person notices.
const GAP_MIN: Duration = Duration::from_millis(150);
/// Frame intervals that have to be known before any pause counts as a gap, and whose median is the
/// usual one: a source that changes its pace is believed after half of them.
const INTERVALS: usize = 8;
/// A picture that had not found its pace when it stopped counts as standing still from here on.
const GAP_UNPACED: Duration = Duration::from_secs(3);
/// Latencies kept for the report: a day at 15 fps.
const LATENCIES_MAX: usize = 1_300_000;
/// Gaps listed in the report; later ones are counted by their events only.
const GAPS_MAX: usize = 10_000;
/// Ticks of an RTP timestamp in a second (RFC 6184 §8.2.1).
const CLOCK_RATE: u64 = 90_000;

/// Everything that was shown so far.
#[derive(Debug)]
pub(super) struct Shown {
    report: Report,
    started: Mono,
    newest: Option<Newest>,
    /// Between frames by their timestamps, so that a burst of them says nothing about the pace.
    intervals: VecDeque<Duration>,
    next_sequence: Option<u16>,
    /// Since when what is shown lacks something; counted up to there.
    damaged_since: Option<Mono>,
    damaged: Duration,
    clock: Option<(u64, u32)>,
    latencies: Vec<f32>,
    second: Second,
}

#[derive(Debug)]
struct Newest {
    ssrc: u32,
    timestamp: u32,
    at: Now,
    from: String,
}

#[derive(Debug, Default)]
struct Second {
    frames: u64,
    lost: u64,
    damaged: Duration,
    latency_ms: Option<f64>,
}

/// A frame as it is shown.
#[derive(Debug)]
pub(super) struct Showing<'a> {
    /// Another one is another start of the agent.
    pub(super) ssrc: u32,
    pub(super) assembled: &'a Assembled,
    /// The test picture's time and number, if it has them.
    pub(super) clock: Option<(u64, u32)>,
    /// Label of the node that it came from.
    pub(super) from: String,
    /// Why there was no picture before it, if there was none for long.
    pub(super) cause: Option<&'a str>,
}

impl Shown {
    /// Nothing yet, of the stream of this name.
    pub(super) fn new(name: String, started: Mono) -> Self {
        Self {
            report: Report { name, ..Report::default() },
            started,
            newest: None,
            intervals: VecDeque::with_capacity(INTERVALS),
            next_sequence: None,
            damaged_since: None,
            damaged: Duration::ZERO,
            clock: None,
            latencies: Vec::new(),
            second: Second::default(),
        }
    }

    /// The stream's name.
    pub(super) fn name(&self) -> &str {
        &self.report.name
    }

    /// Whether nothing was shown at all.
    pub(super) fn is_empty(&self) -> bool {
        self.newest.is_none()
    }

    /// Whether this frame is to be shown: the same one comes over two legs, groups of pictures
    /// come again after a move, and a decoder begins with a keyframe.
    pub(super) fn wants(&self, ssrc: u32, frame: &Frame) -> bool {
        match &self.newest {
            None => frame.keyframe,
            Some(newest) => {
                newest.ssrc != ssrc || flow::is_after(frame.timestamp(), newest.timestamp)
            }
        }
    }

    /// Counts a frame that is shown now. Returns the gap before it, if there was one, and whether
    /// a keyframe is needed to make the picture whole.
    pub(super) fn show(&mut self, now: Now, showing: Showing<'_>) -> (Option<Gap>, bool) {
        let Showing { ssrc, assembled, clock, from, cause } = showing;
        let frame = &assembled.frame;
        let same_line = self.newest.as_ref().is_some_and(|newest| newest.ssrc == ssrc);
        let lost = self.count_loss(frame, same_line);
        let gap = self.gap_before(now.mono, &from, cause, lost);
        self.report.first_frame_s.get_or_insert(now.mono.since(self.started).as_secs_f64());
        self.learn_interval(frame.timestamp(), same_line);
        self.count_damage(now.mono);
        let whole_keyframe = frame.keyframe && assembled.complete;
        if whole_keyframe {
            self.damaged_since = None;
        } else if lost > 0 || !assembled.complete {
            self.damaged_since = Some(now.mono);
        }
        self.read_clock(clock, now.wall);
        self.report.frames += 1;
        self.report.bytes += frame.size() as u64;
        self.second.frames += 1;
        self.newest = Some(Newest { ssrc, timestamp: frame.timestamp(), at: now, from });
        (gap, self.damaged_since.is_some())
    }

    /// What is told of the second that is over; `None` if there is nothing to tell.
    pub(super) fn take_second(&mut self, now: Mono, via: String) -> Option<Event> {
        self.count_damage(now);
        let Second { frames, lost, damaged, latency_ms } = std::mem::take(&mut self.second);
        let damaged_ms = millis(damaged);
        let any = frames > 0 || damaged_ms > 0;
        any.then_some(Event::Second { frames, lost, damaged_ms, latency_ms, via })
    }

    /// The gap that lasts until now, when watching ends, if there is one.
    pub(super) fn last_gap(&mut self, now: Mono, cause: impl FnOnce() -> String) -> Option<Gap> {
        let newest = self.newest.as_ref()?;
        let pause = now.since(newest.at.mono);
        if pause <= self.limit().unwrap_or(GAP_UNPACED) {
            return None;
        }
        let (at, from) = (newest.at.wall, newest.from.clone());
        let to = String::new();
        let gap = Gap { ms: millis(pause), at, cause: cause(), from, to, over: false };
        Some(self.list(gap))
    }

    /// The summary, with this many frames that were not written.
    pub(super) fn report(mut self, now: Mono, unwritten: u64) -> Report {
        self.count_damage(now);
        let latencies = &mut self.latencies;
        latencies.sort_by(f32::total_cmp);
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).map(|ms| f64::from(*ms))
        };
        let (latency_p50_ms, latency_p99_ms) = (at(0.5), at(0.99));
        let damaged_ms = millis(self.damaged);
        Report { latency_p50_ms, latency_p99_ms, damaged_ms, unwritten, ..self.report }
    }

    fn count_loss(&mut self, frame: &Frame, same_line: bool) -> u64 {
        let (Some(first), Some(last)) = (frame.packets.first(), frame.packets.last()) else {
            return 0;
        };
        let mut lost = 0;
        if let Some(next) = self.next_sequence.filter(|_| same_line) {
            lost += u64::from(first.sequence.wrapping_sub(next));
        }
        let span = u64::from(last.sequence.wrapping_sub(first.sequence)) + 1;
        lost += span.saturating_sub(frame.packets.len() as u64);
        self.next_sequence = Some(last.sequence.wrapping_add(1));
        self.report.lost += lost;
        self.second.lost += lost;
        lost
    }

    /// How long a pause may be; `None` before the pace is known.
    fn limit(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(INTERVALS / 2)?;
        (sorted.len() == INTERVALS).then(|| GAP_MIN.max(*median * 3))
    }

    fn gap_before(&mut self, now: Mono, to: &str, cause: Option<&str>, lost: u64) -> Option<Gap> {
        let newest = self.newest.as_ref()?;
        let pause = now.since(newest.at.mono);
        if pause <= self.limit()? {
            return None;
        }
        let mut cause = cause.unwrap_or("for no reason that was seen").to_owned();
        if lost > 0 {
            cause += &format!("; {lost} packets were lost");
        }
        let (at, from) = (newest.at.wall, newest.from.clone());
        let gap = Gap { ms: millis(pause), at, cause, from, to: to.to_owned(), over: true };
        Some(self.list(gap))
    }

    fn list(&mut self, gap: Gap) -> Gap {
        if self.report.gaps.len() < GAPS_MAX {
            self.report.gaps.push(gap.clone());
        }
        gap
    }

    fn learn_interval(&mut self, timestamp: u32, same_line: bool) {
        let Some(newest) = self.newest.as_ref().filter(|_| same_line) else { return };
        let ticks = u64::from(timestamp.wrapping_sub(newest.timestamp));
        if self.intervals.len() == INTERVALS {
            self.intervals.pop_front();
        }
        self.intervals.push_back(Duration::from_micros(ticks * 1_000_000 / CLOCK_RATE));
    }

    /// Counts damage up to now.
    fn count_damage(&mut self, now: Mono) {
        if let Some(since) = &mut self.damaged_since {
            let more = now.since(*since);
            *since = now;
            self.damaged += more;
            self.second.damaged += more;
        }
    }

    fn read_clock(&mut self, seen: Option<(u64, u32)>, wall: u64) {
        let Some((ms, number)) = seen else { return };
        let skipped = self.report.skipped.get_or_insert(0);
        if let Some((before, last)) = self.clock {
            let step = number.wrapping_sub(last);
            // More than a minute of frames: the test source was started anew.
            if (2..1000).contains(&step) {
                *skipped += u64::from(step) - 1;
            }
            self.report.backwards += u64::from(ms < before);
        }
        self.clock = Some((ms, number));
        let latency = wall as f64 - ms as f64;
        self.second.latency_ms = Some(latency);
        if self.latencies.len() < LATENCIES_MAX {
            self.latencies.push(latency as f32);
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Packet;

    /// A picture in frames of two packets.
    struct Trial {
        shown: Shown,
        ms: u64,
        number: u16,
        /// By the source's clock.
        media_ms: u64,
    }

    impl Trial {
        fn new() -> Self {
            let shown = Shown::new("cam-1".into(), Mono(0));
            Self { shown, ms: 1_000, number: 0, media_ms: 0 }
        }

        fn now(&self) -> Now {
            Now { mono: Mono(self.ms * 1_000_000), wall: 1_700_000_000_000 + self.ms }
        }

        /// The next frame comes this long after the last, without these of its packets.
        fn frame(&mut self, after: u64, keyframe: bool, missing: &[u16]) -> Option<Gap> {
            self.frame_of(after, after, keyframe, missing)
        }

        fn frame_of(
            &mut self,
            media: u64,
            after: u64,
            keyframe: bool,
            missing: &[u16],
        ) -> Option<Gap> {
            self.ms += after;
            self.media_ms += media;
            let packets = (0..2).filter(|at| !missing.contains(at)).map(|at| Packet {
                sequence: self.number + at,
                timestamp: (self.media_ms * 90) as u32,
                marker: at == 1,
                payload: [0x41, 0xc0].as_slice().into(),
            });
            let frame = Frame { packets: packets.collect(), keyframe };
            self.number += 2;
            if frame.packets.is_empty() {
                return None;
            }
            let assembled = Assembled { complete: missing.is_empty(), frame, lost: 0 };
            assert!(self.shown.wants(1, &assembled.frame));
            let showing = Showing {
                ssrc: 1,
                assembled: &assembled,
                clock: None,
                from: "n1".into(),
                cause: Some("n1 fell silent"),
            };
            self.shown.show(self.now(), showing).0
        }

        fn frames(&mut self, count: usize, every: u64) -> usize {
            (0..count).filter(|_| self.frame(every, false, &[]).is_some()).count()
        }
    }

    #[test]
    fn a_slow_camera_has_no_gaps_from_its_first_frame_on() {
        for fps in [1, 2, 5, 15, 25] {
            let mut trial = Trial::new();
            trial.frame(0, true, &[]);
            assert_eq!(trial.frames(60, 1_000 / fps), 0, "at {fps} fps");
            let gap = trial.frame(4_000, false, &[]).expect("four seconds are one");
            assert_eq!((gap.ms, gap.over, &*gap.cause), (4_000, true, "n1 fell silent"));
        }
    }

    #[test]
    fn a_pace_that_changes_is_believed_after_half_of_the_intervals() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        trial.frames(60, 40);
        assert_eq!(trial.frames(60, 500), INTERVALS / 2);
    }

    #[test]
    fn a_burst_after_a_gap_does_not_change_the_pace() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        assert_eq!(trial.frames(20, 200), 0);
        assert!(trial.frame_of(200, 2_000, false, &[]).is_some());
        for _ in 0..9 {
            assert!(trial.frame_of(200, 0, false, &[]).is_none());
        }
        assert_eq!(trial.frames(20, 200), 0);
    }

    #[test]
    fn lost_packets_stand_in_the_cause_of_a_gap() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        trial.frames(20, 40);
        for _ in 0..5 {
            trial.frame(40, false, &[0, 1]);
        }
        let gap = trial.frame(40, false, &[]).expect("a gap");
        assert_eq!(gap.cause, "n1 fell silent; 10 packets were lost");
    }

    #[test]
    fn a_gap_that_lasts_at_the_end_is_told() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        trial.frames(20, 40);
        trial.ms += 100;
        assert_eq!(trial.shown.last_gap(trial.now().mono, String::new), None);
        trial.ms += 1_000;
        let now = trial.now().mono;
        let gap = trial.shown.last_gap(now, || "n1 fell silent".into()).expect("a gap");
        assert_eq!((gap.ms, gap.over, &*gap.from, &*gap.to), (1_100, false, "n1", ""));
        assert_eq!(trial.shown.report(now, 0).gaps, [gap]);
    }

    #[test]
    fn the_picture_is_damaged_from_a_loss_to_the_next_whole_keyframe() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        trial.frames(10, 40);
        trial.frame(40, false, &[1]);
        trial.frames(10, 40);
        trial.frame(40, true, &[0]);
        trial.frames(4, 40);
        let second = trial.shown.take_second(trial.now().mono, "n1".into());
        let Some(Event::Second { damaged_ms, lost, .. }) = second else { panic!("{second:?}") };
        assert_eq!((damaged_ms, lost), (15 * 40, 2));
        trial.frame(40, true, &[]);
        trial.frames(10, 40);
        let now = trial.now().mono;
        assert_eq!(trial.shown.report(now, 0).damaged_ms, 16 * 40);
    }

    #[test]
    fn frames_that_are_lost_before_a_whole_keyframe_damage_nothing() {
        let mut trial = Trial::new();
        trial.frame(0, true, &[]);
        trial.frame(40, false, &[0, 1]);
        trial.frame(40, true, &[]);
        trial.frames(10, 40);
        let now = trial.now().mono;
        let report = trial.shown.report(now, 0);
        assert_eq!((report.damaged_ms, report.lost), (0, 2));
    }
}
