//! One real node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::http::{self, Response};
use super::process::Process;
use super::{PATIENCE, wait_for};

/// How a node is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    name: String,
    folder: Option<Arc<TempDir>>,
    listen: String,
    /// Whoever is on this machine needs no credential.
    open: bool,
    more: Vec<String>,
    env: Vec<(String, String)>,
}

impl Options {
    /// A node of this name, on any port of 127.0.0.1, with a folder of its own.
    pub(crate) fn named(name: &str) -> Self {
        let (name, listen) = (name.to_owned(), "127.0.0.1:0".into());
        Self { name, folder: None, listen, open: true, more: vec![], env: vec![] }
    }

    /// Joins by an invitation or an address.
    pub(crate) fn join(self, by: &str) -> Self {
        self.args(&["--join", by])
    }

    /// Shares a folder with other processes of the test.
    pub(crate) fn folder(mut self, folder: &Arc<TempDir>) -> Self {
        self.folder = Some(Arc::clone(folder));
        self
    }

    /// Asks everyone for a credential, also those on this machine.
    pub(crate) fn closed(self) -> Self {
        Self { open: false, ..self }
    }

    /// Listens there.
    pub(crate) fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = addr.to_string();
        self
    }

    /// A further variable in its environment, also when it is started again.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Any further arguments.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.more.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }
}

/// A node that runs, or has run.
#[derive(Debug)]
pub(crate) struct Node {
    options: Options,
    folder: Arc<TempDir>,
    process: Process,
    listen: SocketAddr,
}

impl Node {
    /// Starts a node and returns once its ports are open.
    #[track_caller]
    pub(crate) fn start(options: Options) -> Self {
        Self::launch(options).ready()
    }

    /// Starts a node without waiting, so that several can start at once.
    #[track_caller]
    pub(crate) fn launch(options: Options) -> Launched {
        let folder = options.folder.clone().unwrap_or_else(|| {
            Arc::new(tempfile::tempdir().expect("a temporary folder can be made"))
        });
        let process = spawn(&options, folder.path());
        Launched { options, folder, process }
    }

    pub(crate) fn name(&self) -> &str {
        &self.options.name
    }

    /// Its address, for UDP and TCP.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        data(&self.options, self.folder.path())
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn freeze(&self) {
        self.process.freeze();
    }

    pub(crate) fn thaw(&self) {
        self.process.thaw();
    }

    /// Starts it again after its end, with the same data, on the same port, with nothing to join.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.relaunch();
        self.wait_for_ports();
    }

    /// The first half of [`Node::restart`]: does not wait for it.
    #[track_caller]
    pub(crate) fn relaunch(&mut self) {
        self.process.kill();
        self.options.listen = self.listen.to_string();
        self.options.more.clear();
        self.process = spawn(&self.options, self.folder.path());
    }

    /// The second half.
    #[track_caller]
    pub(crate) fn wait_for_ports(&mut self) {
        self.listen = wait_for_ports(&self.options, self.folder.path(), &mut self.process);
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// GET; panics if there is no answer at all.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        http::get(self.listen, path)
            .unwrap_or_else(|error| panic!("{} does not answer GET {path}: {error}", self.name()))
    }

    /// What it believes of all; `None` while it does not answer.
    pub(crate) fn view(&self) -> Option<serde_json::Value> {
        let answer = http::get(self.listen, "/api/v1/cluster").ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// What it thinks of the node with this name: `up`, `suspect`, `down`, `left`.
    pub(crate) fn opinion_of(&self, name: &str) -> Option<String> {
        let view = self.view()?;
        let nodes = view.get("nodes")?.as_array()?.clone();
        let node = nodes.into_iter().find(|node| node.get("name").is_some_and(|n| n == name))?;
        Some(node.get("state")?.as_str()?.to_owned())
    }

    /// One encoder as it sees it.
    pub(crate) fn encoder(&self, name: &str) -> Option<serde_json::Value> {
        let view = self.view()?;
        let encoders = view.get("encoders")?.as_array()?.clone();
        encoders.into_iter().find(|encoder| encoder.get("name").is_some_and(|n| n == name))
    }

    /// The name of an encoder's home as it sees it.
    pub(crate) fn home_of(&self, encoder: &str) -> Option<String> {
        Some(self.encoder(encoder)?.get("home_name")?.as_str()?.to_owned())
    }

    /// Its id.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        let view = self.view().expect("it answers");
        view["node"].as_str().expect("an id").to_owned()
    }

    /// The names of all members as it sees them, in order.
    pub(crate) fn members(&self) -> Vec<String> {
        let view = self.view().unwrap_or_default();
        let nodes = view["nodes"].as_array().into_iter().flatten();
        nodes.filter_map(|node| node["name"].as_str().map(str::to_owned)).collect()
    }

    /// Any request with a body; panics if there is no answer at all.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        http::request(self.listen, method, path, &[], body).unwrap_or_else(|error| {
            panic!("{} does not answer {method} {path}: {error}", self.name())
        })
    }

    /// An invitation for this many nodes.
    #[track_caller]
    pub(crate) fn invite(&self, uses: u32) -> String {
        self.invitation(&serde_json::json!({ "client": false, "uses": uses, "expires_s": 600 }))
    }

    /// An enrolment string for clients.
    #[track_caller]
    pub(crate) fn invite_client(&self) -> String {
        self.invitation(&serde_json::json!({ "client": true }))
    }

    #[track_caller]
    fn invitation(&self, terms: &serde_json::Value) -> String {
        let answer = http::post(self.listen, "/api/v1/invitations", &terms.to_string())
            .unwrap_or_else(|error| panic!("{} does not answer: {error}", self.name()));
        assert!((200..300).contains(&answer.status), "no invitation: {answer:?}");
        answer.json()["invitation"].as_str().expect("it is a string").to_owned()
    }
}

/// A node whose ports may not be open yet.
#[derive(Debug)]
pub(crate) struct Launched {
    options: Options,
    folder: Arc<TempDir>,
    process: Process,
}

impl Launched {
    /// Waits for the ports.
    #[track_caller]
    pub(crate) fn ready(mut self) -> Node {
        let listen = wait_for_ports(&self.options, self.folder.path(), &mut self.process);
        Node { options: self.options, folder: self.folder, process: self.process, listen }
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        data(&self.options, self.folder.path())
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// For a node that is expected to end by itself: its exit code and what it said.
    #[track_caller]
    pub(crate) fn refused(mut self, within: Duration) -> (Option<i32>, String) {
        let status = wait_for(within, "the node gives up", || self.process.ended());
        (status.code(), self.process.log())
    }
}

fn data(options: &Options, folder: &Path) -> PathBuf {
    folder.join(&options.name)
}

fn ready_file(options: &Options, folder: &Path) -> PathBuf {
    folder.join(format!("{}.ready", options.name))
}

#[track_caller]
fn spawn(options: &Options, folder: &Path) -> Process {
    let ready = ready_file(options, folder);
    let _ = std::fs::remove_file(&ready);
    let data = data(options, folder).display().to_string();
    let ready = ready.display().to_string();
    let fixed =
        ["node", "--name", &options.name, "--data", &data, "--ready-file", &ready, "--listen"];
    let mut args: Vec<String> = fixed.map(str::to_owned).into();
    args.push(options.listen.clone());
    args.extend(options.open.then(|| "--open-loopback".to_owned()));
    args.extend(options.more.iter().cloned());
    Process::start_env(&options.name, folder, &args, &options.env)
}

#[track_caller]
fn wait_for_ports(options: &Options, folder: &Path, process: &mut Process) -> SocketAddr {
    let path = ready_file(options, folder);
    wait_for(PATIENCE, &format!("{} opens its ports", options.name), || {
        if let Some(status) = process.ended() {
            panic!("{} ended by itself ({status}):\n{}", options.name, process.log());
        }
        let text = std::fs::read_to_string(&path).ok()?;
        let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
        ready.get("listen")?.as_str()?.parse().ok()
    })
}
