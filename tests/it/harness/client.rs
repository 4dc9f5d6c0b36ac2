//! Real encoders and viewers.

use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::mesh::Mesh;
use super::process::Process;
use super::said::Said;
use super::{PATIENCE, wait_until};

/// For how long a busy machine may keep a process from running: four times what counts as a gap.
const STALL_MS: u64 = 600;

/// Asserts that nothing that was done to a stream could be seen: no picture came twice or before an
/// earlier one, and there was no gap. Once a node or this viewer may have stood still as a whole, pings
/// and all, as happens on a busy machine: where a stream moves, its picture pauses and pings go on.
/// Returns for how long.
#[track_caller]
pub(crate) fn assert_unseen(report: &Value) -> Duration {
    let stalled = |gap: &&Value| {
        let from = gap["from"].as_str().unwrap_or_default();
        let cause = gap["cause"].as_str().unwrap_or_default();
        let silent = cause.starts_with(&format!("{from} was silent for "));
        let alone = !cause.contains("; ") && gap["over"] == true && gap["from"] == gap["to"];
        let short = gap["ms"].as_u64().is_some_and(|ms| ms < STALL_MS);
        (silent || cause.starts_with("this viewer stood still for ")) && alone && short
    };
    let gaps = report["gaps"].as_array().into_iter().flatten();
    let (stalls, seen): (Vec<&Value>, Vec<&Value>) = gaps.partition(stalled);
    assert_eq!((&report["backwards"], seen), (&0.into(), vec![]), "{report}");
    assert!(stalls.len() < 2, "no machine is that busy: {report}");
    let ms = stalls.first().and_then(|stall| stall["ms"].as_u64()).unwrap_or_default();
    if ms > 0 {
        println!("this machine stood still for {ms} ms");
    }
    Duration::from_millis(ms)
}

/// `roost encode NAME --test`, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Encoder {
    process: Process,
}

impl Encoder {
    /// Starts a test picture with further arguments, and returns when every node knows its home.
    #[track_caller]
    pub(crate) fn start(mesh: &Mesh, name: &str, more: &[&str]) -> Self {
        let encoder = Self::begin(mesh, name, more);
        wait_until(PATIENCE, &format!("every node knows the home of {name}"), || {
            mesh.nodes().iter().all(|node| node.home_of(name).is_some())
        });
        encoder
    }

    /// The same, and returns at once.
    pub(crate) fn begin(mesh: &Mesh, name: &str, more: &[&str]) -> Self {
        let state = mesh.folder().path().join(name).display().to_string();
        let addrs = mesh.addrs();
        let fixed = ["encode", name, "--test", "--addr", &addrs, "--state", &state];
        let args: Vec<String> = fixed.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        Self { process: Process::start(name, mesh.folder().path(), &args) }
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// `roost view NAME --output -`, with the time of everything that came out.
#[derive(Debug)]
pub(crate) struct Viewer {
    process: Process,
    arrivals: Arc<Mutex<Vec<(Instant, usize)>>>,
}

impl Viewer {
    /// Starts watching, and returns when a picture has come.
    #[track_caller]
    pub(crate) fn start(mesh: &Mesh, name: &str) -> Self {
        Self::start_at(mesh, name, &mesh.addrs(), &[])
    }

    /// The same, given these addresses and further arguments.
    #[track_caller]
    pub(crate) fn start_at(mesh: &Mesh, name: &str, addrs: &str, more: &[&str]) -> Self {
        let fixed = ["view", name, "--addr", addrs, "--output", "-"];
        let args: Vec<String> = fixed.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let label = format!("view-{name}");
        let folder = mesh.folder().path();
        let mut process = Process::start_with(&label, folder, &args, Stdio::piped());
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let mut video = process.stdout().expect("it is a pipe");
        let noted = Arc::clone(&arrivals);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = video.read(&mut buffer) {
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.push((Instant::now(), read));
            }
        });
        let viewer = Self { process, arrivals };
        wait_until(PATIENCE, &format!("the viewer of {name} sees a picture"), || {
            viewer.last_arrival().is_some()
        });
        viewer
    }

    /// Stops watching, with a goodbye.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.process.terminate();
    }

    /// When video came out last.
    pub(crate) fn last_arrival(&self) -> Option<Instant> {
        self.arrivals().last().map(|(at, _)| *at)
    }

    /// Whether video came out within the last `within`.
    pub(crate) fn flows(&self, within: Duration) -> bool {
        self.last_arrival().is_some_and(|last| last.elapsed() < within)
    }

    /// The longest pause that was not over before `since`, the present one included.
    pub(crate) fn gap_since(&self, since: Instant) -> Duration {
        let now = Instant::now();
        let arrivals = self.arrivals();
        let starts = arrivals.iter().map(|(at, _)| *at);
        let ends = arrivals.iter().map(|(at, _)| *at).skip(1).chain([now]);
        let pauses = starts.zip(ends).filter(|(_, end)| *end >= since);
        pauses.map(|(start, end)| end - start).max().unwrap_or(now - since)
    }

    fn arrivals(&self) -> Vec<(Instant, usize)> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `roost view NAME --json`, with what it told and when.
#[derive(Debug)]
pub(crate) struct Witness {
    process: Process,
    told: Said,
}

impl Witness {
    /// Starts watching, and returns when it told of a second with a picture.
    #[track_caller]
    pub(crate) fn start(mesh: &Mesh, name: &str) -> Self {
        Self::start_at(mesh, name, &mesh.addrs())
    }

    /// The same, given these addresses.
    #[track_caller]
    pub(crate) fn start_at(mesh: &Mesh, name: &str, addrs: &str) -> Self {
        let args = ["view", name, "--addr", addrs, "--json"].map(str::to_owned);
        let label = format!("witness-{name}");
        let mut process = Process::start_with(&label, mesh.folder().path(), &args, Stdio::piped());
        let told = Said::of(process.stdout().expect("it is a pipe"));
        let witness = Self { process, told };
        let since = Instant::now();
        wait_until(PATIENCE, &format!("{name} is seen"), || {
            !witness.told("second", since).is_empty()
        });
        witness
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Every event of this kind since then.
    pub(crate) fn told(&self, event: &str, since: Instant) -> Vec<Value> {
        self.told.that(|at, line| at >= since && line["event"] == event)
    }

    /// Stops watching; its report.
    #[track_caller]
    pub(crate) fn end(mut self) -> Value {
        let since = Instant::now();
        self.process.terminate();
        super::wait_for(PATIENCE, "it reports", || self.told("report", since).pop())
    }
}
