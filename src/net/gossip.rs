//! Node reports, carried by chitchat over the links between members.
//!
//! chitchat reconciles slow facts about nodes and nothing else: who is alive is foca's business,
//! and chitchat's own verdict is ignored. It believes in socket addresses, so every node gets a
//! made-up one, computed from its id. A message is compressed and handed out as bytes for one
//! member; whatever carries them brings them to [`Gossip::deliver`] there.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, NodeState, Serializable, spawn_chitchat,
};
use data_encoding::BASE64URL_NOPAD;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::cluster::NodeReport;
use crate::id::{Boot, MeshId, NodeId};

/// Between two rounds. Reports steer placement, which tolerates seconds; a round costs each of
/// 100 nodes some 10 kB.
pub const GOSSIP_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds after which one more member, in turn, is greeted as if it had just come up: without a
/// reachable seed chitchat never heals a split by itself.
const ROUNDS_PER_GREETING: u32 = 10;
/// Largest message before compression: chitchat packs into 65,507 bytes, and only a digest of
/// more than 1,000 nodes makes it longer.
pub const RAW_MAX: usize = 128 << 10;
/// Messages that wait for chitchat: three per round from each of some 40 members.
pub const INBOX_MAX: usize = 128;
/// Messages that wait for one member. What is older is superseded by what is newer.
pub const OUTBOX_MAX: usize = 4;
/// Members that messages can go to: twice the largest mesh that is simulated.
pub const PEERS_MAX: usize = 2_048;
/// How long chitchat keeps what is gone: dead nodes, old generations, removed keys. Each costs
/// room in every digest, so it is minutes and not chitchat's default of a day.
pub const GRACE: Duration = Duration::from_secs(15 * 60);
/// Missed rounds before chitchat thinks a node dead, and [`GRACE`] later drops its report.
const PHI: f64 = 60.0;
/// Intervals that chitchat remembers of each node: eight bytes each, for a verdict nobody reads.
const SAMPLES: usize = 16;
/// Longest version string in a report, in bytes: a number and a build label, with room.
const VERSION_MAX: usize = 192;
/// Pause before chitchat is started again after it ended; doubles up to a minute.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two starts of chitchat.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Everyone else's last report.
pub type Reports = Arc<BTreeMap<NodeId, NodeReport>>;

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct GossipCounters {
    /// Messages handed out.
    pub sent: AtomicU64,
    /// Bytes handed out, compressed.
    pub sent_bytes: AtomicU64,
    /// Messages taken in.
    pub received: AtomicU64,
    /// Messages dropped because a newer one came before the older was handed out.
    pub outbox_dropped: AtomicU64,
    /// Messages dropped because chitchat did not keep up.
    pub inbox_dropped: AtomicU64,
    /// Messages that were none: not to be decompressed or decoded.
    pub malformed: AtomicU64,
    /// Messages of ours over [`RAW_MAX`]: the mesh outgrew chitchat's digest.
    pub too_long: AtomicU64,
    /// Messages to addresses that belong to no member that is up.
    pub unreachable: AtomicU64,
    /// Times that chitchat ended and was started again.
    pub restarts: AtomicU64,
}

impl GossipCounters {
    /// All of them with their names.
    pub fn all(&self) -> [(&'static str, u64); 9] {
        [
            ("sent", &self.sent),
            ("sent_bytes", &self.sent_bytes),
            ("received", &self.received),
            ("outbox_dropped", &self.outbox_dropped),
            ("inbox_dropped", &self.inbox_dropped),
            ("malformed", &self.malformed),
            ("too_long", &self.too_long),
            ("unreachable", &self.unreachable),
            ("restarts", &self.restarts),
        ]
        .map(|(name, counter)| (name, counter.load(Relaxed)))
    }
}

/// The gossip of node reports. Ends when dropped.
#[derive(Debug)]
pub struct Gossip {
    shared: Arc<Shared>,
    report: watch::Sender<NodeReport>,
    greet: mpsc::Sender<NodeId>,
    reports: watch::Receiver<Reports>,
    tasks: [JoinHandle<()>; 2],
}

impl Gossip {
    /// Starts gossiping with `first` as this node's report. Bytes for other members come out of
    /// `out`. Must be called within a tokio runtime.
    pub fn spawn(
        me: NodeId,
        boot: Boot,
        mesh: MeshId,
        first: NodeReport,
        out: mpsc::Sender<(NodeId, Vec<u8>)>,
    ) -> Self {
        Self::spawn_every(GOSSIP_INTERVAL, me, boot, mesh, first, out)
    }

    fn spawn_every(
        round: Duration,
        me: NodeId,
        boot: Boot,
        mesh: MeshId,
        first: NodeReport,
        out: mpsc::Sender<(NodeId, Vec<u8>)>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (report, own) = watch::channel(first);
        let (greet, greetings) = mpsc::channel(PEERS_MAX);
        let (found, reports) = watch::channel(Reports::default());
        let keeper = Keeper { me, mesh, round, shared: shared.clone(), own, greetings, found };
        let tasks = [
            tokio::spawn(keeper.run(first_generation(boot))),
            tokio::spawn(hand_out(shared.clone(), out)),
        ];
        Self { shared, report, greet, reports, tasks }
    }

    /// Takes bytes that a member's gossip handed out for this node. Never waits; of more than
    /// [`INBOX_MAX`] the oldest are dropped.
    pub fn deliver(&self, from: NodeId, bytes: Vec<u8>) {
        self.shared.know(from);
        let mut inbox = locked(&self.shared.inbox);
        if inbox.len() >= INBOX_MAX {
            inbox.pop_front();
            self.shared.counters.inbox_dropped.fetch_add(1, Relaxed);
        }
        inbox.push_back((from, bytes));
        drop(inbox);
        self.shared.inbox_filled.notify_one();
    }

    /// A member came up, or is remembered and may: gossip with it at once.
    pub fn member_up(&self, node: NodeId) {
        self.shared.know(node);
        // When so many come up that the queue is full, the greeting in turn reaches the rest.
        let _ = self.greet.try_send(node);
    }

    /// A member is gone: nothing is handed out for it until it is heard of again.
    pub fn member_down(&self, node: NodeId) {
        locked(&self.shared.peers).remove(&address(node));
        locked(&self.shared.outboxes).remove(&node);
    }

    /// Replaces this node's report. Goes out with the next round; fields that did not change cost
    /// nothing.
    pub fn publish(&self, report: NodeReport) {
        self.report.send_replace(report);
    }

    /// Everyone else's last report, whether they are up or not, seen anew once a round if any
    /// changed.
    pub fn reports(&self) -> watch::Receiver<Reports> {
        self.reports.clone()
    }

    /// What was counted.
    pub fn counters(&self) -> &GossipCounters {
        &self.shared.counters
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug, Default)]
struct Shared {
    peers: Mutex<BTreeMap<SocketAddr, NodeId>>,
    inbox: Mutex<VecDeque<(NodeId, Vec<u8>)>>,
    inbox_filled: Notify,
    outboxes: Mutex<BTreeMap<NodeId, VecDeque<Vec<u8>>>>,
    outbox_filled: Notify,
    counters: GossipCounters,
    /// Makes the socket fail once, as nothing else can from outside.
    #[cfg(test)]
    fail: std::sync::atomic::AtomicBool,
}

/// No code that holds one of these locks can panic halfway through a change.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn know(&self, node: NodeId) {
        let mut peers = locked(&self.peers);
        if peers.len() < PEERS_MAX {
            peers.insert(address(node), node);
        }
    }
}

/// The address under which chitchat knows a node: equal on all nodes, since it is part of
/// chitchat's id. 48 bits of what is a hash already: among 1,000 nodes two meet in one mesh of
/// 500 million, and would then only share what is sent to them.
fn address(node: NodeId) -> SocketAddr {
    let [a, b, c, d, e, f, ..] = node.0;
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f])).into()
}

/// A later boot is a later generation. The low bits are random: when a folder is put back and a
/// boot counted twice, the two starts must not share a generation, under which chitchat would
/// take the older one's values for the newer's.
fn first_generation(boot: Boot) -> u64 {
    let [low, high, ..] = *uuid::Uuid::new_v4().as_bytes();
    boot.0.saturating_mul(1 << 16) | u64::from(u16::from_le_bytes([low, high]))
}

fn chitchat_id(node: NodeId, generation: u64) -> ChitchatId {
    // 22 characters: ids are in every digest, whose size limits the mesh.
    ChitchatId::new(BASE64URL_NOPAD.encode(&node.0), generation, address(node))
}

/// The node that chitchat means; `None` if no node of ours has such an id.
fn node_of(id: &ChitchatId) -> Option<NodeId> {
    let bytes = BASE64URL_NOPAD.decode(id.node_id.as_bytes()).ok()?;
    let node = NodeId(bytes.try_into().ok()?);
    (address(node) == id.gossip_advertise_addr).then_some(node)
}

// -- chitchat's socket ------------------------------------------------------------------------

struct Wire(Arc<Shared>);

#[async_trait]
impl Transport for Wire {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

#[async_trait]
impl Socket for Wire {
    /// Never waits, since chitchat waits for it; never fails, since that would end chitchat.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let counters = &self.0.counters;
        let Some(node) = locked(&self.0.peers).get(&to).copied() else {
            counters.unreachable.fetch_add(1, Relaxed);
            return Ok(());
        };
        let Some(bytes) = encode(&message) else {
            counters.too_long.fetch_add(1, Relaxed);
            return Ok(());
        };
        let mut outboxes = locked(&self.0.outboxes);
        let outbox = outboxes.entry(node).or_default();
        if outbox.len() >= OUTBOX_MAX {
            outbox.pop_front();
            counters.outbox_dropped.fetch_add(1, Relaxed);
        }
        outbox.push_back(bytes);
        drop(outboxes);
        self.0.outbox_filled.notify_one();
        Ok(())
    }

    /// Nothing is lost when this is dropped half-way: it takes a message only to return it.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            #[cfg(test)]
            if self.0.fail.swap(false, Relaxed) {
                anyhow::bail!("told to fail");
            }
            let next = locked(&self.0.inbox).pop_front();
            let Some((from, bytes)) = next else {
                self.0.inbox_filled.notified().await;
                continue;
            };
            if let Some(message) = decode(&bytes) {
                self.0.counters.received.fetch_add(1, Relaxed);
                return Ok((address(from), message));
            }
            self.0.counters.malformed.fetch_add(1, Relaxed);
        }
    }
}

/// Compressed bytes; `None` if the message is too long.
fn encode(message: &ChitchatMessage) -> Option<Vec<u8>> {
    let raw = message.serialize_to_vec();
    if raw.len() > RAW_MAX {
        return None;
    }
    zstd::bulk::compress(&raw, 1).ok()
}

/// Whether bytes that a member sent are a message at all; [`Gossip::deliver`] counts those that
/// are not.
pub fn readable(bytes: &[u8]) -> bool {
    decode(bytes).is_some()
}

fn decode(bytes: &[u8]) -> Option<ChitchatMessage> {
    let raw = zstd::bulk::decompress(bytes, RAW_MAX).ok()?;
    // Foreign code on foreign bytes: a panic in it must cost one message, not the gossip.
    catch_unwind(|| ChitchatMessage::deserialize(&mut raw.as_slice()).ok()).ok()?
}

/// Moves messages from the outboxes to `out`, one per member in turn.
async fn hand_out(shared: Arc<Shared>, out: mpsc::Sender<(NodeId, Vec<u8>)>) {
    loop {
        let waiting: Vec<NodeId> = locked(&shared.outboxes).keys().copied().collect();
        if waiting.is_empty() {
            shared.outbox_filled.notified().await;
        }
        for node in waiting {
            let bytes = {
                let mut outboxes = locked(&shared.outboxes);
                let bytes = outboxes.get_mut(&node).and_then(VecDeque::pop_front);
                if outboxes.get(&node).is_some_and(VecDeque::is_empty) {
                    outboxes.remove(&node);
                }
                bytes
            };
            let Some(bytes) = bytes else { continue };
            shared.counters.sent.fetch_add(1, Relaxed);
            shared.counters.sent_bytes.fetch_add(bytes.len() as u64, Relaxed);
            if out.send((node, bytes)).await.is_err() {
                return;
            }
        }
    }
}

// -- keeping chitchat running -------------------------------------------------------------------

struct Keeper {
    me: NodeId,
    mesh: MeshId,
    round: Duration,
    shared: Arc<Shared>,
    own: watch::Receiver<NodeReport>,
    greetings: mpsc::Receiver<NodeId>,
    found: watch::Sender<Reports>,
}

impl Keeper {
    async fn run(mut self, mut generation: u64) {
        let mut pause = RESTART_PAUSE;
        loop {
            let begun = Instant::now();
            let first = keys(&self.own.borrow_and_update());
            let first = first.map(|(key, value)| (key.to_string(), value)).to_vec();
            let wire = Wire(self.shared.clone());
            match spawn_chitchat(self.config(generation), first, &wire).await {
                Ok(handle) => {
                    generation = self.keep(&handle, generation).await;
                    handle.abort();
                }
                Err(error) => tracing::warn!(%error, "gossip of node reports did not start"),
            }
            self.shared.counters.restarts.fetch_add(1, Relaxed);
            if begun.elapsed() > RESTART_PAUSE_MAX {
                pause = RESTART_PAUSE;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
    }

    fn config(&self, generation: u64) -> ChitchatConfig {
        let rounds = |count| self.round * count;
        ChitchatConfig {
            chitchat_id: chitchat_id(self.me, generation),
            cluster_id: self.mesh.to_string(),
            gossip_interval: self.round,
            listen_addr: address(self.me),
            // Seeds are fixed at start; greetings do their work.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI,
                sampling_window_size: SAMPLES,
                max_interval: rounds(10),
                initial_interval: rounds(2),
                dead_node_grace_period: GRACE,
            },
            marked_for_deletion_grace_period: GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
        }
    }

    /// Serves one run of chitchat and returns the generation of the next.
    async fn keep(&mut self, handle: &ChitchatHandle, generation: u64) -> u64 {
        let ended = handle.termination_watcher();
        tokio::pin!(ended);
        let mut rounds = interval(self.round);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since_greeting = 0;
        let known: Vec<SocketAddr> = locked(&self.shared.peers).keys().copied().collect();
        let mut greeted = address(self.me);
        // A handle whose server ended refuses; that is noticed below.
        known.into_iter().for_each(|peer| drop(handle.gossip(peer)));
        loop {
            tokio::select! {
                result = &mut ended => {
                    let error = result.err().map(|error| error.to_string()).unwrap_or_default();
                    tracing::warn!(error, "gossip of node reports ended, starting it again");
                    return generation.saturating_add(1);
                }
                Some(node) = self.greetings.recv() => drop(handle.gossip(address(node))),
                _ = rounds.tick() => {
                    if let Some(later) = self.exchange(handle, generation).await {
                        tracing::warn!(
                            generation, later, "a later start of this node is known: passing it"
                        );
                        return later.saturating_add(1);
                    }
                    since_greeting += 1;
                    if since_greeting >= ROUNDS_PER_GREETING {
                        since_greeting = 0;
                        if let Some(peer) = self.after(greeted) {
                            greeted = peer;
                            drop(handle.gossip(peer));
                        }
                    }
                }
            }
        }
    }

    /// The next member in turn.
    fn after(&self, peer: SocketAddr) -> Option<SocketAddr> {
        use std::ops::Bound::{Excluded, Unbounded};
        let peers = locked(&self.shared.peers);
        let next = peers.range((Excluded(peer), Unbounded)).next();
        next.or_else(|| peers.first_key_value()).map(|(peer, _)| *peer)
    }

    /// Puts this node's report in and takes the others' out. `Some` is the generation of a later
    /// start of this node that others remember: an older copy of its folder was put back.
    async fn exchange(&mut self, handle: &ChitchatHandle, generation: u64) -> Option<u64> {
        let chitchat = handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        let own = keys(&self.own.borrow_and_update());
        let state = chitchat.self_node_state();
        // Sets only what differs.
        own.into_iter().for_each(|(key, value)| state.set(key, value));
        let mut later = None;
        let mut newest: BTreeMap<NodeId, (u64, NodeReport)> = BTreeMap::new();
        for (id, state) in chitchat.node_states() {
            let Some(node) = node_of(id) else { continue };
            if node == self.me {
                if id.generation_id > generation {
                    later = later.max(Some(id.generation_id));
                }
                continue;
            }
            // A node that was only heard of has no keys yet.
            let known = newest.get(&node).is_some_and(|(newer, _)| *newer > id.generation_id);
            if !known && state.num_key_values() > 0 {
                newest.insert(node, (id.generation_id, read(state)));
            }
        }
        drop(chitchat);
        let newest: BTreeMap<_, _> =
            newest.into_iter().map(|(node, (_, report))| (node, report)).collect();
        self.found.send_if_modified(|found| {
            let changed = **found != newest;
            if changed {
                *found = Arc::new(newest);
            }
            changed
        });
        later
    }
}

/// A report as chitchat carries it: each field a key of its own, so that only what changed
/// travels.
fn keys(report: &NodeReport) -> [(&'static str, String); 7] {
    [
        ("version", report.version.chars().take(VERSION_MAX / 4).collect()),
        ("encoders", report.encoders.to_string()),
        ("streams", report.streams.to_string()),
        ("viewers", report.viewers.to_string()),
        ("egress_bps", report.egress_bps.to_string()),
        ("cpu", report.cpu.to_string()),
        ("wall", report.wall.to_string()),
    ]
}

/// The reverse of [`keys`]. A field that is missing or makes no sense counts as not declared.
fn read(state: &NodeState) -> NodeReport {
    fn number<T: std::str::FromStr>(state: &NodeState, key: &str) -> Option<T> {
        state.get(key)?.parse().ok()
    }
    let real = |key| number::<f64>(state, key).filter(|value| value.is_finite() && *value >= 0.0);
    let version = state.get("version").filter(|version| version.len() <= VERSION_MAX);
    NodeReport {
        version: version.unwrap_or_default().into(),
        encoders: number(state, "encoders").unwrap_or_default(),
        streams: number(state, "streams").unwrap_or_default(),
        viewers: number(state, "viewers").unwrap_or_default(),
        egress_bps: number(state, "egress_bps").unwrap_or_default(),
        cpu: real("cpu").unwrap_or_default(),
        wall: number(state, "wall").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time for everything that must happen.
    const PATIENCE: Duration = Duration::from_secs(20);
    const ROUND: Duration = Duration::from_millis(30);

    type Nodes = Arc<Mutex<BTreeMap<NodeId, Arc<Gossip>>>>;

    fn node(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn report(encoders: u32) -> NodeReport {
        NodeReport {
            version: "1.2.3".into(),
            encoders,
            streams: 3,
            viewers: 7,
            egress_bps: 8_000_000,
            cpu: 0.25,
            wall: 1_700_000_000_000,
        }
    }

    /// Starts a node whose bytes reach the others directly, and introduces it.
    fn start(nodes: &Nodes, n: u8, boot: u64, encoders: u32) -> Arc<Gossip> {
        let (out, mut bytes) = mpsc::channel(16);
        let (me, first) = (node(n), report(encoders));
        let gossip = Gossip::spawn_every(ROUND, me, Boot(boot), MeshId([9; 16]), first, out);
        let others = nodes.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = bytes.recv().await {
                let to = locked(&others).get(&to).cloned();
                if let Some(to) = to {
                    to.deliver(me, bytes);
                }
            }
        });
        let gossip = Arc::new(gossip);
        let mut nodes = locked(nodes);
        nodes.insert(me, gossip.clone());
        for (id, other) in nodes.iter().filter(|(id, _)| **id != me) {
            gossip.member_up(*id);
            other.member_up(me);
        }
        gossip
    }

    async fn sees(gossip: &Gossip, n: u8, encoders: u32) {
        let mut reports = gossip.reports();
        let seen = reports.wait_for(|reports| reports.get(&node(n)) == Some(&report(encoders)));
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        assert!(seen.is_ok(), "report {encoders} of node {n} never came");
    }

    async fn all_see(nodes: &Nodes, n: u8, encoders: u32) {
        let others = locked(nodes).clone();
        for (_, gossip) in others.into_iter().filter(|(id, _)| *id != node(n)) {
            sees(&gossip, n, encoders).await;
        }
    }

    #[tokio::test]
    async fn everyone_sees_everyones_latest_report() {
        let nodes = Nodes::default();
        let first = start(&nodes, 1, 1, 10);
        start(&nodes, 2, 1, 20);
        start(&nodes, 3, 1, 30);
        for n in 1..=3 {
            all_see(&nodes, n, u32::from(n) * 10).await;
        }
        first.publish(report(11));
        all_see(&nodes, 1, 11).await;
        assert!(!first.reports().borrow().contains_key(&node(1)), "others only");
        assert_eq!(first.counters().malformed.load(Relaxed), 0);
        assert_eq!(first.counters().unreachable.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_restarted_node_replaces_its_reports_whatever_its_boot() {
        let nodes = Nodes::default();
        start(&nodes, 1, 5, 10);
        start(&nodes, 2, 5, 20);
        start(&nodes, 3, 5, 30);
        all_see(&nodes, 1, 10).await;
        // A normal start, the same boot once more, and an older folder.
        for (boot, encoders) in [(6, 12), (6, 13), (2, 14)] {
            locked(&nodes).remove(&node(1));
            start(&nodes, 1, boot, encoders);
            all_see(&nodes, 1, encoders).await;
            let again = locked(&nodes)[&node(1)].clone();
            sees(&again, 3, 30).await;
        }
    }

    #[tokio::test]
    async fn garbage_is_counted_and_kills_nobody() {
        let nodes = Nodes::default();
        let first = start(&nodes, 1, 1, 10);
        start(&nodes, 2, 1, 20);
        all_see(&nodes, 1, 10).await;
        let bomb = zstd::bulk::compress(&vec![0; 50 << 20], 1).unwrap();
        let valid = encode(&ChitchatMessage::BadCluster).unwrap();
        let mut garbage = vec![vec![], vec![0; 9], bomb, b"roost".to_vec(), vec![0xff; 70_000]];
        garbage.extend((0..valid.len()).map(|cut| valid[..cut].to_vec()));
        let raw: Vec<u8> = (0..=255).cycle().take(3_000).collect();
        garbage.push(zstd::bulk::compress(&raw, 1).unwrap());
        let count = garbage.len() as u64;
        for bytes in garbage {
            first.deliver(node(7), bytes);
        }
        first.publish(report(15));
        all_see(&nodes, 1, 15).await;
        assert_eq!(first.counters().malformed.load(Relaxed), count);
        assert_eq!(first.counters().restarts.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn gossip_that_ended_is_started_again_under_a_new_generation() {
        let nodes = Nodes::default();
        let first = start(&nodes, 1, 1, 10);
        start(&nodes, 2, 1, 20);
        all_see(&nodes, 1, 10).await;
        first.shared.fail.store(true, Relaxed);
        first.publish(report(16));
        all_see(&nodes, 1, 16).await;
        sees(&first, 2, 20).await;
        let until = Instant::now() + PATIENCE;
        while first.counters().restarts.load(Relaxed) == 0 {
            assert!(Instant::now() < until, "never restarted");
            first.deliver(node(2), vec![]);
            sleep(ROUND).await;
        }
        first.publish(report(17));
        all_see(&nodes, 1, 17).await;
    }

    #[tokio::test]
    async fn a_carrier_that_stands_still_blocks_nobody() {
        let nodes = Nodes::default();
        let first = start(&nodes, 1, 1, 10);
        // Nobody takes this one's bytes.
        let (out, _stuck) = mpsc::channel(1);
        let mesh = MeshId([9; 16]);
        let gossip = Gossip::spawn_every(ROUND, node(2), Boot(1), mesh, report(20), out);
        let gossip = Arc::new(gossip);
        locked(&nodes).insert(node(2), gossip.clone());
        first.member_up(node(2));
        gossip.member_up(node(1));
        let until = Instant::now() + PATIENCE;
        while gossip.counters().outbox_dropped.load(Relaxed) == 0 {
            assert!(Instant::now() < until, "nothing was ever dropped");
            sleep(ROUND).await;
        }
        assert!(locked(&gossip.shared.outboxes)[&node(1)].len() <= OUTBOX_MAX);
        for n in 0..1_000 {
            gossip.deliver(node(3), vec![n as u8]);
        }
        assert!(locked(&gossip.shared.inbox).len() <= INBOX_MAX);
    }

    #[test]
    fn an_id_leads_back_to_its_node_and_a_foreign_one_nowhere() {
        let id = chitchat_id(node(7), 3);
        assert_eq!(id.node_id.len(), 22);
        assert_eq!(node_of(&id), Some(node(7)));
        let mut moved = id.clone();
        moved.gossip_advertise_addr = address(node(8));
        assert_eq!(node_of(&moved), None);
        assert_eq!(node_of(&ChitchatId::new("north", 1, address(node(7)))), None);
    }
}
