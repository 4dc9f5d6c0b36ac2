//! This executable as a child process.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, wait_for};

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 60;

/// `roost`, ready to be given arguments: without what the caller's environment says, and bound to
/// the life of this thread.
pub(crate) fn roost() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost"));
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("ROOST_") && name != "ROOST_LOG" {
            command.env_remove(variable);
        }
    }
    command.env("ROOST_PARENT", std::process::id().to_string());
    command.env("NO_COLOR", "1");
    command.stdin(Stdio::null());
    command
}

/// The same command, run inside a network namespace: `ip` replaces itself by it, so that its
/// process id and signals are the command's own.
pub(crate) fn inside(namespace: &str, command: Command) -> Command {
    let mut outer = Command::new("ip");
    outer.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer.stdin(Stdio::null());
    outer
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Finished {
    run_within(PATIENCE, args)
}

/// Runs a command that has to end within `deadline`.
#[track_caller]
pub(crate) fn run_within(deadline: Duration, args: &[&str]) -> Finished {
    let mut command = roost();
    command.args(args);
    finish(deadline, command)
}

/// Runs any command to its end, within `deadline`.
#[track_caller]
pub(crate) fn finish(deadline: Duration, mut command: Command) -> Finished {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the executable starts");
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if begin.elapsed() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "{command:?} did not end within {deadline:?}; it said:\n{}\n{}",
                stdout.join().unwrap_or_default(),
                stderr.join().unwrap_or_default()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Finished {
        code: status.code(),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A child that runs until it is told to end, or dropped. Its standard error is kept in a file
/// and shown if the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `roost ARGS`, logging to `FOLDER/NAME.log`.
    #[track_caller]
    pub(crate) fn start(name: &str, folder: &Path, args: &[String]) -> Self {
        Self::start_with(name, folder, args, Stdio::null())
    }

    /// The same, with a choice for standard output.
    #[track_caller]
    pub(crate) fn start_with(name: &str, folder: &Path, args: &[String], stdout: Stdio) -> Self {
        Self::start_in(None, name, folder, args, stdout)
    }

    /// The same with further variables in its environment.
    #[track_caller]
    pub(crate) fn start_env(
        name: &str,
        folder: &Path,
        args: &[String],
        env: &[(String, String)],
    ) -> Self {
        let mut command = roost();
        command.envs(env.iter().map(|(name, value)| (name, value)));
        Self::spawn(command, name, folder, args, Stdio::null())
    }

    /// The same, inside a network namespace.
    #[track_caller]
    pub(crate) fn start_in(
        namespace: Option<&str>,
        name: &str,
        folder: &Path,
        args: &[String],
        stdout: Stdio,
    ) -> Self {
        let command = match namespace {
            None => roost(),
            Some(namespace) => inside(namespace, roost()),
        };
        Self::spawn(command, name, folder, args, stdout)
    }

    #[track_caller]
    fn spawn(
        mut command: Command,
        name: &str,
        folder: &Path,
        args: &[String],
        stdout: Stdio,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let errors = File::options().create(true).append(true).open(&log).expect("a log opens");
        command.args(args).stdout(stdout).stderr(errors);
        let child = command.spawn().expect("the executable starts");
        Self { name: name.to_owned(), child, log }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// SIGKILL, and the end of it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: it answers nothing, its sockets stay open.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("the process is there");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("the process is there");
    }

    /// SIGTERM, and the end that follows.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("the process is there");
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        wait_for(PATIENCE, &format!("{name} ends"), || self.ended())
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("---- the end of {}'s log\n{}", self.name, end.join("\n"));
        }
    }
}
