//! The demo, as a user or a script runs it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::process::{Process, run_within};
use crate::harness::{PATIENCE, http, wait_until};

/// The scripted demo, from the first process to the report.
const SCRIPT_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn the_script_heals_every_stream_within_two_seconds() {
    let args = ["demo", "--no-open", "--port", "0", "--script", "kill-one", "--json"];
    let finished = run_within(SCRIPT_WITHIN, &args);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("it is JSON");
    assert_eq!((&report["nodes"], &report["encoders"]), (&3.into(), &6.into()), "{report}");
    let streams = report["streams"].as_array().expect("it is a list");
    assert_eq!(streams.len(), 6);
    for stream in streams {
        assert_ne!(stream["to"], report["killed"], "{stream}");
        assert!(stream["gap_s"].as_f64().is_some_and(|gap| gap < 2.0), "{stream}");
    }
    let seconds = |what: &str| report[what].as_f64().expect("it is a number");
    assert!(
        seconds("up_s") + seconds("pictures_s") < 5.0,
        "pictures within five seconds: {report}"
    );
}

/// A demo with a page, and a folder that is its own.
struct Demo {
    process: Process,
    url: String,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let args = ["demo", "--no-open", "--port", "0", "--nodes", "2", "--encoders", "1"];
        let args = args.map(str::to_owned);
        let mut process = Process::start_with("demo", folder.path(), &args, Stdio::piped());
        let mut url = String::new();
        let stdout = process.stdout().expect("it is a pipe");
        BufReader::new(stdout).read_line(&mut url).expect("it prints its address");
        Self { process, url: url.trim().to_owned(), folder }
    }

    fn address(&self) -> std::net::SocketAddr {
        let address = self.url.strip_prefix("http://").and_then(|url| url.strip_suffix('/'));
        address.and_then(|address| address.parse().ok()).expect("a URL of loopback")
    }

    fn state(&self) -> serde_json::Value {
        http::get(self.address(), "/state").expect("it answers").json()
    }

    fn press(&self, path: &str) -> u16 {
        let headers = [("X-Roost-Demo", "1")];
        http::request(self.address(), "POST", path, &headers, "").expect("it answers").status
    }

    fn condition(&self, node: usize) -> String {
        self.state()["nodes"][node]["condition"].as_str().unwrap_or_default().to_owned()
    }

    /// Process ids of all descendants, the janitor included.
    fn descendants(&self) -> Vec<Pid> {
        children_of(self.process.pid())
    }

    fn data(&self) -> PathBuf {
        std::env::temp_dir().join(format!("roost-demo-{}", self.process.pid().as_raw_nonzero()))
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(children).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // Whoever adopted a killed process may be slow to bury it.
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

fn wait_until_nothing_is_left(pids: &[Pid], data: &Path) {
    wait_until(PATIENCE, "every process of the demo is gone", || {
        pids.iter().all(|pid| is_gone(*pid))
    });
    wait_until(PATIENCE, "the folder of the demo is gone", || !data.exists());
}

#[test]
fn its_buttons_kill_freeze_restart_and_add() {
    let demo = Demo::start();
    assert_eq!(demo.condition(0), "running");
    assert_eq!(demo.press("/nodes/n2/kill"), 204);
    assert_eq!(demo.condition(1), "dead");
    assert_eq!(demo.press("/nodes/n2/freeze"), 409);
    assert_eq!(demo.press("/nodes/n2/restart"), 204);
    wait_until(PATIENCE, "n2 runs again", || demo.condition(1) == "running");
    assert_eq!(demo.press("/nodes/n1/freeze"), 204);
    assert_eq!(demo.condition(0), "frozen");
    assert_eq!(demo.press("/nodes/n1/restart"), 204);
    wait_until(PATIENCE, "n1 runs again", || demo.condition(0) == "running");
    assert_eq!(demo.press("/nodes"), 204);
    wait_until(PATIENCE, "n3 runs and is seen", || {
        let node = &demo.state()["nodes"][2];
        node["condition"] == "running" && node["state"] == "up"
    });
    assert_eq!(demo.press("/nodes/n9/kill"), 404);
    let foreign = http::post(demo.address(), "/nodes/n1/kill", "").expect("it answers");
    assert_eq!(foreign.status, 403, "another page must not press the buttons");
    drop(demo.folder);
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    let mut demo = Demo::start();
    let (pids, data) = (demo.descendants(), demo.data());
    assert!(data.exists() && pids.len() >= 4, "two nodes, an encoder and a janitor: {pids:?}");
    kill_process(demo.process.pid(), Signal::INT).expect("it is there");
    assert!(demo.process.wait().success());
    wait_until_nothing_is_left(&pids, &data);
}

#[test]
fn nothing_is_left_after_the_demo_itself_is_killed_with_a_frozen_child() {
    let mut demo = Demo::start();
    let (pids, data) = (demo.descendants(), demo.data());
    assert_eq!(demo.press("/nodes/n2/freeze"), 204);
    demo.process.kill();
    wait_until_nothing_is_left(&pids, &data);
}
