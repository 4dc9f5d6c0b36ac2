//! `roost restore`: puts a backup into the folder of a node that does not run.

use std::path::PathBuf;

use roost::store::{Restored, restore};
use serde::Serialize;

use super::exit::Failure;
use super::out;

/// Arguments of `roost restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// What roost backup wrote
    file: PathBuf,
    /// The node's folder; what is there is kept beside it
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    mesh: String,
    records: usize,
    /// When the backup was made.
    made: String,
    /// Where the database is that was there before.
    aside: PathBuf,
}

/// Does it, and says what comes next.
pub(crate) fn run(args: &Restore) -> Result<(), Failure> {
    let Restored { backup, aside } = restore(&args.file, &args.data).map_err(Failure::from)?;
    let made = i64::try_from(backup.made).ok();
    let made = made.and_then(|made| jiff::Timestamp::from_millisecond(made).ok());
    let made = made.map(|made| made.to_string()).unwrap_or_default();
    let done = Done { mesh: backup.mesh.to_string(), records: backup.records, made, aside };
    if args.json {
        return out::json(&done);
    }
    out::talk(
        "Start the node: it gets from the others what came after the backup. A node without others \
         has what the backup has.",
    );
    out::line(&format!(
        "{} records of mesh {}, as of {}; what was there is kept as {}",
        done.records,
        done.mesh,
        done.made,
        done.aside.display()
    ))
}
