//! Messages that wait for one client's writer. A channel would keep room for dozens; most clients
//! have none waiting, and a node has thousands of clients.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Messages that wait for one client; one that does not read them is closed.
const OUT_QUEUE: usize = 256;

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Vec<u8>>,
    ended: bool,
}

/// The side that fills it; what is in it still goes out once this is dropped.
#[derive(Debug)]
pub(super) struct Outbox(Arc<Shared>);

/// The side that empties it.
#[derive(Debug)]
pub(super) struct Outgoing(Arc<Shared>);

/// Both sides of an empty one.
pub(super) fn outbox() -> (Outbox, Outgoing) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Outgoing(shared))
}

impl Outbox {
    /// False if it is full: then the message is dropped.
    pub(super) fn push(&self, message: Vec<u8>) -> bool {
        let mut queue = self.0.lock();
        if queue.messages.len() >= OUT_QUEUE {
            return false;
        }
        queue.messages.push_back(message);
        drop(queue);
        self.0.news.notify_one();
        true
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.news.notify_one();
    }
}

impl Outgoing {
    /// The next message, in order; `None` once there will be no more.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = self.0.lock();
                if let Some(message) = queue.messages.pop_front() {
                    if queue.messages.is_empty() {
                        queue.messages = VecDeque::new();
                    }
                    return Some(message);
                }
                if queue.ended {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_said_last_still_goes_out() {
        let (outbox, mut outgoing) = outbox();
        let writer = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(message) = outgoing.next().await {
                all.extend(message);
            }
            all
        });
        for number in 0..100 {
            assert!(outbox.push(vec![number]));
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(outbox);
        assert_eq!(writer.await.expect("no panic"), (0..100).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn a_full_one_takes_no_more() {
        let (outbox, mut outgoing) = outbox();
        for _ in 0..OUT_QUEUE {
            assert!(outbox.push(Vec::new()));
        }
        assert!(!outbox.push(Vec::new()));
        outgoing.next().await;
        assert!(outbox.push(Vec::new()));
    }
}
