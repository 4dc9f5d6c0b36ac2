//! Child processes of the demo: this executable again, as nodes, encoders and viewers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use super::super::exit::{Exit, Failure};
use super::janitor::Janitor;
use crate::logging::FILTER_VARIABLE;

/// Set for every child of a demo or a test: the process id of its parent.
const PARENT_VARIABLE: &str = "ROOST_PARENT";

/// How many lines of a child's log are shown when it fails.
const LOG_LINES: usize = 12;

/// Called first by every command: a child of a demo asks the kernel to be killed when the demo
/// is gone, even while it is frozen.
pub(crate) fn die_with_the_demo() -> Result<(), Failure> {
    let Some(parent) = std::env::var_os(PARENT_VARIABLE) else { return Ok(()) };
    let cannot = |why: &str| {
        Failure::new(
            Exit::Failed,
            "cannot run as a part of a demo",
            why,
            &format!("unset {PARENT_VARIABLE}"),
        )
    };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| cannot(&error.to_string()))?;
    // The demo may have gone before the request was made.
    let alive = getppid().is_some_and(|pid| parent == pid.as_raw_nonzero().to_string().as_str());
    if alive { Ok(()) } else { Err(cannot("the demo is gone")) }
}

/// Starts children, each known to the janitor from its first moment.
#[derive(Debug)]
pub(super) struct Nursery {
    executable: PathBuf,
    folder: PathBuf,
    janitor: Janitor,
}

/// A running child.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Pid,
    log: PathBuf,
}

/// Where a child's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Into its log, with standard error.
    Log,
    /// To the demo.
    Pipe,
}

impl Nursery {
    /// A nursery whose children keep their logs in `folder`.
    pub(super) fn new(folder: PathBuf, janitor: Janitor) -> Result<Self, Failure> {
        let executable = std::env::current_exe().map_err(|error| {
            Failure::new(Exit::Failed, "cannot find this executable", error, "start it by its path")
        })?;
        Ok(Self { executable, folder, janitor })
    }

    /// The folder of everything that the demo writes.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts `roost ARGS` with a log called `name`.
    ///
    /// To be called on the main thread only: the kernel ends a child with the *thread* that
    /// made it.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        args: &[String],
        output: Output,
    ) -> Result<Process, Failure> {
        let log = self.folder.join(format!("{name}.log"));
        let cannot = |why: &std::io::Error| {
            Failure::new(Exit::Failed, &format!("cannot start {name}"), why, "see its log")
        };
        let errors =
            File::options().create(true).append(true).open(&log).map_err(|e| cannot(&e))?;
        let stdout = match output {
            Output::Log => Stdio::from(errors.try_clone().map_err(|e| cannot(&e))?),
            Output::Pipe => Stdio::piped(),
        };
        let mut command = Command::new(&self.executable);
        // What the user set for nodes of their own is not meant for these.
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"ROOST_") && variable != FILTER_VARIABLE {
                command.env_remove(variable);
            }
        }
        let child = command
            .args(args)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .env("ROOST_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(errors)
            // Ctrl-C is for the demo, which then ends its children.
            .process_group(0)
            .spawn()
            .map_err(|e| cannot(&e))?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .ok_or_else(|| cannot(&std::io::Error::other("it ended at once")))?;
        self.janitor.watch(pid)?;
        Ok(Process { child, pid, log })
    }

    /// Ends every child, removes the folder, and waits until that is done.
    pub(super) async fn close(self) {
        self.janitor.finish().await;
    }

    /// Lets the janitor leave the folder where it is.
    pub(super) fn keep_folder(&mut self) -> Result<(), Failure> {
        self.janitor.keep()
    }
}

impl Process {
    /// What the kernel calls it.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        kill_process(self.pid, signal).map_err(|error| {
            Failure::new(Exit::Failed, "cannot signal a child", error, "it may be gone already")
        })
    }

    /// Kills it and waits for its end; works on frozen ones, too.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        self.signal(Signal::KILL)?;
        let _ = self.child.wait().await;
        Ok(())
    }

    /// Whether it ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Its standard output, once, if it is a pipe.
    pub(super) fn output(&mut self) -> Option<tokio::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
