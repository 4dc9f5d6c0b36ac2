//! The last group of pictures, with which a newcomer starts at once.

use std::sync::Arc;
use std::time::Duration;

use super::{CLOCK_RATE, Frame};

/// The longest group that is kept: a newcomer would otherwise have to catch up with more than
/// a decoder does in passing.
pub const MAX_SPAN: Duration = Duration::from_secs(4);

/// The largest group that is kept, in payload bytes: it is sent to every newcomer as a burst.
pub const MAX_BYTES: usize = 4 << 20;

/// Frames of one stream from its last keyframe on, within [`MAX_SPAN`] and [`MAX_BYTES`].
#[derive(Debug, Default)]
pub struct GopCache {
    frames: Vec<Arc<Frame>>,
    bytes: usize,
    /// Groups that grew too long or too large and were dropped whole.
    pub overflows: u64,
}

impl GopCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame. A keyframe begins a new group; what would exceed a bound empties
    /// the cache until the next keyframe, since a group without its beginning is of no use.
    pub fn push(&mut self, frame: Arc<Frame>) {
        if frame.keyframe {
            self.reset();
        } else if self.frames.is_empty() {
            return;
        }
        self.bytes += frame.size();
        let first = self.frames.first().map_or(frame.timestamp(), |first| first.timestamp());
        // A timestamp before the group's first wraps to a long span: another time line.
        let span = u64::from(frame.timestamp().wrapping_sub(first));
        if self.bytes > MAX_BYTES || span > MAX_SPAN.as_secs() * u64::from(CLOCK_RATE) {
            self.reset();
            self.overflows += 1;
        } else {
            self.frames.push(frame);
        }
    }

    /// The frames that a newcomer is sent, oldest first; empty until a keyframe came.
    pub fn frames(&self) -> &[Arc<Frame>] {
        &self.frames
    }

    /// Nothing is here to start a newcomer with.
    pub fn wants_keyframe(&self) -> bool {
        self.frames.is_empty()
    }

    /// Payload bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets everything, as when the stream comes from elsewhere.
    pub fn reset(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::Packet;

    fn frame(keyframe: bool, timestamp: u32, size: usize) -> Arc<Frame> {
        let packet = Packet { sequence: 0, timestamp, marker: true, payload: vec![0; size].into() };
        Arc::new(Frame { packets: vec![packet], keyframe })
    }

    #[test]
    fn a_newcomer_starts_at_the_last_keyframe() {
        let mut cache = GopCache::new();
        cache.push(frame(false, 0, 1));
        assert!(cache.wants_keyframe());
        for (keyframe, timestamp) in [(true, 3_000), (false, 6_000), (true, 9_000), (false, 12_000)]
        {
            cache.push(frame(keyframe, timestamp, 1));
        }
        let times: Vec<u32> = cache.frames().iter().map(|frame| frame.timestamp()).collect();
        assert_eq!(times, [9_000, 12_000]);
        cache.reset();
        assert!(cache.wants_keyframe());
    }

    #[test]
    fn a_group_that_grows_too_long_is_dropped_whole_until_the_next_keyframe() {
        let mut cache = GopCache::new();
        let start = u32::MAX - 1_000;
        cache.push(frame(true, start, 1));
        cache.push(frame(false, start.wrapping_add(4 * 90_000), 1));
        assert_eq!(cache.frames().len(), 2, "four seconds, over the wrap");
        cache.push(frame(false, start.wrapping_add(4 * 90_000 + 1), 1));
        assert!(cache.wants_keyframe());
        cache.push(frame(false, start.wrapping_add(4 * 90_000 + 3_000), 1));
        assert!(cache.wants_keyframe());
        assert_eq!(cache.overflows, 1);
        cache.push(frame(true, start.wrapping_add(5 * 90_000), 1));
        assert!(!cache.wants_keyframe());
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_the_first_frame_is_a_keyframe(
            stream in prop::collection::vec(
                (prop::bool::weighted(0.1), 0u32..90_000, 1usize..1_500_000), 1..60),
            start: u32,
        ) {
            let mut cache = GopCache::new();
            let mut time = start;
            for (keyframe, step, size) in stream {
                time = time.wrapping_add(step);
                cache.push(frame(keyframe, time, size));
                let frames = cache.frames();
                let bytes: usize = frames.iter().map(|frame| frame.size()).sum();
                prop_assert_eq!(bytes, cache.bytes());
                prop_assert!(bytes <= MAX_BYTES);
                if let (Some(first), Some(last)) = (frames.first(), frames.last()) {
                    prop_assert!(first.keyframe);
                    prop_assert!(frames.iter().skip(1).all(|frame| !frame.keyframe));
                    prop_assert_eq!(last.timestamp(), time);
                    prop_assert!(time.wrapping_sub(first.timestamp()) <= 4 * 90_000);
                }
                if keyframe {
                    prop_assert!(!cache.wants_keyframe());
                }
            }
        }
    }
}
