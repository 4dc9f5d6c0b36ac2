//! What a source is told. Wishes that a source has not read yet add up, so that none is lost,
//! however long it does something else.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::Closed;

/// What a source is told. Sources start paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Send pictures, beginning with a keyframe.
    Run,
    /// Send none: somebody may watch again at any moment, so stay connected.
    Pause,
    /// Send a keyframe soon, if the source can.
    Keyframe,
}

/// What wishes come to that waited together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wished {
    /// Run or pause, whichever came last. To run, said while running, is to begin anew.
    pub(super) run: Option<bool>,
    pub(super) keyframe: bool,
}

impl Wished {
    fn add(&mut self, wish: Wish) {
        match wish {
            Wish::Run => self.run = Some(true),
            Wish::Pause => *self = Self { run: Some(false), keyframe: false },
            Wish::Keyframe => self.keyframe = true,
        }
    }
}

/// Tells a source. Clones tell the same one.
#[derive(Debug, Clone)]
pub struct Wishes {
    sum: Arc<Mutex<Wished>>,
    bell: mpsc::Sender<()>,
}

impl Wishes {
    /// Adds a wish to those that wait. One to a source that has ended goes nowhere.
    pub fn send(&self, wish: Wish) {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner).add(wish);
        // A bell that was rung and not yet heard is enough: who hears it takes the sum.
        let _ = self.bell.try_send(());
    }
}

/// A source's side.
#[derive(Debug)]
pub(super) struct Inbox {
    sum: Arc<Mutex<Wished>>,
    bell: mpsc::Receiver<()>,
}

/// Both sides.
pub(super) fn pair() -> (Wishes, Inbox) {
    let (ring, bell) = mpsc::channel(1);
    let sum = Arc::default();
    (Wishes { sum: Arc::clone(&sum), bell: ring }, Inbox { sum, bell })
}

impl Inbox {
    /// Everything that was wished since the last look.
    pub(super) fn look(&mut self) -> Result<Wished, Closed> {
        match self.bell.try_recv() {
            Ok(()) => Ok(self.take()),
            Err(TryRecvError::Empty) => Ok(Wished::default()),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }

    /// For tasks; waits for a wish. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Result<Wished, Closed> {
        self.bell.recv().await.ok_or(Closed)?;
        Ok(self.take())
    }

    /// For threads; waits until it is told to run.
    pub(super) fn wait_to_run(&mut self) -> Result<(), Closed> {
        loop {
            self.bell.blocking_recv().ok_or(Closed)?;
            if self.take().run == Some(true) {
                return Ok(());
            }
        }
    }

    fn take(&self) -> Wished {
        std::mem::take(&mut self.sum.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wish_is_lost_however_many_wait() {
        let (wishes, mut inbox) = pair();
        for _ in 0..100 {
            wishes.send(Wish::Keyframe);
        }
        wishes.send(Wish::Run);
        let wished = inbox.look().expect("open");
        assert_eq!(wished, Wished { run: Some(true), keyframe: true });
        assert_eq!(inbox.look().expect("open"), Wished::default(), "each is read once");
        for _ in 0..100 {
            wishes.send(Wish::Keyframe);
        }
        wishes.send(Wish::Pause);
        // A keyframe that was wished for before the pause is of no use after it.
        let wished = inbox.look().expect("open");
        assert_eq!(wished, Wished { run: Some(false), keyframe: false });
        wishes.send(Wish::Pause);
        wishes.send(Wish::Run);
        drop(wishes);
        assert_eq!(inbox.look().expect("what was wished before").run, Some(true));
        assert!(inbox.look().is_err());
    }
}
