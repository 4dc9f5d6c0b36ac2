//! `roost completions`: a script that teaches a shell the commands and options.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::Failure;
use super::{Roost, out};

/// Arguments of `roost completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Roost::command(), "roost", &mut script);
    out::line(String::from_utf8_lossy(&script).trim_end())
}
