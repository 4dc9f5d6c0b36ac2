//! Starting, asking, hurting and ending real nodes.
//!
//! Everything is bound to port 0 and a temporary folder, waits for conditions with a bound, and
//! is gone when its handle is dropped, or when the test's thread ends in whatever way.

pub(crate) mod capture;
pub(crate) mod client;
pub(crate) mod http;
pub(crate) mod lan;
pub(crate) mod mesh;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod said;

use std::time::{Duration, Instant};

/// How long anything may take that is not itself measured: long, because a machine that runs
/// every test at once is slow, and only a broken test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Waits until `condition` holds; panics with `what` if it does not within `deadline`.
#[track_caller]
pub(crate) fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, what, || condition().then_some(()));
}

/// Waits until `look` finds something; panics with `what` if it does not within `deadline`.
#[track_caller]
pub(crate) fn wait_for<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
