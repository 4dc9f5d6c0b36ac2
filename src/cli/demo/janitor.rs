//! Cleaning up after a demo that may be killed at any moment.
//!
//! The janitor is a child in a process group of its own that reads lines from a pipe: `pid N`
//! for a process to end, `dir PATH` for a folder to remove, `keep` to leave the folder. The
//! kernel closes the pipe however the demo ends; at the end of file the janitor kills what it
//! was told of, frozen or not, and removes the folder. An orderly end is the same: the demo
//! closes the pipe and waits.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::super::exit::{Exit, Failure};

/// How long the janitor waits for killed processes to be gone before it removes their folder.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// The demo's end of the pipe.
#[derive(Debug)]
pub(super) struct Janitor {
    process: Child,
    pipe: ChildStdin,
}

impl Janitor {
    /// Starts the janitor, responsible for `folder` from now on.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let started = std::env::current_exe().and_then(|executable| {
            let mut process = Command::new(executable)
                .arg("demo-janitor")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .process_group(0)
                .spawn()?;
            let pipe = process.stdin.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
            Ok(Self { process, pipe })
        });
        let mut janitor = started.map_err(|error| {
            Failure::new(Exit::Failed, "cannot start the demo's janitor", error, "try again")
        })?;
        janitor.tell(&format!("dir {}", folder.display()))?;
        Ok(janitor)
    }

    /// Makes it responsible for a process.
    pub(super) fn watch(&mut self, pid: Pid) -> Result<(), Failure> {
        self.tell(&format!("pid {}", pid.as_raw_nonzero()))
    }

    /// Tells it to leave the folder.
    pub(super) fn keep(&mut self) -> Result<(), Failure> {
        self.tell("keep")
    }

    /// Lets it do its work and waits for the end of it.
    pub(super) async fn finish(self) {
        let Self { mut process, pipe } = self;
        drop(pipe);
        let _ = tokio::task::spawn_blocking(move || process.wait()).await;
    }

    fn tell(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.pipe, "{line}").and_then(|()| self.pipe.flush()).map_err(|error| {
            Failure::new(Exit::Failed, "the demo's janitor is gone", error, "start the demo again")
        })
    }
}

/// What the janitor has to do at the end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Duties {
    processes: Vec<Watched>,
    folder: Option<PathBuf>,
}

/// A process, told from a later one with the same number by its start.
#[derive(Debug, PartialEq, Eq)]
struct Watched {
    pid: Pid,
    start: Option<String>,
}

/// The janitor itself: reads until the pipe closes, then cleans up.
pub(crate) fn run() -> Result<(), Failure> {
    let mut duties = Duties::default();
    for line in std::io::stdin().lock().lines() {
        // A pipe that breaks is a pipe that ends.
        let Ok(line) = line else { break };
        duties.take(&line);
    }
    duties.fulfil();
    Ok(())
}

impl Duties {
    fn take(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("pid", number)) => {
                if let Some(pid) = number.parse().ok().and_then(Pid::from_raw) {
                    self.processes.push(Watched { pid, start: start_of(pid) });
                }
            }
            Some(("dir", path)) => self.folder = Some(PathBuf::from(path)),
            _ if line == "keep" => self.folder = None,
            _ => {}
        }
    }

    fn fulfil(self) {
        let running: Vec<_> =
            self.processes.iter().filter(|process| process.is_running()).collect();
        for process in &running {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        let deadline = Instant::now() + GONE_WITHIN;
        while Instant::now() < deadline && running.iter().any(|process| process.is_running()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(folder) = self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl Watched {
    /// Still the same process, and not a zombie.
    fn is_running(&self) -> bool {
        self.start.is_some() && start_of(self.pid) == self.start
    }
}

/// When a process started, in the kernel's ticks; `None` if it is gone or only a zombie.
fn start_of(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may hold anything; the fields after it are state and 19 more
    // before the start (proc_pid_stat(5), fields 3 and 22).
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_end_processes_are_gone_and_so_is_the_folder() {
        let folder = tempfile::tempdir().unwrap().keep();
        std::fs::write(folder.join("data"), "x").unwrap();
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&sleeper);
        kill_process(pid, Signal::STOP).unwrap();

        let mut duties = Duties::default();
        duties.take(&format!("pid {}", pid.as_raw_nonzero()));
        duties.take(&format!("dir {}", folder.display()));
        duties.take("something that a later version says");
        duties.fulfil();

        assert!(!folder.exists());
        assert!(!sleeper.wait().unwrap().success());
    }

    #[test]
    fn a_process_that_took_over_the_number_is_left_alone() {
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&sleeper);
        let other = Watched { pid, start: Some("1".to_owned()) };
        Duties { processes: vec![other], folder: None }.fulfil();
        assert_eq!(sleeper.try_wait().unwrap(), None);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn keep_leaves_the_folder() {
        let mut duties = Duties::default();
        duties.take("dir /nonexistent");
        duties.take("keep");
        assert_eq!(duties, Duties::default());
    }
}
