//! The demo's nodes and encoders: starting, hurting and healing them, and what they say of
//! themselves.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use roost::cluster::{ClusterView, Liveness};
use rustix::process::Signal;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::super::exit::{Exit, Failure};
use super::children::{Nursery, Output, Process};
use super::http;

/// The most nodes of a demo, added ones included: what one machine runs without swapping.
pub(super) const NODES_MAX: i64 = 16;
/// The most encoders of a demo: one wall of tiles.
pub(super) const ENCODERS_MAX: i64 = 24;

/// How long a child may take to open its ports, a mesh to agree, encoders to find their homes:
/// far more than they need, so that reaching it means that something is broken.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How often files and nodes are looked at while something starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the page's picture of the mesh is renewed.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// All processes of the demo.
#[derive(Debug)]
pub(super) struct Mesh {
    nursery: Option<Nursery>,
    nodes: Vec<Node>,
    encoders: Vec<Encoder>,
    view: Option<ClusterView>,
    blows: Vec<Blow>,
}

/// One node.
#[derive(Debug)]
struct Node {
    name: String,
    /// Known once it has opened its ports, and kept over restarts.
    address: Option<SocketAddr>,
    condition: Condition,
    /// When it was started or thawed last.
    since: Instant,
    process: Process,
}

/// One encoder.
#[derive(Debug)]
struct Encoder {
    name: String,
    process: Process,
}

/// How a node is, as the one who starts and kills it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Condition {
    /// Its ports are not open yet.
    Starting,
    /// It runs.
    Running,
    /// It stands still.
    Frozen,
    /// It is gone.
    Dead,
}

/// What was done to a node, and how its encoders fared.
#[derive(Debug)]
struct Blow {
    node: String,
    what: Condition,
    at: Instant,
    /// Encoders that were at home there and have no new home yet.
    homeless: Vec<String>,
    /// Seconds until each of the others had a new home.
    moved: BTreeMap<String, f64>,
}

/// A blow as the page shows it.
#[derive(Debug, Serialize)]
struct BlowPicture {
    /// Counts up, so that the page can tell them apart.
    number: usize,
    node: String,
    what: Condition,
    /// Seconds since it fell.
    age_s: f64,
    homeless: Vec<String>,
    moved: BTreeMap<String, f64>,
}

/// Everything the page shows.
#[derive(Debug, Serialize)]
pub(super) struct Picture {
    nodes: Vec<NodePicture>,
    encoders: Vec<EncoderPicture>,
    blows: Vec<BlowPicture>,
    nodes_max: i64,
}

/// One node as the page shows it.
#[derive(Debug, Serialize)]
struct NodePicture {
    name: String,
    url: Option<String>,
    condition: Condition,
    /// What the other nodes think of it.
    state: Option<Liveness>,
    encoders: usize,
    pid: i32,
}

/// One encoder as the page shows it.
#[derive(Debug, Serialize)]
struct EncoderPicture {
    name: String,
    home: Option<String>,
    next: Option<String>,
}

impl Mesh {
    /// No processes yet.
    pub(super) fn new(nursery: Nursery) -> Self {
        let (nodes, encoders) = (Vec::new(), Vec::new());
        Self { nursery: Some(nursery), nodes, encoders, view: None, blows: Vec::new() }
    }

    /// Founds the mesh, lets the other nodes join, starts the encoders, and returns when every
    /// node sees every node and every encoder at home.
    pub(super) async fn start(&mut self, nodes: u16, encoders: u16) -> Result<(), Failure> {
        self.spawn_node(None)?;
        self.wait_for_ports().await?;
        if nodes > 1 {
            let invitation = self.invite(nodes - 1).await?;
            for _ in 1..nodes {
                self.spawn_node(Some(&invitation))?;
            }
            self.wait_for_ports().await?;
        }
        self.wait_until("the nodes do not see each other", |view| {
            let up = view.nodes.iter().filter(|node| node.state == Liveness::Up).count();
            up >= usize::from(nodes)
        })
        .await?;
        for _ in 0..encoders {
            self.spawn_encoder()?;
        }
        self.wait_until("not every encoder has a home", |view| {
            let homes = view.encoders.iter().filter(|encoder| encoder.home.is_some()).count();
            homes >= usize::from(encoders)
        })
        .await
    }

    /// Ends everything; nothing can be started afterwards.
    pub(super) async fn close(&mut self) {
        if let Some(nursery) = self.nursery.take() {
            nursery.close().await;
        }
    }

    /// Kills a node as a power cut would.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?;
        node.process.kill().await?;
        self.strike(name, Condition::Dead);
        Ok(())
    }

    /// Stops a node in its tracks: it answers nothing, yet its sockets stay open.
    pub(super) fn freeze(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?;
        if node.condition != Condition::Running {
            return Err(conflict(&format!("{name} does not run"), "restart it first"));
        }
        node.process.signal(Signal::STOP)?;
        self.strike(name, Condition::Frozen);
        Ok(())
    }

    /// Lets a frozen node go on, or starts a dead one again with the data it had.
    pub(super) fn restart(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.node(name)?;
        match node.condition {
            Condition::Starting | Condition::Running => {
                Err(conflict(&format!("{name} runs already"), "kill or freeze it first"))
            }
            Condition::Frozen => {
                node.process.signal(Signal::CONT)?;
                node.condition = Condition::Running;
                node.since = Instant::now();
                Ok(())
            }
            Condition::Dead => {
                let address = node.address;
                let process = self.launch(name, address, None)?;
                let node = self.node(name)?;
                node.process = process;
                node.condition = Condition::Starting;
                node.since = Instant::now();
                Ok(())
            }
        }
    }

    /// Adds a node by an invitation of whichever node answers.
    pub(super) async fn add(&mut self) -> Result<(), Failure> {
        if i64::try_from(self.nodes.len()).unwrap_or(NODES_MAX) >= NODES_MAX {
            return Err(conflict(
                &format!("a demo has at most {NODES_MAX} nodes"),
                "restart a dead one",
            ));
        }
        let invitation = self.invite(1).await?;
        self.spawn_node(Some(&invitation))
    }

    /// What the page shows.
    pub(super) fn picture(&self) -> Picture {
        let view = self.view.as_ref();
        let homes = |name: &str| {
            let at_home = |view: &ClusterView| {
                view.encoders.iter().filter(|e| e.home_name.as_deref() == Some(name)).count()
            };
            view.map_or(0, at_home)
        };
        let state = |name: &str| Some(view?.nodes.iter().find(|node| node.name == name)?.state);
        let nodes = self.nodes.iter().map(|node| NodePicture {
            name: node.name.clone(),
            url: node.address.map(|address| format!("http://{address}")),
            condition: node.condition,
            state: state(&node.name),
            encoders: homes(&node.name),
            pid: node.process.pid(),
        });
        let encoders = self.encoders.iter().map(|encoder| {
            let seen = view.and_then(|v| v.encoders.iter().find(|seen| seen.name == encoder.name));
            EncoderPicture {
                name: encoder.name.clone(),
                home: seen.and_then(|seen| seen.home_name.clone()),
                next: seen.and_then(|seen| seen.next_name.clone()),
            }
        });
        let blows = self.blows.iter().enumerate().map(|(index, blow)| BlowPicture {
            number: index + 1,
            node: blow.node.clone(),
            what: blow.what,
            age_s: blow.at.elapsed().as_secs_f64(),
            homeless: blow.homeless.clone(),
            moved: blow.moved.clone(),
        });
        Picture {
            nodes: nodes.collect(),
            encoders: encoders.collect(),
            blows: blows.collect(),
            nodes_max: NODES_MAX,
        }
    }

    /// Names of all encoders.
    pub(super) fn encoder_names(&self) -> Vec<String> {
        self.encoders.iter().map(|encoder| encoder.name.clone()).collect()
    }

    /// How many nodes there are, dead or alive.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Addresses of all nodes, for `--addr`.
    pub(super) fn addr_list(&self) -> String {
        let addresses = self.nodes.iter().filter_map(|node| Some(node.address?.to_string()));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Where every encoder is at home, as a running node sees it.
    pub(super) async fn homes(&self) -> Result<BTreeMap<String, String>, String> {
        let view = ask_any(&self.running()).await?;
        let homes = view.encoders.into_iter().filter_map(|e| Some((e.name, e.home_name?)));
        Ok(homes.collect())
    }

    /// A viewer whose video comes out of its standard output.
    pub(super) fn spawn_viewer(&mut self, encoder: &str) -> Result<Process, Failure> {
        let addresses = self.addr_list();
        let args = ["view", encoder, "--addr", &addresses, "--output", "-"].map(str::to_owned);
        self.nursery()?.spawn(&format!("view-{encoder}"), &args, Output::Pipe)
    }

    fn nursery(&mut self) -> Result<&mut Nursery, Failure> {
        self.nursery.as_mut().ok_or_else(|| conflict("the demo is ending", "start it again"))
    }

    fn node(&mut self, name: &str) -> Result<&mut Node, Failure> {
        self.nodes.iter_mut().find(|node| node.name == name).ok_or_else(|| {
            Failure::new(Exit::NoSuchThing, "cannot do that", format!("no node {name}"), "reload")
        })
    }

    /// Starts the next node of the demo: the founder, or with an invitation a newcomer.
    fn spawn_node(&mut self, invitation: Option<&str>) -> Result<(), Failure> {
        let name = format!("n{}", self.nodes.len() + 1);
        let process = self.launch(&name, None, invitation)?;
        let (condition, since) = (Condition::Starting, Instant::now());
        self.nodes.push(Node { name, address: None, condition, since, process });
        Ok(())
    }

    fn launch(
        &mut self,
        name: &str,
        address: Option<SocketAddr>,
        invitation: Option<&str>,
    ) -> Result<Process, Failure> {
        let nursery = self.nursery()?;
        let ready = ready_file(nursery, name);
        let _ = std::fs::remove_file(&ready);
        let listen = address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut args: Vec<String> = ["node", "--name", name, "--listen"].map(str::to_owned).into();
        args.push(listen.to_string());
        args.push("--data".to_owned());
        args.push(nursery.folder().join(name).display().to_string());
        args.push("--ready-file".to_owned());
        args.push(ready.display().to_string());
        args.push("--open-loopback".to_owned());
        if let Some(invitation) = invitation {
            args.extend(["--join".to_owned(), invitation.to_owned()]);
        }
        nursery.spawn(name, &args, Output::Log)
    }

    fn spawn_encoder(&mut self) -> Result<(), Failure> {
        let name = format!("cam-{}", self.encoders.len() + 1);
        let addresses = self.addr_list();
        let nursery = self.nursery()?;
        let state = nursery.folder().join(&name).display().to_string();
        let args = ["encode", &name, "--test", "--addr", &addresses, "--state", &state];
        let process = nursery.spawn(&name, &args.map(str::to_owned), Output::Log)?;
        self.encoders.push(Encoder { name, process });
        Ok(())
    }

    async fn invite(&self, uses: u16) -> Result<String, Failure> {
        let mut last = "no node runs".to_owned();
        for (_, address) in self.running() {
            let body = serde_json::json!({ "uses": uses, "expires_s": 300, "client": false });
            let answer: Result<serde_json::Value, _> =
                http::json(address, "POST", "/api/v1/invitations", &body.to_string()).await;
            match answer {
                Ok(answer) => match answer.get("invitation").and_then(|value| value.as_str()) {
                    Some(invitation) => return Ok(invitation.to_owned()),
                    None => last = format!("{address} answered without an invitation"),
                },
                Err(why) => last = why,
            }
        }
        Err(Failure::new(Exit::Failed, "cannot invite a node", last, "restart a dead node first"))
    }

    /// Names and addresses of the nodes that should answer, those first that know the mesh for
    /// the longest: a node that has just come back may not have heard of everything yet.
    fn running(&self) -> Vec<(String, SocketAddr)> {
        let running = self.nodes.iter().filter(|node| node.condition == Condition::Running);
        let mut running: Vec<&Node> = running.collect();
        running.sort_by_key(|node| node.since);
        running.into_iter().filter_map(|node| Some((node.name.clone(), node.address?))).collect()
    }

    /// Learns the address of every node that has opened its ports, and who has died.
    fn look(&mut self) {
        let Some(nursery) = &self.nursery else { return };
        for node in &mut self.nodes {
            if node.condition == Condition::Starting
                && let Some(address) = read_ready_file(&ready_file(nursery, &node.name))
            {
                node.address = Some(address);
                node.condition = Condition::Running;
            }
            if node.condition != Condition::Dead && node.process.has_ended() {
                node.condition = Condition::Dead;
            }
        }
    }

    async fn wait_for_ports(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            self.look();
            if self.nodes.iter().all(|node| node.condition == Condition::Running) {
                return Ok(());
            }
            self.fail_early(deadline, "a node does not open its ports")?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every running node's view satisfies `done`.
    async fn wait_until(
        &mut self,
        trouble: &str,
        done: impl Fn(&ClusterView) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let mut all = true;
            for (_, address) in self.running() {
                match ask(address).await {
                    Ok(view) if done(&view) => self.view = Some(view),
                    _ => all = false,
                }
            }
            if all {
                return Ok(());
            }
            self.look();
            self.fail_early(deadline, trouble)?;
            sleep(LOOK_EVERY).await;
        }
    }

    /// An error as soon as a child has died or the time is over.
    fn fail_early(&mut self, deadline: Instant, trouble: &str) -> Result<(), Failure> {
        let nodes = self.nodes.iter_mut().map(|node| (&node.name, &mut node.process));
        let encoders =
            self.encoders.iter_mut().map(|encoder| (&encoder.name, &mut encoder.process));
        for (name, process) in nodes.chain(encoders) {
            if process.has_ended() {
                let why =
                    format!("{name} ended by itself; its last words:\n{}", process.last_words());
                return Err(Failure::said(Exit::Failed, format!("cannot start the demo: {why}")));
            }
        }
        if Instant::now() < deadline {
            return Ok(());
        }
        let within = START_WITHIN.as_secs();
        Err(Failure::new(
            Exit::DeadlinePassed,
            "cannot start the demo",
            format!("{trouble} after {within} s"),
            "look into the logs that --keep leaves",
        ))
    }

    /// Notes what was done to a node, to measure what follows.
    fn strike(&mut self, name: &str, what: Condition) {
        if let Ok(node) = self.node(name) {
            node.condition = what;
        }
        let at_home = |view: &ClusterView| -> Vec<String> {
            let at_home = view.encoders.iter().filter(|e| e.home_name.as_deref() == Some(name));
            at_home.map(|encoder| encoder.name.clone()).collect()
        };
        self.blows.push(Blow {
            node: name.to_owned(),
            what,
            at: Instant::now(),
            homeless: self.view.as_ref().map_or_else(Vec::new, at_home),
            moved: BTreeMap::new(),
        });
    }

    /// Takes a fresh view, and with it notes who has found a new home since the blows.
    fn learn(&mut self, view: ClusterView) {
        for blow in &mut self.blows {
            let moved = |name: &String| {
                let seen = view.encoders.iter().find(|seen| seen.name == *name);
                let home = seen.and_then(|seen| seen.home_name.as_deref());
                home.is_some_and(|home| home != blow.node)
            };
            let (moved, homeless) = blow.homeless.drain(..).partition(moved);
            blow.homeless = homeless;
            let after = blow.at.elapsed().as_secs_f64();
            let moved: Vec<String> = moved;
            blow.moved.extend(moved.into_iter().map(|name| (name, after)));
        }
        self.view = Some(view);
    }
}

/// Keeps the picture of the mesh fresh for as long as it is polled.
pub(super) async fn observe(mesh: &Arc<Mutex<Mesh>>) {
    loop {
        let running = {
            let mut mesh = mesh.lock().await;
            mesh.look();
            mesh.running()
        };
        if let Ok(view) = ask_any(&running).await {
            mesh.lock().await.learn(view);
        }
        sleep(OBSERVE_EVERY).await;
    }
}

async fn ask(node: SocketAddr) -> Result<ClusterView, String> {
    http::json(node, "GET", "/api/v1/cluster", "").await
}

async fn ask_any(nodes: &[(String, SocketAddr)]) -> Result<ClusterView, String> {
    let mut last = "no node runs".to_owned();
    for (_, address) in nodes {
        match ask(*address).await {
            Ok(view) => return Ok(view),
            Err(why) => last = why,
        }
    }
    Err(last)
}

fn ready_file(nursery: &Nursery, name: &str) -> PathBuf {
    nursery.folder().join(format!("{name}.ready"))
}

fn read_ready_file(path: &std::path::Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
    ready.get("listen")?.as_str()?.parse().ok()
}

fn conflict(why: &str, next: &str) -> Failure {
    Failure::new(Exit::Conflict, "cannot do that", why, next)
}
