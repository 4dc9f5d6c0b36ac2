//! Standard output and standard error: data on the one, talk on the other, and a reader that
//! goes away is a graceful end.

use std::io::{self, Write};

use serde::Serialize;

use super::exit::{Exit, Failure};

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Makes the choice for this process.
    pub(crate) fn apply(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// Whether standard error takes colour, after `--color`, NO_COLOR and CLICOLOR_FORCE.
pub(crate) fn stderr_in_color() -> bool {
    !matches!(anstream::AutoStream::choice(&io::stderr()), anstream::ColorChoice::Never)
}

/// Whether standard output takes colour.
pub(crate) fn stdout_in_color() -> bool {
    !matches!(anstream::AutoStream::choice(&io::stdout()), anstream::ColorChoice::Never)
}

/// Writes `text` and a line end to standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| stdout_failed(&error))
}

/// Writes `value` as one JSON document, indented for people.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, "cannot print JSON", error, "report this"))?;
    line(&text)
}

/// Writes `value` as one line of JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Failed, "cannot print JSON", error, "report this"))?;
    line(&text)
}

/// Writes a line to standard error; nobody may be reading it, and that is fine.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Writes a failure to standard error.
pub(crate) fn complain(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    let red = owo_colors::Style::new().red().bold();
    talk(&format!("{} {}", red.style("error:"), failure.message));
}

fn stdout_failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::silent(Exit::Done);
    }
    Failure::new(Exit::Failed, "cannot write to standard output", error, "check where it goes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let broken = stdout_failed(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(broken, Failure::silent(Exit::Done));
        let full = stdout_failed(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::Failed);
    }
}
