//! How long to wait before the next attempt.

use std::time::Duration;

/// The first wait: a camera that dropped one connection is usually back at once.
const FIRST: Duration = Duration::from_millis(500);

/// The longest wait: a camera that was switched on again is seen within this time.
const LONGEST: Duration = Duration::from_secs(15);

/// How long something must work until its next failure is a new one. A camera that sends one
/// picture and drops the connection would otherwise be dialled twice a second for ever.
const MENDED: Duration = Duration::from_secs(10);

/// Waits that double up to a cap, each spread by a quarter to both sides, so that a hundred
/// agents do not knock at a rebooted switch in step.
#[derive(Debug, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    /// It works: the next failure waits the shortest time again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// It has worked for this long.
    pub(super) fn worked(&mut self, span: Duration) {
        if span >= MENDED {
            self.reset();
        }
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let [dice] = crate::node::random::<1>();
        self.wait(dice)
    }

    fn wait(&mut self, dice: u8) -> Duration {
        let wait = (FIRST * (1 << self.failures.min(10))).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait * 3 / 4 + wait / 2 * u32::from(dice) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_cap_and_are_spread() {
        let mut retry = Retry::default();
        let waits: Vec<u128> = (0..8).map(|_| retry.wait(0).as_millis()).collect();
        assert_eq!(waits, [375, 750, 1_500, 3_000, 6_000, 11_250, 11_250, 11_250]);
        assert_eq!(retry.wait(255), Duration::from_millis(18_750));
        retry.reset();
        assert_eq!(retry.wait(255).as_millis(), 625);
        retry.worked(Duration::from_secs(9));
        assert_eq!(retry.wait(0).as_millis(), 750, "it may have been luck");
        retry.worked(Duration::from_secs(10));
        assert_eq!(retry.wait(0).as_millis(), 375);
    }
}
