//! A mesh in one process, for tests of what is behind a URL: each node has its own TCP port and
//! its own WebRTC sessions, and all share one stream that has no pictures.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, watch};

use super::backend::*;
use super::*;
use crate::access::{DEFAULT_DOMAIN, Rights, Who};
use crate::accounts::{
    Audit, AuditCursor, Change, Changed, Dot, Expect, Key, Receipt, Record, Refusal, Stamp, Write,
};
use crate::cluster::{ClusterView, EncoderState, EncoderView, Liveness, NodeView};
use crate::id::{AccountId, ActorId, Boot, EncoderId, Epoch, InviteId, MeshId, NodeId};
use crate::media::Packet;
use crate::node::passwords::Passwords;
use crate::node::{NotDone, RecordChanges};
use crate::webrtc::{Accepted, Feed, Intake, Outlet, WebRtc};
use crate::wire::{AskMove, Failed, Moved, Offer, SdpAnswer};

pub(super) const CAM: EncoderId = EncoderId([9; 16]);

/// Whose credential is "good".
const CLIENT: Who = Who::Client { id: InviteId([7; 16]), domain: DEFAULT_DOMAIN };

/// Sessions per fake node.
pub(super) const MAX_LEGS: usize = 4;

/// Who numbers their writes.
const WRITER: ActorId = ActorId([8; 16]);

/// What all fake nodes share.
pub(super) struct FakeMesh {
    pub(super) nodes: Mutex<Vec<Arc<FakeNode>>>,
    pub(super) view: Mutex<ClusterView>,
    pub(super) rights: RwLock<Rights>,
    pub(super) records: Mutex<BTreeMap<Key, Record>>,
    told: broadcast::Sender<Changed>,
    written: AtomicU64,
    /// What time it is.
    pub(super) now: AtomicU64,
    /// By credential.
    pub(super) known: Mutex<BTreeMap<String, Principal>>,
    changes: watch::Sender<u64>,
}

pub(super) struct FakeNode {
    passwords: Passwords,
    mesh: Arc<FakeMesh>,
    pub(super) id: NodeId,
    webrtc: WebRtc,
    publishers: Mutex<Vec<Accepted>>,
    pub(super) draining: AtomicBool,
    pub(super) going: Going,
    /// Seconds since the control loop turned.
    pub(super) stuck: AtomicU64,
}

/// WebRTC's way out, which leads nowhere: what browsers get is tested with real ones.
struct Nowhere;

impl Outlet for Nowhere {
    fn send(
        &self,
        _to: SocketAddr,
        _from: Option<IpAddr>,
        _contents: &[u8],
        _segment_size: Option<usize>,
    ) -> io::Result<()> {
        Ok(())
    }
}

impl Intake for Nowhere {
    fn packet(&self, _packet: Packet) {}
}

pub(super) fn id_of(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 16])
}

impl FakeMesh {
    /// `count` nodes; the stream `cam` is at home at the first, its next is the second.
    pub(super) async fn start(count: usize) -> Arc<Self> {
        let encoder = EncoderView {
            id: CAM,
            name: "cam".into(),
            home: Some(id_of(0)),
            home_name: Some("n1".into()),
            next: Some(id_of(1)),
            next_name: Some("n2".into()),
            epoch: Epoch { counter: 1, instance: u64::MAX },
            state: EncoderState::Live,
            reason: None,
            native_only: false,
            why: None,
            viewers: 0,
        };
        let view = ClusterView {
            mesh: MeshId([1; 16]),
            node: id_of(0),
            name: "n1".into(),
            boot: Boot(1),
            nodes: Vec::new(),
            encoders: vec![encoder],
            outcasts: Vec::new(),
            survivability: None,
            former: Default::default(),
        };
        let mesh = Arc::new(Self {
            nodes: Mutex::default(),
            view: Mutex::new(view),
            rights: RwLock::default(),
            records: Mutex::default(),
            told: broadcast::Sender::new(64),
            written: AtomicU64::new(0),
            now: AtomicU64::new(1_000),
            known: Mutex::new([("good".to_owned(), Principal::new(CLIENT, "client"))].into()),
            changes: watch::Sender::new(0),
        });
        for number in 0..count {
            mesh.clone().start_node(number).await;
        }
        mesh
    }

    async fn start_node(self: Arc<Self>, number: usize) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let candidate = listener.local_addr().unwrap();
        let webrtc = WebRtc::with_limit(Arc::new(Nowhere), &[candidate], MAX_LEGS).unwrap();
        let address = listener.local_addr().unwrap();
        let node = Arc::new(FakeNode {
            passwords: Passwords::new(),
            mesh: self.clone(),
            id: id_of(number),
            webrtc,
            publishers: Mutex::default(),
            draining: AtomicBool::new(false),
            going: Default::default(),
            stuck: AtomicU64::new(0),
        });
        self.view.lock().unwrap().nodes.push(NodeView {
            node: node.id,
            name: format!("n{}", number + 1),
            state: Liveness::Up,
            addrs: vec![address.to_string()],
            linked: true,
            rtt_ms: Some(0.3),
            draining: false,
            cordoned: false,
            capacity: None,
            measured: Some(100),
            limit: None,
            encoders: 0,
            viewers: 0,
            report: None,
            key: None,
            admitted_by: None,
            invite: None,
            clock_offset_ms: None,
        });
        let folder = tempfile::tempdir().unwrap();
        let tls = tls::config(tls::load_or_make(folder.path(), &[]).unwrap()).unwrap();
        let counters = Arc::new(ServerCounters::default());
        let router = router(node.clone(), counters.clone());
        tokio::spawn(async move {
            let (_running, stop) = watch::channel(false);
            serve(listener, tls, router, counters, stop).await;
        });
        self.nodes.lock().unwrap().push(node);
    }

    pub(super) fn node(&self, number: usize) -> Arc<FakeNode> {
        self.nodes.lock().unwrap()[number].clone()
    }

    /// Changes a record and what follows from it, at every node at once.
    pub(super) fn write(&self, key: Key, changes: &[Change]) {
        let write = Write {
            key,
            changes: changes.to_vec(),
            account: AccountId([0; 16]),
            expect: Expect::Any,
            wait: 0,
            patience: std::time::Duration::ZERO,
        };
        self.commit(id_of(0), &write).unwrap();
    }

    /// The same as a node does it.
    pub(super) fn commit(&self, node: NodeId, write: &Write) -> Result<Receipt, Refusal> {
        let mut record = self.records.lock().unwrap().get(&write.key).cloned().unwrap_or_default();
        match write.expect {
            Expect::Absent if record.exists() => return Err(Refusal::Exists),
            Expect::Present | Expect::Tag(_) if !record.exists() => return Err(Refusal::Missing),
            Expect::Tag(tag) if record.tag() != tag => return Err(Refusal::Changed),
            _ => {}
        }
        if write.key.kind.collected() && record.is_deleted() {
            return Err(Refusal::Gone);
        }
        let seq = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        let by = Stamp { account: write.account, node, wall: self.now.load(Ordering::Relaxed) };
        record.apply(Dot { actor: WRITER, seq, nonce: [0; 4] }, by, &write.changes)?;
        let tag = record.tag();
        self.put(write.key, record);
        Ok(Receipt { version: (WRITER, seq), tag, nodes: 1, enough: write.wait < 2 })
    }

    /// As if it came from elsewhere.
    pub(super) fn put(&self, key: Key, record: Record) {
        let rights = self.rights.write().unwrap().changed(key, Some(&record));
        self.records.lock().unwrap().insert(key, record);
        let _ = self.told.send(Changed { key, rights });
        self.changes.send_modify(|count| *count += 1);
    }

    /// Makes a credential good.
    pub(super) fn know(&self, token: &str, principal: Principal) {
        self.known.lock().unwrap().insert(token.to_owned(), principal);
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut ClusterView)) {
        edit(&mut self.view.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }
}

#[async_trait]
impl Backend for FakeNode {
    fn view(&self) -> Arc<ClusterView> {
        let mut view = self.mesh.view.lock().unwrap().clone();
        view.node = self.id;
        for node in self.mesh.nodes.lock().unwrap().iter() {
            let seen = view.nodes.iter_mut().find(|seen| seen.node == node.id).unwrap();
            seen.draining = node.draining();
        }
        Arc::new(view)
    }

    fn going(&self) -> &Going {
        &self.going
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.mesh.changes.subscribe()
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn turned(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.stuck.load(Ordering::Relaxed))
    }

    fn checks(&self) -> Vec<Check> {
        vec![Check::new("store", None)]
    }

    fn rights(&self) -> RwLockReadGuard<'_, Rights> {
        self.mesh.rights.read().unwrap()
    }

    fn rights_changes(&self) -> watch::Receiver<u64> {
        self.mesh.changes.subscribe()
    }

    fn authorise(&self, remote: IpAddr, token: Option<&str>) -> Result<Principal, Denied> {
        match token {
            Some(token) => {
                let known = self.mesh.known.lock().unwrap().get(token).cloned();
                let reason = "unknown credential".into();
                known.ok_or(Denied { bad_credential: true, reason })
            }
            None if remote.is_loopback() => Ok(Principal::local()),
            None => Err(Denied { bad_credential: false, reason: "a credential is needed".into() }),
        }
    }

    fn mesh_ms(&self) -> u64 {
        self.mesh.now.load(Ordering::Relaxed)
    }

    fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    fn session_token(
        &self,
        account: AccountId,
        _lifetime: std::time::Duration,
    ) -> Option<(String, u64)> {
        self.rights().password_of(account).map(|password| (format!("{account}-{password}"), 0))
    }

    fn webrtc(&self) -> &WebRtc {
        &self.webrtc
    }

    async fn signal(self: Arc<Self>, to: NodeId, offer: Offer) -> Result<SdpAnswer, Failed> {
        let node = self.mesh.nodes.lock().unwrap().iter().find(|node| node.id == to).cloned();
        let reason = "that node does not answer".to_owned();
        let node = node.ok_or(Failed { status: 502, reason, retry_after: None })?;
        leg::accept(node, &offer)
    }

    fn publish(self: Arc<Self>, publication: Publication) -> Result<SdpAnswer, Failed> {
        let accepted = self.webrtc.accept_publisher(&publication.sdp, Arc::new(Nowhere));
        let accepted = accepted.map_err(|error| {
            let reason = error.to_string();
            Failed { status: error.status(), reason, retry_after: None }
        })?;
        let (sdp, leg) = (accepted.answer_sdp.clone(), accepted.leg.as_str().to_owned());
        // Kept until the test ends: the leg lives as long as its handle.
        self.publishers.lock().unwrap().push(accepted);
        Ok(SdpAnswer { sdp, leg })
    }

    async fn play(&self, _encoder: EncoderId) -> Result<Feed, Failed> {
        let (sender, frames) = mpsc::channel(64);
        Ok(Feed { start: Vec::new(), frames, hold: Box::new(sender) })
    }

    fn request_keyframe(&self, _encoder: EncoderId) {}

    fn leg_changed(&self, _leg: &str, _change: LegChange<'_>) {}

    fn invite(&self, terms: InviteTerms) -> Result<Invited, Failed> {
        let (client, seconds) = (terms.client.is_some(), terms.lifetime.as_secs());
        let text = format!("roost1-{}-{seconds}-{client}", terms.uses);
        let enrolment = client.then(|| (InviteId(crate::node::random()), 1));
        Ok(Invited { text, enrolment })
    }

    fn redirect_token(
        &self,
        node: NodeId,
        _encoder: EncoderId,
        _verb: &'static str,
        _principal: &Principal,
    ) -> String {
        format!("rt-{node}")
    }

    fn check_redirect(&self, token: &str, _encoder: EncoderId, _: &str) -> Option<Principal> {
        (token == format!("rt-{}", self.id)).then(|| Principal::new(CLIENT, "redirected"))
    }

    async fn viewers(&self, _encoder: Option<EncoderId>) -> ViewersView {
        ViewersView::default()
    }

    async fn revoke(&self, _node: NodeId, _reason: String) -> Result<(), NotDone> {
        Ok(())
    }

    async fn readmit(&self, _node: NodeId) -> Result<(), NotDone> {
        Ok(())
    }

    async fn rotate(&self) -> Result<(), NotDone> {
        Ok(())
    }

    async fn move_encoder(&self, home: NodeId, wish: AskMove) -> Result<Moved, Failed> {
        let failed = (home == wish.to).then(|| "it is at home there".to_owned());
        Ok(Moved { failed })
    }

    async fn demand(&self) -> crate::placement::Demand {
        let view = self.view();
        let up = view.nodes.iter().filter(|node| node.state == Liveness::Up);
        let seats = up.map(|it| crate::placement::plan::Seat {
            node: it.node,
            weight: crate::placement::plan::WEIGHT_ONE,
            limit: it.limit.unwrap_or(1_000),
            duty: crate::placement::plan::Duty::Open,
        });
        let units = view.encoders.iter().filter_map(|it| {
            Some(crate::placement::plan::Unit {
                encoder: it.id,
                room: None,
                at: it.home?,
                next: it.next,
                free: it.viewers == 0,
                wish: usize::MAX,
            })
        });
        let (seats, units) = (seats.collect(), units.collect());
        crate::placement::Demand { seats, units, ..Default::default() }
    }

    async fn drain_state(&self, _node: NodeId) -> Result<serde_json::Value, Failed> {
        Ok(serde_json::to_value(crate::session::host::DrainState::default()).unwrap())
    }

    async fn write(&self, write: Write) -> Result<Receipt, Refusal> {
        self.mesh.commit(self.id, &write)
    }

    async fn record(&self, key: Key) -> Option<Record> {
        self.mesh.records.lock().unwrap().get(&key).cloned()
    }

    async fn backup(&self) -> Result<(std::fs::File, u64), String> {
        Err("there is no store".into())
    }

    async fn records(&self, keys: Vec<Key>) -> Vec<Option<Record>> {
        let records = self.mesh.records.lock().unwrap();
        keys.iter().map(|key| records.get(key).cloned()).collect()
    }

    fn record_changes(&self) -> RecordChanges {
        RecordChanges::of(&self.mesh.told)
    }

    async fn audit(&self, before: Option<AuditCursor>, limit: usize) -> Vec<Audit> {
        let records = self.mesh.records.lock().unwrap();
        let all = records.iter().flat_map(|(key, record)| {
            record.history().map(|entry| Audit {
                key: *key,
                dot: entry.dot,
                by: entry.by,
                what: entry.what,
                void: entry.void,
            })
        });
        let all = all.map(|audit| (audit.cursor(), audit)).collect::<BTreeMap<_, _>>();
        let older = all.into_iter().rev().filter(|(at, _)| before.is_none_or(|b| *at < b));
        older.map(|(_, audit)| audit).take(limit).collect()
    }

    async fn has_write(&self, version: (ActorId, u64), _within: std::time::Duration) -> bool {
        version.0 == WRITER && version.1 <= self.mesh.written.load(Ordering::Relaxed)
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot { viewers: [("webrtc", 2)].into(), ..Default::default() }
    }
}
