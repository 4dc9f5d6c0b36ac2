//! SIGINT and SIGTERM: the first asks to stop, the second insists.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};

/// Signals that come this soon after the first are the same wish: `timeout`, `sudo` and terminals
/// tell a process by itself and once more with its group.
const ECHO: Duration = Duration::from_millis(500);

/// The two signals that end a command.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Starts to listen; from here on neither signal ends the process by itself.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, "cannot listen for signals", error, "try again")
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the first; the second one ends the process at once.
    pub(crate) async fn graceful(mut self) {
        self.next().await;
        tokio::spawn(async move {
            let first = tokio::time::Instant::now();
            self.next().await;
            while first.elapsed() < ECHO {
                self.next().await;
            }
            super::out::talk("stopped at once by the second signal");
            std::process::exit(Exit::Failed as i32);
        });
    }
}
