//! Whole nodes on a network in memory, and the course of events that the simulator plays as well.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use roost::accounts::{Change, Expect, Key, Kind, Receipt, Write};
use roost::cluster::Liveness;
use roost::id::{AccountId, NodeId, RecordId};
use roost::node::{Join, Node, NodeConfig};
use roost_sim::calibrate::{
    BACK_MS, BURST_MS, CUT_MS, END_MS, KILLED_MS, LOOK_MS, Times, WHOLE_MS,
};
use roost_sim::plan;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use crate::net::{Network, addr_of};

/// For so long reports are followed, in milliseconds.
const REPORTS_MS: u64 = 30_000;

struct Mesh {
    network: Network,
    began: Instant,
    folders: Vec<TempDir>,
    nodes: Vec<Option<Node>>,
    ids: Vec<Option<NodeId>>,
}

/// Plays it; whatever it ends in must be right, and how long it took is told.
pub(crate) async fn play(count: usize, net: plan::Net, seed: u64) -> Times {
    let mut mesh = Mesh::new(count, net, seed);
    let (all, dead) = (0..count, count - 1);
    let live = 0..dead;
    mesh.gather(seed).await;
    let joined = mesh.until(KILLED_MS, |mesh| mesh.see(all.clone(), all.clone())).await;
    let mut written = vec![mesh.write(0, 1).await];

    let killed = mesh.now();
    let ghost = mesh.kill(dead);
    let mut noticed = None;
    let known = mesh.until(BACK_MS, |mesh| {
        if live.clone().any(|ix| !mesh.sees(ix, dead)) {
            noticed.get_or_insert(mesh.now());
        }
        mesh.see(live.clone(), live.clone())
    });
    let known = known.await;
    written.push(mesh.write(1, 2).await);
    ghost.await.expect("it ends");

    let restarted = mesh.now();
    mesh.start(dead, None).await;
    let back = mesh.until(CUT_MS, |mesh| mesh.see(all.clone(), all.clone())).await;
    mesh.has_all(dead, &written).await;

    let half = |odd| (0..count).filter(|n| n % 2 == odd).collect::<Vec<_>>();
    mesh.network.cut(&half(0), &half(1));
    mesh.until(WHOLE_MS, |_| true).await;
    // On both sides, each of which sees nobody of the other.
    written.push(mesh.write(0, 3).await);
    written.push(mesh.write(1, 4).await);
    for ix in all.clone() {
        assert!(all.clone().all(|other| mesh.sees(ix, other) == (ix % 2 == other % 2)), "n{ix}");
    }
    let mended = mesh.now();
    mesh.network.mend();
    let healed = mesh.until(END_MS, |mesh| mesh.see(all.clone(), all.clone())).await;
    for ix in all {
        mesh.has_all(ix, &written).await;
    }
    mesh.same_ledger().await;
    let since = |at: Option<u64>, from: u64| at.map(|at| at.saturating_sub(from) as f64 / 1e3);
    Times {
        joined: since(joined, BURST_MS),
        noticed: since(noticed, killed),
        known: since(known, killed),
        back: since(back, restarted),
        healed: since(healed, mended),
    }
}

/// How long each report of the founder took until the first of the others, half of them and the
/// last had it or a newer one, in seconds.
pub(crate) async fn reports(count: usize, net: plan::Net, seed: u64) -> Vec<[f64; 3]> {
    let mut mesh = Mesh::new(count, net, seed);
    mesh.gather(seed).await;
    let all = 0..count;
    mesh.until(KILLED_MS, |mesh| mesh.see(all.clone(), all.clone())).await;
    // When it was made by its own clock and by the network's, who has it, and how long that took.
    let mut made: Vec<(u64, u64, BTreeSet<usize>, Vec<u64>)> = Vec::new();
    let end = mesh.now() + REPORTS_MS;
    while mesh.now() < end {
        let now = mesh.now();
        if let Some(wall) = mesh.reported(0, 0)
            && made.last().is_none_or(|(last, ..)| *last < wall)
        {
            made.push((wall, now, BTreeSet::new(), Vec::new()));
        }
        for ix in 1..count {
            let Some(heard) = mesh.reported(ix, 0) else { continue };
            for (_, at, has, took) in made.iter_mut().filter(|(wall, ..)| *wall <= heard) {
                if has.insert(ix) {
                    took.push(now - *at);
                }
            }
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
    let whole = made.into_iter().filter(|(.., took)| took.len() == count - 1);
    let spread = whole.map(|(.., took)| [took[0], took[took.len() / 2], took[took.len() - 1]]);
    spread.map(|three| three.map(|ms| ms as f64 / 1e3)).collect()
}

/// Which of its views a node shows.
fn shown(node: &Node) -> u64 {
    *node.changes().borrow()
}

impl Mesh {
    fn new(count: usize, net: plan::Net, seed: u64) -> Self {
        Self {
            network: Network::new(net, seed),
            began: Instant::now(),
            folders: (0..count).map(|_| tempfile::tempdir().expect("a folder")).collect(),
            nodes: vec![None; count],
            ids: vec![None; count],
        }
    }

    /// The founder, then everyone else within the burst, invited.
    async fn gather(&mut self, seed: u64) {
        self.start(0, None).await;
        let founder = self.nodes[0].clone().expect("it runs");
        let invitation = founder.invite(u32::MAX, Duration::from_secs(3600));
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let began = self.began;
        let mut starts = tokio::task::JoinSet::new();
        for ix in 1..self.nodes.len() {
            let at = began + Duration::from_millis(rng.random_range(0..=BURST_MS));
            let join = Join::Invitation(invitation.parse().expect("it was printed by a node"));
            let config = self.config(ix, Some(join));
            starts.spawn(async move {
                sleep_until(at).await;
                let started = Node::start(config).await;
                (ix, started.unwrap_or_else(|error| panic!("n{ix} does not start: {error}")).0)
            });
        }
        while let Some(started) = starts.join_next().await {
            let (ix, node) = started.expect("it starts");
            self.ids[ix] = Some(node.id());
            self.nodes[ix] = Some(node);
        }
    }

    fn config(&self, ix: usize, join: Option<Join>) -> NodeConfig {
        NodeConfig {
            data: self.folders[ix].path().into(),
            // Nobody comes this way.
            listen: "127.0.0.1:0".parse().expect("an address"),
            sockets: Some(self.network.sockets(ix)),
            advertise: vec![addr_of(ix).to_string()],
            join,
            name: Some(format!("n{ix}")),
            certificate: None,
            open_loopback: false,
            admin_password: None,
            reload: None,
            ready: None,
        }
    }

    async fn start(&mut self, ix: usize, join: Option<Join>) {
        let node = Node::start(self.config(ix, join)).await.expect("it starts").0;
        self.ids[ix] = Some(node.id());
        self.nodes[ix] = Some(node);
    }

    /// Without a word, as others hear it. What is left of it ends behind a socket that is dead.
    fn kill(&mut self, ix: usize) -> tokio::task::JoinHandle<()> {
        self.network.silence(ix);
        let node = self.nodes[ix].take().expect("it runs");
        tokio::spawn(async move { node.leave().await })
    }

    fn node(&self, ix: usize) -> &Node {
        self.nodes[ix].as_ref().expect("it runs")
    }

    /// In milliseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("it is short")
    }

    /// Whom a node believes alive.
    fn alive(&self, ix: usize) -> BTreeSet<NodeId> {
        let Some(node) = &self.nodes[ix] else { return BTreeSet::new() };
        let view = node.view();
        let up = |state| matches!(state, Liveness::Up | Liveness::Suspect);
        view.nodes.iter().filter(|node| up(node.state)).map(|node| node.node).collect()
    }

    /// The wall clock in the last report of the other that a node knows.
    fn reported(&self, ix: usize, other: usize) -> Option<u64> {
        let (view, id) = (self.node(ix).view(), self.ids[other]?);
        let of = view.nodes.iter().find(|node| node.node == id)?;
        of.report.as_ref().map(|report| report.wall)
    }

    fn sees(&self, ix: usize, other: usize) -> bool {
        self.ids[other].is_some_and(|id| self.alive(ix).contains(&id))
    }

    /// Each of these sees exactly those.
    fn see(&self, mut who: Range<usize>, live: Range<usize>) -> bool {
        let live: BTreeSet<NodeId> = self.ids[live].iter().flatten().copied().collect();
        who.all(|ix| self.alive(ix) == live)
    }

    /// Waits until then; since when it has been so, in milliseconds since the beginning.
    async fn until(&self, end: u64, mut so: impl FnMut(&Self) -> bool) -> Option<u64> {
        let (mut since, mut known) = (None, Vec::new());
        while self.now() < end {
            let shown: Vec<_> = self.nodes.iter().map(|node| node.as_ref().map(shown)).collect();
            if shown != known {
                since = if so(self) { since.or(Some(self.now())) } else { None };
                known = shown;
            }
            sleep(Duration::from_millis(LOOK_MS)).await;
        }
        since
    }

    /// Somebody makes a change at a node, and is told that it is on disk there.
    async fn write(&self, ix: usize, id: u8) -> Receipt {
        let write = Write {
            key: Key { kind: Kind::DOMAIN, id: RecordId([id; 16]) },
            changes: vec![Change::Set(1, format!("domain-{id}").into_bytes())],
            account: AccountId([1; 16]),
            expect: Expect::Absent,
            wait: 0,
            patience: Duration::ZERO,
        };
        self.node(ix).write(write).await.expect("it is written")
    }

    async fn has_all(&self, ix: usize, written: &[Receipt]) {
        let versions: Vec<_> = written.iter().map(|receipt| receipt.version).collect();
        let shows = move |ledger: &roost::accounts::Ledger| {
            versions.iter().map(|version| ledger.shows(*version)).collect::<Vec<_>>()
        };
        let shown = self.node(ix).read_ledger(shows).await.expect("it runs");
        assert!(shown.iter().all(|shown| *shown), "n{ix} lacks what was acknowledged: {shown:?}");
    }

    async fn same_ledger(&self) {
        let mut digests = BTreeSet::new();
        for node in self.nodes.iter().flatten() {
            let digest = node.read_ledger(|ledger| ledger.digest()).await.expect("it runs");
            digests.insert((digest.clock, digest.state));
        }
        assert_eq!(digests.len(), 1, "all have the same ledger");
    }
}
