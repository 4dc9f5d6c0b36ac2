//! A small network on this machine: hosts with addresses of their own on one switch, which can be
//! made deaf to each other. Needs root; without it, tests of this kind say so and pass.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Finished, Process, finish, inside, roost};
use super::{PATIENCE, wait_for, wait_until};

/// Networks of one test run, so that their names do not collide.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// What every host filters by: nothing at first.
const FILTER: &str = "table inet cut {
    chain input {
        type filter hook input priority 0; policy accept;
    }
}
";

/// Hosts on a switch; gone when dropped.
pub(crate) struct Lan {
    name: String,
    hosts: Vec<String>,
    folder: Arc<TempDir>,
}

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    name: String,
    namespace: String,
    address: String,
    folder: Arc<TempDir>,
}

impl Lan {
    /// A switch without hosts, if this user may make one.
    pub(crate) fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = format!("it{}x{number}", std::process::id());
        must(&["ip", "netns", "add", &name]);
        must(&["ip", "-n", &name, "link", "add", "br0", "type", "bridge"]);
        must(&["ip", "-n", &name, "link", "set", "br0", "up"]);
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        Some(Self { name, hosts: Vec::new(), folder })
    }

    /// Another host. It has one address and no default route, like many a network of cameras.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        let number = self.hosts.len() + 1;
        let namespace = format!("{}-{name}", self.name);
        let address = format!("10.91.0.{number}");
        let (port, space) = (format!("p{number}"), namespace.as_str());
        must(&["ip", "netns", "add", space]);
        self.hosts.push(namespace.clone());
        must(&["ip", "-n", space, "link", "set", "lo", "up"]);
        let link = ["ip", "-n", &self.name, "link"];
        let pair = ["add", &port, "type", "veth", "peer", "name", "eth0", "netns", space];
        must(&[&link[..], &pair].concat());
        must(&[&link[..], &["set", &port, "master", "br0", "up"]].concat());
        must(&["ip", "-n", space, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        must(&["ip", "-n", space, "link", "set", "eth0", "up"]);
        let filter = self.folder.path().join("filter.nft");
        std::fs::write(&filter, FILTER).expect("it can be written");
        must(&["ip", "netns", "exec", space, "nft", "-f", &filter.display().to_string()]);
        Host { name: name.to_owned(), namespace, address, folder: Arc::clone(&self.folder) }
    }

    /// Nodes n1, n2, ... on hosts of these names, once all see all.
    #[track_caller]
    pub(crate) fn nodes(&mut self, count: usize) -> Vec<(Host, Process)> {
        let hosts: Vec<Host> = (1..=count).map(|number| self.host(&format!("n{number}"))).collect();
        let mut nodes: Vec<(Host, Process)> = Vec::new();
        let mut invitation = None;
        for host in hosts {
            let joined: Vec<&str> =
                invitation.iter().flat_map(|i: &String| ["--join", i]).collect();
            let process = host.node(&joined);
            if invitation.is_none() {
                invitation = Some(host.invite(&["--uses", "9"]));
            }
            nodes.push((host, process));
        }
        wait_until(PATIENCE, "all see all", || all_up(&nodes));
        nodes
    }

    /// The namespace of the switch, through which everything passes.
    pub(crate) fn switch(&self) -> &str {
        &self.name
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Whether every node thinks that every node is up.
pub(crate) fn all_up(nodes: &[(Host, Process)]) -> bool {
    nodes.iter().all(|(host, _)| {
        let Some(view) = host.view() else { return false };
        nodes.iter().all(|(of, _)| {
            let listed = view["nodes"].as_array().into_iter().flatten();
            listed.filter(|node| node["name"] == of.name.as_str()).any(|n| n["state"] == "up")
        })
    })
}

impl Host {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Starts `roost ARGS` here; its log and standard output are files called `label`.
    #[track_caller]
    pub(crate) fn start(&self, label: &str, args: &[&str]) -> Process {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let namespace = Some(self.namespace.as_str());
        Process::start_in(namespace, label, self.folder.path(), &args, Stdio::null())
    }

    /// Runs `roost ARGS` here to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        let mut command = roost();
        // Each host has a user of its own, who remembers which meshes it knows.
        command.args(args).env("XDG_CONFIG_HOME", self.folder.path().join(&self.name));
        finish(PATIENCE, inside(&self.namespace, command))
    }

    /// Any program, to be started here.
    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args);
        inside(&self.namespace, command)
    }

    /// Runs any program here to its end.
    #[track_caller]
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Finished {
        finish(PATIENCE, self.command(program, args))
    }

    /// Where its node keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join(format!("data-{}", self.name))
    }

    /// A node of this host's name, once it answers.
    #[track_caller]
    pub(crate) fn node(&self, more: &[&str]) -> Process {
        let data = self.data().display().to_string();
        let fixed = ["node", "--name", &self.name, "--data", &data, "--open-loopback"];
        let process = self.start(&self.name, &[&fixed[..], more].concat());
        wait_until(PATIENCE, &format!("{} answers", self.name), || self.view().is_some());
        process
    }

    /// A string of `roost invite` by the node here.
    #[track_caller]
    pub(crate) fn invite(&self, args: &[&str]) -> String {
        let finished = self.run(&[&["invite"], args].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.stdout.trim().to_owned()
    }

    /// What the node here believes of all.
    pub(crate) fn view(&self) -> Option<Value> {
        let finished = self.run(&["status", "--json"]);
        serde_json::from_str(&finished.stdout).ok()
    }

    /// One encoder as the node here sees it.
    pub(crate) fn encoder(&self, name: &str) -> Option<Value> {
        let view = self.view()?;
        view["encoders"].as_array()?.iter().find(|encoder| encoder["name"] == name).cloned()
    }

    /// A test picture from here, once this node knows its home.
    #[track_caller]
    pub(crate) fn encode(&self, name: &str, addr: &str, seen_by: &Self) -> Process {
        self.encode_from(&["--test"], name, addr, seen_by)
    }

    /// The same with any source.
    #[track_caller]
    pub(crate) fn encode_from(
        &self,
        source: &[&str],
        name: &str,
        addr: &str,
        seen_by: &Self,
    ) -> Process {
        let state = self.folder.path().join(format!("state-{name}")).display().to_string();
        let args = ["encode", name, "--addr", addr, "--state", &state];
        let process = self.start(name, &[&args[..], source].concat());
        wait_for(PATIENCE, &format!("{name} has a home"), || {
            seen_by.encoder(name)?.get("home_name")?.as_str().map(str::to_owned)
        });
        process
    }

    /// `roost view NAME --json`, to its end after `seconds`: its report.
    #[track_caller]
    pub(crate) fn watch(&self, name: &str, addr: &str, seconds: &str, more: &[&str]) -> Value {
        let fixed = ["view", name, "--addr", addr, "--for", seconds, "--json"];
        report(&self.run(&[&fixed[..], more].concat()))
    }

    /// Is deaf to `to` from now on.
    pub(crate) fn ignore(&self, to: &Self) {
        let rule =
            ["nft", "add", "rule", "inet", "cut", "input", "ip", "saddr", &to.address, "drop"];
        must(&[&["ip", "netns", "exec", &self.namespace], &rule[..]].concat());
    }

    /// Hears everybody again.
    pub(crate) fn heal(&self) {
        let flush = ["nft", "flush", "chain", "inet", "cut", "input"];
        must(&[&["ip", "netns", "exec", &self.namespace], &flush[..]].concat());
    }
}

/// The report at the end of what `roost view --json` printed.
#[track_caller]
pub(crate) fn report(finished: &Finished) -> Value {
    let last = finished.stdout.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last)
        .unwrap_or_else(|error| panic!("no report ({error}): {finished:?}"));
    assert_eq!(report["event"], "report", "{finished:?}");
    report
}

/// Runs a program that has to succeed.
#[track_caller]
pub(crate) fn must(command: &[&str]) {
    let mut child = Command::new(command[0]);
    child.args(&command[1..]);
    let finished = finish(Duration::from_secs(10), child);
    assert_eq!(finished.code, Some(0), "{command:?}: {finished:?}");
}
