//! SIGINT and SIGTERM: the first asks to stop, the second insists. SIGHUP asks to read the
//! configuration again.

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

/// SIGHUP.
#[derive(Debug)]
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Starts to listen; from here on the signal does not end the process.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self(listen(SignalKind::hangup())?))
    }

    /// Waits for the next; false if there will be none.
    pub(crate) async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        Failure::new(Exit::Failed, "cannot listen for signals", error, "try again")
    })
}
