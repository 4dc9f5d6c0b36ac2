//! A node that goes, as seen by players and publishers of others: nobody can move them, so their
//! legs end at once, and who posts again is sent on while this node still answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Players and publishers post again within so long: the common ones try after a second or two.
const RETURN: Duration = Duration::from_secs(3);

/// Whether a node goes.
#[derive(Debug, Default)]
pub struct Going {
    begun: watch::Sender<Option<Instant>>,
    sent: AtomicBool,
}

impl Going {
    /// It does, from now on.
    pub(super) fn begin(&self) {
        self.begun.send_replace(Some(Instant::now()));
    }

    /// Returns once it does; somebody is sent away then, who may come back to be told where to.
    pub(super) async fn send_away(&self) {
        // It is there for as long as this is.
        let _ = self.begun.subscribe().wait_for(Option::is_some).await;
        self.sent.store(true, Ordering::Relaxed);
    }

    /// Gives those who were sent away the time to come back.
    pub(super) async fn await_return(&self) {
        let begun = *self.begun.borrow();
        if let Some(begun) = begun.filter(|_| self.sent.load(Ordering::Relaxed)) {
            tokio::time::sleep_until(begun + RETURN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_sent_nobody_away_waits_for_nobody() {
        let going = Going::default();
        let waits = async || {
            let returned = tokio::time::timeout(Duration::from_millis(50), going.await_return());
            returned.await.is_err()
        };
        let sent = tokio::time::timeout(Duration::from_millis(50), going.send_away()).await;
        assert!(sent.is_err(), "nobody is sent away by a node that stays");
        going.begin();
        assert!(!waits().await);
        going.send_away().await;
        assert!(waits().await);
    }
}
