//! The `roost` executable: installs the one crypto provider and hands over to the command line.

mod cli;
mod config;
mod logging;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Both say "already installed" at worst, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    str0m::crypto::from_feature_flags().install_process_default();
    cli::main()
}
