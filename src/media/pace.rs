//! How often pictures come, and after how long without one they stand still.

use std::time::Duration;

/// Until pictures have come, they are taken to come so often: 15 in a second.
const FIRST: Duration = Duration::from_millis(66);
/// A longer pause says nothing of how often pictures come.
const LONGEST: Duration = Duration::from_secs(1);
/// Usual intervals without a picture that count as standing still.
const STILL: f64 = 2.5;

/// How long a feed has brought no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Since its last.
    After(Duration),
    /// Since it was to begin: it has brought nothing at all.
    Never(Duration),
}

/// How often the pictures of one stream come.
#[derive(Debug, Clone)]
pub struct Pace {
    interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: FIRST }
    }
}

impl Pace {
    /// A picture came so long after the one before.
    pub fn came_after(&mut self, pause: Duration) {
        // A slow average over some twenty pictures: one late picture must not raise it.
        self.interval = (self.interval * 19 + pause.min(LONGEST).min(self.interval * 3)) / 20;
    }

    /// Without a picture for this long, and for `least` in any case, they stand still.
    pub fn still_after(&self, least: Duration) -> Duration {
        self.interval.mul_f64(STILL).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(250);

    #[test]
    fn a_slow_camera_is_given_its_time_and_one_late_picture_changes_little() {
        let mut pace = Pace::default();
        assert_eq!(pace.still_after(LEAST), LEAST);
        (0..200).for_each(|_| pace.came_after(Duration::from_millis(500)));
        let slow = pace.still_after(LEAST);
        assert!((1200..=1250).contains(&slow.as_millis()), "{slow:?}");
        (0..200).for_each(|_| pace.came_after(Duration::from_millis(40)));
        pace.came_after(Duration::from_secs(20));
        assert_eq!(pace.still_after(LEAST), LEAST);
    }
}
