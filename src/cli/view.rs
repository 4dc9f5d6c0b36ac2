//! `roost view`: the native viewer, which tells loss, latency, and every gap with its cause.

use std::path::{Path, PathBuf};
use std::time::Duration;

use roost::agent::view::{self, Output, ViewConfig, ViewError};
use tokio::sync::mpsc;

use super::addr::Addr;
use super::exit::{Exit, Failure};
use super::signals::Stop;
use super::{duration, events, invite, out, usage};

/// Arguments of `roost view`.
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    /// Which stream
    #[arg(value_parser = invite::name)]
    name: String,
    #[command(flatten)]
    addr: Addr,
    /// Write the video (H.264, Annex B) here; `-` is standard output
    #[arg(long, value_name = "FILE|-")]
    output: Option<PathBuf>,
    /// Stop after this long, like 90s, 15m
    #[arg(long = "for", value_name = "D", value_parser = duration::parse)]
    stop_after: Option<Duration>,
    /// Stay with the node that answers first, which relays, instead of being led home
    #[arg(long)]
    stay: bool,
    /// Print every change, and the report at the end, as lines of JSON
    #[arg(long)]
    json: bool,
}

/// Watches until a signal or the end of the time, then reports.
pub(crate) async fn run(args: View) -> Result<(), Failure> {
    let stop = Stop::listen()?;
    let target = args.addr.target()?;
    let output = args.output.map(|path| match path == Path::new("-") {
        true => Output::Stdout,
        false => Output::File(path),
    });
    if args.json && matches!(output, Some(Output::Stdout)) {
        return Err(usage("--json and --output - both want standard output: give a file to one"));
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut printer = tokio::spawn(events::print(receiver, args.json));
    let config = ViewConfig { name: args.name, target, output, stay: args.stay, events: sender };
    let time_is_over = async move {
        match args.stop_after {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let shutdown = async move {
        tokio::select! {
            () = stop.graceful() => {}
            () = time_is_over => {}
        }
    };
    tokio::select! {
        result = view::run(config, shutdown) => {
            // What was told before the report is printed before it.
            printer.await.unwrap_or(Ok(()))?;
            let report = result.map_err(|error| {
                let exit = match &error {
                    ViewError::Refused(_) => Exit::NotAllowed,
                    ViewError::NoSuchStream(_) => Exit::NoSuchThing,
                    ViewError::NoNodeAnswered(_) => Exit::NoNodeAnswered,
                    ViewError::Failed(_) => Exit::Failed,
                };
                Failure::said(exit, error)
            })?;
            if args.json {
                return out::json_line(&report);
            }
            out::talk(&report.to_string());
            Ok(())
        }
        // Ends early only when standard output went away.
        printed = &mut printer => printed.unwrap_or(Ok(())),
    }
}
