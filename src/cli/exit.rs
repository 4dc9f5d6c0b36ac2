//! How a command ends: one exit code per kind of outcome, one sentence per failure.

use std::fmt::Display;
use std::process::ExitCode;

use roost::agent::api::ApiError;
use roost::node::NodeError;
use roost::store::StoreError;

/// Every way a command can end. The numbers are part of the interface: scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or healthy.
    Done = 0,
    /// Something went wrong that has no number of its own.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// There is no such thing.
    NoSuchThing = 3,
    /// Somebody else has it, or it is in another state than the command expects.
    Conflict = 4,
    /// This client may not do that.
    NotAllowed = 5,
    /// None of the given nodes answered.
    NoNodeAnswered = 6,
    /// The time is over; the work goes on without this command.
    DeadlinePassed = 7,
    /// `status --check`: works, but something is missing.
    Degraded = 8,
    /// `status --check`: does not work.
    Down = 9,
    /// `roost node`: starting again with the same configuration would fail again.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What, why, and what to do next; empty if there is nothing to say.
    pub(crate) message: String,
}

impl Failure {
    /// A failure in three parts: what could not be done, why, and what to do next.
    pub(crate) fn new(exit: Exit, what: &str, why: impl Display, next: &str) -> Self {
        Self { exit, message: format!("{what}: {why}; {next}") }
    }

    /// A failure whose message is already complete.
    pub(crate) fn said(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// An ending that needs no words: the reader of standard output went away.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self { exit, message: String::new() }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = match &error {
            NodeError::Configuration(_) => Exit::Configuration,
            NodeError::InUse(_) => Exit::Conflict,
            NodeError::NotAllowed(_) => Exit::NotAllowed,
            NodeError::NoNodeAnswered(_) => Exit::NoNodeAnswered,
            NodeError::Failed(_) => Exit::Failed,
        };
        Self::said(exit, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::InUse { .. } | StoreError::OtherMesh { .. } => Exit::Conflict,
            StoreError::Newer { .. } | StoreError::NoBackup { .. } => Exit::Usage,
            StoreError::Unwritable { .. } => Exit::NotAllowed,
            _ => Exit::Failed,
        };
        Self::said(exit, error)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match &error {
            ApiError::NoNodeAnswered(_) => Exit::NoNodeAnswered,
            ApiError::NotAllowed(_) => Exit::NotAllowed,
            ApiError::Failed(_) | ApiError::Uncertain(_) => Exit::Failed,
        };
        let next = match exit {
            Exit::NoNodeAnswered => "; check --addr, and that a node runs there",
            Exit::NotAllowed if !error.to_string().contains("roost") => {
                "; log in (roost login), or ask for a string: roost invite --client"
            }
            _ if matches!(error, ApiError::Uncertain(_)) => "; look before you repeat it",
            _ => "",
        };
        Self::said(exit, format!("{error}{next}"))
    }
}

/// The exit code that fits an HTTP status of the API; `None` for success.
pub(crate) fn exit_of_status(status: u16) -> Option<Exit> {
    match status {
        200..=299 => None,
        400 | 422 => Some(Exit::Usage),
        401 | 403 => Some(Exit::NotAllowed),
        404 => Some(Exit::NoSuchThing),
        409 | 412 => Some(Exit::Conflict),
        _ => Some(Exit::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_codes_are_the_documented_numbers() {
        let numbers = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NoSuchThing,
            Exit::Conflict,
            Exit::NotAllowed,
            Exit::NoNodeAnswered,
            Exit::DeadlinePassed,
            Exit::Degraded,
            Exit::Down,
            Exit::Configuration,
        ]
        .map(|exit| exit as u8);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 78]);
    }

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let failure = Failure::new(Exit::Failed, "cannot read x", "it is gone", "look for it");
        assert_eq!(failure.message, "cannot read x: it is gone; look for it");
    }
}
