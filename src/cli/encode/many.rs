//! Many test encoders in one process, for tests of load.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use roost::agent::Event;
use roost::agent::encode::{self, EncodeConfig, Shared};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::super::exit::{Exit, Failure};
use super::super::signals::Stop;
use super::super::{events, usage};
use super::{Encode, default_state, failed};

/// The most encoders of one process: as many as a node takes.
pub(super) const ENCODERS_MAX: i64 = 10_000;
/// Encoders of one process that are on their way to their first home at a time. All at once they
/// would keep each other out: nodes have few places for strangers of one address.
const STARTING: usize = 32;
/// One that has not come home by then makes room for the next, and goes on.
const START_WAIT: Duration = Duration::from_secs(4);
/// Open files that are needed beside a lock for each encoder.
const OTHER_FILES: u64 = 64;

/// A line, and whose it is.
#[derive(Debug, Serialize)]
struct Line {
    encoder: Arc<str>,
    #[serde(flatten)]
    event: Event,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.encoder, self.event)
    }
}

/// Sends until a signal, or until one of them cannot.
pub(super) async fn run(args: Encode, count: u16) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    if args.key(super::variable)?.is_some() {
        return Err(usage("a stream key is for one encoder: leave it away, or --count"));
    }
    let target = args.addr.target()?;
    let names: Vec<Arc<str>> =
        (1..=count).map(|number| format!("{}-{number}", args.name).into()).collect();
    if let Some(long) = names.last().filter(|name| !roost::id::valid_name(name)) {
        return Err(usage(format!("{long} is too long for a name: choose a shorter one")));
    }
    allow_files(count)?;
    let state = args.state.clone().unwrap_or_else(default_state);
    let shared = Shared::open(&target).map_err(failed)?;
    let (lines, receiver) = mpsc::unbounded_channel();
    let mut printer = tokio::spawn(events::print(receiver, args.json));
    let (tell, told) = watch::channel(false);
    let signal = tokio::spawn(async move {
        stop.graceful().await;
        let _ = tell.send(true);
    });
    let places = Arc::new(Semaphore::new(STARTING));
    let mut agents = JoinSet::new();
    let mut names = names.into_iter();
    let work = async {
        loop {
            tokio::select! {
                // The semaphore is never closed.
                Ok(place) = places.clone().acquire_owned(), if names.len() > 0 && !*told.borrow() => {
                    let Some(name) = names.next() else { continue };
                    let (events, of_one) = mpsc::unbounded_channel();
                    let config = EncodeConfig {
                        name: name.to_string(),
                        encoder: None,
                        target: target.clone(),
                        state: state.clone(),
                        source: args.test_picture(&name),
                        events,
                    };
                    tokio::spawn(pass_on(name, of_one, lines.clone(), place));
                    let mut told = told.clone();
                    agents.spawn(encode::run(config, shared.clone(), async move {
                        let _ = told.wait_for(|stop| *stop).await;
                    }));
                }
                Some(ended) = agents.join_next() => match ended {
                    Ok(result) => result.map_err(failed)?,
                    Err(error) => {
                        return Err(Failure::new(Exit::Failed, "an encoder ended", error, "report this"));
                    }
                },
                // All have said goodbye.
                else => return Ok(()),
            }
        }
    };
    let result = tokio::select! {
        result = work => result,
        // Ends early only when standard output went away.
        printed = &mut printer => return printed.unwrap_or(Ok(())),
    };
    signal.abort();
    drop(lines);
    result?;
    printer.await.unwrap_or(Ok(()))
}

/// Each encoder locks a file of its own.
fn allow_files(count: u16) -> Result<(), Failure> {
    let needed = u64::from(count) + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    limit.current = limit.maximum;
    let allowed = setrlimit(Resource::Nofile, limit).is_ok()
        && limit.maximum.is_none_or(|maximum| maximum >= needed);
    if allowed {
        return Ok(());
    }
    Err(usage(format!("{count} encoders need {needed} open files: raise that limit (ulimit -Hn)")))
}

/// Hands one encoder's events on under its name, and gives its place to the next encoder once it
/// has a home, or hears why it has none.
async fn pass_on(
    encoder: Arc<str>,
    mut events: mpsc::UnboundedReceiver<Event>,
    lines: mpsc::UnboundedSender<Line>,
    place: OwnedSemaphorePermit,
) {
    let mut place = Some(place);
    let long = tokio::time::sleep(START_WAIT);
    tokio::pin!(long);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                if !matches!(event, Event::Source { .. }) {
                    place = None;
                }
                // Nobody reads any more: the process ends.
                let _ = lines.send(Line { encoder: encoder.clone(), event });
            }
            () = &mut long, if place.is_some() => place = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is() {
        let event = Event::Next { node: "n2".into() };
        let line = Line { encoder: "cam-7".into(), event };
        assert_eq!(line.to_string(), "cam-7: next is n2");
        let json = serde_json::to_string(&line).expect("a line");
        assert_eq!(json, r#"{"encoder":"cam-7","event":"next","node":"n2"}"#);
    }
}
