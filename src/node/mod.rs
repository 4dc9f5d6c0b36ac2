//! A node put together: its control loop, its drivers, and the handle by which the rest of the
//! process asks things of it.

mod addresses;
mod clients;
mod drive;
mod folder;
mod founding;
mod identity;
mod ledger;
mod media;
mod members;
mod name;
mod outbox;
pub mod passwords;
mod ports;
mod publish;
mod records;
mod relay;
mod report;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

pub use clients::{ApiCall, NativeViewer};
pub use drive::Totals;
pub use founding::{ADMIN, ADMINISTRATORS};
pub use identity::identity;
pub use ledger::{RecordChange, RecordChanges};
pub use members::NotDone;
pub use publish::{Pictures, Publisher};
pub use relay::FLOWS_MAX;

use folder::Folder;
use ports::Ports;

use crate::access::{Principal, SharedRights};
use crate::accounts::Spare;
use crate::admission::{
    Denied, Enrolment, Invitation, Keypair, Roster, Session, issue_credential, issue_redirect,
    issue_session,
};
use crate::cluster::ClusterView;
use crate::control::{self, Control};
use crate::hub::{Hubs, Subscription};
use crate::id::{AccountId, EncoderId, InviteId, NodeId, RecordId, valid_name};
use crate::net::{AskError, Net, NetConfig, RtcDatagram};
use crate::quic;
use crate::store::Source;

use crate::time::{Mono, Now};
use crate::wire;

/// How long the bearer of a redirect token may take to follow it, in milliseconds.
const REDIRECT_LIFETIME: u64 = 30_000;
/// How long a node that stops waits for its last writes: a disk that takes longer is failing.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// Events that wait for the control loop; beyond it streams wait and heartbeats are dropped.
const EVENT_QUEUE: usize = 16_384;

/// How long failovers took, from the last sign of what was lost to the new one: by kind and
/// client.
pub type Failovers = Family<[(&'static str, &'static str); 2], Histogram, fn() -> Histogram>;

/// Labels of the failover of a native encoder.
const ENCODER_FAILOVER: [(&str, &str); 2] = [("kind", "encoder"), ("client", "native")];

/// How a node finds its mesh, if not from what it remembers.
#[derive(Debug)]
pub enum Join {
    /// A newcomer with an invitation.
    Invitation(Invitation),
    /// A member that gives itself fresh addresses to try.
    Address(Vec<String>),
}

/// What a node is started with.
#[derive(Debug)]
pub struct NodeConfig {
    /// Folder of its key and state; made if missing.
    pub data: PathBuf,
    /// Address and port, UDP and TCP.
    pub listen: SocketAddr,
    /// What its datagrams pass through instead of UDP.
    pub sockets: Option<Sockets>,
    /// How others reach it, `host:port`, best first; empty: as it listens.
    pub advertise: Vec<String>,
    /// How it finds its mesh.
    pub join: Option<Join>,
    /// What people call it.
    pub name: Option<String>,
    /// PEM files of a web certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whoever asks from this machine without a credential is taken for its owner: for a mesh that
    /// never leaves it.
    pub open_loopback: bool,
    /// The first administrator's password, if this node founds a mesh; drawn if there is none.
    /// Secret.
    pub admin_password: Option<String>,
    /// Where those are from now on; they are read again with every message.
    pub reload: Option<mpsc::Receiver<Option<(PathBuf, PathBuf)>>>,
    /// Told the bound address once all listeners are open.
    pub ready: Option<oneshot::Sender<SocketAddr>>,
}

/// Sockets that are not the system's: nodes and native clients are reached through them, browsers'
/// pictures are not.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// In the place of the UDP port.
    pub port: Arc<dyn quic::AsyncUdpSocket>,
    /// From which a newcomer asks to be let in.
    pub join: Arc<dyn quic::AsyncUdpSocket>,
}

/// Why a node does not start or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What it was told makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// Its folder or port is taken.
    #[error("{0}")]
    InUse(String),
    /// It may not do what it must.
    #[error("{0}")]
    NotAllowed(String),
    /// Nobody there to join.
    #[error("{0}")]
    NoNodeAnswered(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A running node. Clones are handles to the same one.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    id: NodeId,
    name: String,
    addrs: Vec<String>,
    data: PathBuf,
    keypair: Arc<ArcSwap<Keypair>>,
    mesh_clock: Arc<members::MeshClock>,
    /// Held while the key is being changed.
    rotating: tokio::sync::Mutex<()>,
    roster: Arc<ArcSwap<Roster>>,
    net: Net,
    hubs: Hubs,
    clients: clients::Clients,
    events: mpsc::Sender<control::Event>,
    calls: mpsc::Sender<ledger::Call>,
    view: Arc<ArcSwap<ClusterView>>,
    changes: watch::Receiver<u64>,
    totals: Arc<ArcSwap<Totals>>,
    turning: Arc<media::Turning>,
    failovers: Failovers,
    rights: SharedRights,
    rights_changes: watch::Receiver<u64>,
    open_loopback: bool,
    /// What is left to do of a founding.
    founding: tokio::sync::Mutex<Option<founding::Founding>>,
    told: ledger::Told,
    source: Source,
    left: watch::Receiver<bool>,
    stored: watch::Receiver<()>,
    /// Kept until the process ends: whoever takes the folder next finds the ports free, too.
    _lock: Arc<std::fs::File>,
}

/// What the node hands to whoever serves HTTP and WebRTC.
pub struct Doors {
    /// The TCP port.
    pub tcp: TcpListener,
    /// The address of both ports.
    pub addr: SocketAddr,
    /// WebRTC's share of the UDP port.
    pub rtc: mpsc::Receiver<RtcDatagram>,
    /// Other nodes' questions about browsers and viewers.
    pub asks: mpsc::Receiver<(NodeId, wire::Ask, oneshot::Sender<Vec<u8>>)>,
    /// Native clients' requests to the API.
    pub api: mpsc::Receiver<ApiCall>,
}

impl Node {
    /// Opens the folder and the ports, then joins or founds, and starts. What is wrong with the
    /// configuration is said before anybody hears of this node. Dropped before its end, nothing
    /// has been started.
    pub async fn start(config: NodeConfig) -> Result<(Self, Doors), NodeError> {
        addresses::check(&config.advertise)?;
        if let Some(name) = config.name.as_deref().filter(|name| !valid_name(name)) {
            return Err(NodeError::Configuration(format!(
                "'{name}' is no name: use 1 to 64 of a-z, 0-9, '.', '_' and '-'"
            )));
        }
        let mut folder = Folder::open(config.data.clone(), config.admin_password).await?;
        let (port, join) = config.sockets.map(|it| (it.port, it.join)).unzip();
        // After the folder: whoever holds that has these as well, and lets go of them first.
        let Ports { udp, tcp, addr } = Ports::open(config.listen, port)?;
        let tcp = TcpListener::from_std(tcp).map_err(failed)?;
        identity::is_node(folder.keypair.node());
        let (roster, seeds) = folder.enter(config.join, join).await?;
        identity::is_in(roster.mesh());
        let founding = folder.unfinished()?;
        let folder = folder.open_ledger(&roster).await?;
        let lock = folder.lock();
        let Folder { store, keypair, next_key, boot, remembered, names, ledger, .. } = folder;
        let name = config.name.unwrap_or_else(|| name::default_name(keypair.node()));
        let addrs = addresses::of(config.advertise, addr);
        let shared_roster = Arc::new(ArcSwap::from_pointee(roster.clone()));
        let (net, net_events, rtc) = Net::open(NetConfig {
            port: udp,
            keypair: keypair.clone(),
            boot,
            name: name.clone(),
            addrs: addrs.clone(),
            roster: shared_roster.clone(),
        })
        .map_err(failed)?;
        let (event_tx, events) = mpsc::channel(EVENT_QUEUE);
        let (hub_tx, hub_events) = mpsc::unbounded_channel();
        let (api_tx, api) = mpsc::channel(64);
        let (ask_tx, asks) = mpsc::channel(256);
        let (change_tx, changes) = watch::channel(0);
        let (left_tx, left) = watch::channel(false);
        let (calls, called) = ledger::calls();
        let hubs = Hubs::new(hub_tx);
        let turning = Arc::new(media::Turning::new());
        let clients =
            clients::Clients::new(turning.clone(), hubs.clone(), event_tx.clone(), api_tx)
                .open_to_loopback(config.open_loopback);
        let clock = Clock::new();
        let seed = random();
        let mesh_clock = Arc::new(members::MeshClock::new(clock));
        let shared_key = Arc::new(ArcSwap::from_pointee(keypair.clone()));
        let born = control::Config {
            keypair: keypair.clone(),
            next_key,
            name: name.clone(),
            addrs: addrs.clone(),
            boot,
            roster,
            remembered,
            names,
            seeds,
            ledger,
            spare: Spare::default(),
            measured: report::capacity(),
            seed,
        };
        let mut effects = Vec::new();
        let control = Control::new(born, clock.now(), &mut effects);
        let view = Arc::new(ArcSwap::from_pointee(control.view()));
        let rights = control.shared_rights();
        let (rights_tx, rights_changes) = watch::channel(0);
        let told = ledger::Told::new();
        let totals = Arc::new(ArcSwap::from_pointee(Totals::default()));
        let failovers = failovers();
        let id = keypair.node();
        let mesh = control.roster().mesh();
        let reports = report::Reports::start(id, boot, mesh, net.clone());
        let source = store.source();
        let (store, stored) = writer::Writer::start(store, mesh, event_tx.clone());
        let driver = drive::Driver {
            control,
            clock,
            net: net.clone(),
            hubs: hubs.clone(),
            clients: clients.clone(),
            relays: relay::Relays::new(id, net.clone(), hubs.clone(), turning.clone()),
            roster: shared_roster.clone(),
            store,
            reports,
            turning: turning.clone(),
            failovers: failovers.clone(),
            watching: std::collections::BTreeMap::new(),
            attached: std::collections::BTreeMap::new(),
            joins: std::collections::BTreeMap::new(),
            last_join: 0,
            decrees: std::collections::BTreeMap::new(),
            last_decree: 0,
            moves: std::collections::BTreeMap::new(),
            last_move: 0,
            keypair: shared_key.clone(),
            mesh_clock: mesh_clock.clone(),
            data: config.data.clone(),
            writes: std::collections::BTreeMap::new(),
            last_write: 0,
            asks: ask_tx,
            view: view.clone(),
            changes: change_tx,
            totals: totals.clone(),
            rights_changes: rights_tx,
            told: told.clone(),
            left: left_tx,
            view_dirty: true,
        };
        let inboxes = drive::Inboxes { net: net_events, events, hubs: hub_events, calls: called };
        tokio::spawn(driver.run(inboxes, effects));
        let shared = Shared {
            id,
            name,
            addrs,
            data: config.data,
            keypair: shared_key,
            mesh_clock,
            rotating: tokio::sync::Mutex::default(),
            roster: shared_roster,
            net,
            hubs,
            clients,
            events: event_tx,
            calls,
            view,
            changes,
            totals,
            turning,
            failovers,
            rights,
            rights_changes,
            open_loopback: config.open_loopback,
            founding: tokio::sync::Mutex::new(founding),
            told,
            source,
            left,
            stored,
            _lock: lock,
        };
        Ok((Self { shared: Arc::new(shared) }, Doors { tcp, addr, rtc, asks, api }))
    }

    /// Who this is.
    pub fn id(&self) -> NodeId {
        self.shared.id
    }

    /// Its label.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How others reach it, `host:port`, best first.
    pub fn addrs(&self) -> &[String] {
        &self.shared.addrs
    }

    /// Its folder.
    pub fn data(&self) -> &std::path::Path {
        &self.shared.data
    }

    /// The network side.
    pub fn net(&self) -> &Net {
        &self.shared.net
    }

    /// What it believes of all, at most 50 ms old.
    pub fn view(&self) -> Arc<ClusterView> {
        self.shared.view.load_full()
    }

    /// Changes whenever [`Node::view`] does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.clone()
    }

    /// Who belongs to the mesh.
    pub fn roster(&self) -> Arc<Roster> {
        self.shared.roster.load_full()
    }

    /// Numbers for metrics, at most a second old.
    pub fn totals(&self) -> Arc<Totals> {
        self.shared.totals.load_full()
    }

    /// How long ago the control loop turned last; it does at least every 100 ms.
    pub fn turned(&self) -> Duration {
        self.shared.turning.age()
    }

    /// How long encoders that became home here had been without one.
    pub fn failovers(&self) -> Failovers {
        self.shared.failovers.clone()
    }

    /// All streams.
    pub fn hubs(&self) -> &Hubs {
        &self.shared.hubs
    }

    /// A publisher whose WebRTC leg is at this node, and comes from `remote`.
    pub fn publisher(&self, remote: Option<SocketAddr>) -> Publisher {
        self.shared.clients.publisher(remote)
    }

    /// Takes a place at a stream for one viewer here.
    pub fn subscribe(&self, encoder: EncoderId) -> Subscription {
        self.shared.hubs.hub(encoder).subscribe()
    }

    /// Asks another node.
    pub async fn ask(
        &self,
        node: NodeId,
        ask: &wire::Ask,
        timeout: Duration,
    ) -> Result<Vec<u8>, AskError> {
        self.shared.net.ask(node, wire::Message::encode(ask), timeout).await
    }

    /// An invitation string for `uses` nodes, good for `lifetime`.
    pub fn invite(&self, uses: u32, lifetime: Duration) -> String {
        let expires = self.mesh_time().saturating_add(millis(lifetime));
        let (keys, mesh) = (self.shared.keypair.load(), self.roster().mesh());
        let (id, secret) = (InviteId(random()), random());
        Invitation::make(&keys, mesh, self.known_addrs(), id, secret, expires, uses).to_string()
    }

    /// An enrolment string for clients in a domain, good for `lifetime`.
    pub fn enrol(&self, lifetime: Duration, domain: RecordId) -> (String, InviteId, u64) {
        let expires = self.mesh_time().saturating_add(millis(lifetime));
        let (keys, mesh) = (self.shared.keypair.load(), self.roster().mesh());
        let id = InviteId(random());
        let credential = issue_credential(&keys, mesh, id, domain, expires);
        let addrs = self.known_addrs();
        (Enrolment { addrs, mesh, credential }.to_string(), id, expires)
    }

    /// This node's addresses, then those of some others, so that a string that holds them works
    /// when this node is gone.
    fn known_addrs(&self) -> Vec<String> {
        let view = self.view();
        let others = view.nodes.iter().filter(|n| n.node != self.shared.id);
        let others = others.filter_map(|n| n.addrs.first().cloned()).take(4);
        self.shared.addrs.iter().cloned().chain(others).collect()
    }

    /// Who somebody is, by credential; `loopback` needs none if this node is open to it.
    pub fn authenticate(
        &self,
        loopback: bool,
        credential: Option<&str>,
    ) -> Result<Principal, Denied> {
        let local = loopback && self.shared.open_loopback;
        self.roster().authenticate(&self.rights(), local, credential, self.mesh_time())
    }

    /// A token for somebody who has just shown the account's password, and until when it is good;
    /// none if the account may not log in.
    pub fn session_token(&self, account: AccountId, lifetime: Duration) -> Option<(String, u64)> {
        let password = self.rights().password_of(account)?;
        let expires = self.mesh_time().saturating_add(millis(lifetime));
        let session = Session { account, password, expires };
        let (keys, mesh) = (self.shared.keypair.load(), self.roster().mesh());
        Some((issue_session(&keys, mesh, &session), expires))
    }

    /// A token that lets its bearer do `verb` with `encoder` at `target` for half a minute, as
    /// far as `principal` may.
    pub fn redirect_token(
        &self,
        target: NodeId,
        encoder: EncoderId,
        verb: &str,
        principal: &Principal,
    ) -> String {
        let (keys, mesh) = (self.shared.keypair.load(), self.roster().mesh());
        let expires = self.mesh_time().saturating_add(REDIRECT_LIFETIME);
        issue_redirect(&keys, mesh, target, encoder, verb, expires, principal)
    }

    /// Whose redirect token for this node this is.
    pub fn check_redirect(&self, token: &str, encoder: EncoderId, verb: &str) -> Option<Principal> {
        let (roster, now) = (self.roster(), self.mesh_time());
        roster.check_redirect(token, self.shared.id, encoder, verb, now).ok()
    }

    /// Native viewers served here.
    pub fn native_viewers(&self) -> Vec<NativeViewer> {
        self.shared.clients.viewers()
    }

    /// Whether this node is leaving.
    pub fn draining(&self) -> bool {
        let view = self.shared.view.load();
        view.nodes.iter().any(|node| node.node == self.shared.id && node.draining)
    }

    /// Hands its encoders over and stops. Returns once it has left and all is on disk.
    pub async fn leave(&self) {
        let mut left = self.shared.left.clone();
        if self.shared.events.send(control::Event::Leave).await.is_ok() {
            let patience = control::LEAVE_DEADLINE + Duration::from_secs(1);
            let _ = tokio::time::timeout(patience, left.wait_for(|left| *left)).await;
        }
        self.shared.net.shutdown("shutting down").await;
        // Its sender goes with the last write.
        let mut stored = self.shared.stored.clone();
        if tokio::time::timeout(STORE_PATIENCE, stored.changed()).await.is_err() {
            tracing::error!(
                event = "store.unfinished",
                limit = millis(STORE_PATIENCE),
                "the disk did not take the last writes in time: what was admitted in the last \
                 seconds may be forgotten; check the disk"
            );
        }
    }

    /// Returns when the control loop ended, which it does only after [`Node::leave`] or a defect.
    pub async fn ended(&self) {
        self.shared.events.closed().await;
    }
}

fn failovers() -> Failovers {
    let histogram: fn() -> Histogram =
        || Histogram::new([0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]);
    let failovers = Failovers::new_with_constructor(histogram);
    // Shown before the first one happens.
    drop(failovers.get_or_create(&ENCODER_FAILOVER));
    failovers
}

fn failed(error: std::io::Error) -> NodeError {
    NodeError::Failed(error.to_string())
}

/// Fresh random bytes from the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The generator of aws-lc fails only if the system has no entropy source at all, and then
    // no key of this process would be worth anything.
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(millis).unwrap_or(0)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the clocks for the deciding half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        // Never zero, so that "no time" and "the beginning" are told apart.
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { mono: Mono(nanos.saturating_add(1_000_000_000)), wall: wall_ms() }
    }

    pub(crate) fn instant(&self, at: Mono) -> tokio::time::Instant {
        self.origin + Duration::from_nanos(at.0.saturating_sub(1_000_000_000))
    }
}
